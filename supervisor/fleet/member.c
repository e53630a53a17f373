/* member.c: one instance with its hands: facts in, one step, orders out. */
#include "fleet/member.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "core/pace.h"
#include "fleet/demand_private.h"
#include "fleet/gpu_care.h"
#include "fleet/place_private.h"
#include "fleet/private.h"
#include "fleet/seat.h"
#include "host/oom.h"
#include "host/process_kin.h"

const double fleet_latency_bounds[FLEET_LATENCY_BUCKETS] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                            0.05,   0.1,   0.5,    1,     2.5,  5};

/* Looking at /slots: every second while it works, every fifth probe while it rests. */
enum { SLOTS_EVERY_IDLE = 5 };
#define SLOTS_DRAIN_INTERVAL (250 * USEC_PER_MSEC)

/* For how long a server that is well is asked for its models before it counts as ready without them. */
#define MEETING_PATIENCE USEC_PER_SEC

/* Rounding and slewing are no jump of the clock. */
static const usec_t CLOCK_SLACK = USEC_PER_SEC;

void member_touch(struct member *m)
{
        if (list_is_empty(&m->touched))
                list_append(&m->fleet->touched, &m->touched);
        loop_wake(m->fleet->loop);
}

void member_changed(struct member *m)
{
        m->changed = m->fleet->look_for.changes = true;
}

void member_figures_changed(struct member *m)
{
        m->figures_changed = m->fleet->look_for.changes = true;
}

void member_roll_later(struct member *m)
{
        m->roll = m->fleet->look_for.rolls = true;
}

void member_removed(struct member *m)
{
        m->removed = m->fleet->look_for.removed = true;
}

bool member_is_foreign_only(const struct member *m)
{
        return m->entry->adopt;
}

void member_set_error(struct member *m, const char *text)
{
        if (streq_ptr(m->last_error, text))
                return;
        (void)text_set(&m->last_error, text);
        member_changed(m);
}

void member_tell(struct member *m, int level, const char *kind, const char *text)
{
        bool died = streq(kind, "died");
        const struct history_event e = {.kind = kind,
                                        .instance = m->name,
                                        .model = m->entry->name,
                                        .cause = m->cause && (died || streq(kind, "gave_up")) ? m->cause->name
                                                                                              : NULL,
                                        .text = text,
                                        .evidence = died ? m->evidence : NULL};

        history_tell(m->fleet->history, level, &e);
}

/* --- facts, from the hands ------------------------------------------------------------------------------------------- */

void member_on_exit(void *owner, const struct process_exit *exit, usec_t now)
{
        struct member *m = owner;

        (void)now;
        m->facts.exited = true;
        m->facts.exit = *exit;
        member_touch(m);
}

static void on_answer(void *owner, const struct probe_answer *a, usec_t now)
{
        struct member *m = owner;

        (void)now;
        m->facts.probed = true;
        m->facts.probe = *a;
        (void)snprintf(m->facts.probe_detail, sizeof m->facts.probe_detail, "%s", a->detail ? a->detail : "");
        member_touch(m);
}

static void on_fetched(void *owner, const char *target, int status, const char *body, size_t len, usec_t now)
{
        member_learn(owner, target, status, body, len, now);
}

static void on_deadline(void *owner, usec_t now)
{
        struct member *m = owner;

        (void)now;
        m->facts.deadline = true;
        member_touch(m);
}

static void on_slots_timer(void *owner, usec_t now)
{
        struct member *m = owner;

        (void)now;
        if (m->probe && m->in.state == INSTANCE_DRAINING)
                (void)probe_fetch(m->probe, "/slots");
}

static void on_line(void *owner, const char *line, size_t len, usec_t now)
{
        struct member *m = owner;

        /* The line comes after the load: readiness is noticed when it happens, not at the next probe. */
        if (m->probe && instance_is_loading(&m->in) && memmem(line, len, "listening on", 12))
                probe_now(m->probe, now);
        LIST_FOREACH(&m->followers, it)
        {
                struct follower *x = LIST_ENTRY(it, struct follower, node);

                x->on_line(x->owner, line, len);
        }
}

/* --- birth ----------------------------------------------------------------------------------------------------------- */

