/* loop.h: the one event loop, on libuv. Everything in the daemon runs in its thread.
 *
 * One turn: wait, read the clock once (loop_now), run the callbacks of what happened (they only record facts), then the
 * turn functions in the order they were added (the fleet settles and publishes there). No callback is called from inside
 * the function that created its object, nor after its *_free() returned; *_free() is fine inside any callback, its own too.
 * loop_new() ignores SIGPIPE for the whole process (a child must be given the default again).
 * Source: libuv 1.44 documentation; uv_poll is used for foreign descriptors (pidfd, inotify), timers are uv_timer (ms). */
#ifndef LSV_NET_LOOP_H
#define LSV_NET_LOOP_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/time.h"

struct loop;

int loop_new(struct loop **ret);
/* Runs until every closing handle is gone (bounded), then frees. Everything created on the loop must be freed first;
 * what is still open is a leak, logged by the kind of handle. Always NULL. */
struct loop *loop_free(struct loop *loop);
/* A job in the pool did not end before loop_free gave up, on a disk that does not answer, say: libuv would wait for its thread at exit(3),
 * so the program must end by _exit(2). */
bool loop_left_jobs(void);

void loop_run(struct loop *loop);  /* returns after loop_stop */
void loop_stop(struct loop *loop); /* at the end of this turn */

usec_t loop_now(const struct loop *loop);      /* monotonic, read once a turn */
usec_t loop_realtime(const struct loop *loop); /* wall clock, read once a turn */

/* Runs at the end of every turn in which something happened. At most 8 are kept: -ENOSPC. */
typedef void loop_turn_fn(void *owner, usec_t now);
int loop_add_turn(struct loop *loop, loop_turn_fn *fn, void *owner);
void loop_remove_turn(struct loop *loop, loop_turn_fn *fn, void *owner);
/* Makes sure that a turn ends soon although nothing else may happen (a fact recorded outside of any callback). */
void loop_wake(struct loop *loop);

/* How late timers were (the loop's lag): the worst since the last call, for metrics and the watchdog. */
usec_t loop_lag_max(struct loop *loop);
/* The longest turn since the last call: from the first callback behind a poll to the next poll. Nobody else was served meanwhile. */
usec_t loop_turn_max(struct loop *loop);
/* The same of every timer since the start; counts are not cumulative, the last is over all bounds. */
enum { LOOP_DELAY_BUCKETS = 8 };
extern const double loop_delay_bounds[LOOP_DELAY_BUCKETS]; /* seconds */
struct loop_delays {
        uint64_t counts[LOOP_DELAY_BUCKETS + 1];
        double sum;
};
const struct loop_delays *loop_delays(const struct loop *loop);

/* --- timers ---------------------------------------------------------------------------------------------------- */
struct timer;
typedef void timer_fn(void *owner, usec_t now);
int timer_new(struct loop *loop, timer_fn *fn, void *owner, struct timer **ret);
struct timer *timer_free(struct timer *timer); /* takes NULL, always NULL; fine inside its own callback */
/* Once, at `at` (monotonic; the past means the next turn); USEC_INFINITY disarms. Setting again replaces. */
void timer_set(struct timer *timer, usec_t at);
/* Behind the next poll, wherever it is called: a timer that is set to the past from a watch may be called before the turn ends, and
 * one that sets itself so rests for a millisecond. For work in pieces, with everybody served in between who has something to read. */
void timer_set_soon(struct timer *timer);
usec_t timer_due(const struct timer *timer); /* USEC_INFINITY when disarmed */

/* --- foreign descriptors ----------------------------------------------------------------------------------------- */
enum { WATCH_READ = 1, WATCH_WRITE = 2, WATCH_HANGUP = 4 };
struct watch;
typedef void watch_fn(void *owner, unsigned events, usec_t now);
/* The descriptor stays the caller's, who closes it after watch_free; it is made non-blocking. One watch a descriptor:
 * -EEXIST; -EPERM for regular files. WATCH_HANGUP also comes unasked when the descriptor is in error, which ends the watch
 * (watch_set starts it again). */
int watch_new(struct loop *loop, int fd, unsigned events, watch_fn *fn, void *owner, struct watch **ret);
int watch_set(struct watch *watch, unsigned events);
struct watch *watch_free(struct watch *watch);

/* --- signals -------------------------------------------------------------------------------------------------- */
struct signal_watch;
typedef void signal_fn(void *owner, int signo, usec_t now);
int signal_watch_new(struct loop *loop, int signo, signal_fn *fn, void *owner, struct signal_watch **ret);
struct signal_watch *signal_watch_free(struct signal_watch *w);

/* --- blocking work (libuv's pool): fsync, big reads ---------------------------------------------------------------- */
/* work() runs in a pool thread and touches only what `job` owns; done() then runs in the loop thread, exactly once, also
 * when the loop is being torn down. At most 64 jobs wait or run: -EAGAIN beyond. */
typedef void work_fn(void *job);
typedef void work_done_fn(void *job);
int loop_work(struct loop *loop, work_fn *work, work_done_fn *done, void *job);

#endif
