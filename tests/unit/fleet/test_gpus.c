/* test_gpus.c: which GPUs instances may have: of two vendors, of parts (MIG) that come and go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/resource.h>

#include "fleet/gpu_world.h"
#include "fleet/gpus.h"

#define CUDA   "  CUDA0: FAKE (8192 MiB, 8000 MiB free)"
#define ROCM   "  ROCm0: FAKE (24576 MiB, 24000 MiB free)"
#define VULKAN "  Vulkan0: FAKE (24576 MiB, 24000 MiB free)"
#define RED    "6f5c1d2e3a4b5c6d"
#define ONE    "gpu GPU-aa 00000000:01:00.0 FAKE total=8589934592 used=1000000\n"

#define INSTANCE(name, more)                                                                                 \
        "{\"name\": \"" name "\", \"model\": \"small.gguf\", \"args\": [\"-c\", \"512\"]" more "}"

#define EACH INSTANCE("qwen", ", \"replicas\": \"per-gpu\"")

/* The red one is the larger one. */
static struct world *mixed(void **state)
{
        struct world *w = *state;

        put_nvidia(w, ONE);
        put_card(w, "0000:01:00.0", "GPU-aa");
        put_amd(w, RED "\n", false);
        put_model(w, "small.gguf", GIB(2));
        return w;
}

static void auto_goes_where_its_program_can_compute(void **state)
{
        struct world *w = mixed(state);

        begin_gpus(w, CUDA, INSTANCE("qwen", ""));
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-aa"));
}

static void a_program_for_all_goes_where_there_is_room(void **state)
{
        struct world *w = mixed(state);

        begin_gpus(w, VULKAN, INSTANCE("qwen", ""));
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-" RED));
}

/* What it cannot use is no way out. */
static void a_lost_gpu_is_not_replaced_by_one_of_another_kind(void **state)
{
        struct world *w = mixed(state);
        char *message = NULL;

        begin_gpus(w, CUDA, INSTANCE("qwen", ", \"autostart\": false"));
        assert_int_equal(fleet_cordon(w->fleet, "GPU-aa", "a test", &message), 0);
        free(message);
        assert_int_equal(fleet_order(w->fleet, "qwen", FLEET_START, &message), 0);
        free(message);
        wait_error(w, "qwen", "GPU GPU-aa is cordoned: a test");
        assert_int_equal(fleet_uncordon(w->fleet, "GPU-aa", &message), 0);
        free(message);
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-aa"));
}

static void a_list_names_one_that_it_cannot_use(void **state)
{
        struct world *w = mixed(state);

        begin_gpus(w, CUDA,
                   INSTANCE("red", ", \"gpu\": [\"GPU-" RED "\"]") "," INSTANCE("green", ", \"gpu\": [0]"));
        wait_error(w, "red", "GPU GPU-" RED " (amd) is none that");
        wait_status(w, "green", "ready");
        assert_true(is_pinned(w, "green", "GPU-aa"));
}

static void an_index_counts_among_those_that_it_can_use(void **state)
{
        struct world *w = mixed(state);

        begin_gpus(w, ROCM, INSTANCE("qwen", ", \"gpu\": [0]"));
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-" RED));
}

static void a_gpu_for_the_screen_has_no_replica(void **state)
{
        struct world *w = *state;

        put_nvidia(w, ONE);
        put_card(w, "0000:01:00.0", "GPU-aa");
        put_amd(w, "0\n", true);
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA, EACH);
        wait_status(w, "qwen", "ready"); /* not qwen-0 and qwen-1 */
        assert_true(is_pinned(w, "qwen", "GPU-aa"));
}

static bool is_member(const struct world *w, const char *name)
{
        const struct member *m = fleet_member(w->fleet, name);

        return m && !m->removed;
}