static void take_policy(struct member *m)
{
        const struct config_instance *e = m->entry;

        m->in.policy = (struct instance_policy){
                .backoff = {.initial = e->restart.backoff_initial,
                            .max = e->restart.backoff_max,
                            .jitter = e->restart.jitter},
                .max_retries = e->restart.max_retries == CONFIG_FOREVER ? INSTANCE_RETRIES_FOREVER
                                                                        : e->restart.max_retries,
                .reset_after = e->restart.reset_after,
                .load_timeout = e->health.load_timeout,
                .grace = e->stop.grace,
                .drain = e->stop.drain,
        };
        m->sleeps = false;
        for (char *const *a = e->args; a && *a; a++)
                if (starts_with(*a, "--sleep-idle-seconds"))
                        m->sleeps = true;
        if (m->probe)
                probe_set_times(m->probe, e->health.interval, e->health.timeout);
}

void member_set_entry(struct member *m, const struct config_instance *entry, unsigned replica,
                      unsigned replicas)
{
        m->entry = entry;
        m->replica = replica;
        m->replicas = replicas;
        m->is_guess = gpus_replicas_are_guessed(m->fleet, entry);
        take_policy(m);
        if (m->seat)
                seat_changed(m->seat);
}

int member_new(struct fleet *f, const struct config_instance *entry, const char *name, unsigned replica,
               unsigned replicas, struct member **ret)
{
        struct member *m = calloc(1, sizeof *m);
        int r;

        if (!m)
                return -ENOMEM;
        m->died_of = MEMBER_CAUSES_MAX;
        m->fleet = f;
        list_init(&m->touched);
        list_init(&m->followers);
        (void)snprintf(m->name, sizeof m->name, "%s", name);
        /* Whole seconds are when everybody else wakes up. */
        m->spread = pace_spread(f->members_ever++) + f->phase;
        member_set_entry(m, entry, replica, replicas);
        m->in.want_up = entry->autostart && !entry->on_demand;
        m->in.deadline = USEC_INFINITY;
        m->in.jitter_seed = (unsigned)loop_realtime(f->loop);
        for (const char *p = name; *p; p++)
                m->in.jitter_seed = m->in.jitter_seed * 31 + (unsigned char)*p;
        m->state_since = loop_realtime(f->loop);
        member_changed(m);
        r = seat_new(m, &m->seat);
        if (r == 0)
                r = timer_new(f->loop, on_deadline, m, &m->deadline);
        if (r == 0)
                r = timer_new(f->loop, on_slots_timer, m, &m->slots_timer);
        if (r < 0) {
                member_free(m);
                return r;
        }
        r = demand_attach(f->demand, m);
        if (r < 0) {
                member_free(m);
                return r;
        }
        member_load_counts(m);
        *ret = m;
        return 0;
}

struct member *member_free(struct member *m)
{
        if (!m)
                return NULL;
        LIST_FOREACH(&m->followers, it)
        {
                LIST_ENTRY(it, struct follower, node)->member = NULL;
                list_remove(it);
        }
        m->fleet->turns.pending -= m->in.state == INSTANCE_PENDING;
        m->seat = seat_free(m->seat);
        list_remove(&m->touched);
        m->probe = probe_free(m->probe);
        m->process = process_free(m->process);
        m->group = cgroup_free(m->group); /* who lives on in it is found by the record */
        m->log = logfile_close(m->log);
        m->deadline = timer_free(m->deadline);
        m->slots_timer = timer_free(m->slots_timer);
        member_forget_learned(m);
        m->hold = place_forget(m->hold);
        command_finish(&m->command);
        text_list_free(m->gpu);
        free(m->metrics);
        free(m->seen);
        free(m->last_error);
        free(m->stays);
        free(m->evidence);
        free(m->kill_reason);
        free(m->limits_problem);
        if (m->old_entry) {
                free(m->old_entry->name);
                free(m->old_entry);
        }
        free(m);
        return NULL;
}

int member_open_log(struct member *m)
{
        const struct config *c = fleet_config(m->fleet);
        struct logfile_limits limits = {.rotate_at = c->logs_rotate_at, .keep = c->logs_keep};

        if (m->log)
                return 0;
        return logfile_open(m->fleet->loop, c->log_dir, m->name, &limits, on_line, m, &m->log);
}

void member_follow_process(struct member *m, struct process *process)
{
        process_free(m->process);
        m->process = process;
        m->gpu_memory = m->gpu_seen = m->gpu_was_seen = 0;
        m->gpu_verified = GPU_NOT_VERIFIED;
        m->peer = 0;
        wedge_start(&m->wedge);
        m->canary = CANARY_NONE;
        m->has_company = m->has_far_kin = false;
}

static void on_ask(void *owner, usec_t now)
{
        member_look_at_threads(owner, now);
}

