/* test_fleet.c: the conductor with real hands: little fake llama-servers live, die, hang, and are taken over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "fleet/fleet_world.h"

static char *why(struct world *w, const char *name)
{
        struct json_writer j;
        struct buffer b;

        buffer_init(&b, 0);
        json_begin(&j, &b);
        assert_int_equal(fleet_put_why(w->fleet, name, &j), 0);
        return buffer_steal(&b);
}

static void comes_up_and_goes_down(void **state)
{
        struct world *w = *state;
        const struct report *r;
        struct stat st;
        _cleanup_free_ char *sock = text_format("%s/run/a.sock", w->dir);
        pid_t pid;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\", \"aliases\": [\"b\"]}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        r = fleet_find(w->fleet, "a");
        assert_int_equal(r->n_models, 1); /* from the first moment on */
        pid = r->pid;
        assert_true(pid > 0);
        assert_true(r->started_at > 0);
        assert_int_equal(stat(sock, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0700);
        w->until = time_monotonic() + PATIENCE;
        while ((r = fleet_find(w->fleet, "a"))->slots == 0)
                assert_true(turn(w));
        assert_string_equal(r->models[0].id, "a");
        close_fleet(w);
        assert_int_equal(kill(pid, 0), -1);
        assert_int_equal(errno, ESRCH);
        assert_int_equal(stat(sock, &st), -1);
}

/* Counts what is told as ready beside an empty list. */
static void on_told(void *owner, const struct fleet_change *changes, size_t n, usec_t now)
{
        unsigned *unmet = owner;

        (void)now;
        for (size_t i = 0; i < n; i++)
                *unmet += !changes[i].gone && streq(changes[i].report->status, "ready") &&
                          changes[i].report->n_models == 0;
}

static void ready_comes_with_its_models(void **state)
{
        struct world *w = *state;
        unsigned unmet = 0;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\", "
                        "\"restart\": {\"backoff_initial\": \"1s\", \"backoff_max\": \"1s\"}}, "
                        "{\"name\": \"b\", \"model\": \"m.gguf\", \"replicas\": 2}");
        open_fleet(w);
        assert_int_equal(fleet_subscribe(w->fleet, on_told, &unmet), 0);
        wait_status(w, "a", "ready");
        wait_status(w, "b-0", "ready");
        wait_status(w, "b-1", "ready");
        assert_int_equal(unmet, 0);
        assert_int_equal(kill(fleet_find(w->fleet, "a")->pid, SIGQUIT), 0); /* and anew after a death */
        wait_status(w, "a", "crashed");
        assert_int_equal(fleet_find(w->fleet, "a")->n_models, 0);
        wait_status(w, "a", "ready");
        assert_int_equal(unmet, 0);
        /* The next daemon's first word, too. */
        w->fleet = fleet_free(w->fleet);
        open_fleet(w);
        assert_int_equal(fleet_subscribe(w->fleet, on_told, &unmet), 0);
        wait_status(w, "a", "ready");
        wait_status(w, "b-0", "ready");
        assert_true(fleet_find(w->fleet, "a")->adopted);
        assert_int_equal(fleet_find(w->fleet, "a")->n_models, 1);
        assert_int_equal(unmet, 0);
}

static void who_tells_no_models_is_ready_all_the_same(void **state)
{
        /* No such question; no JSON; no answer at all; one that never ends. */
        static const char *const faults[] = {"\"--status\", \"404\"", "\"--garbage-json\"", "\"--reset\"",
                                             "\"--endless-headers\"", "\"--slow-headers\""};
        struct world *w = *state;
        _cleanup_buffer_ struct buffer text;
        char name[8];

        buffer_init(&text, 0);
        for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
                (void)buffer_printf(&text,
                                    "%s{\"name\": \"m%zu\", \"model\": \"m.gguf\", \"args\": [\"--only\", "
                                    "\"/v1/models\", %s]}",
                                    i ? ", " : "", i, faults[i]);
        write_config(w, text.data);
        open_fleet(w);
        for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
                (void)snprintf(name, sizeof name, "m%zu", i);
                wait_status(w, name, "ready");
                assert_int_equal(fleet_find(w->fleet, name)->n_models, 0);
                assert_int_equal(fleet_find(w->fleet, name)->retries, 0);
        }
}

