/* loop.c: the event loop, its turns, timers, watches, signals and blocking work, on libuv.
 *
 * A turn ends in uv_prepare, right before the next poll. libuv changed the order of timers and poll in 1.45, but that place
 * lies behind both in either order. A flag says whether anything happened since; an idle daemon sleeps in epoll and runs
 * nothing. */
#include "net/loop_private.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/macros.h"

#define POOL_THREADS "12"
enum {
        TURNS_MAX = 8,
        WORK_MAX = 64,
        DEFERRED_A_TURN =
                65536, /* more than all clients of one batch; only keeps a faulty cycle from taking the loop */
};

static const usec_t FREE_DEADLINE = 10 * USEC_PER_SEC;

struct turn {
        loop_turn_fn *fn; /* NULL: removed while the turn functions ran */
        void *owner;
};

const double loop_delay_bounds[LOOP_DELAY_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1};

struct loop {
        uv_loop_t uv;
        uv_prepare_t prepare;
        uv_idle_t
                idle; /* active only between loop_wake and the end of that turn: makes the poll return at once */
        struct turn turns[TURNS_MAX];
        unsigned n_turns;
        struct list deferred;
        bool happened, in_turns, in_timers, now_known, realtime_known;
        usec_t now, realtime, lag_max, turn_max;
        usec_t turn_began; /* 0: nothing has happened since the poll */
        struct loop_delays delays;
        struct timer *soon; /* timer_set_soon, for the end of this turn */
        unsigned jobs;
        char scratch[LOOP_SCRATCH_SIZE];
};

uv_loop_t *loop_libuv(struct loop *loop)
{
        return &loop->uv;
}

char *loop_scratch(struct loop *loop)
{
        return loop->scratch;
}

/* The clock is a cache that the const face of loop_now fills. */
usec_t loop_now(const struct loop *loop)
{
        struct loop *l = (struct loop *)loop;

        if (!l->now_known) {
                l->now = time_monotonic();
                l->now_known = true;
                if (!l->turn_began)
                        l->turn_began = l->now;
        }
        return l->now;
}

usec_t loop_realtime(const struct loop *loop)
{
        struct loop *l = (struct loop *)loop;

        if (!l->realtime_known) {
                l->realtime = time_realtime();
                l->realtime_known = true;
        }
        return l->realtime;
}

usec_t loop_note(struct loop *loop)
{
        loop->happened = true;
        return loop_now(loop);
}

/* --- turns ------------------------------------------------------------------------------------------------------ */

static void on_idle(uv_idle_t *idle)
{
        (void)idle;
}

void loop_wake(struct loop *loop)
{
        loop->happened = true;
        (void)uv_idle_start(&loop->idle, on_idle);
}

void deferred_init(struct deferred *d, void (*fn)(struct deferred *d))
{
        list_init(&d->node);
        d->fn = fn;
}

void loop_defer(struct loop *loop, struct deferred *d)
{
        if (!list_is_empty(&d->node))
                return;
        list_append(&loop->deferred, &d->node);
        loop_wake(loop);
}

void deferred_cancel(struct deferred *d)
{
        list_remove(&d->node);
}

static void run_deferred(struct loop *loop)
{
        for (unsigned i = 0; i < DEFERRED_A_TURN && !list_is_empty(&loop->deferred); i++) {
                struct deferred *d = LIST_ENTRY(loop->deferred.next, struct deferred, node);

                list_remove(&d->node);
                d->fn(d);
        }
}

static void run_turns(struct loop *loop, usec_t now)
{
        unsigned kept = 0;

        loop->in_turns = true;
        for (unsigned i = 0; i < loop->n_turns; i++)
                if (loop->turns[i].fn)
                        loop->turns[i].fn(loop->turns[i].owner, now);
        loop->in_turns = false;
        for (unsigned i = 0; i < loop->n_turns; i++)
                if (loop->turns[i].fn)
                        loop->turns[kept++] = loop->turns[i];
        loop->n_turns = kept;
}

/* Between two turns nobody may see an old clock. */
static void forget_clock(struct loop *loop)
{
        loop->now_known = false;
        loop->realtime_known = false;
}

static void arm_soon(struct loop *loop);

static void end_turn(struct loop *loop)
{
        if (loop->happened) {
                run_deferred(loop);
                /* Before the turn functions: what they wake is the next turn. */
                loop->happened = false;
                (void)uv_idle_stop(&loop->idle);
                run_turns(loop, loop_now(loop));
                if (!list_is_empty(&loop->deferred))
                        loop_wake(loop);
        }
        arm_soon(loop);
        forget_clock(loop);
        if (loop->turn_began)
                loop->turn_max = MAX(loop->turn_max, usec_sub(time_monotonic(), loop->turn_began));
        loop->turn_began = 0;
}

