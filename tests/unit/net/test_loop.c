/* test_loop.c: turns, timers, watches, signals and blocking work on a real loop. */
#include "net/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include <cmocka.h>

#include "base/macros.h"

/* What the callbacks of one test tell each other. */
struct scene {
        struct loop *loop;
        struct timer *timer, *other, *guard;
        struct watch *watch;
        struct signal_watch *signal;
        char order[64]; /* one letter for each thing that happened */
        unsigned fired, turns, turns_wanted, done;
        usec_t at, asked;
        int fd;
        unsigned events;
};

static void note(struct scene *s, char what)
{
        size_t n = strlen(s->order);

        if (n + 1 < sizeof s->order)
                s->order[n] = what;
}

/* A test that hangs must fail, not wait for ctest. */
static void on_guard(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        note(s, '!');
        loop_stop(s->loop);
}

static void scene_init(struct scene *s)
{
        *s = (struct scene){.fd = -1};
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, on_guard, s, &s->guard), 0);
        timer_set(s->guard, loop_now(s->loop) + 20 * USEC_PER_SEC);
}

static void scene_finish(struct scene *s)
{
        s->guard = timer_free(s->guard);
        assert_null(strchr(s->order, '!'));
        assert_null(loop_free(s->loop));
}

static void stop_after(struct scene *s, timer_fn *fn, usec_t span, struct timer **ret)
{
        assert_int_equal(timer_new(s->loop, fn, s, ret), 0);
        timer_set(*ret, loop_now(s->loop) + span);
}

static void on_stop(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        note(s, 's');
        loop_stop(s->loop);
}

static void empty_loop(void **state)
{
        struct loop *loop;

        (void)state;
        assert_null(loop_free(NULL));
        assert_int_equal(loop_new(&loop), 0);
        loop_stop(loop);
        loop_run(loop);
        assert_null(loop_free(loop));
        assert_null(timer_free(NULL));
        assert_null(watch_free(NULL));
        assert_null(signal_watch_free(NULL));
}

/* --- timers ----------------------------------------------------------------------------------------------------- */

static void on_fire(void *owner, usec_t now)
{
        struct scene *s = owner;

        s->fired++;
        s->at = now;
        note(s, 't');
        assert_true(now >= s->asked);
        assert_true(timer_due(s->timer) == USEC_INFINITY);
        assert_true(now == loop_now(s->loop));
        loop_stop(s->loop);
}

static void timer_is_never_early(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(timer_new(s.loop, on_fire, &s, &s.timer), 0);
        for (unsigned i = 0; i < 40; i++) {
                /* Spans that are no whole milliseconds show whether the rounding goes up. */
                s.asked = time_monotonic() + i * 137;
                timer_set(s.timer, s.asked);
                assert_true(timer_due(s.timer) == s.asked);
                loop_run(s.loop);
                assert_int_equal(s.fired, i + 1);
                assert_true(time_monotonic() >= s.asked);
        }
        assert_true(loop_lag_max(s.loop) < 5 * USEC_PER_SEC);
        assert_true(loop_lag_max(s.loop) == 0);
        s.timer = timer_free(s.timer);
        scene_finish(&s);
}

static void timer_moves_both_ways(void **state)
{
        struct scene s;
        struct timer *stop;
        usec_t begin;

        (void)state;
        scene_init(&s);
        assert_int_equal(timer_new(s.loop, on_fire, &s, &s.timer), 0);

        /* Later: the early one must not fire. */
        begin = time_monotonic();
        timer_set(s.timer, begin + 5000);
        s.asked = begin + 60000;
        timer_set(s.timer, s.asked);
        loop_run(s.loop);
        assert_true(time_monotonic() >= s.asked);

        /* Earlier: it must not wait for the late one. */
        begin = time_monotonic();
        timer_set(s.timer, begin + 15 * USEC_PER_SEC);
        s.asked = begin + 5000;
        timer_set(s.timer, s.asked);
        loop_run(s.loop);
        assert_true(time_monotonic() < begin + 10 * USEC_PER_SEC);
        assert_int_equal(s.fired, 2);

        /* Disarmed. */
        timer_set(s.timer, time_monotonic() + 5000);
        timer_set(s.timer, USEC_INFINITY);
        assert_true(timer_due(s.timer) == USEC_INFINITY);
        stop_after(&s, on_stop, 50000, &stop);
        loop_run(s.loop);
        assert_int_equal(s.fired, 2);

        /* Disarmed, then armed again before the forgotten one would have come. */
        timer_set(s.timer, time_monotonic() + 5000);
        timer_set(s.timer, USEC_INFINITY);
        s.asked = time_monotonic() + 30000;
        timer_set(s.timer, s.asked);
        loop_run(s.loop);
        assert_int_equal(s.fired, 3);

        s.timer = timer_free(s.timer);
        stop = timer_free(stop);
        scene_finish(&s);
}

