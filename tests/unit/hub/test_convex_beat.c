/* test_convex_beat.c: heartbeats of a Convex hub's jobs while the journal's disk hangs, which is a pool whose only thread does not come back; the
 * WebSocket is a double of net/wsclient.h that writes down what is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/text.h"
#include "hub/driver.h"
#include "net/wsclient.h"

#define PATIENCE (60 * USEC_PER_SEC)

/* --- the WebSocket --------------------------------------------------------------------------------------------------- */

struct wsclient {
        const struct wsclient_events *events;
        void *owner;
        bool wanted, is_open;
        struct buffer said; /* a message a line */
};

static struct wsclient socket_of; /* the only one */

int wsclient_new(struct loop *loop, const struct wsclient_spec *spec, const struct wsclient_events *events,
                 void *owner, struct wsclient **ret)
{
        (void)loop;
        (void)spec;
        socket_of = (struct wsclient){.events = events, .owner = owner};
        buffer_init(&socket_of.said, 1 << 20);
        *ret = &socket_of;
        return 0;
}

struct wsclient *wsclient_free(struct wsclient *w)
{
        if (w)
                buffer_finish(&w->said);
        return NULL;
}

int wsclient_connect(struct wsclient *w)
{
        w->wanted = true;
        return 0;
}

bool wsclient_is_open(const struct wsclient *w)
{
        return w->is_open;
}

int wsclient_send(struct wsclient *w, const char *text, size_t len)
{
        if (!w->is_open)
                return -ENOTCONN;
        assert_int_equal(buffer_append(&w->said, text, len), 0);
        assert_int_equal(buffer_putc(&w->said, '\n'), 0);
        return 0;
}

size_t wsclient_queued(const struct wsclient *w)
{
        (void)w;
        return 0;
}

void wsclient_close(struct wsclient *w, unsigned code, const char *reason)
{
        (void)w;
        fail_msg("closed with %u: %s", code, reason);
}

const struct wsclient_counts *wsclient_counts(const struct wsclient *w)
{
        static const struct wsclient_counts none;

        (void)w;
        return &none;
}

/* The latest message of that function: its number; -1: none was said. */
static int64_t number_of(const char *function)
{
        _cleanup_free_ char *text = text_format("%s", socket_of.said.len ? socket_of.said.data : "");
        int64_t number = -1;

        assert_non_null(text);
        for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
                struct json_value *v = NULL;
                const char *path;

                if (!*line)
                        continue;
                assert_int_equal(json_parse(line, strlen(line), &v, NULL), 0);
                path = json_get_string(v, "udfPath");
                if (path && streq(path, function))
                        number = json_get_int(v, "requestId", -1);
                v = json_free(v);
        }
        return number;
}

static void answer(int64_t number)
{
        _cleanup_free_ char *text = text_format(
                "{\"type\":\"MutationResponse\",\"requestId\":%lld,\"success\":true,\"result\":null}",
                (long long)number);

        assert_non_null(text);
        socket_of.events->on_message(socket_of.owner, text, strlen(text), false);
}

/* --- the connector ---------------------------------------------------------------------------------------------------- */

struct scene {
        char dir[64], key[96];
        struct loop *loop;
        struct timer *tick;
        struct hub_link *link;
        struct hub_job job;
        unsigned settled;
        enum hub_settled how;
        bool is_back;
};

static sem_t disk;

static void on_state(void *owner)
{
        (void)owner;
}

static int on_job(void *owner, const struct hub_claim *claim, struct hub_job **ret)
{
        (void)owner;
        (void)claim;
        (void)ret;
        return -EBUSY;
}

static void on_settled(void *owner, struct hub_job *job, enum hub_settled how)
{
        struct scene *s = owner;

        assert_ptr_equal(job, &s->job);
        s->settled++;
        s->how = how;
}

static void on_lost(void *owner, struct hub_job *job, const char *why)
{
        (void)owner;
        (void)job;
        fail_msg("lost: %s", why);
}

static void on_cancel(void *owner, const char *id)
{
        (void)owner;
        (void)id;
}

static const struct hub_events events = {on_state, on_job, on_settled, on_lost, on_cancel};

