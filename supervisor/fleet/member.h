/* member.h: one instance with its hands, private to the fleet's room.
 *
 * Callbacks of the hands only record facts in `facts` and touch the member; member_settle() acts on them at the end of the turn.
 * Who owns what: the member owns its process, probe, log file and strings; `entry` points into the fleet's config and is
 * replaced by member_set_entry on reload. */
#ifndef LSV_FLEET_MEMBER_H
#define LSV_FLEET_MEMBER_H

#include "base/list.h"
#include "core/cause.h"
#include "core/command.h"
#include "core/gpu_policy.h"
#include "core/instance.h"
#include "core/liveness.h"
#include "core/wedge.h"
#include "fleet/fleet.h"
#include "host/cgroup.h"
#include "host/logfile.h"
#include "host/probe.h"
#include "host/process.h"

enum { MEMBER_CAUSES_MAX = 32, MEMBER_MODELS_MAX = 16, MEMBER_SLOTS_MAX = 256 };

struct follower {
        struct list node;
        struct member *member; /* NULL once the member is gone */
        follow_line_fn *on_line;
        void *owner;
};

/* Why it may not be started. */
enum member_bar {
        BAR_NONE,
        BAR_GPU,     /* one of its GPUs takes no work */
        BAR_ABSENT,  /* one of its GPUs is not there */
        BAR_ROOM,    /* there is no room for it without those that take none: until one of these does */
        BAR_DEVICES, /* its program sees no GPU */
        BAR_CPU,     /* it ran on the CPU: until a person starts it, or its settings change */
};

struct member {
        struct fleet *fleet;
        struct list touched; /* in fleet->touched while facts wait */
        char name[CONFIG_NAME_MAX];
        const struct config_instance *entry;
        unsigned replica, replicas;
        bool is_guess; /* that number: of "per-gpu", before all was known */
        char digest[CONFIG_DIGEST_MAX];

        struct instance in;
        struct liveness live;
        struct seat *seat;      /* what the dispatch knows of it */
        struct timer *deadline; /* follows in.deadline */
        struct timer *slots_timer;

        /* Hands */
        struct process *process; /* NULL: no process of ours (somebody else's server, or down) */
        struct cgroup *group;    /* what it runs in, NULL: nothing of its own */
        struct probe *probe;
        uint32_t spread; /* of its probe's moments */
        struct logfile *log;
        struct endpoint endpoint; /* where it listens, len 0 while unknown */
        char endpoint_text[ENDPOINT_TEXT_MAX];
        struct command command; /* of the last start */
        char **gpu;             /* UUIDs (or indices) it is pinned to, NULL: not pinned */
        uint64_t gpu_mask;      /* bit i: GPU i of the inventory, for the turn to load */
        uint64_t gpu_memory;    /* bytes that its processes really hold on GPUs, 0: unknown or none */
        struct hold *hold;      /* its account of GPU memory (place_private.h), NULL: nothing to tell */
        uint64_t gpu_seen;      /* bit i: one of them is on GPU i */
        uint64_t gpu_was_seen;  /* … or was, since this process began */
        enum gpu_verified gpu_verified;
        enum member_bar bar; /* it waits in FAILED until that is over (gpu_care.h) */
        uint64_t bar_gpus;   /* BAR_ROOM: which GPUs those are; all bits: whichever */
        bool on_cpu;         /* it was looked at: no GPU is its business, though it might have had one */
        pid_t peer;          /* who answers on its private socket, 0: nobody tells */
        uint64_t left_gpus;  /* it was taken off them, and they are out still … */
        usec_t left_at;      /* … monotonic */
        char *stays;         /* our words in last_error: why it is still on a GPU that takes no work */

        struct {
                bool exited, probed, deadline, drained, spawn_failed;
                bool met; /* /v1/models was answered, however */
                struct process_exit exit;
                struct probe_answer probe; /* detail is copied */
                char probe_detail[96];
                int spawn_error;
                char spawn_detail[128];
        } facts;