bool member_probe_at(struct member *m, const struct endpoint *at)
{
        const struct config_instance *e = m->entry;
        struct probe_spec spec = {.endpoint = *at,
                                  .interval = e->health.interval,
                                  .timeout = e->health.timeout,
                                  .spread = m->spread,
                                  .on_ask = on_ask,
                                  .api_key = e->api_key};

        m->probe = probe_free(m->probe);
        m->facts.probed = false;
        return probe_new(m->fleet->loop, &spec, on_answer, on_fetched, m, &m->probe) == 0;
}

/* --- steps ------------------------------------------------------------------------------------------------------------ */

static void set_pace(struct member *m, usec_t now)
{
        static const enum probe_pace paces[INSTANCE_STATES] = {
                [INSTANCE_SEEKING] = PROBE_STARTING,     [INSTANCE_STARTING] = PROBE_STARTING,
                [INSTANCE_LOADING] = PROBE_LOADING_PACE, [INSTANCE_READY] = PROBE_STEADY,
                [INSTANCE_UNHEALTHY] = PROBE_STEADY,     [INSTANCE_DRAINING] = PROBE_STEADY,
                [INSTANCE_LOST] = PROBE_STEADY,
        };

        if (m->probe)
                probe_set_pace(m->probe, paces[m->in.state], now);
}

static void tell_state(struct member *m, enum instance_state from, usec_t now)
{
        const char *status = instance_status(m->in.state);
        usec_t realtime = loop_realtime(m->fleet->loop);

        (void)now;
        member_changed(m);
        log_debug(m->name, "%s -> %s", instance_state_name(from), instance_state_name(m->in.state));
        if (!streq(instance_status(from), status)) {
                m->state_since = realtime;
                history_state(m->fleet->history, m->name, status, realtime);
        }
}

static void became_ready(struct member *m, enum instance_state from, usec_t now)
{
        char span[TIME_SPAN_MAX], text[96];

        if (from == INSTANCE_UNHEALTHY) {
                member_tell(m, LOG_INFO, "recovered", "answers again");
                if (m->in.retries == 0)
                        member_set_error(m, NULL);
                return;
        }
        if (from == INSTANCE_DRAINING) {
                member_tell(m, LOG_INFO, "resumed", "takes work again");
                return;
        }
        if (m->foreign) {
                if (!m->started_at) {
                        m->started_at = loop_realtime(m->fleet->loop);
                        m->spawned_at = now;
                }
                (void)snprintf(text, sizeof text, "answers at %.70s", m->endpoint_text);
                member_set_error(m, NULL);
                member_tell(m, LOG_INFO, "found", text);
        } else if (m->adopted) {
                (void)snprintf(text, sizeof text, "taken over from an earlier supervisor, pid %d",
                               (int)process_pid(m->process));
                member_tell(m, LOG_INFO, "adopted", text);
        } else {
                m->load_time = usec_sub(now, m->spawned_at);
                fleet_note_load(m->fleet, m->load_time);
                (void)snprintf(text, sizeof text, "ready after %s",
                               time_span(m->load_time, span, sizeof span));
                member_tell(m, LOG_INFO, "ready", text);
        }
        if (m->process && !m->was_ready) {
                m->was_ready = true;
                member_save_record(m);
        }
        (void)probe_fetch(m->probe, "/props");
        (void)probe_fetch(m->probe, "/slots");
        m->probes_since_slots = 0;
        member_save_counts(m);
}

static void tell_retry(struct member *m, usec_t now)
{
        char span[TIME_SPAN_MAX], tries[24] = "";
        usec_t wait = usec_sub(m->in.deadline, now);

        m->next_retry_at = usec_add(loop_realtime(m->fleet->loop), wait);
        if (m->in.policy.max_retries != INSTANCE_RETRIES_FOREVER)
                (void)snprintf(tries, sizeof tries, " of %u", m->in.policy.max_retries);
        log_info(m->name, "next try in %s (%u%s)", time_span(wait, span, sizeof span), m->in.retries, tries);
}

static void gave_up(struct member *m)
{
        char text[CAUSE_TEXT_MAX + 64];

        (void)snprintf(text, sizeof text, "%s; gave up after %u retries",
                       m->last_error ? m->last_error : "died", m->in.retries);
        member_set_error(m, text);
        member_tell(m, LOG_ERR, "gave_up", text);
        log_info(m->name, "`llama-supervisor why %s` tells more, `start %s` tries again", m->name, m->name);
}

static void terminate(struct member *m, int signo)
{
        if (m->probe)
                probe_hang_up(m->probe); /* a server with open requests would wait for us */
        if (m->process)
                member_signal(m, signo);
}