static void a_death_is_told_and_mended(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *told = NULL;
        pid_t pid;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\",\n"
                        "\"restart\": {\"backoff_initial\": \"2s\", \"backoff_max\": \"2s\"}}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        pid = fleet_find(w->fleet, "a")->pid;
        assert_int_equal(kill(pid, SIGQUIT), 0);
        wait_status(w, "a", "crashed");
        assert_int_equal(fleet_find(w->fleet, "a")->retries, 1);
        assert_true(fleet_find(w->fleet, "a")->next_retry_at > 0);
        assert_non_null(strstr(fleet_find(w->fleet, "a")->last_error, "SIGQUIT"));
        wait_status(w, "a", "ready");
        assert_int_not_equal(fleet_find(w->fleet, "a")->pid, pid);
        told = why(w, "a");
        assert_non_null(strstr(told, "\"cause\":\"signal\""));
        assert_non_null(strstr(told, "\"shell\":\"cd / && env -i"));
}

static void tries_end_in_error(void **state)
{
        struct world *w = *state;
        char *message;

        write_config(w, "{\"name\": \"a\", \"model\": \"not-there.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "error");
        assert_int_equal(fleet_find(w->fleet, "a")->retries, 3);
        assert_non_null(strstr(fleet_find(w->fleet, "a")->last_error, "gave up after 3 retries"));
        assert_int_equal(fleet_order(w->fleet, "a", FLEET_START, &message), 0);
        free(message);
        assert_int_equal(fleet_find(w->fleet, "a")->retries, 0);
        wait_status(w, "a", "error");
}

static void a_missing_binary_is_said(void **state)
{
        struct world *w = *state;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\", \"llama_server\": {\"binary\": "
                        "\"/nowhere/llama-server\"}}");
        open_fleet(w);
        wait_status(w, "a", "error");
        assert_non_null(strstr(fleet_find(w->fleet, "a")->last_error, "/nowhere/llama-server"));
}

static void a_frozen_one_is_killed(void **state)
{
        struct world *w = *state;
        pid_t pid;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        pid = fleet_find(w->fleet, "a")->pid;
        assert_int_equal(kill(pid, SIGSTOP), 0);
        wait_status(w, "a", "unhealthy");
        wait_status(w, "a", "crashed");
        assert_non_null(strstr(fleet_find(w->fleet, "a")->last_error, "did not answer"));
        wait_status(w, "a", "ready");
        assert_int_not_equal(fleet_find(w->fleet, "a")->pid, pid);
}

static void who_ignores_sigterm_is_killed(void **state)
{
        struct world *w = *state;
        char *message;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\", \"args\": [\"--ignore-term\"]}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        assert_int_equal(fleet_order(w->fleet, "a", FLEET_STOP, &message), 0);
        free(message);
        wait_status(w, "a", "stopping");
        wait_status(w, "a", "initial");
        assert_null(fleet_find(w->fleet, "a")->last_error);
        assert_int_equal(fleet_find(w->fleet, "a")->pid, 0);
}

static void the_next_daemon_takes_over(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *counts = text_format("%s/state/instances/a.json", w->dir);
        uint64_t seq;
        pid_t pid;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}, {\"name\": \"b\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        wait_status(w, "b", "ready");
        /* The pool writes the counts; on a busy machine that may take longer than the load of a fake. */
        while (access(counts, F_OK) < 0)
                assert_true(turn(w));
        pid = fleet_find(w->fleet, "a")->pid;
        seq = fleet_find(w->fleet, "a")->seq;
        w->fleet = fleet_free(w->fleet); /* a crash: nothing is stopped */
        assert_int_equal(kill(pid, 0), 0);
        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        assert_int_equal(fleet_find(w->fleet, "a")->pid, pid);
        assert_true(fleet_find(w->fleet, "a")->adopted);
        assert_true(fleet_find(w->fleet, "a")->seq > seq);
        /* b is not wanted any more, and was ours: it is stopped and gone. */
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(w->fleet, "b"))
                assert_true(turn(w));
}