        /* What is known */
        struct report_model models[MEMBER_MODELS_MAX];
        size_t n_models;
        unsigned slots, busy, context;
        unsigned modalities; /* REPORT_VISION …; it stays known while the model is not loaded */
        bool has_modalities;
        char *build;
        double tokens_per_second;
        struct member_slot {
                int64_t task;
                uint64_t decoded; /* tokens of that task */
        } * seen;                 /* each slot at the last look; n_seen of them, at most MEMBER_SLOTS_MAX */
        size_t n_seen;
        usec_t slots_at;                    /* monotonic, when /slots was last answered */
        uint64_t slots_done, slot_progress; /* a sum over its busy slots; how often it changed */
        bool all_decode, says_idle;         /* as of that answer */
        struct wedge wedge;
        usec_t judged_at;
        bool wants_to_run; /* before the last probe */
        enum wedge_canary canary;
        bool has_company;     /* others live in its group: llama-server may stand behind a wrapper */
        bool has_far_kin;     /* … and some have left its session */
        bool drain_asked;     /* /slots was asked since the last lease ended */
        usec_t meeting_since; /* monotonic: well, but not READY before it has told its models; 0: no */
        bool sleeps;          /* --sleep-idle-seconds: /slots would wake it */
        unsigned probes_since_slots;
        bool foreign;   /* READY at an endpoint without a process of ours */
        bool has_run;   /* it was started or taken over before: the next start is a restart */
        bool was_ready; /* this process has been ready: late answers are no slow start any more */
        bool adopted;   /* the process was taken over from an earlier daemon */
        bool unknown_peer_told;
        usec_t spawned_at;                           /* monotonic */
        uint64_t oom_before;                         /* the machine's OOM kills when it was started */
        uint64_t oom_limit_before, oom_kills_before; /* its group's */
        usec_t started_at;                           /* realtime; 0 while down */
        usec_t next_retry_at;                        /* realtime; 0 */
        usec_t load_time;
        usec_t state_since; /* realtime */

        /* The last trouble */
        char *last_error; /* cleared when it is forgiven or started by a person */
        const struct cause *cause;
        char *evidence;            /* JSON object text of the last death */
        char *kill_reason;         /* why we killed it, for the explanation */
        enum death_kind kill_kind; /* DEATH_UNKNOWN: not killed by us */
        bool killed_loading;       /* it had not become ready when we killed it */
        usec_t last_death_at;      /* realtime */

        /* Its group */
        struct cgroup_limits limits;                 /* as they were last written */
        char *limits_problem;                        /* why they are not kept, NULL: they are */
        struct cgroup_usage usage, usage_of_earlier; /* at usage_at; counts of its earlier groups */
        usec_t usage_at;                             /* monotonic, 0: never */
        char *metrics; /* the text of its own /metrics, NULL: it did not answer, or does not tell */
        size_t metrics_len;
        usec_t metrics_at, metrics_asked; /* monotonic, 0: never */
        bool usage_asked;                 /* somebody has, and its turn has not come */
        bool left_alone; /* a process of an earlier daemon lives that could not be taken over */

        /* Counts, kept in state_dir */
        uint64_t seq, restarts, deaths, deaths_by_cause[MEMBER_CAUSES_MAX];
        uint64_t restarts_by_cause[MEMBER_CAUSES_MAX]; /* of restarts; the others were asked for */
        size_t died_of; /* what ended it last, an index of causes; MEMBER_CAUSES_MAX: no death */
        uint64_t probes, probe_failures, latency[FLEET_LATENCY_BUCKETS + 1];
        double latency_sum;

        struct demand_model *demand; /* its entry comes on demand or scales; NULL: neither */
        bool held;                   /* on demand, but a person stopped it: no request brings it back */
        bool yields;                 /* gets no new work, though it is ready */
        bool load_failed;            /* the death that is being settled came before it was ready */

        bool changed, figures_changed; /* to be published at the end of the turn */
        bool removed;                  /* not in the config any more: vanishes when it is down */
        bool roll;                     /* wants a restart in its turn among its replicas */
        bool rolled; /* was restarted in such a turn: if it fails, the others keep what they have */
        struct config_instance *old_entry; /* unused settings of a removed entry live as long as it does */
        const char *published;             /* the last public status */
        struct report report;
        struct list followers;
};

/* member.c: birth, life and facts */
int member_new(struct fleet *f, const struct config_instance *entry, const char *name, unsigned replica,
               unsigned replicas, struct member **ret);