void member_step(struct member *m, enum instance_event event, usec_t now)
{
        enum instance_state from = m->in.state;
        unsigned retries = m->in.retries, orders;

        m->fleet->turns.pending -= from == INSTANCE_PENDING;
        orders = instance_step(&m->in, event, now);
        m->fleet->turns.pending += m->in.state == INSTANCE_PENDING;
        seat_changed(m->seat);
        timer_set(m->deadline, m->in.deadline);
        if (m->in.state != from) {
                m->meeting_since = 0;
                m->facts.met = false;
                tell_state(m, from, now);
        }
        if (m->in.state != INSTANCE_WAITING)
                m->next_retry_at = 0;
        /* A back-off of nothing needs no timer, and no millisecond of its. */
        if (m->in.state == INSTANCE_WAITING && m->in.deadline <= now) {
                m->facts.deadline = true;
                member_touch(m);
        }
        if (event == EV_EXITED && m->in.state == INSTANCE_WAITING)
                tell_retry(m, now);
        /* From PENDING and SEEKING it was refused, with words of its own. */
        if (event == EV_EXHAUSTED && m->in.state != from && from != INSTANCE_PENDING &&
            from != INSTANCE_SEEKING)
                gave_up(m);
        if (m->in.state != from && (m->in.state == INSTANCE_OFF || m->in.state == INSTANCE_IDLE))
                place_calm(m);
        if (orders & ORDER_FORGIVE) {
                member_set_error(m, NULL);
                log_info(m->name, "well for a while: earlier failures are forgiven");
        }
        if (m->in.retries != retries) {
                member_changed(m);
                member_save_counts(m);
        }
        if (orders & ORDER_SPAWN) {
                m->restarts += m->has_run;
                if (m->has_run && m->died_of < MEMBER_CAUSES_MAX)
                        m->restarts_by_cause[m->died_of]++;
                m->died_of = MEMBER_CAUSES_MAX;
                m->has_run = true;
                member_spawn(m, now);
        }
        if (orders & ORDER_TERM)
                terminate(m, SIGTERM);
        if (orders & ORDER_KILL) {
                if (event == EV_DEADLINE && from == INSTANCE_KILLING)
                        log_warn(m->name, "does not die of SIGKILL: it hangs in the kernel (a GPU driver "
                                          "call?); trying again");
                terminate(m, SIGKILL);
        }
        if (orders & ORDER_LET_GO) {
                m->foreign = false;
                member_forget_learned(m);
        }
        set_pace(m, now);
        if (m->in.state == INSTANCE_READY && from != INSTANCE_READY)
                became_ready(m, from, now);
        if (m->in.state == INSTANCE_DRAINING && from != INSTANCE_DRAINING && m->probe) {
                m->facts.drained = m->drain_asked = false;
        }
        /* Nothing else may wake it: it may be idle already, or not be ours to stop. */
        if (m->in.state == INSTANCE_DRAINING || (!m->process && instance_is_running(&m->in)))
                member_touch(m);
        if ((event == EV_STOP || event == EV_DRAIN || event == EV_START || event == EV_RESUME) &&
            !m->fleet->stopping)
                member_save_record(m);
        demand_notice(m);
}

/* A long prompt may silence a server that works: leases say that there is something to drain although it looks unwell. */
void member_stop(struct member *m, usec_t now)
{
        m->in.drain_for = 0;
        member_step(m, m->in.state == INSTANCE_UNHEALTHY && seat_held(m->seat) > 0 ? EV_DRAIN : EV_STOP, now);
}

/* --- settling ---------------------------------------------------------------------------------------------------------- */

static void went_down(struct member *m, usec_t now)
{
        bool ours = m->process != NULL; /* somebody else's socket file is theirs */

        place_gone(m, now);
        m->probe = probe_free(m->probe);
        m->process = process_free(m->process);
        member_leave_group(m);
        m->started_at = 0;
        m->was_ready = false;
        m->foreign = false;
        m->facts.probed = m->facts.drained = m->facts.met = false;
        member_forget_learned(m);
        if (m->log)
                logfile_child_is_down(m->log);
        if (ours && m->endpoint.len && endpoint_is_unix(&m->endpoint))
                (void)unlink(m->endpoint.addr.un.sun_path);
        m->endpoint = (struct endpoint){0};
        m->endpoint_text[0] = '\0';
}

static bool is_expected(const struct member *m)
{
        if (m->kill_kind != DEATH_UNKNOWN)
                return false;
        return !m->in.want_up || m->in.want_again || m->in.state == INSTANCE_STOPPING;
}

static void settle_spawn_failure(struct member *m, usec_t now);

