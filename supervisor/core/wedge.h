/* wedge.h: a server whose /health is fine and whose work stands still. Pure.
 *
 * llama-server answers /health out of its HTTP threads, also when its inference is dead; so work that was given to it is judged by what it does:
 *
 *     progress   bytes of answers to clients (not pings), tokens and prompt tokens in its slots: all is well
 *     activity   CPU time, threads that want to run or wait for a disk, GPUs that compute: it may be deep in a prompt
 *
 * It counts as wedged when it owes work, and there was neither progress nor activity for `limit`. Where a slot is free it is asked for
 * one token of its own before that (WEDGE_ASK); an answer means that its inference lives, and what stands still is somebody else's fault.
 * It also counts as wedged when every busy slot is past its prompt and none of them decodes a token, although it is active (a loop without
 * end), for `limit` and ten times longer than it ever took for one.
 *
 * Of the time between two looks at most a quarter of the limit counts: what slept (a laptop, a paused virtual machine or container) is judged by
 * what it does afterwards.
 *
 * A long prompt is active for as long as it takes, so it is never wedged. Where activity cannot be seen (work on GPUs whose driver tells
 * nothing, or on other machines: --rpc), `blind_limit` stands for limit. GPUs that others use, too, look active: then it is found only by its slots.
 *
 * Sources: issues of llama.cpp (27388: generation stops in the middle, /health 200, /slots hangs; 13281, 13085: after CUDA errors; 23268:
 * a speculative loop without end); measured: pings and /health come from a server that does nothing. */
#ifndef LSV_CORE_WEDGE_H
#define LSV_CORE_WEDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/time.h"

struct wedge_policy {
        usec_t limit, blind_limit; /* limit 0: never judged */
};

enum wedge_canary { CANARY_NONE, CANARY_ASKED, CANARY_ALIVE, CANARY_SILENT, CANARY_REFUSED };

struct wedge_fact {
        unsigned work;     /* requests that it owes an answer, and slots that it says are busy */
        bool says_idle;    /* /slots was answered since the last fact: no slot works */
        uint64_t bytes;    /* to clients, so far */
        uint64_t tokens;   /* of prompts and answers in its slots, so far */
        bool decodes;      /* /slots is answered, and every busy slot is past its prompt */
        usec_t cpu;        /* CPU time so far; USEC_INFINITY: not known */
        bool wants_to_run; /* a thread of it runs, could run, or waits for a disk */
        bool uses_gpu, gpu_known, gpu_active;
        bool slot_free;
        enum wedge_canary
                canary; /* what became of the last question, CANARY_NONE: none was asked in this standstill */
};

enum wedge_verdict { WEDGE_NONE, WEDGE_ASK, WEDGE_STUCK, WEDGE_SPINNING };

struct wedge {
        bool judging; /* there is work, and what was seen of it */
        usec_t looked_at;
        usec_t progress_at;      /* of the last progress */
        usec_t active_at;        /* of the last activity or progress */
        usec_t window_at, cpu;   /* since when the CPU time is measured */
        unsigned looks, running; /* since then; those that found a thread running */
        uint64_t bytes, tokens;
        usec_t slowest; /* between two tokens while it decoded, in its life */
        bool asked;
};

/* A new process. */
void wedge_start(struct wedge *w);
/* One look, each time that a probe was answered well. Its threads (wants_to_run) were looked at before, since a probe wakes one itself. */
enum wedge_verdict wedge_feed(struct wedge *w, const struct wedge_policy *policy,
                              const struct wedge_fact *fact, usec_t now);
/* For how long there was no activity either; 0 while there is no work. */
usec_t wedge_rests(const struct wedge *w, usec_t now);
/* For how long nothing has come; 0 while all is well. */
usec_t wedge_stands(const struct wedge *w, usec_t now);

#endif