struct member *member_free(struct member *m);
void member_set_entry(struct member *m, const struct config_instance *entry, unsigned replica,
                      unsigned replicas);
void member_step(struct member *m, enum instance_event event, usec_t now);
void member_stop(struct member *m, usec_t now); /* the wish is down already, or want_again is set */
void member_settle(struct member *m, usec_t now);
void member_touch(struct member *m);
/* To be published at the end of the turn; figures_changed: nothing but figures. */
void member_changed(struct member *m);
void member_figures_changed(struct member *m);
void member_roll_later(struct member *m); /* it is restarted in its turn among its replicas */
void member_removed(struct member *m);    /* it vanishes when it is down */
void member_fill_report(struct member *m, struct report *ret, usec_t now);
void member_set_error(struct member *m, const char *text);
bool member_is_foreign_only(const struct member *m); /* "adopt": never spawned, never stopped */
int member_open_log(struct member *m);
/* Into the history alone, and (tell) with the same words into the log. */
void member_tell(struct member *m, int level, const char *kind, const char *text);
/* A process of ours, which is to be killed; text: why. */
void member_give_up(struct member *m, enum death_kind kind, const char *text, usec_t now);
void member_follow_process(struct member *m, struct process *process);
process_exit_fn member_on_exit;
bool member_probe_at(struct member *m, const struct endpoint *at); /* makes or replaces the probe */

/* start.c: from settings to a process, and the record of it */
void member_spawn(struct member *m, usec_t now);
int member_command(struct member *m, const char *binary, const struct help *help, const struct endpoint *at,
                   struct command *ret);
/* To what left the session of its process (host/process.h). Returns how many. */
int member_signal_strays(struct member *m, pid_t leader, uint64_t start_time, int signo);
void member_save_record(struct member *m);
void member_forget_record(struct member *m);
void member_save_counts(struct member *m);
void member_load_counts(struct member *m);
/* The sum of seq of instances that are no more: the aggregate's seq never falls, not even when one is removed. */
uint64_t member_counts_of_others(struct fleet *f);
/* Takes over what the record tells: 0 when a living process was taken over; -ESRCH it is gone (explained when it was ours). */
int member_take_over(struct member *m, usec_t now);
/* "adopt" now, but an earlier configuration had us start it: says which process of ours still runs. */
void member_warn_of_own(struct member *m);

/* groups.c: its control group. Entering makes it, with limits: its directory for process_spawn, 0: it runs in ours. */
int member_enter_group(struct member *m);
process_outside_fn member_on_outside;
void member_limits_changed(struct member *m);
void member_leave_group(struct member *m); /* it goes when it is empty */
/* To all that runs for it; m->process is there. */
void member_signal(struct member *m, int signo);
/* Its process has ended: what is left is killed. Returns how many. */
int member_kill_remnants(struct member *m);
/* The last exit; detail gets words when more is known than that it was so. */
bool member_was_oom_killed(struct member *m, char *detail, size_t size);
/* By the record of an earlier daemon: of a living process, and of one that is gone (true: by an out-of-memory killer). */
void member_adopt_group(struct member *m, const struct json_value *record);
bool member_end_recorded_group(struct member *m, const struct json_value *record, int *ret_left);
/* limits and usage */
void member_report_group(const struct member *m, struct report *ret);

/* standstill.c: whether its work goes on. True: it does not, and it was declared dead. */
bool member_judge_work(struct member *m, usec_t now);
/* Right before a probe: whether a thread of it wants to run. The probe itself wakes one, which may run still when its answer is here. */
void member_look_at_threads(struct member *m, usec_t now);
/* Of its process, and of those that live with it. ret_wants_to_run may be NULL. 0 or -errno. */
int member_cpu_time(struct member *m, usec_t *ret, bool *ret_wants_to_run);

/* learn.c: what a server says about itself */
void member_learn(struct member *m, const char *target, int status, const char *body, size_t len, usec_t now);
void member_forget_learned(struct member *m);
void member_learn_file(struct member *m); /* when its model file was looked at */

/* explain.c: deaths in words, and `why` */
void member_explain_death(struct member *m, const struct death *death, usec_t now);
void member_put_why(struct member *m, struct json_writer *w);

#endif