static void on_fire_and_free(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        s->fired++;
        s->timer = timer_free(s->timer);
        s->other = timer_free(s->other);
}

static void timer_freed_in_its_callback(void **state)
{
        struct scene s;
        struct timer *stop;

        (void)state;
        scene_init(&s);
        /* Both are due in the same turn; the first takes the second with it. */
        stop_after(&s, on_fire_and_free, 1000, &s.timer);
        stop_after(&s, on_fire_and_free, 1000, &s.other);
        stop_after(&s, on_stop, 50000, &stop);
        loop_run(s.loop);
        assert_int_equal(s.fired, 1);
        stop = timer_free(stop);
        scene_finish(&s);
}

static void on_fire_again(void *owner, usec_t now)
{
        struct scene *s = owner;

        s->fired++;
        timer_set(s->timer, now - 1000);
}

static void on_count_turn(void *owner, usec_t now)
{
        struct scene *s = owner;

        assert_true(now == loop_now(s->loop));
        note(s, 'T');
        s->turns++;
        if (s->turns_wanted && s->turns >= s->turns_wanted)
                loop_stop(s->loop);
}

static void timer_in_the_past_waits_for_the_next_turn(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s);
        s.turns_wanted = 3;
        assert_int_equal(loop_add_turn(s.loop, on_count_turn, &s), 0);
        stop_after(&s, on_fire_again, 0, &s.timer);
        loop_run(s.loop);
        assert_in_range(s.fired, 2, 4);
        loop_remove_turn(s.loop, on_count_turn, &s);
        s.timer = timer_free(s.timer);
        scene_finish(&s);
}

enum { ROUNDS = 20 };

/* A socket that is always readable keeps the loop turning, so that what is waited for can be counted in turns. */
static void on_busy(void *owner, unsigned events, usec_t now)
{
        struct scene *s = owner;

        (void)events;
        s->turns++;
        if (timer_due(s->timer) == USEC_INFINITY)
                timer_set(s->timer, now);
}

static void on_due(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        if (++s->fired == ROUNDS)
                loop_stop(s->loop);
}

static void timer_that_is_due_now_waits_for_no_millisecond(void **state)
{
        int pair[2];
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(write(pair[1], "a", 1), 1);
        assert_int_equal(timer_new(s.loop, on_due, &s, &s.timer), 0);
        assert_int_equal(watch_new(s.loop, pair[0], WATCH_READ, on_busy, &s, &s.watch), 0);
        loop_run(s.loop);
        assert_int_equal(s.fired, ROUNDS);
        assert_in_range(s.turns, ROUNDS, 3 * ROUNDS);
        s.watch = watch_free(s.watch);
        s.timer = timer_free(s.timer);
        scene_finish(&s);
        close(pair[0]);
        close(pair[1]);
}

/* --- turns ------------------------------------------------------------------------------------------------------ */

static void on_tick(void *owner, usec_t now)
{
        (void)now;
        note(owner, 't');
}