/* Its group tells for certain, also when the exit status does not; 137: a shell tells the SIGKILL of its child so. */
static bool may_be_oom(const struct member *m, const struct death *d)
{
        return (d->kind == DEATH_SIGNAL && d->value == SIGKILL) ||
               (m->group &&
                (d->kind == DEATH_UNKNOWN || (d->kind == DEATH_EXIT && d->value == 128 + SIGKILL)));
}

static void settle_exit(struct member *m, usec_t now)
{
        struct death death = {.lived = usec_sub(now, m->spawned_at)};
        const struct process_exit *x = &m->facts.exit;
        bool expected = is_expected(m);
        char how[64], text[80], oom[128] = "";
        int left;

        m->facts.exited = false;
        if (x->kind == EXIT_NEVER_RAN && !expected) {
                m->facts.spawn_error = x->value;
                (void)snprintf(m->facts.spawn_detail, sizeof m->facts.spawn_detail, "%.90s: %s",
                               m->command.argv ? m->command.argv[0] : m->entry->binary, strerror(x->value));
                settle_spawn_failure(m, now);
                member_forget_record(m);
                return;
        }
        left = member_kill_remnants(m);
        if (left > 0)
                log_info(m->name, "%d processes that it left behind were killed", left);
        if (m->log)
                logfile_catch_up(m->log, now);
        death.kind = m->kill_kind != DEATH_UNKNOWN ? m->kill_kind
                     : x->kind == EXIT_CODE        ? DEATH_EXIT
                     : x->kind == EXIT_SIGNAL      ? DEATH_SIGNAL
                                                   : DEATH_UNKNOWN;
        death.value = x->value;
        death.oom_killed = may_be_oom(m, &death) && member_was_oom_killed(m, oom, sizeof oom);
        death.detail = m->kill_reason ? m->kill_reason : oom[0] ? oom : NULL;
        death.while_loading = m->in.state == INSTANCE_STARTING || m->in.state == INSTANCE_LOADING ||
                              (death.kind == DEATH_UNRESPONSIVE && m->killed_loading);
        death.log = m->log ? logfile_tail_since_mark(m->log) : "";
        if (expected) {
                (void)snprintf(text, sizeof text, "stopped (%s)", death_text(&death, how, sizeof how));
                member_tell(m, LOG_INFO, "stopped", text);
                m->died_of = MEMBER_CAUSES_MAX;
        } else {
                member_explain_death(m, &death, now);
        }
        m->kill_kind = DEATH_UNKNOWN;
        free(m->kill_reason);
        m->kill_reason = NULL;
        m->load_failed = !expected && !m->was_ready;
        went_down(m, now);
        member_step(m, instance_classify_exit(&m->in), now);
        member_forget_record(m);
        member_save_counts(m);
}

static void settle_spawn_failure(struct member *m, usec_t now)
{
        struct death death = {.kind = DEATH_SPAWN,
                              .value = m->facts.spawn_error,
                              .binary = m->entry->binary,
                              .detail = m->facts.spawn_detail};

        m->facts.spawn_failed = false;
        m->load_failed = true;
        member_explain_death(m, &death, now);
        went_down(m, now);
        member_step(m, instance_classify_exit(&m->in), now);
}

static void count_probe(struct member *m, const struct probe_answer *a)
{
        double seconds = (double)a->latency / USEC_PER_SEC;
        size_t i = 0;

        m->probes++;
        if (a->kind != PROBE_WELL && a->kind != PROBE_LOADING) {
                m->probe_failures++;
                return;
        }
        while (i < FLEET_LATENCY_BUCKETS && seconds > fleet_latency_bounds[i])
                i++;
        m->latency[i]++;
        m->latency_sum += seconds;
}

/* SO_PEERCRED names who listens on the private socket: our child, or a program that a wrapper has started, also when that has a session of its own. */
static bool is_impostor(struct member *m, const struct probe_answer *a)
{
        struct process_kin *kin;
        bool is_kin;
        pid_t pid;

        if (!m->process || a->peer_pid <= 0 || (a->kind != PROBE_WELL && a->kind != PROBE_LOADING))
                return false;
        pid = process_pid(m->process);
        if (a->peer_pid == pid || getpgid(a->peer_pid) == pid || getsid(a->peer_pid) == pid)
                return false;
        if (process_kin_new(&kin) < 0)
                return false;
        is_kin = process_kin_add(kin, pid, m->group ? cgroup_path(m->group) : NULL, 0) < 0 ||
                 process_kin_of(kin, a->peer_pid) == 0;
        process_kin_free(kin);
        return !is_kin;
}