/* Those that its program can use count, once it has told; until then nobody is started. */
static void replicas_are_of_those_that_it_can_use(void **state)
{
        struct world *w = mixed(state);
        pid_t pid;

        begin_gpus(w, CUDA, EACH);
        wait_status(w, "qwen", "ready"); /* not qwen-0 and qwen-1 */
        assert_true(is_pinned(w, "qwen", "GPU-aa"));
        assert_int_equal(fleet_count(w->fleet), 1);
        pid = find(w, "qwen")->pid;
        reload(w);
        reopen_fleet(w); /* which has not asked yet, and finds one that runs */
        wait_status(w, "qwen", "ready");
        assert_int_equal(find(w, "qwen")->pid, pid);
        assert_false(is_member(w, "qwen-0"));
}

/* Who was counted too early goes with a wish, which stays. */
static void a_preload_outlives_the_count(void **state)
{
        struct world *w = mixed(state);

        w->more = "\"on_demand\": {\"preload\": [\"qwen\"]},";
        begin_gpus(w, CUDA, INSTANCE("qwen", ", \"replicas\": \"per-gpu\", \"on_demand\": {}"));
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-aa"));
        assert_int_equal(fleet_count(w->fleet), 1);
}

/* words: of a shell, what it does when it is asked from now on. */
static void reload_in_a_mood(struct world *w, const char *words)
{
        _cleanup_free_ char *mood = text_format("%s/mood", w->dir), *seen = text_format("%s/seen", w->dir);
        FILE *f = fopen(mood, "we");

        assert_non_null(f);
        (void)fputs(words, f);
        assert_int_equal(fclose(f), 0);
        (void)unlink(seen);
        reload(w);
        for (w->until = time_monotonic() + PATIENCE; access(seen, F_OK) < 0;)
                assert_true(turn(w));
        for (w->until = time_monotonic() + USEC_PER_SEC; turn(w);)
                ; /* its answer is here by then */
}

/* A driver that has a fit while a person reloads. */
static void a_program_that_fails_to_tell_again_ends_nobody(void **state)
{
        struct world *w = mixed(state);
        _cleanup_free_ char
                *text = text_format(
                        "[ \"$1\" != --list-devices ] || [ ! -e %s/mood ] || { touch %s/seen; . %s/mood; }\n"
                        "exec " FAKE " \"$@\"\n",
                        w->dir, w->dir, w->dir),
                *path = put_script(w, "moody", text);
        pid_t pid;

        w->binary = path;
        begin_gpus(w, CUDA, EACH);
        wait_status(w, "qwen", "ready");
        pid = find(w, "qwen")->pid;
        reload_in_a_mood(w, "exit 1\n");
        assert_int_equal(find(w, "qwen")->pid, pid);
        reload_in_a_mood(w, "FAKE_DEVICES='  (none)'; export FAKE_DEVICES\n");
        w->binary = NULL;
        assert_int_equal(find(w, "qwen")->pid, pid);
        assert_int_equal(fleet_count(w->fleet), 1);
}

/* All replicas are loaded, and again when they are others. */
static void who_was_loaded_is_loaded_again_by_another_name(void **state)
{
        struct world *w = mixed(state);

        begin_gpus(w, CUDA "\n" ROCM, INSTANCE("qwen", ", \"replicas\": \"per-gpu\", \"on_demand\": {}"));
        for (w->until = time_monotonic() + PATIENCE; fleet_count(w->fleet) != 2;)
                assert_true(turn(w));
        give_order(w, "qwen", FLEET_START);
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        assert_int_equal(setenv("FAKE_DEVICES", ROCM, 1), 0);
        reopen_fleet(w);
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-" RED));
}

/* The next one sees another vendor's: they go where it can compute, and as many as there are. */
static void another_program_has_other_replicas(void **state)
{
        struct world *w = mixed(state);

        begin_gpus(w, CUDA "\n" ROCM, EACH);
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        assert_int_equal(setenv("FAKE_DEVICES", ROCM, 1), 0);
        reopen_fleet(w);
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-" RED));
        assert_int_equal(setenv("FAKE_DEVICES", CUDA "\n" ROCM, 1), 0);
        reopen_fleet(w);
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
}

