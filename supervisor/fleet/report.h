/* report.h: what every door tells of one instance: one struct, one JSON form, so that no two doors can disagree.
 * A report belongs to the fleet; it and all its strings are valid until the end of the turn. Source of the form: DESIGN §2
 * "Status feed". */
#ifndef LSV_FLEET_REPORT_H
#define LSV_FLEET_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/json.h"
#include "base/time.h"

struct report_model {
        char *id, *name, *type; /* type: "completion", "embedding", … */
        uint64_t size;          /* bytes, 0 unknown */
        int64_t modified_at;    /* unix seconds of the file, 0 unknown */
};

/* Of all processes of an instance together: what it was promised, and (in a control group of its own) what it uses. */
struct report_limits {
        uint64_t memory; /* bytes; each 0: none */
        double cpus;
        unsigned pids;
        const char *problem; /* why they are not kept, NULL: they are */
};
struct report_usage {
        bool has_memory, has_cpu, has_tasks; /* all false: not known (no group, or no controller for it) */
        uint64_t memory, memory_max;         /* bytes; max 0: no limit in force */
        uint64_t oom_kills, tasks; /* processes killed by an out-of-memory killer; processes and threads */
        double cpu_seconds; /* counts are of all its processes since the daemon's start, or the group's */
};

enum { REPORT_VISION = 1, REPORT_AUDIO = 2, REPORT_VIDEO = 4 };

struct report {
        const char *instance; /* "qwen-0", or "*" for the aggregate */
        const char *model;    /* what clients ask for: the entry's name */
        const char *status;   /* the public word */
        uint64_t seq;
        const struct report_model *models;
        size_t n_models;
        const char *last_error; /* plain words, NULL when there is none */
        unsigned retries;
        int max_retries;      /* -1: for ever */
        uint64_t uptime;      /* seconds, 0 when down */
        usec_t started_at;    /* realtime, 0: null */
        usec_t next_retry_at; /* realtime, 0: null */
        pid_t pid;            /* 0: null */
        char *const *gpu;     /* NULL-ended, may be NULL */
        const char *
                gpu_verified; /* "ok": it is on those; "unknown", "wrong", "cpu"; NULL: not looked yet, or none is meant */
        uint64_t gpu_memory; /* bytes that it really holds on GPUs, 0: none, or not known */
        unsigned in_flight, slots, queue;
        double tokens_per_second;
        /* More for the API and the CLI than the feed needs: */
        const char *endpoint;   /* "unix:/run/…" */
        const char *model_path; /* as configured */
        const char *log_path;   /* NULL for a server that is not ours */
        bool want_up, adopted;  /* adopted: somebody else's, or an earlier daemon's */
        bool foreign;           /* somebody else's server: only watched, never started or stopped */
        bool dynamic;           /* started from the model library, not configured */
        bool on_demand;         /* comes when it is asked for */
        usec_t until;           /* realtime when it will be unloaded, 0: never, busy, or not loaded */
        double weight;          /* its share of its model's work */
        unsigned context;       /* tokens per slot, 0 unknown */
        unsigned modalities;    /* REPORT_VISION …: what it takes beside text, as its server told last */
        bool has_modalities;    /* it told */
        const char *build;      /* llama-server's build_info, NULL unknown */
        uint64_t restarts;      /* times started again since the counts began */
        usec_t load_time;       /* spawn to ready of the last start, 0 unknown */
        usec_t state_since;     /* realtime */
        struct report_limits limits;
        struct report_usage usage; /* as it was last asked for: fleet_look */
};

/* {"status":…,"models":[…],…}: the feed's data object, one value, with every key of DESIGN §2 in every state: unknown numbers
 * of a model (size, modified_at), a pid of nobody and moments that never were are null, gpu is an array, maybe empty.
 * startedAt has whole seconds, nextRetryAt milliseconds ("2026-11-20T10:00:00.250Z"); tokensPerSecond one decimal. */
void report_put_data(struct json_writer *w, const struct report *r);
/* The whole feed message {"type":"llama_status","instance",…,"data":{…}}. */
void report_put_message(struct json_writer *w, const struct report *r, usec_t realtime);
/* One element of GET /api/v1/instances: {"name","model", the feed's data, and "seq","maxRetries" (null: for ever),"restarts",
 * "wantUp","adopted","foreign","dynamic","onDemand","until","stateSince","loadTime" (seconds, null unknown),"endpoint",
 * "modelPath","logPath","weight","context","modalities" (of "vision" "audio" "video", null unknown),"build","gpuVerified" (null: not looked yet, or no GPU is meant),"gpuMemory" (bytes it holds on GPUs, null unknown),"limits","usage"}: limits {"memory","cpus","pids" (null: none),"problem"},
 * usage null without a group, else {"memory","memoryMax","oomKills","cpuSeconds","tasks"}, each null when unknown. */
void report_put_instance(struct json_writer *w, const struct report *r);
/* "2026-11-20T10:00:00.123Z", null for 0: for what people count down to. */
void report_put_moment(struct json_writer *w, const char *key, usec_t realtime);

#endif