/* A server that comes up is ready when it has told its models, so that nobody reads "ready" beside an empty list. An answer that tells
 * none is one, too; where none comes, the next probes ask again, and after a second it is ready as it is. */
static bool is_met(struct member *m, usec_t now)
{
        if (!instance_is_loading(&m->in) && m->in.state != INSTANCE_LOST)
                return true;
        if (!m->meeting_since)
                m->meeting_since = now;
        else if (now >= usec_add(m->meeting_since, MEETING_PATIENCE))
                return true;
        return probe_fetch(m->probe, "/v1/models") < 0;
}

static void settle_meeting(struct member *m, usec_t now)
{
        m->facts.met = false;
        if (!m->meeting_since || !m->probe)
                return;
        if (m->in.state == INSTANCE_SEEKING || m->in.state == INSTANCE_LOST) {
                m->foreign = true;
                liveness_start(&m->live, now);
        }
        member_step(m, EV_HEALTHY, now);
}

static void seek(struct member *m, const struct probe_answer *a, usec_t now)
{
        char text[256], event[256 + TIME_SPAN_MAX + 32], span[TIME_SPAN_MAX];
        bool lost = m->in.state == INSTANCE_LOST;

        if (a->kind == PROBE_WELL && !is_met(m, now))
                return;
        if (a->kind == PROBE_WELL || a->kind == PROBE_LOADING) {
                m->foreign = true;
                liveness_start(&m->live, now);
                member_step(m, a->kind == PROBE_WELL ? EV_HEALTHY : EV_LOADING, now);
                return;
        }
        if (a->kind == PROBE_LOCAL)
                return;
        if (a->kind == PROBE_REFUSED && !member_is_foreign_only(m)) {
                if (m->in.state == INSTANCE_SEEKING && !gpu_care_lets(m, now))
                        return; /* it would have to be started, and may not be */
                if (m->in.state == INSTANCE_SEEKING && place_member(m, now) != PLACE_GO)
                        return; /* nobody is there, and it waits for memory: the next answer will do; or it was refused */
                if (m->in.state == INSTANCE_SEEKING && !fleet_may_load(m))
                        return; /* somebody else loads on its GPU */
                member_step(m, EV_ABSENT, now);
                return;
        }
        (void)snprintf(text, sizeof text, "no healthy llama-server answers at %.100s: %s", m->endpoint_text,
                       m->facts.probe_detail);
        member_set_error(m, text);
        if (!lost) {
                (void)snprintf(event, sizeof event, "%s; looking for it every %s", text,
                               time_span(m->entry->health.interval, span, sizeof span));
                member_tell(m, LOG_WARNING, "lost", event);
                member_step(m, EV_LOST, now);
        }
}

void member_give_up(struct member *m, enum death_kind kind, const char *text, usec_t now)
{
        (void)text_set(&m->kill_reason, text);
        m->kill_kind = kind;
        m->killed_loading = m->in.state == INSTANCE_STARTING || m->in.state == INSTANCE_LOADING;
        log_warn(m->name, "counts as dead: %s", text);
        member_step(m, EV_DEAD, now);
}

static void declare_dead(struct member *m, usec_t now)
{
        char text[256], span[TIME_SPAN_MAX];

        (void)snprintf(text, sizeof text, "%s; last answer %s ago",
                       m->facts.probe_detail[0] ? m->facts.probe_detail : "no answer",
                       time_span(usec_sub(now, m->live.last_answer), span, sizeof span));
        if (!m->process) {
                char lost[384];

                (void)snprintf(lost, sizeof lost, "does not answer at %.50s: %s", m->endpoint_text, text);
                member_set_error(m, lost);
                member_tell(m, LOG_WARNING, "lost", lost);
                m->started_at = 0;
                member_step(m, EV_LOST, now);
                return;
        }
        member_give_up(m, DEATH_UNRESPONSIVE, text, now);
}

static void became_sick(struct member *m, usec_t now)
{
        char text[192];
        bool was_ready = m->in.state == INSTANCE_READY;

        if (was_ready || m->in.state == INSTANCE_UNHEALTHY) {
                (void)snprintf(text, sizeof text, "does not answer well: %s%s", m->facts.probe_detail,
                               m->live.moving ? " (but it works: its CPU time moves)" : "");
                if (was_ready) {
                        member_tell(m, LOG_WARNING, "unhealthy", text);
                }
                member_set_error(m, text);
        }
        member_step(m, EV_SICK, now);
}