/* One that does not tell has as many as there are, also where there was one before. */
static void a_program_that_does_not_tell_has_all(void **state)
{
        struct world *w = mixed(state);
        _cleanup_free_ char *path =
                put_script(w, "silent", "[ \"$1\" != --list-devices ] || exit 1\nexec " FAKE " \"$@\"\n");

        w->binary = path;
        begin_gpus(w, CUDA, INSTANCE("qwen", ""));
        wait_status(w, "qwen", "ready");
        write_gpus_config(w, EACH);
        reload(w);
        w->binary = NULL;
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
}

static void a_program_for_both_has_a_replica_on_each(void **state)
{
        struct world *w = mixed(state);

        begin_gpus(w, CUDA "\n" ROCM, EACH);
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        assert_true(is_pinned(w, "qwen-0", "GPU-aa"));
        assert_true(is_pinned(w, "qwen-1", "GPU-" RED));
        assert_int_equal(fleet_count(w->fleet), 2);
}

/* --- one that is not told of ------------------------------------------------------------------------------------------ */

#define SECOND_CARD "proc/driver/nvidia/gpus/0000:c1:00.0/information"

/* Looks at the GPUs until there are so many. */
static void wait_gpus(struct world *w, size_t n)
{
        w->until = time_monotonic() + PATIENCE;
        while (fleet_gpu_count(w->fleet) != n) {
                fleet_ask_gpus(w->fleet);
                if (!turn(w))
                        fail_msg("there are %zu GPUs, not %zu", fleet_gpu_count(w->fleet), n);
        }
}

/* Looks as fast as the driver answers, until that is so of GPU-bb; returns the moment of the look that told it. */
static usec_t wait_lost(struct world *w, bool is_lost)
{
        w->until = time_monotonic() + PATIENCE;
        while (w->fleet->gpus[1].figures.is_lost != is_lost ||
               (w->fleet->gpu_notes[1].absent > 0) != is_lost) {
                fleet_ask_gpus(w->fleet);
                assert_true(turn(w));
        }
        return fleet_gpus_at(w->fleet);
}

/* Looks may be milliseconds apart, and a library that is opened anew takes longer: the third that misses it is no loss before a second is over, and a
 * look that finds it ends that second. */
static void a_gpu_that_is_missed_is_lost_after_a_second(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *path = text_format("%s/root/" SECOND_CARD, w->dir);
        usec_t since;

        put_card(w, "0000:01:00.0", "GPU-aa");
        put_card(w, "0000:c1:00.0", "GPU-bb");
        begin_gpus(w, CUDA, "");
        wait_gpus(w, 2);
        assert_string_equal(w->fleet->gpus[1].uuid, "GPU-bb");
        since = time_monotonic();
        assert_int_equal(unlink(path), 0);
        w->until = since + PATIENCE;
        while (time_monotonic() < since + 300 * USEC_PER_MSEC) {
                fleet_ask_gpus(w->fleet);
                assert_true(turn(w));
        }
        put_card(w, "0000:c1:00.0", "GPU-bb");
        (void)wait_lost(w, false);
        since = time_monotonic();
        assert_int_equal(unlink(path), 0);
        assert_true(wait_lost(w, true) >= since + USEC_PER_SEC);
        assert_int_equal(fleet_gpu_count(w->fleet), 2); /* it is told of, as a lost one */
        put_card(w, "0000:c1:00.0", "GPU-bb");
        (void)wait_lost(w, false);
}

/* --- parts (MIG) ----------------------------------------------------------------------------------------------------- */

#define WHOLE "gpu GPU-aa 00000000:01:00.0 FAKE total=80000000000 used=1000000\n"

static void is_listed(const struct world *w, const char *uuid, bool expected)
{
        struct fleet_gpu g;
        bool found = false;

        for (size_t i = 0; i < fleet_gpu_count(w->fleet); i++) {
                fleet_gpu(w->fleet, i, &g);
                assert_true(g.uuid[0]);
                found = found || streq(g.uuid, uuid);
        }
        assert_int_equal(found, expected);
}