static void turn_follows_a_timer(void **state)
{
        struct scene s;
        struct timer *stop;
        usec_t begin = time_monotonic();

        (void)state;
        scene_init(&s);
        assert_int_equal(loop_add_turn(s.loop, on_count_turn, &s), 0);
        stop_after(&s, on_tick, 1000, &s.timer);
        stop_after(&s, on_stop, 40000, &stop);
        loop_run(s.loop);
        assert_string_equal(s.order, "tTsT");
        /* And it follows at once, not with whatever comes next. */
        timer_set(s.timer, loop_now(s.loop) + 1000);
        s.turns_wanted = s.turns + 1;
        loop_run(s.loop);
        assert_true(time_monotonic() < begin + 10 * USEC_PER_SEC);
        loop_remove_turn(s.loop, on_count_turn, &s);
        s.timer = timer_free(s.timer);
        stop = timer_free(stop);
        scene_finish(&s);
}

static void on_readable(void *owner, unsigned events, usec_t now)
{
        struct scene *s = owner;
        char c;

        (void)now;
        note(s, 'r');
        assert_true(events & WATCH_READ);
        assert_int_equal(read(s->fd, &c, 1), 1);
        if (c == 'z')
                loop_stop(s->loop);
}

static void turn_follows_a_watch(void **state)
{
        int pair[2];
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        s.fd = pair[0];
        assert_int_equal(loop_add_turn(s.loop, on_count_turn, &s), 0);
        assert_int_equal(watch_new(s.loop, pair[0], WATCH_READ, on_readable, &s, &s.watch), 0);
        assert_int_equal(write(pair[1], "a", 1), 1);
        assert_int_equal(write(pair[1], "z", 1), 1);
        loop_run(s.loop);
        assert_string_equal(s.order, "rTrT");
        s.watch = watch_free(s.watch);
        loop_remove_turn(s.loop, on_count_turn, &s);
        scene_finish(&s);
        close(pair[0]);
        close(pair[1]);
}

static void on_turn_that_wakes(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        if (++s->turns < 5)
                loop_wake(s->loop);
        else
                loop_stop(s->loop);
}

static void wake_ends_a_turn_soon(void **state)
{
        struct scene s;
        usec_t begin = time_monotonic();

        (void)state;
        scene_init(&s);
        assert_int_equal(loop_add_turn(s.loop, on_turn_that_wakes, &s), 0);
        loop_wake(s.loop);
        loop_run(s.loop);
        assert_int_equal(s.turns, 5);
        assert_true(time_monotonic() < begin + 10 * USEC_PER_SEC);
        loop_remove_turn(s.loop, on_turn_that_wakes, &s);
        scene_finish(&s);
}

static unsigned long voluntary_switches(void)
{
        struct rusage u;

        assert_int_equal(getrusage(RUSAGE_SELF, &u), 0);
        return (unsigned long)u.ru_nvcsw;
}

static usec_t cpu_time(void)
{
        struct timespec t;

        assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
        return (usec_t)t.tv_sec * USEC_PER_SEC + (usec_t)t.tv_nsec / 1000;
}

/* After a wake, a passed timer and a disarmed one the loop must sleep: no turns, no CPU. */
static void idle_costs_nothing(void **state)
{
        struct scene s;
        struct timer *stop;
        usec_t cpu;
        unsigned long switches;

        (void)state;
        scene_init(&s);
        assert_int_equal(loop_add_turn(s.loop, on_count_turn, &s), 0);
        stop_after(&s, on_tick, 1000, &s.timer);
        loop_wake(s.loop);
        stop_after(&s, on_stop, 400000, &stop);
        cpu = cpu_time();
        switches = voluntary_switches();
        loop_run(s.loop);
        assert_in_range(s.turns, 2, 3);
        assert_true(cpu_time() - cpu < 100000);
        assert_true(voluntary_switches() - switches < 20);
        loop_remove_turn(s.loop, on_count_turn, &s);
        s.timer = timer_free(s.timer);
        stop = timer_free(stop);
        scene_finish(&s);
}

static void on_turn_a(void *owner, usec_t now)
{
        (void)now;
        note(owner, 'a');
}

static void on_turn_c(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        note(s, 'c');
        loop_stop(s->loop);
}

/* Removes itself and the one after it in the middle of the round. */
static void on_turn_b(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        note(s, 'b');
        loop_remove_turn(s->loop, on_turn_b, s);
        loop_remove_turn(s->loop, on_turn_a, s);
}