static void changed_settings_restart_what_was_taken_over(void **state)
{
        struct world *w = *state;
        pid_t pid;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        pid = fleet_find(w->fleet, "a")->pid;
        w->fleet = fleet_free(w->fleet);
        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\", \"args\": [\"-c\", \"4096\"]}");
        open_fleet(w);
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(w->fleet, "a")->pid == pid || !streq(fleet_find(w->fleet, "a")->status, "ready"))
                assert_true(turn(w));
        assert_int_equal(kill(pid, 0), -1);
}

static void replicas_restart_one_after_the_other(void **state)
{
        struct world *w = *state;
        char *message;
        pid_t pids[3];
        unsigned renewed = 0;

        write_config(w, "{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": 3, \"args\": [\"--load-ms\", "
                        "\"100\"]}");
        open_fleet(w);
        for (unsigned i = 0; i < 3; i++) {
                char name[8];

                (void)snprintf(name, sizeof name, "q-%u", i);
                wait_status(w, name, "ready");
                pids[i] = fleet_find(w->fleet, name)->pid;
        }
        assert_int_equal(fleet_order(w->fleet, "q", FLEET_RESTART, &message), 0);
        free(message);
        w->until = time_monotonic() + PATIENCE;
        while (renewed < 3) {
                unsigned ready = 0;

                renewed = 0;
                for (unsigned i = 0; i < 3; i++) {
                        const struct report *r = fleet_report(w->fleet, i);

                        ready += streq(r->status, "ready");
                        renewed += streq(r->status, "ready") && r->pid != pids[i];
                }
                assert_true(ready >= 2); /* never more than one is away */
                assert_true(turn(w));
        }
}

static void a_reload_touches_only_what_changed(void **state)
{
        struct world *w = *state;
        struct reloaded x;
        pid_t a, c;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}, {\"name\": \"c\", \"model\": \"m.gguf\"},"
                        "{\"name\": \"gone\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        wait_status(w, "c", "ready");
        wait_status(w, "gone", "ready");
        a = fleet_find(w->fleet, "a")->pid;
        c = fleet_find(w->fleet, "c")->pid;
        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}, {\"name\": \"c\", \"modle\": \"m.gguf\"}");
        x = try_reload(w, false);
        assert_int_equal(x.r, -EINVAL);
        assert_non_null(strstr(x.text, "did you mean"));
        assert_non_null(fleet_reload_error(w->fleet));
        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}, {\"name\": \"c\", \"model\": \"m.gguf\", "
                        "\"args\": [\"-c\", \"99\"]},"
                        "{\"name\": \"new\", \"model\": \"m.gguf\"}");
        x = try_reload(w, true);
        assert_int_equal(x.r, 0);
        assert_string_equal(
                x.text,
                "{\"keep\":[\"a\"],\"update\":[],\"restart\":[{\"name\":\"c\",\"because\":[\"args\"]}],"
                "\"start\":[\"new\"],\"stop\":[\"gone\"],\"needsDaemonRestart\":[],\"applied\":false}");
        assert_int_equal(fleet_count(w->fleet), 3);
        reload(w);
        assert_null(fleet_reload_error(w->fleet));
        wait_status(w, "new", "ready");
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(w->fleet, "gone") || fleet_find(w->fleet, "c")->pid == c ||
               !streq(fleet_find(w->fleet, "c")->status, "ready"))
                assert_true(turn(w));
        assert_int_equal(fleet_find(w->fleet, "a")->pid, a);
}

static pid_t start_foreign(struct world *w, const char *sock)
{
        _cleanup_free_ char *model = text_format("%s/m.gguf", w->dir);
        pid_t pid = fork();

        if (pid == 0) {
                (void)freopen("/dev/null", "w", stderr);
                (void)execl(FAKE, FAKE, "-m", model, "--host", sock, (char *)NULL);
                _exit(127);
        }
        return pid;
}