static void a_part_that_is_taken_away(void **state)
{
        struct world *w = *state;

        put_nvidia(w, WHOLE "part 0 MIG-1 total=9000000000 used=0\npart 0 MIG-2 total=9000000000 used=0\n");
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(
                w, CUDA,
                INSTANCE("one", ", \"gpu\": [\"MIG-1\"]") "," INSTANCE("whole", ", \"gpu\": [\"GPU-aa\"]"));
        wait_status(w, "one", "ready");
        wait_error(w, "whole",
                   "programs can only use its parts: name one of them as its \"gpu\": MIG-1, MIG-2");
        give_order(w, "one", FLEET_STOP);
        wait_status(w, "one", "initial");
        assert_int_equal(fleet_gpu_count(w->fleet), 3);
        put_nvidia(w, WHOLE "part 0 MIG-2 total=9000000000 used=0\n");
        wait_gpus(w, 2);
        is_listed(w, "MIG-1", false);
        is_listed(w, "MIG-2", true);
        give_order(w, "one", FLEET_START);
        wait_error(w, "one", "GPU MIG-1 is not there: no GPU has such a part (MIG) now");
        /* The same one again has the same name, and its instance waits for it. */
        put_nvidia(w, WHOLE "part 0 MIG-1 total=9000000000 used=0\npart 0 MIG-2 total=9000000000 used=0\n");
        wait_gpus(w, 3);
        wait_status(w, "one", "ready");
        assert_int_equal(w->fleet->n_gpus, 3);
        /* A whole one that is lost takes its parts along: they are lost, not gone. */
        put_nvidia(w, "gpu GPU-aa 00000000:01:00.0 FAKE lost\n");
        wait_error(w, "one", "MIG-1 is lost");
        assert_int_equal(fleet_gpu_count(w->fleet), 3);
}

/* More parts in the daemon's life than there are places. */
static void a_gpu_that_is_divided_again_and_again(void **state)
{
        struct world *w = *state;
        char text[1024], name[16];

        put_nvidia(w, WHOLE "part 0 MIG-9 total=9000000000 used=0\n");
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA, INSTANCE("stays", ", \"gpu\": [\"MIG-9\"]"));
        wait_status(w, "stays", "ready");
        for (int n = 0; n < 12; n++) {
                int len = snprintf(text, sizeof text, WHOLE "part 0 MIG-9 total=9000000000 used=0\n");

                for (int i = 0; i < 6; i++)
                        len += snprintf(text + len, sizeof text - (size_t)len, "part 0 MIG-%d-%d total=9\n",
                                        n, i);
                put_nvidia(w, text);
                (void)snprintf(name, sizeof name, "MIG-%d-5", n);
                wait_gpus(w, 8);
                is_listed(w, name, true);
                put_nvidia(w, WHOLE "part 0 MIG-9 total=9000000000 used=0\n");
                wait_gpus(w, 2);
        }
        assert_true(w->fleet->n_gpus <= FLEET_GPUS);
        assert_true(is_pinned(w, "stays", "MIG-9"));
        is_listed(w, "MIG-9", true);
}

/* One that comes or goes moves no other replica. */
static void replicas_keep_their_parts(void **state)
{
        struct world *w = *state;

        put_nvidia(w, WHOLE "part 0 MIG-1 total=9000000000 used=0\npart 0 MIG-2 total=9000000000 used=0\n");
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA, EACH);
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        assert_true(is_pinned(w, "qwen-0", "MIG-1"));
        assert_true(is_pinned(w, "qwen-1", "MIG-2"));
        give_order(w, "qwen-0", FLEET_STOP);
        wait_status(w, "qwen-0", "initial");
        put_nvidia(w, WHOLE "part 0 MIG-2 total=9000000000 used=0\n");
        wait_gpus(w, 2);
        give_order(w, "qwen-1", FLEET_STOP);
        wait_status(w, "qwen-1", "initial");
        give_order(w, "qwen-1", FLEET_START);
        wait_status(w, "qwen-1", "ready");
        assert_true(is_pinned(w, "qwen-1", "MIG-2"));
        put_nvidia(w, WHOLE "part 0 MIG-3 total=9000000000 used=0\npart 0 MIG-2 total=9000000000 used=0\n");
        wait_gpus(w, 3);
        give_order(w, "qwen-0", FLEET_START);
        wait_status(w, "qwen-0", "ready");
        assert_true(is_pinned(w, "qwen-0", "MIG-3"));
}