static void turns_keep_their_order_and_bound(void **state)
{
        struct scene s, others[6];

        (void)state;
        scene_init(&s);
        assert_int_equal(loop_add_turn(s.loop, on_turn_b, &s), 0);
        assert_int_equal(loop_add_turn(s.loop, on_turn_a, &s), 0);
        assert_int_equal(loop_add_turn(s.loop, on_turn_c, &s), 0);
        for (unsigned i = 0; i < 5; i++)
                assert_int_equal(loop_add_turn(s.loop, on_count_turn, &others[i]), 0);
        assert_int_equal(loop_add_turn(s.loop, on_count_turn, &others[5]), -ENOSPC);
        for (unsigned i = 0; i < 5; i++)
                loop_remove_turn(s.loop, on_count_turn, &others[i]);
        loop_remove_turn(s.loop, on_count_turn, &others[5]); /* not there: nothing happens */
        loop_wake(s.loop);
        loop_run(s.loop);
        assert_string_equal(s.order, "bc");
        loop_wake(s.loop);
        loop_run(s.loop);
        assert_string_equal(s.order, "bcc");
        loop_remove_turn(s.loop, on_turn_c, &s);
        scene_finish(&s);
}

static void clock_stands_still_within_a_turn(void **state)
{
        struct loop *loop;
        usec_t now, wall;

        (void)state;
        assert_int_equal(loop_new(&loop), 0);
        now = loop_now(loop);
        wall = loop_realtime(loop);
        usleep(3000);
        assert_true(loop_now(loop) == now);
        assert_true(loop_realtime(loop) == wall);
        loop_stop(loop);
        loop_run(loop);
        assert_true(loop_now(loop) >= now + 3000);
        assert_true(loop_realtime(loop) > wall);
        assert_null(loop_free(loop));
}

/* What was done in one turn counts, not the sleep between two. */
static void on_fire_long(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        while (time_monotonic() < s->asked + 30 * USEC_PER_MSEC)
                ;
        loop_stop(s->loop);
}

static void longest_turn(void **state)
{
        struct scene s;
        usec_t longest = USEC_INFINITY;

        (void)state;
        scene_init(&s);
        assert_int_equal(timer_new(s.loop, on_fire_long, &s, &s.timer), 0);
        /* On a machine that is busy, others may have the processor in the middle of a turn. */
        for (unsigned i = 0; i < 50 && longest >= 100 * USEC_PER_MSEC; i++) {
                (void)loop_turn_max(s.loop);
                s.asked = time_monotonic() + 120 * USEC_PER_MSEC;
                timer_set(s.timer, s.asked);
                loop_run(s.loop);
                longest = loop_turn_max(s.loop);
                assert_true(longest >= 10 * USEC_PER_MSEC);
                assert_true(loop_turn_max(s.loop) == 0);
        }
        assert_true(longest < 100 * USEC_PER_MSEC);
        s.timer = timer_free(s.timer);
        scene_finish(&s);
}

/* Work in pieces: no millisecond between two, and who has something to read is served between them. */
enum { PIECES = 4000 };

static void on_piece(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        assert_true(s->turns > s->done); /* a turn has ended since the one before */
        assert_true(s->fired > s->done); /* … and the others were looked at */
        if (++s->done == PIECES)
                loop_stop(s->loop);
        else
                timer_set_soon(s->timer);
}

static void on_readable_meanwhile(void *owner, unsigned events, usec_t now)
{
        struct scene *s = owner;

        (void)events;
        (void)now;
        s->fired++; /* nobody reads: it is readable in every poll */
        if (s->done == 0 && s->fired == 1)
                timer_set_soon(s->timer); /* not in this turn either */
}

static void on_turn_meanwhile(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        s->turns++;
}