static void look_at_slots(struct member *m)
{
        m->probes_since_slots++;
        if (m->in.state != INSTANCE_READY)
                return;
        if (m->n_models == 0 && m->probes_since_slots % SLOTS_EVERY_IDLE == 0)
                (void)probe_fetch(m->probe, "/v1/models"); /* the first question went unanswered */
        if (!m->build && m->probes_since_slots % SLOTS_EVERY_IDLE == 0)
                (void)probe_fetch(m->probe, "/props");
        if (m->sleeps)
                return;
        if (m->busy > 0 || seat_owed(m->seat) > 0 || m->probes_since_slots >= SLOTS_EVERY_IDLE) {
                m->probes_since_slots = 0;
                (void)probe_fetch(m->probe, "/slots");
        }
}

static void settle_probe(struct member *m, usec_t now)
{
        struct probe_answer a = m->facts.probe;
        const struct config_health *h = &m->entry->health;
        struct liveness_policy policy = {.failures = h->failures,
                                         .start_attempts = h->start_attempts,
                                         .silence = h->silence,
                                         .free_start = m->entry->model_kind == CONFIG_MODEL_HF};
        struct probe_fact fact = {.kind = a.kind, .cpu = USEC_INFINITY};
        bool starting =
                (m->in.state == INSTANCE_STARTING || m->in.state == INSTANCE_LOADING) && !m->was_ready;

        m->facts.probed = false;
        if (!m->probe || !instance_is_probed(&m->in))
                return;
        count_probe(m, &a);
        if (is_impostor(m, &a)) {
                (void)snprintf(m->facts.probe_detail, sizeof m->facts.probe_detail,
                               "another program (pid %d) answers on its socket", (int)a.peer_pid);
                a.kind = fact.kind = PROBE_WRONG;
        }
        if (m->in.state == INSTANCE_SEEKING || m->in.state == INSTANCE_LOST) {
                seek(m, &a, now);
                return;
        }
        if (m->process && a.peer_pid > 0 && a.kind == PROBE_WELL) {
                m->peer = a.peer_pid;
                m->has_company = m->has_company || m->peer != process_pid(m->process);
                m->has_far_kin = m->has_far_kin || (m->has_company && getsid(m->peer) > 0 &&
                                                    getsid(m->peer) != getsid(process_pid(m->process)));
        }
        fact.bytes = probe_bytes(m->probe) + seat_heard(m->seat);
        if (a.kind != PROBE_WELL && m->process)
                (void)member_cpu_time(m, &fact.cpu, NULL);
        switch (liveness_feed(&m->live, &policy, &fact, starting, now)) {
        case LIVENESS_HEALTHY:
                if (!is_met(m, now))
                        break;
                member_step(m, EV_HEALTHY, now);
                if (!member_judge_work(m, now))
                        look_at_slots(m);
                break;
        case LIVENESS_LOADING:
                member_step(m, EV_LOADING, now);
                break;
        case LIVENESS_SICK:
                became_sick(m, now);
                /* A download works before it answers: the load's deadline begins when it is over. */
                if (policy.free_start && m->live.moving && m->in.state == INSTANCE_STARTING) {
                        m->in.deadline = usec_add(now, m->in.policy.load_timeout);
                        timer_set(m->deadline, m->in.deadline);
                }
                break;
        case LIVENESS_DEAD:
                declare_dead(m, now);
                break;
        case LIVENESS_NONE:
                break;
        }
}

static void settle_deadline(struct member *m, usec_t now)
{
        m->facts.deadline = false;
        if (m->in.deadline > now)
                return;
        if (m->in.state == INSTANCE_WAITING && !demand_wants_again(m)) {
                m->in.want_up = false; /* nobody asks for it any more: the next request may try again */
                member_step(m, EV_REST, now);
                return;
        }
        if (!m->process && m->in.state == INSTANCE_LOADING) {
                member_set_error(m, "somebody else's server that does not come to an end with loading");
                member_step(m, EV_LOST, now);
                return;
        }
        if (m->in.state == INSTANCE_STARTING || m->in.state == INSTANCE_LOADING) {
                char span[TIME_SPAN_MAX];
                _cleanup_free_ char *text = text_format(
                        "not ready within %s", time_span(m->in.policy.load_timeout, span, sizeof span));

                m->kill_kind = DEATH_LOAD_TIMEOUT;
                (void)text_set(&m->kill_reason, text);
        }
        if (m->in.state == INSTANCE_STOPPING)
                log_warn(m->name, "did not end in its grace after SIGTERM: killing it");
        member_step(m, EV_DEADLINE, now);
}