/* --- a driver that takes its time ------------------------------------------------------------------------------------ */

#define PART(n) "part 0 MIG-" #n " total=9000000000 used=0\n"

/* Who asks the library waits, until it has something to say. */
static void hush_nvidia(const struct world *w)
{
        _cleanup_free_ char *path = text_format("%s/nvml", w->dir);

        assert_true(unlink(path) == 0 || errno == ENOENT);
        assert_int_equal(mkfifo(path, 0600), 0);
        put_file(w, "dev/nvidiactl", "");
        assert_int_equal(setenv("FAKE_NVML", path, 1), 0);
}

static void release_nvidia(struct world *w, const char *text)
{
        _cleanup_free_ char *path = text_format("%s/nvml", w->dir);
        int fd;

        w->until = time_monotonic() + PATIENCE;
        while ((fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0) { /* it is about to ask */
                assert_int_equal(errno, ENXIO);
                assert_true(turn(w));
        }
        put_nvidia(w, text);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
        assert_int_equal(close(fd), 0);
        w->until = time_monotonic() + PATIENCE;
        while (!fleet_gpus_at(w->fleet))
                assert_true(turn(w));
}

static void wait_gone(struct world *w, const char *name)
{
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(w->fleet, name))
                if (!turn(w))
                        fail_msg("%s is still there: %s", name, find(w, name)->status);
}

/* It keeps its GPU as long as its program can use that, and then takes one that is free. */
static void a_replica_leaves_what_its_program_cannot_use(void **state)
{
        struct world *w = *state;

        put_nvidia(w, WHOLE PART(1) PART(2));
        put_amd(w, RED "\n", false);
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA "\n" ROCM, EACH);
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        wait_status(w, "qwen-2", "ready");
        assert_true(is_pinned(w, "qwen-0", "GPU-" RED));
        assert_int_equal(setenv("FAKE_DEVICES", CUDA, 1), 0);
        reopen_fleet(w);
        wait_gone(w, "qwen-2");
        give_order(w, "qwen-0", FLEET_STOP);
        wait_status(w, "qwen-0", "initial");
        give_order(w, "qwen-0", FLEET_START);
        wait_status(w, "qwen-0", "ready");
        assert_true(is_pinned(w, "qwen-0", "MIG-2"));
        assert_true(is_pinned(w, "qwen-1", "MIG-1"));
}

/* They were counted when it was configured; that others go at that moment is no reason to count again. red: beside one of another vendor, so that
 * the program is asked again what it can use. */
static void lose_a_part(struct world *w, bool red)
{
        put_nvidia(w, WHOLE PART(1) PART(2));
        if (red)
                put_amd(w, RED "\n", false);
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA,
                   "{\"name\": \"other\", \"model\": \"small.gguf\", \"gpu\": \"none\", "
                   "\"args\": [\"--ignore-term\"], \"stop\": {\"grace\": \"4s\"}}," EACH);
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        wait_status(w, "other", "ready");
        write_gpus_config(w, EACH);
        reload(w);
        put_nvidia(w, WHOLE PART(2));
        wait_gpus(w, red ? 3 : 2);
        assert_non_null(fleet_find(w->fleet, "other")); /* it takes its time */
        wait_gone(w, "other");
        for (w->until = time_monotonic() + USEC_PER_SEC; turn(w);)
                ; /* a program would have answered by then */
        assert_false(is_member(w, "qwen"));
        assert_int_equal(fleet_count(w->fleet), 2);
}