static void soon_is_behind_the_next_poll(void **state)
{
        struct scene s;
        int fds[2];
        usec_t began;

        (void)state;
        scene_init(&s);
        assert_int_equal(pipe(fds), 0);
        assert_int_equal(write(fds[1], "x", 1), 1);
        assert_int_equal(watch_new(s.loop, fds[0], WATCH_READ, on_readable_meanwhile, &s, &s.watch), 0);
        assert_int_equal(timer_new(s.loop, on_piece, &s, &s.timer), 0);
        began = time_monotonic();
        assert_int_equal(loop_add_turn(s.loop, on_turn_meanwhile, &s), 0);
        loop_run(s.loop);
        assert_int_equal(s.done, PIECES);
        assert_true(time_monotonic() - began < PIECES / 2 * USEC_PER_MSEC);
        /* It may go, or be taken back, before that; once is enough. */
        timer_set_soon(s.timer);
        timer_set_soon(s.timer);
        timer_set(s.timer, USEC_INFINITY);
        assert_int_equal(timer_new(s.loop, on_piece, &s, &s.other), 0);
        timer_set_soon(s.other);
        s.other = timer_free(s.other);
        stop_after(&s, on_stop, 20 * USEC_PER_MSEC, &s.other);
        loop_run(s.loop);
        assert_int_equal(s.done, PIECES);
        s.other = timer_free(s.other);
        s.timer = timer_free(s.timer);
        s.watch = watch_free(s.watch);
        loop_remove_turn(s.loop, on_turn_meanwhile, &s);
        close(fds[0]);
        close(fds[1]);
        scene_finish(&s);
}

/* --- watches ---------------------------------------------------------------------------------------------------- */

static void on_events(void *owner, unsigned events, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        s->events = events;
        s->fired++;
        loop_stop(s->loop);
}

static void watch_events(void **state)
{
        struct timer *stop = NULL;
        int pair[2];
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(watch_new(s.loop, pair[0], WATCH_READ | WATCH_WRITE, on_events, &s, &s.watch), 0);
        loop_run(s.loop);
        assert_int_equal(s.events, WATCH_WRITE);

        /* Nothing wanted: nothing comes, even though it is readable. */
        assert_int_equal(watch_set(s.watch, 0), 0);
        assert_int_equal(write(pair[1], "x", 1), 1);
        s.fired = 0;
        stop_after(&s, on_stop, 30000, &stop);
        loop_run(s.loop);
        assert_int_equal(s.fired, 0);

        assert_int_equal(watch_set(s.watch, WATCH_READ), 0);
        loop_run(s.loop);
        assert_int_equal(s.events, WATCH_READ);

        assert_int_equal(watch_set(s.watch, WATCH_HANGUP), 0);
        close(pair[1]);
        loop_run(s.loop);
        assert_true(s.events & WATCH_HANGUP);

        s.watch = watch_free(s.watch);
        close(pair[0]);
        stop = timer_free(stop);
        scene_finish(&s);
}

static void watch_refuses_what_epoll_cannot(void **state)
{
        _cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct loop *loop;
        struct watch *w = NULL;

        (void)state;
        assert_true(fd >= 0);
        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(watch_new(loop, fd, WATCH_READ, on_events, NULL, &w), -EPERM);
        assert_int_equal(watch_new(loop, 9999, WATCH_READ, on_events, NULL, &w), -EBADF);
        assert_null(w);
        assert_null(loop_free(loop));
}

static void on_events_free(void *owner, unsigned events, usec_t now)
{
        struct scene *s = owner;

        (void)events;
        (void)now;
        s->fired++;
        s->watch = watch_free(s->watch);
        close(s->fd);
}

static void watch_freed_in_its_callback(void **state)
{
        struct timer *stop;
        int pair[2], again[2];
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        s.fd = pair[0];
        assert_int_equal(watch_new(s.loop, pair[0], WATCH_READ, on_events_free, &s, &s.watch), 0);
        assert_int_equal(write(pair[1], "x", 1), 1);
        stop_after(&s, on_stop, 20000, &stop);
        loop_run(s.loop);
        assert_int_equal(s.fired, 1);

        /* The number of the closed descriptor is used again: the old watch must not stand in the way. */
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, again), 0);
        assert_int_equal(again[0], pair[0]);
        assert_int_equal(watch_new(s.loop, again[0], WATCH_WRITE, on_events, &s, &s.watch), 0);
        loop_run(s.loop);
        assert_int_equal(s.events, WATCH_WRITE);
        s.watch = watch_free(s.watch);
        close(again[0]);
        close(again[1]);
        close(pair[1]);
        stop = timer_free(stop);
        scene_finish(&s);
}