static void on_prepare(uv_prepare_t *prepare)
{
        end_turn(CONTAINER_OF(prepare, struct loop, prepare));
}

int loop_add_turn(struct loop *loop, loop_turn_fn *fn, void *owner)
{
        if (loop->n_turns == TURNS_MAX)
                return -ENOSPC;
        loop->turns[loop->n_turns++] = (struct turn){fn, owner};
        return 0;
}

void loop_remove_turn(struct loop *loop, loop_turn_fn *fn, void *owner)
{
        for (unsigned i = 0; i < loop->n_turns; i++)
                if (loop->turns[i].fn == fn && loop->turns[i].owner == owner) {
                        if (loop->in_turns) {
                                loop->turns[i].fn = NULL;
                                return;
                        }
                        loop->n_turns--;
                        memmove(&loop->turns[i], &loop->turns[i + 1],
                                (loop->n_turns - i) * sizeof loop->turns[0]);
                        return;
                }
}

usec_t loop_lag_max(struct loop *loop)
{
        usec_t lag = loop->lag_max;

        loop->lag_max = 0;
        return lag;
}

usec_t loop_turn_max(struct loop *loop)
{
        usec_t turn = loop->turn_max;

        loop->turn_max = 0;
        return turn;
}

const struct loop_delays *loop_delays(const struct loop *loop)
{
        return &loop->delays;
}

/* --- life of the loop ------------------------------------------------------------------------------------------- */

int loop_new(struct loop **ret)
{
        struct loop *loop = calloc(1, sizeof *loop);
        int r;

        if (!loop)
                return -ENOMEM;
        list_init(&loop->deferred);
        /* A file system that does not answer keeps a thread for each of those who ask it; fsync must find one all the same. */
        (void)setenv("UV_THREADPOOL_SIZE", POOL_THREADS, 0);
        r = uv_loop_init(&loop->uv);
        if (r < 0) {
                free(loop);
                return r;
        }
        /* libuv writes to sockets without MSG_NOSIGNAL. */
        (void)signal(SIGPIPE, SIG_IGN);
        (void)uv_prepare_init(&loop->uv, &loop->prepare);
        (void)uv_idle_init(&loop->uv, &loop->idle);
        (void)uv_prepare_start(&loop->prepare, on_prepare);
        *ret = loop;
        return 0;
}