static void settle_drain(struct member *m, usec_t now)
{
        /* We are told when the last lease ends; only then the server is asked for what came to it past us. */
        if (seat_held(m->seat) > 0) {
                m->facts.drained = m->drain_asked = false;
        } else if (!m->probe || m->facts.drained) {
                m->facts.drained = false;
                member_step(m, EV_DRAINED, now);
        } else if (!m->drain_asked) {
                m->drain_asked = true;
                (void)probe_fetch(m->probe, "/slots");
        } else if (timer_due(m->slots_timer) == USEC_INFINITY) {
                timer_set(m->slots_timer, now + SLOTS_DRAIN_INTERVAL);
        }
}

void member_settle(struct member *m, usec_t now)
{
        enum instance_state before;

        if (m->facts.spawn_failed)
                settle_spawn_failure(m, now);
        if (m->facts.exited)
                settle_exit(m, now);
        before = m->in.state;
        if (m->facts.probed)
                settle_probe(m, now);
        if (m->facts.met)
                settle_meeting(m, now);
        if (m->facts.deadline)
                settle_deadline(m, now);
        if (m->in.state == INSTANCE_STARTING && before == INSTANCE_SEEKING)
                liveness_start(&m->live, now);
        if (m->in.state == INSTANCE_DRAINING)
                settle_drain(m, now);
        /* Somebody else's server is let go, not stopped. */
        if (!m->process && (m->in.state == INSTANCE_DRAINING || m->in.state == INSTANCE_STOPPING ||
                            m->in.state == INSTANCE_KILLING)) {
                member_step(m, EV_LOST, now);
                went_down(m, now);
                m->in.want_again = false;
                if (m->in.want_up && !m->removed && !m->fleet->stopping)
                        member_step(m, EV_START, now); /* its address has changed: it is looked for anew */
        }
        /* Taken over, but not wanted: it was let come to READY first, so that its work is drained. */
        if (m->in.state == INSTANCE_READY && !m->in.want_up)
                member_step(m, EV_STOP, now);
}

/* --- reports ------------------------------------------------------------------------------------------------------------ */

/* The wait is a span of time; what is told is a moment of the wall clock, which may have been set meanwhile. */
static void correct_retry(struct member *m, usec_t now)
{
        usec_t at = usec_add(loop_realtime(m->fleet->loop), usec_sub(m->in.deadline, now));

        if (m->next_retry_at && m->in.state == INSTANCE_WAITING &&
            MAX(at, m->next_retry_at) - MIN(at, m->next_retry_at) > CLOCK_SLACK)
                m->next_retry_at = at;
}

void member_fill_report(struct member *m, struct report *ret, usec_t now)
{
        bool alive = m->process || m->foreign;

        correct_retry(m, now);

        *ret = (struct report){
                .instance = m->name,
                .model = m->entry->name,
                .status = instance_status(m->in.state),
                .seq = m->seq,
                .models = m->models,
                .n_models = m->n_models,
                .last_error = m->last_error,
                .retries = m->in.retries,
                .max_retries = m->in.policy.max_retries == INSTANCE_RETRIES_FOREVER
                                       ? -1
                                       : (int)m->in.policy.max_retries,
                .started_at = alive ? m->started_at : 0,
                .uptime = alive && m->started_at ? usec_sub(now, m->spawned_at) / USEC_PER_SEC : 0,
                .next_retry_at = m->next_retry_at,
                .pid = m->process ? process_pid(m->process) : 0,
                .gpu = m->gpu,
                .gpu_memory = m->process ? m->gpu_memory : 0,
                .gpu_verified = m->process ? gpu_verified_name(m->gpu_verified) : NULL,
                .in_flight = seat_in_flight(m->seat),
                .queue = seat_queue(m->seat),
                .slots = m->slots,
                .tokens_per_second = m->tokens_per_second,
                .endpoint = m->endpoint_text[0]    ? m->endpoint_text
                            : m->entry->adopt_text ? m->entry->adopt_text
                                                   : m->entry->endpoint_text,
                .model_path = m->entry->model,
                .log_path = m->log ? logfile_path(m->log) : NULL,
                .want_up = m->in.want_up,
                .adopted = m->adopted || m->foreign,
                .foreign = member_is_foreign_only(m) || m->foreign,
                .dynamic = m->entry->dynamic,
                .on_demand = m->entry->on_demand,
                .until = demand_until_of(m->fleet, m->demand),
                .weight = config_weight(m->entry, m->replica),
                .context = m->context,
                .modalities = m->modalities,
                .has_modalities = m->has_modalities,
                .build = m->build,
                .restarts = m->restarts,
                .load_time = m->load_time,
                .state_since = m->state_since,
        };
        member_report_group(m, ret);
}