static void end_foreign(pid_t pid)
{
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void a_foreign_server_is_watched_and_never_touched(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *sock = text_format("%s/x.sock", w->dir),
                            *sock2 = text_format("%s/y.sock", w->dir);
        _cleanup_free_ char *entry = text_format("{\"name\": \"f\", \"adopt\": \"unix:%s\"}", sock);
        _cleanup_free_ char *entry2 = text_format("{\"name\": \"f\", \"adopt\": \"unix:%s\"}", sock2);
        char *message;
        struct stat st;
        pid_t pid, pid2;

        write_config(w, entry);
        open_fleet(w);
        wait_status(w, "f", "crashed"); /* nobody is there yet */
        pid = start_foreign(w, sock);
        wait_status(w, "f", "ready");
        assert_int_equal(fleet_order(w->fleet, "f", FLEET_STOP, &message), -EPERM);
        free(message);
        end_foreign(pid);
        wait_status(w, "f", "crashed");
        (void)unlink(sock);
        pid = start_foreign(w, sock);
        wait_status(w, "f", "ready");
        /* Its address changes: it is looked for at the new one. */
        pid2 = start_foreign(w, sock2);
        write_config(w, entry2);
        reload(w);
        w->until = time_monotonic() + PATIENCE;
        while (!fleet_find(w->fleet, "f")->endpoint ||
               !strstr(fleet_find(w->fleet, "f")->endpoint, "y.sock") ||
               !streq(fleet_find(w->fleet, "f")->status, "ready"))
                assert_true(turn(w));
        write_config(w, "");
        reload(w);
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(w->fleet, "f"))
                assert_true(turn(w));
        assert_int_equal(stat(sock, &st), 0); /* theirs */
        assert_int_equal(stat(sock2, &st), 0);
        end_foreign(pid);
        end_foreign(pid2);
}

static void a_fixed_endpoint_is_spawned_without_a_false_start(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *entry = text_format(
                "{\"name\": \"e\", \"model\": \"m.gguf\", \"endpoint\": \"unix:%s/e.sock\"}", w->dir);

        write_config(w, entry);
        open_fleet(w);
        wait_status(w, "e", "ready");
        assert_int_equal(fleet_find(w->fleet, "e")->retries, 0);
        assert_null(fleet_find(w->fleet, "e")->last_error);
        assert_true(fleet_find(w->fleet, "e")->pid > 0);
}