void loop_run(struct loop *loop)
{
        loop->turn_began = 0; /* what was done before is no turn */
        /* The prepare handle keeps the loop alive, so it returns for uv_stop alone. */
        (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
        /* It leaves before the end of the turn that was stopped. */
        end_turn(loop);
}

void loop_stop(struct loop *loop)
{
        uv_stop(&loop->uv);
}

static void close_leaked(uv_handle_t *handle, void *arg)
{
        struct loop *loop = arg;

        if (uv_is_closing(handle))
                return;
        if (handle != (uv_handle_t *)&loop->prepare && handle != (uv_handle_t *)&loop->idle)
                log_warn(NULL, "a %s was still open when the loop was torn down",
                         uv_handle_type_name(handle->type));
        uv_close(handle, NULL);
}

static bool left_jobs;

bool loop_left_jobs(void)
{
        return left_jobs;
}

struct loop *loop_free(struct loop *loop)
{
        usec_t give_up;

        if (!loop)
                return NULL;
        give_up = usec_add(time_monotonic(), FREE_DEADLINE);
        run_deferred(loop);
        for (;;) {
                struct timespec pause = {.tv_nsec = 1000000};

                (void)uv_run(&loop->uv, UV_RUN_NOWAIT);
                run_deferred(loop);
                if (!loop->jobs || time_monotonic() > give_up)
                        break;
                (void)nanosleep(&pause, NULL); /* a pool thread is still writing */
        }
        if (loop->jobs) {
                /* Its memory is in use by a pool thread: better a leak at exit than a crash. */
                left_jobs = true;
                log_err(NULL, "%u blocking jobs did not end within %u s of the end", loop->jobs,
                        (unsigned)(FREE_DEADLINE / USEC_PER_SEC));
                return NULL;
        }
        uv_walk(&loop->uv, close_leaked, loop);
        do {
                (void)uv_run(&loop->uv, UV_RUN_NOWAIT);
                run_deferred(loop);
        } while (uv_loop_close(&loop->uv) != 0 && time_monotonic() <= give_up);
        if (time_monotonic() > give_up) {
                log_err(NULL, "the loop could not be closed");
                return NULL;
        }
        free(loop);
        return NULL;
}

/* --- timers ----------------------------------------------------------------------------------------------------- */

/* Arming is lazy: most deadlines are moved or dropped long before they come, so the libuv timer is left where it is when
 * it comes early enough anyway; it then looks at `at` again. One needless wake-up at most for each time it was armed. */
struct timer {
        uv_timer_t uv;
        struct loop *loop;
        timer_fn *fn;
        void *owner;
        usec_t at;         /* what the owner asked for */
        uint64_t armed_ms; /* when libuv will call, 0: not armed */
        struct timer *next_soon;
        bool is_soon; /* it is in the loop's list */
};

static void on_timer(uv_timer_t *uv);

static uint64_t to_msec_up(usec_t at)
{
        return at / USEC_PER_MSEC + (at % USEC_PER_MSEC != 0);
}

static void note_delay(struct loop *loop, usec_t delay)
{
        double seconds = (double)delay / (double)USEC_PER_SEC;
        size_t i = 0;

        while (i < LOOP_DELAY_BUCKETS && seconds > loop_delay_bounds[i])
                i++;
        loop->delays.counts[i]++;
        loop->delays.sum += seconds;
        loop->lag_max = MAX(loop->lag_max, delay);
}

static void timer_arm(struct timer *t)
{
        uint64_t base = uv_now(&t->loop->uv), target = MAX(to_msec_up(t->at), 1), wait;

        /* What is due now would wait for the next whole millisecond: "soon" is how rooms say "when this turn is over". */
        if (t->at <= loop_now(t->loop))
                target = MAX(MIN(target, base), 1);
        wait = target > base ? target - base : 0;
        if (t->armed_ms && t->armed_ms <= target)
                return;
        /* libuv before 1.45 goes on as long as due timers are found, so one that sets itself to the past would keep it. */
        if (!wait && t->loop->in_timers)
                wait = 1;
        if (uv_timer_start(&t->uv, on_timer, wait, 0) == 0)
                t->armed_ms = target;
}

static void on_timer(uv_timer_t *uv)
{
        struct timer *t = CONTAINER_OF(uv, struct timer, uv);
        struct loop *loop = t->loop;
        usec_t now, due = t->at;

        t->armed_ms = 0;
        if (due == USEC_INFINITY)
                return;
        if (loop_now(loop) < due)
                forget_clock(loop);
        if (loop_now(loop) < due) {
                timer_arm(t);
                return;
        }
        now = loop_note(loop);
        note_delay(loop, now - due);
        t->at = USEC_INFINITY;
        loop->in_timers = true;
        t->fn(t->owner, now);
        loop->in_timers = false;
}

int timer_new(struct loop *loop, timer_fn *fn, void *owner, struct timer **ret)
{
        struct timer *t = calloc(1, sizeof *t);

        if (!t)
                return -ENOMEM;
        t->loop = loop;
        t->fn = fn;
        t->owner = owner;
        t->at = USEC_INFINITY;
        (void)uv_timer_init(&loop->uv, &t->uv);
        *ret = t;
        return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
        free(CONTAINER_OF((uv_timer_t *)handle, struct timer, uv));
}

static void forget_soon(struct timer *t)
{
        struct timer **at = &t->loop->soon;

        while (t->is_soon && *at != t)
                at = &(*at)->next_soon;
        if (t->is_soon)
                *at = t->next_soon;
        t->is_soon = false;
}

static void arm_soon(struct loop *loop)
{
        while (loop->soon) {
                struct timer *t = loop->soon;

                forget_soon(t);
                if (t->at != USEC_INFINITY)
                        timer_arm(t);
        }
}

struct timer *timer_free(struct timer *timer)
{
        if (timer)
                forget_soon(timer);
        if (timer)
                uv_close((uv_handle_t *)&timer->uv, on_timer_closed);
        return NULL;
}

void timer_set(struct timer *timer, usec_t at)
{
        timer->at = at;
        if (at != USEC_INFINITY)
                timer_arm(timer);
}

void timer_set_soon(struct timer *timer)
{
        timer->at = loop_now(timer->loop);
        if (timer->is_soon)
                return;
        timer->is_soon = true;
        timer->next_soon = timer->loop->soon;
        timer->loop->soon = timer;
}

usec_t timer_due(const struct timer *timer)
{
        return timer->at;
}

/* --- watches ---------------------------------------------------------------------------------------------------- */

struct watch {
        uv_poll_t uv;
        struct loop *loop;
        watch_fn *fn;
        void *owner;
        unsigned events;
};

static void on_poll(uv_poll_t *uv, int status, int uv_events)
{
        struct watch *w = CONTAINER_OF(uv, struct watch, uv);
        usec_t now = loop_note(w->loop);
        unsigned events = 0;

        if (status < 0)
                /* EPOLLERR: libuv has stopped the watch; the owner's next read or write tells what is wrong. */
                events = w->events | WATCH_HANGUP;
        if (uv_events & UV_READABLE)
                events |= WATCH_READ;
        if (uv_events & UV_WRITABLE)
                events |= WATCH_WRITE;
        if (uv_events & UV_DISCONNECT)
                events |= WATCH_HANGUP;
        if (events)
                w->fn(w->owner, events, now);
}

static int watch_start(struct watch *w)
{
        int uv_events = 0;

        if (w->events & WATCH_READ)
                uv_events |= UV_READABLE;
        if (w->events & WATCH_WRITE)
                uv_events |= UV_WRITABLE;
        if (w->events & WATCH_HANGUP)
                uv_events |= UV_DISCONNECT;
        return uv_events ? uv_poll_start(&w->uv, uv_events, on_poll) : uv_poll_stop(&w->uv);
}

static void on_watch_closed(uv_handle_t *handle)
{
        free(CONTAINER_OF((uv_poll_t *)handle, struct watch, uv));
}

int watch_new(struct loop *loop, int fd, unsigned events, watch_fn *fn, void *owner, struct watch **ret)
{
        struct watch *w = calloc(1, sizeof *w);
        int r;

        if (!w)
                return -ENOMEM;
        w->loop = loop;
        w->fn = fn;
        w->owner = owner;
        w->events = events;
        r = uv_poll_init(&loop->uv, &w->uv, fd);
        if (r < 0) {
                free(w); /* libuv has not taken the handle when its init fails */
                return r;
        }
        r = watch_start(w);
        if (r < 0) {
                uv_close((uv_handle_t *)&w->uv, on_watch_closed);
                return r;
        }
        *ret = w;
        return 0;
}

int watch_set(struct watch *watch, unsigned events)
{
        if (watch->events == events && (!events || uv_is_active((uv_handle_t *)&watch->uv)))
                return 0;
        watch->events = events;
        return watch_start(watch);
}

struct watch *watch_free(struct watch *watch)
{
        if (watch)
                uv_close((uv_handle_t *)&watch->uv, on_watch_closed);
        return NULL;
}

/* --- signals ---------------------------------------------------------------------------------------------------- */

struct signal_watch {
        uv_signal_t uv;
        struct loop *loop;
        signal_fn *fn;
        void *owner;
};

static void on_signal(uv_signal_t *uv, int signo)
{
        struct signal_watch *w = CONTAINER_OF(uv, struct signal_watch, uv);

        w->fn(w->owner, signo, loop_note(w->loop));
}

static void on_signal_closed(uv_handle_t *handle)
{
        free(CONTAINER_OF((uv_signal_t *)handle, struct signal_watch, uv));
}

int signal_watch_new(struct loop *loop, int signo, signal_fn *fn, void *owner, struct signal_watch **ret)
{
        struct signal_watch *w = calloc(1, sizeof *w);
        int r;

        if (!w)
                return -ENOMEM;
        w->loop = loop;
        w->fn = fn;
        w->owner = owner;
        r = uv_signal_init(&loop->uv, &w->uv);
        if (r < 0) {
                free(w);
                return r;
        }
        r = uv_signal_start(&w->uv, on_signal, signo);
        if (r < 0) {
                uv_close((uv_handle_t *)&w->uv, on_signal_closed);
                return r;
        }
        *ret = w;
        return 0;
}

struct signal_watch *signal_watch_free(struct signal_watch *w)
{
        if (w)
                uv_close((uv_handle_t *)&w->uv, on_signal_closed);
        return NULL;
}

/* --- blocking work ---------------------------------------------------------------------------------------------- */

struct work {
        uv_work_t uv;
        struct loop *loop;
        work_fn *work;
        work_done_fn *done;
        void *job;
};

static void on_work(uv_work_t *uv)
{
        struct work *w = CONTAINER_OF(uv, struct work, uv);

        w->work(w->job);
}

static void on_work_done(uv_work_t *uv, int status)
{
        struct work *w = CONTAINER_OF(uv, struct work, uv);

        (void)status; /* nothing is ever cancelled */
        (void)loop_note(w->loop);
        w->loop->jobs--;
        w->done(w->job);
        free(w);
}

int loop_work(struct loop *loop, work_fn *work, work_done_fn *done, void *job)
{
        struct work *w;
        int r;

        if (loop->jobs >= WORK_MAX)
                return -EAGAIN;
        w = calloc(1, sizeof *w);
        if (!w)
                return -ENOMEM;
        w->loop = loop;
        w->work = work;
        w->done = done;
        w->job = job;
        r = uv_queue_work(&loop->uv, &w->uv, on_work, on_work_done);
        if (r < 0) {
                free(w);
                return r;
        }
        loop->jobs++;
        return 0;
}