/* --- signals and work ------------------------------------------------------------------------------------------- */

static void on_usr1(void *owner, int signo, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        assert_int_equal(signo, SIGUSR1);
        note(s, 'u');
        s->signal = signal_watch_free(s->signal);
        loop_stop(s->loop);
}

static void signals(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(loop_add_turn(s.loop, on_count_turn, &s), 0);
        assert_int_equal(signal_watch_new(s.loop, SIGUSR1, on_usr1, &s, &s.signal), 0);
        assert_int_equal(raise(SIGUSR1), 0);
        assert_string_equal(s.order, "");
        loop_run(s.loop);
        assert_string_equal(s.order, "uT");
        assert_int_equal(signal_watch_new(s.loop, SIGKILL, on_usr1, &s, &s.signal), -EINVAL);
        loop_remove_turn(s.loop, on_count_turn, &s);
        scene_finish(&s);
}

struct job {
        struct scene *scene;
        bool worked;
        useconds_t pause;
};

static void do_job(void *job)
{
        struct job *j = job;

        usleep(j->pause);
        j->worked = true;
}

static void on_job_done(void *job)
{
        struct job *j = job;

        assert_true(j->worked);
        note(j->scene, 'd');
        if (++j->scene->done == 64)
                loop_stop(j->scene->loop);
}

static void work_is_bounded_and_done_once(void **state)
{
        struct job jobs[65] = {0};
        struct scene s;

        (void)state;
        scene_init(&s);
        for (unsigned i = 0; i < 64; i++) {
                jobs[i].scene = &s;
                assert_int_equal(loop_work(s.loop, do_job, on_job_done, &jobs[i]), 0);
        }
        jobs[64].scene = &s;
        assert_int_equal(loop_work(s.loop, do_job, on_job_done, &jobs[64]), -EAGAIN);
        assert_int_equal(s.done, 0);
        loop_run(s.loop);
        assert_int_equal(s.done, 64);
        assert_false(jobs[64].worked);
        assert_int_equal(loop_work(s.loop, do_job, on_job_done, &jobs[64]), 0);
        scene_finish(&s);
        /* The tear-down waited for it. */
        assert_int_equal(s.done, 65);
}

static void work_outlasts_the_loop_by_no_callback(void **state)
{
        struct scene s;
        struct job slow = {.scene = &s, .pause = 50000};

        (void)state;
        scene_init(&s);
        assert_int_equal(loop_work(s.loop, do_job, on_job_done, &slow), 0);
        scene_finish(&s);
        assert_true(slow.worked);
        assert_string_equal(s.order, "d");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(empty_loop),
                cmocka_unit_test(timer_is_never_early),
                cmocka_unit_test(longest_turn),
                cmocka_unit_test(soon_is_behind_the_next_poll),
                cmocka_unit_test(timer_moves_both_ways),
                cmocka_unit_test(timer_freed_in_its_callback),
                cmocka_unit_test(timer_in_the_past_waits_for_the_next_turn),
                cmocka_unit_test(timer_that_is_due_now_waits_for_no_millisecond),
                cmocka_unit_test(turn_follows_a_timer),
                cmocka_unit_test(turn_follows_a_watch),
                cmocka_unit_test(wake_ends_a_turn_soon),
                cmocka_unit_test(idle_costs_nothing),
                cmocka_unit_test(turns_keep_their_order_and_bound),
                cmocka_unit_test(clock_stands_still_within_a_turn),
                cmocka_unit_test(watch_events),
                cmocka_unit_test(watch_refuses_what_epoll_cannot),
                cmocka_unit_test(watch_freed_in_its_callback),
                cmocka_unit_test(signals),
                cmocka_unit_test(work_is_bounded_and_done_once),
                cmocka_unit_test(work_outlasts_the_loop_by_no_callback),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