static void a_wish_by_hand_outlives_a_crash_of_ours(void **state)
{
        struct world *w = *state;
        char *message;
        pid_t pid;

        write_config(w, "{\"name\": \"hand\", \"model\": \"m.gguf\", \"autostart\": false}, {\"name\": "
                        "\"a\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        assert_string_equal(fleet_find(w->fleet, "hand")->status, "initial");
        assert_int_equal(fleet_order(w->fleet, "hand", FLEET_START, &message), 0);
        free(message);
        assert_int_equal(fleet_order(w->fleet, "a", FLEET_STOP, &message), 0);
        free(message);
        wait_status(w, "hand", "ready");
        wait_status(w, "a", "initial");
        pid = fleet_find(w->fleet, "hand")->pid;
        w->fleet = fleet_free(w->fleet);
        open_fleet(w);
        wait_status(w, "hand", "ready");
        assert_int_equal(fleet_find(w->fleet, "hand")->pid, pid);
        assert_string_equal(fleet_find(w->fleet, "a")->status, "initial");
}

static void replicas_taken_over_roll_too(void **state)
{
        struct world *w = *state;
        pid_t pids[2];
        bool both = false;

        write_config(w, "{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": 2}");
        open_fleet(w);
        wait_status(w, "q-0", "ready");
        wait_status(w, "q-1", "ready");
        pids[0] = fleet_find(w->fleet, "q-0")->pid;
        pids[1] = fleet_find(w->fleet, "q-1")->pid;
        w->fleet = fleet_free(w->fleet);
        write_config(
                w, "{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": 2, \"args\": [\"-c\", \"512\"]}");
        open_fleet(w);
        w->until = time_monotonic() + PATIENCE;
        while (!both) {
                bool gone0 = kill(pids[0], 0) < 0, gone1 = kill(pids[1], 0) < 0;
                const char *s0 = fleet_find(w->fleet, "q-0")->status,
                           *s1 = fleet_find(w->fleet, "q-1")->status;

                if (gone0 && gone1)
                        assert_true(streq(s0, "ready") || streq(s1, "ready")); /* never both away */
                both = gone0 && gone1 && streq(s0, "ready") && streq(s1, "ready");
                assert_true(turn(w));
        }
}

static void stop_then_start_is_no_crash(void **state)
{
        struct world *w = *state;
        char *message;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\", \"args\": [\"--ignore-term\"]}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        assert_int_equal(fleet_order(w->fleet, "a", FLEET_STOP, &message), 0);
        free(message);
        wait_status(w, "a", "stopping");
        assert_int_equal(fleet_order(w->fleet, "a", FLEET_START, &message), 0);
        free(message);
        wait_status(w, "a", "ready");
        assert_int_equal(fleet_find(w->fleet, "a")->retries, 0);
        assert_null(fleet_find(w->fleet, "a")->last_error);
}

static void autostart_by_reload_starts(void **state)
{
        struct world *w = *state;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\", \"autostart\": false}");
        open_fleet(w);
        (void)turn(w);
        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}");
        reload(w);
        wait_status(w, "a", "ready");
}

static void the_aggregate_never_goes_back(void **state)
{
        struct world *w = *state;
        uint64_t seq;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}, {\"name\": \"b\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        wait_status(w, "b", "ready");
        assert_string_equal(fleet_aggregate(w->fleet)->status, "ready");
        seq = fleet_aggregate(w->fleet)->seq;
        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}");
        reload(w);
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(w->fleet, "b"))
                assert_true(turn(w));
        assert_true(fleet_aggregate(w->fleet)->seq >= seq);
        seq = fleet_aggregate(w->fleet)->seq;
        w->fleet = fleet_free(w->fleet);
        (void)turn(w); /* what is being written ends */
        open_fleet(w);
        wait_status(w, "a", "ready");
        assert_true(fleet_aggregate(w->fleet)->seq > seq);
}

/* A wrapper script dies together with the daemon; the server that it had started must not stay beside the next one. */
static void orphans_of_a_dead_wrapper_are_ended(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *wrapper = text_format("%s/wrapper", w->dir);
        _cleanup_free_ char *entry = text_format(
                "{\"name\": \"a\", \"model\": \"m.gguf\", \"llama_server\": {\"binary\": \"%s\"}}", wrapper);
        struct timespec moment = {.tv_nsec = 20 * 1000 * 1000};
        pid_t leader, server = 0;
        FILE *f = fopen(wrapper, "w");
        char line[64], path[128];

        (void)fprintf(f, "#!/bin/sh\n%s \"$@\" &\necho $! > %s/server.pid\nwait\n", FAKE, w->dir);
        (void)fclose(f);
        (void)chmod(wrapper, 0755);
        write_config(w, entry);
        open_fleet(w);
        wait_status(w, "a", "ready");
        leader = fleet_find(w->fleet, "a")->pid;
        (void)snprintf(path, sizeof path, "%s/server.pid", w->dir);
        f = fopen(path, "r");
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof line, f));
        (void)fclose(f);
        server = (pid_t)strtol(line, NULL, 10);
        assert_int_not_equal(server, leader);
        w->fleet = fleet_free(w->fleet);
        assert_int_equal(kill(leader, SIGKILL), 0);
        assert_int_equal(waitpid(leader, NULL, 0), leader);
        assert_int_equal(kill(server, 0), 0);
        open_fleet(w);
        wait_status(w, "a", "ready");
        for (unsigned i = 0; i < 500 && kill(server, 0) == 0; i++) {
                char stat_path[32], text[256] = "";

                (void)snprintf(stat_path, sizeof stat_path, "/proc/%d/stat", (int)server);
                f = fopen(stat_path, "r");
                if (f) {
                        (void)!fread(text, 1, sizeof text - 1, f);
                        (void)fclose(f);
                }
                if (strstr(text, ") Z "))
                        break; /* dead; some PID 1 have no hurry to reap */
                (void)nanosleep(&moment, NULL);
                assert_true(i < 499);
        }
}