static void on_tick(void *owner, usec_t now)
{
        (void)now;
        loop_stop(((struct scene *)owner)->loop);
}

static void turn(struct scene *s)
{
        timer_set(s->tick, usec_add(time_monotonic(), USEC_PER_MSEC));
        loop_run(s->loop);
}

#define WAIT(s, what)                                                                                        \
        for (usec_t until = usec_add(time_monotonic(), PATIENCE); !(what); turn(s))                          \
                if (time_monotonic() > until)                                                                \
        fail_msg("never: %s", #what)

static void hang(void *job)
{
        (void)job;
        while (sem_wait(&disk) < 0 && errno == EINTR)
                ;
}

static void hung(void *job)
{
        ((struct scene *)job)->is_back = true;
}

static void begin(struct scene *s)
{
        struct config_hub hub = {.driver = CONFIG_HUB_CONVEX, .url = (char *)"http://127.0.0.1:9"};
        struct hub_open with = {.hub = &hub, .name = "farm", .worker = "w", .events = &events, .owner = s};
        char *why = NULL;
        FILE *f;

        *s = (struct scene){0};
        (void)snprintf(s->dir, sizeof(s->dir), "/tmp/lsv-beat-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
        (void)snprintf(s->key, sizeof(s->key), "%s/key", s->dir);
        f = fopen(s->key, "we");
        assert_non_null(f);
        (void)fputs("k\n", f);
        (void)fclose(f);
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, on_tick, s, &s->tick), 0);
        with.loop = s->loop;
        with.dir = s->dir;
        hub.credentials_file = s->key;
        if (hub_driver_convex.open(&with, &s->link, &why) < 0)
                fail_msg("%s", why);
        WAIT(s, socket_of.wanted);
        socket_of.is_open = true;
        socket_of.events->on_open(socket_of.owner);
        s->job = (struct hub_job){.id = "j1", .token = "j1", .attempt = 1, .run = 1};
        assert_int_equal(hub_driver_convex.adopt(s->link, &s->job), 0);
        hub_driver_convex.adopted(s->link);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

static void finish(struct scene *s)
{
        s->link = hub_driver_convex.close(s->link);
        s->tick = timer_free(s->tick);
        s->loop = loop_free(s->loop);
        (void)nftw(s->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* --- ------------------------------------------------------------------------------------------------------------------ */

/* A disk that hangs tells of no trouble, and a job whose heartbeats wait for it is lost within a minute. What a later life must know of waits. */
static void a_heartbeat_waits_for_no_disk(void **state)
{
        const struct hub_result result = {.status = 200, .body = "{}", .body_len = 2, .text = "x"};
        struct hub_status status;
        struct scene s;
        int64_t first;

        (void)state;
        begin(&s);
        assert_int_equal(loop_work(s.loop, hang, hung, &s), 0);
        hub_driver_convex.renew(s.link, &s.job);
        WAIT(&s, number_of("workers:imStillWorking") >= 0);
        first = number_of("workers:imStillWorking");
        answer(first);
        hub_driver_convex.renew(s.link, &s.job);
        WAIT(&s, number_of("workers:imStillWorking") > first);
        hub_driver_convex.complete(s.link, &s.job, &result);
        for (unsigned i = 0; i < 20; i++)
                turn(&s);
        assert_int_equal(number_of("workers:submitWork"), -1);
        assert_false(s.is_back);
        hub_driver_convex.status(s.link, &status);
        assert_null(status.limit);
        assert_int_equal(sem_post(&disk), 0);
        WAIT(&s, number_of("workers:submitWork") >= 0);
        assert_true(s.is_back);
        answer(number_of("workers:submitWork"));
        WAIT(&s, s.settled);
        assert_int_equal(s.settled, 1);
        assert_int_equal(s.how, HUB_STORED);
        finish(&s);
}

static int make_disk(void **state)
{
        (void)state;
        return sem_init(&disk, 0, 0);
}

/* At its exit a program waits for its pool, also where a test failed. */
static int free_disk(void **state)
{
        (void)state;
        return sem_post(&disk);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(a_heartbeat_waits_for_no_disk, make_disk, free_disk),
        };

        (void)setenv("UV_THREADPOOL_SIZE", "1", 1);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