static void a_part_that_is_away_makes_no_replica(void **state)
{
        lose_a_part(*state, false);
}

static void a_part_that_is_away_makes_no_replica_of_two_vendors(void **state)
{
        lose_a_part(*state, true);
}

static pid_t pid_of(struct world *w, const char *name)
{
        wait_status(w, name, "ready");
        return find(w, name)->pid;
}

/* Three replicas, and a daemon that comes after them, while the driver does not answer. */
static void leave_three(struct world *w, pid_t *pids)
{
        put_nvidia(w, WHOLE PART(1) PART(2) PART(3));
        put_card(w, "0000:01:00.0", "GPU-aa"); /* the kernel's files tell of no parts */
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA, EACH);
        pids[0] = pid_of(w, "qwen-0");
        pids[1] = pid_of(w, "qwen-1");
        pids[2] = pid_of(w, "qwen-2");
        w->fleet = fleet_free(w->fleet);
        hush_nvidia(w);
        open_fleet(w);
        assert_int_equal(fleet_gpus_at(w->fleet), 0);
        assert_int_equal(pid_of(w, "qwen-0"), pids[0]);
        assert_int_equal(pid_of(w, "qwen-1"), pids[1]);
        assert_int_equal(pid_of(w, "qwen-2"), pids[2]);
}

static void replicas_outlive_a_daemon_whose_driver_is_slow(void **state)
{
        struct world *w = *state;
        pid_t pids[3];

        leave_three(w, pids);
        reload(w);
        release_nvidia(w, WHOLE PART(1) PART(2) PART(3) PART(4));
        assert_true(pid_of(w, "qwen-3") > 0); /* it is new, and came with the part */
        assert_true(is_pinned(w, "qwen-3", "MIG-4"));
        assert_int_equal(pid_of(w, "qwen-0"), pids[0]);
        assert_int_equal(pid_of(w, "qwen-1"), pids[1]);
        assert_int_equal(pid_of(w, "qwen-2"), pids[2]);
        assert_int_equal(fleet_count(w->fleet), 4);
}

static void who_is_too_many_goes_when_the_driver_has_told(void **state)
{
        struct world *w = *state;
        pid_t pids[3];

        leave_three(w, pids);
        release_nvidia(w, WHOLE PART(1) PART(2));
        wait_gone(w, "qwen-2");
        assert_int_equal(kill(pids[2], 0), -1);
        assert_int_equal(pid_of(w, "qwen-0"), pids[0]);
        assert_int_equal(pid_of(w, "qwen-1"), pids[1]);
        assert_int_equal(fleet_count(w->fleet), 2);
}

/* Nobody reloads: they come by themselves. */
static void replicas_come_when_a_slow_driver_has_told(void **state)
{
        struct world *w = *state;

        hush_nvidia(w);
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA, EACH);
        assert_int_equal(fleet_gpus_at(w->fleet), 0);
        assert_non_null(fleet_find(w->fleet, "qwen"));
        release_nvidia(w, WHOLE PART(1) PART(2));
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        assert_true(is_pinned(w, "qwen-0", "MIG-1"));
        assert_true(is_pinned(w, "qwen-1", "MIG-2"));
        wait_gone(w, "qwen");
}

static void replicas_come_with_a_driver_that_came_before_a_reload(void **state)
{
        struct world *w = *state;

        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA, EACH);
        wait_error(w, "qwen", "no GPU that we can see");
        hush_nvidia(w);
        reload(w);
        release_nvidia(w, WHOLE PART(1) PART(2));
        wait_status(w, "qwen-0", "ready");
        wait_status(w, "qwen-1", "ready");
        wait_gone(w, "qwen");
}

/* --- without files --------------------------------------------------------------------------------------------------- */

static int taken[256], n_taken;
static struct rlimit files_before;