static void nothing_publishes_when_nothing_happens(void **state)
{
        struct world *w = *state;
        unsigned before;

        write_config(w, "{\"name\": \"a\", \"model\": \"m.gguf\"}");
        open_fleet(w);
        wait_status(w, "a", "ready");
        for (w->until = time_monotonic() + USEC_PER_SEC; turn(w);)
                ;
        before = w->changes;
        for (w->until = time_monotonic() + USEC_PER_SEC; turn(w);)
                ;
        assert_int_equal(w->changes, before);
}

enum { MANY = 40 };

struct starts {
        struct world *w;
        size_t before, most; /* processes after the last turn, and that came in one */
};

/* As if each took that long: a slow disk, a machine that is full. */
static enum log_fate take_time(void *owner, const struct log_entry *entry)
{
        const struct timespec moment = {.tv_nsec = 6000000};

        (void)owner;
        if (streq_ptr(entry->about.event, "started"))
                (void)nanosleep(&moment, NULL);
        return LOG_REFUSED;
}

static void count_starts(void *owner, usec_t now)
{
        struct starts *s = owner;
        char name[CONFIG_NAME_MAX];
        size_t n = 0;

        (void)now;
        for (unsigned i = 0; i < MANY; i++) {
                (void)snprintf(name, sizeof name, "a-%u", i);
                n += fleet_find(s->w->fleet, name)->pid > 0;
        }
        s->most = MAX(s->most, n - MIN(n, s->before));
        s->before = n;
}

/* Who comes to the doors meanwhile is not kept waiting until all are started. */
static void many_starts_are_spread_over_turns(void **state)
{
        struct world *w = *state;
        struct starts s = {.w = w};
        _cleanup_free_ char *entry = text_format(
                "{\"name\": \"a\", \"model\": \"m.gguf\", \"replicas\": %d, \"gpu\": \"none\"}", MANY);

        write_config(w, entry);
        log_set_sink(take_time, NULL);
        open_fleet(w);
        assert_int_equal(loop_add_turn(w->loop, count_starts, &s), 0);
        for (w->until = time_monotonic() + PATIENCE; s.before < MANY;)
                assert_true(turn(w));
        loop_remove_turn(w->loop, count_starts, &s);
        log_set_sink(NULL, NULL);
        assert_in_range(s.most, 1, MANY / 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(comes_up_and_goes_down),
                TEST(ready_comes_with_its_models),
                TEST(who_tells_no_models_is_ready_all_the_same),
                TEST(a_death_is_told_and_mended),
                TEST(tries_end_in_error),
                TEST(a_missing_binary_is_said),
                TEST(a_frozen_one_is_killed),
                TEST(who_ignores_sigterm_is_killed),
                TEST(the_next_daemon_takes_over),
                TEST(changed_settings_restart_what_was_taken_over),
                TEST(replicas_restart_one_after_the_other),
                TEST(a_reload_touches_only_what_changed),
                TEST(a_foreign_server_is_watched_and_never_touched),
                TEST(a_fixed_endpoint_is_spawned_without_a_false_start),
                TEST(a_wish_by_hand_outlives_a_crash_of_ours),
                TEST(replicas_taken_over_roll_too),
                TEST(stop_then_start_is_no_crash),
                TEST(autostart_by_reload_starts),
                TEST(the_aggregate_never_goes_back),
                TEST(orphans_of_a_dead_wrapper_are_ended),
                TEST(nothing_publishes_when_nothing_happens),
                TEST(many_starts_are_spread_over_turns),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