/* Also those that were given back meanwhile. */
static void take_free_files(void)
{
        while (n_taken < (int)ARRAY_SIZE(taken) &&
               (taken[n_taken] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
                n_taken++;
        assert_int_equal(errno, EMFILE);
}

static void take_all_files(void)
{
        struct rlimit few;

        assert_int_equal(getrlimit(RLIMIT_NOFILE, &files_before), 0);
        few = files_before;
        few.rlim_cur = 128;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        n_taken = 0;
        take_free_files();
}

static void give_files_back(void)
{
        while (n_taken > 0)
                (void)close(taken[--n_taken]);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &files_before), 0);
}

static void who_cannot_be_placed_for_a_moment_waits(void **state)
{
        struct world *w = *state;
        const char *error;

        put_nvidia(w, ONE);
        put_model(w, "small.gguf", GIB(2));
        begin_gpus(w, CUDA, INSTANCE("first", "") "," INSTANCE("qwen", ", \"autostart\": false"));
        wait_status(w, "first", "ready"); /* what its program knows is known */
        give_order(w, "first", FLEET_STOP);
        wait_status(w, "first", "initial"); /* nobody is probed, so no file comes free */
        take_all_files();
        w->until = time_monotonic() + PATIENCE;
        while (!gpus_are_hidden(w->fleet)) {
                fleet_ask_gpus(w->fleet);
                take_free_files();
                assert_true(turn(w));
        }
        take_free_files();
        give_order(w, "qwen", FLEET_START);
        do {
                assert_true(turn(w));
                error = find(w, "qwen")->last_error;
        } while (!error || !strstr(error, "waits until the GPUs can be looked at"));
        give_files_back();
        wait_status(w, "qwen", "ready");
        assert_true(is_pinned(w, "qwen", "GPU-aa"));
        assert_null(find(w, "qwen")->last_error);
}

static void a_watch_that_could_not_begin(void **state)
{
        struct world *w = *state;

        put_nvidia(w, ONE);
        begin_gpus(w, CUDA, "");
        fleet_forget_gpus(w->fleet);
        take_all_files();
        fleet_read_gpus(w->fleet);
        give_files_back();
        assert_int_equal(fleet_gpus_at(w->fleet), 0);
        assert_true(gpus_are_awaited(w->fleet));
        w->until = time_monotonic() + PATIENCE;
        while (!fleet_gpus_at(w->fleet))
                assert_true(turn(w));
        assert_int_equal(fleet_gpu_count(w->fleet), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(auto_goes_where_its_program_can_compute),
                TEST(a_program_for_all_goes_where_there_is_room),
                TEST(a_lost_gpu_is_not_replaced_by_one_of_another_kind),
                TEST(a_list_names_one_that_it_cannot_use),
                TEST(an_index_counts_among_those_that_it_can_use),
                TEST(a_gpu_for_the_screen_has_no_replica),
                TEST(replicas_are_of_those_that_it_can_use),
                TEST(a_program_for_both_has_a_replica_on_each),
                TEST(a_part_that_is_away_makes_no_replica),
                TEST(a_part_that_is_away_makes_no_replica_of_two_vendors),
                TEST(a_replica_leaves_what_its_program_cannot_use),
                TEST(a_preload_outlives_the_count),
                TEST(a_program_that_fails_to_tell_again_ends_nobody),
                TEST(who_was_loaded_is_loaded_again_by_another_name),
                TEST(another_program_has_other_replicas),
                TEST(a_program_that_does_not_tell_has_all),
                TEST(a_gpu_that_is_missed_is_lost_after_a_second),
                TEST(a_part_that_is_taken_away),
                TEST(a_gpu_that_is_divided_again_and_again),
                TEST(replicas_keep_their_parts),
                TEST(replicas_outlive_a_daemon_whose_driver_is_slow),
                TEST(who_is_too_many_goes_when_the_driver_has_told),
                TEST(replicas_come_when_a_slow_driver_has_told),
                TEST(replicas_come_with_a_driver_that_came_before_a_reload),
                TEST(who_cannot_be_placed_for_a_moment_waits),
                TEST(a_watch_that_could_not_begin),
        };

        return cmocka_run_group_tests_name("fleet/gpus", tests, NULL, NULL);
}
