/* test_gpu_care.c: what becomes of instances when their GPUs take no work, over real members and a driver that tells what a file says
 * (tests/fakes/fake_nvml.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fleet/fleet_world.h"
#include "fleet/gpu_care.h"
#include "fleet/gpus.h"

#define NVML    BINARY_DIR "/tests/fakes/fake_nvml.so"
#define GIB     (UINT64_C(1) << 30)
#define A       "gpu GPU-aa 00000000:01:00.0 FAKE-A total=25769803776 used="
#define B       "gpu GPU-bb 00000000:C1:00.0 FAKE-B total=25769803776 used="
#define EMPTY   "1073741824\n"
#define FULL    "21474836480\n" /* 20 of 24 GiB */
#define TWO     "driver 580.1\n" A EMPTY B EMPTY
#define LARGE_B "gpu GPU-bb 00000000:C1:00.0 FAKE-B total=51539607552 used=" EMPTY /* 48 GiB */

/* --- a machine --------------------------------------------------------------------------------------------------------- */

static void put(struct world *w, const char *path, const char *text)
{
        _cleanup_free_ char *whole = text_format("%s/%s", w->dir, path), *next = text_format("%s.new", whole);
        FILE *f;

        for (char *p = whole + strlen(w->dir) + 1; (p = strchr(p, '/')); p++) {
                *p = '\0';
                (void)mkdir(whole, 0755);
                *p = '/';
        }
        f = fopen(next, "we");
        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
        assert_int_equal(rename(next, whole), 0);
}

static void put_model(struct world *w, const char *name, off_t size)
{
        static const struct {
                const char *key;
                uint32_t value;
        } pairs[] = {{"llama.context_length", 8192},
                     {"llama.embedding_length", 4096},
                     {"llama.block_count", 32},
                     {"llama.attention.head_count", 32},
                     {"llama.attention.head_count_kv", 8}};
        _cleanup_free_ char *path = text_format("%s/%s", w->dir, name);
        uint64_t n[2] = {0, 1 + sizeof pairs / sizeof *pairs}, len;
        uint32_t version = 3, type = 8;
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        (void)fwrite("GGUF", 1, 4, f);
        (void)fwrite(&version, 4, 1, f);
        (void)fwrite(n, 8, 2, f);
        len = strlen("general.architecture");
        (void)fwrite(&len, 8, 1, f);
        (void)fputs("general.architecture", f);
        (void)fwrite(&type, 4, 1, f);
        len = strlen("llama");
        (void)fwrite(&len, 8, 1, f);
        (void)fputs("llama", f);
        type = 4;
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
                len = strlen(pairs[i].key);
                (void)fwrite(&len, 8, 1, f);
                (void)fputs(pairs[i].key, f);
                (void)fwrite(&type, 4, 1, f);
                (void)fwrite(&pairs[i].value, 4, 1, f);
        }
        assert_int_equal(fflush(f), 0);
        assert_int_equal(ftruncate(fileno(f), size), 0);
        assert_int_equal(fclose(f), 0);
}

#define INFO(uuid)        "Model: \t\t FAKE\nGPU UUID: \t " uuid "\n"
#define SLOT(bus)         "root/proc/driver/nvidia/gpus/0000:" bus ":00.0/information"
#define NOT_TOLD          "GPU-????"
#define FROM_FILES        "" /* no library of NVIDIA's */
#define ENTRY(name, more) "{\"name\": \"" name "\", \"model\": \"m.gguf\"" more "}"

static void begin(struct world *w, const char *nvml, const char *driver, const char *instances)
{
        _cleanup_free_ char *file = text_format("%s/nvml", w->dir);
        static char more[512];

        put(w, "root/dev/nvidiactl", "");
        put(w, "nvml", driver);
        assert_int_equal(setenv("FAKE_NVML", file, 1), 0);
        assert_int_equal(setenv("FAKE_DEVICES", "  CUDA0: FAKE (8192 MiB, 8000 MiB free)", 1), 0);
        (void)snprintf(more, sizeof more, "\"gpus\": {\"nvml\": \"%s\", \"root\": \"%s/root\"},", nvml,
                       w->dir);
        w->more = more;
        write_config(w, instances);
        open_fleet(w);
}

/* What the driver says now is known. */
static void look(struct world *w)
{
        uint64_t number = fleet_gpus_number(w->fleet);

        w->until = time_monotonic() + PATIENCE;
        while (fleet_gpus_number(w->fleet) < number + 2) { /* one may be on its way */
                fleet_ask_gpus(w->fleet);
                assert_true(turn(w));
        }
}

static void say(struct world *w, const char *driver)
{
        put(w, "nvml", driver);
        look(w);
}

static void order(struct world *w, const char *id, bool cordons)
{
        _cleanup_free_ char *message = NULL;
        int r = cordons ? fleet_cordon(w->fleet, id, "test", &message)
                        : fleet_uncordon(w->fleet, id, &message);

        if (r < 0)
                fail_msg("%s", message);
}

static void start(struct world *w, const char *name)
{
        _cleanup_free_ char *message = NULL;

        assert_int_equal(fleet_order(w->fleet, name, FLEET_START, &message), 0);
}

static void has_error(struct world *w, const char *name, const char *words)
{
        const struct report *r = fleet_find(w->fleet, name);

        if (!r->last_error || !strstr(r->last_error, words))
                fail_msg("%s (%s) says \"%s\", nothing of \"%s\"", name, r->status,
                         r->last_error ? r->last_error : "", words);
}

static void wait_error(struct world *w, const char *name, const char *status, const char *words)
{
        w->until = time_monotonic() + PATIENCE;
        for (;;) {
                const struct report *r = fleet_find(w->fleet, name);

                if (streq(r->status, status) && r->last_error && strstr(r->last_error, words))
                        return;
                if (!turn(w))
                        fail_msg("%s is %s (%s), not %s (%s)", name, r->status,
                                 r->last_error ? r->last_error : "-", status, words);
        }
}

/* It is well, on that GPU, and nothing is said of what was. */
static void is_well_on(struct world *w, const char *name, const char *gpu)
{
        const struct report *r;

        wait_status(w, name, "ready");
        r = fleet_find(w->fleet, name);
        if (r->last_error)
                fail_msg("%s still says \"%s\"", name, r->last_error);
        assert_non_null(r->gpu);
        assert_string_equal(r->gpu[0], gpu);
        assert_null(r->gpu[1]);
}

static const struct member *member(struct world *w, const char *name)
{
        return fleet_member(w->fleet, name);
}

/* --- an endpoint of its own ---------------------------------------------------------------------------------------------- */

static void at_an_endpoint_it_waits_for_its_gpu(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *entries = text_format(
                ENTRY("fixed", ", \"gpu\": [\"GPU-aa\"], \"endpoint\": \"unix:%s/fixed.sock\"") "," ENTRY(
                        "free", ", \"endpoint\": \"unix:%s/free.sock\""),
                w->dir, w->dir);

        begin(w, NVML, TWO, entries);
        order(w, "GPU-aa", true);
        order(w, "GPU-bb", true);
        wait_error(w, "fixed", "error", "GPU-aa is cordoned: test");
        wait_error(w, "free", "error", "gpus uncordon");
        for (size_t i = 0; i < 2; i++) {
                const struct member *m = member(w, i ? "free" : "fixed");

                assert_int_equal(m->deaths, 0); /* no try was used up, and nothing ran on the CPU */
                assert_int_equal(m->in.retries, 0);
                assert_false(m->has_run);
                assert_string_equal(m->cause->name, "gpu_cordoned");
        }
        order(w, "GPU-bb", false);
        is_well_on(w, "free", "GPU-bb");
        has_error(w, "fixed", "GPU-aa is cordoned");
        order(w, "GPU-aa", false);
        is_well_on(w, "fixed", "GPU-aa");
}

/* Of a variable with that value, to its end. */
static bool has_variable(pid_t pid, const char *variable)
{
        _cleanup_free_ char *path = text_format("/proc/%d/environ", (int)pid);
        char environment[16384];
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, environment, sizeof environment - 1);

        assert_true(n > 0);
        (void)close(fd);
        environment[n] = '\0';
        for (const char *v = environment; v < environment + n; v += strlen(v) + 1)
                if (streq(v, variable))
                        return true;
        return false;
}

/* It may start, and is shown none: llama-server built for CUDA opens what it sees, -ngl 0 or not. */
static void who_computes_without_is_not_touched(void **state)
{
        struct world *w = *state;

        begin(w, NVML, TWO,
              ENTRY("cpu", ", \"gpu\": [\"GPU-aa\"], \"args\": [\"-ngl\", \"0\"], \"autostart\": false") "," ENTRY(
                      "free",
                      ", \"args\": [\"-ngl\", \"0\"], \"autostart\": false") "," ENTRY("fixed",
                                                                                       ", \"gpu\": "
                                                                                       "[\"GPU-aa\"]"));
        is_well_on(w, "fixed", "GPU-aa");
        order(w, "GPU-aa", true);
        wait_error(w, "fixed", "error", "GPU-aa is cordoned: test");
        give_order(w, "cpu", FLEET_START);
        give_order(w, "free", FLEET_START);
        wait_status(w, "cpu", "ready");
        wait_status(w, "free", "ready");
        assert_true(has_variable(fleet_find(w->fleet, "cpu")->pid, "CUDA_VISIBLE_DEVICES="));
        assert_true(has_variable(fleet_find(w->fleet, "free")->pid, "CUDA_VISIBLE_DEVICES="));
}

/* --- waiting for room ---------------------------------------------------------------------------------------------------- */

#define QWEN(more) "{\"name\": \"qwen\", \"model\": \"qwen.gguf\", \"args\": [\"-c\", \"8192\"]" more "}"
#define LATER      ", \"autostart\": false"
#define SECOND     ", \"health\": {\"load_timeout\": \"1s\"}"

static void begin_qwen(struct world *w, off_t gib, const char *driver, const char *entry)
{
        put_model(w, "qwen.gguf", gib * (off_t)GIB);
        begin(w, NVML, driver, entry);
}

static void what_it_waits_for_is_forgotten_with_the_wait(void **state)
{
        struct world *w = *state;

        begin_qwen(w, 10, "driver 580.1\n" A FULL B FULL, QWEN(""));
        wait_error(w, "qwen", "initial", "waits for GPU memory");
        say(w, "driver 580.1\ngpu GPU-aa 00000000:01:00.0 FAKE-A total=0\ngpu GPU-bb 00000000:C1:00.0 FAKE-B "
               "total=0\n"); /* no figures any more: it is not waited for them */
        wait_status(w, "qwen", "ready");
        assert_null(fleet_find(w->fleet, "qwen")->last_error);
}

static void who_was_barred_meanwhile_waits_anew(void **state)
{
        struct world *w = *state;
        usec_t since;

        begin_qwen(w, 10, "driver 580.1\n" A FULL B FULL, QWEN(SECOND));
        wait_error(w, "qwen", "initial", "waits for GPU memory");
        since = time_monotonic();
        order(w, "0", true);
        order(w, "1", true);
        wait_error(w, "qwen", "error", "cordoned");
        assert_null(member(w, "qwen")->hold);
        while (time_monotonic() < since + USEC_PER_SEC) /* its patience would be over */
                (void)turn(w);
        order(w, "0", false);
        order(w, "1", false);
        wait_error(w, "qwen", "initial", "waits for GPU memory");
        say(w, TWO);
        wait_status(w, "qwen", "ready");
        assert_null(fleet_find(w->fleet, "qwen")->last_error);
}

/* --- room that is cordoned or lost -------------------------------------------------------------------------------------- */

#define LOSE_B "driver 580.1\n" A EMPTY "gpu GPU-bb 00000000:C1:00.0 FAKE-B total=51539607552 lost\n"
#define WITH_B "driver 580.1\n" A EMPTY LARGE_B

static void waits_in_vain_for(struct world *w, bool is_lost, const char *words)
{
        static const char *const lost =
                "driver 580.1\n" A FULL "gpu GPU-bb 00000000:C1:00.0 FAKE-B total=25769803776 lost\n",
                                 *const full = "driver 580.1\n" A FULL B EMPTY;

        begin_qwen(w, 10, full, QWEN(LATER SECOND));
        if (is_lost)
                say(w, lost);
        else
                order(w, "GPU-bb", true);
        start(w, "qwen");
        wait_error(w, "qwen", "initial", words);
        wait_error(w, "qwen", "error", words);
        has_error(w, "qwen", "waited ");
        assert_string_equal(member(w, "qwen")->cause->name, "gpu_cordoned");
        look(w); /* nothing has changed for it */
        gpu_care_back(w->fleet);
        (void)turn(w);
        (void)turn(w);
        has_error(w, "qwen", "waited ");
        if (is_lost)
                say(w, full);
        else
                order(w, "GPU-bb", false);
        is_well_on(w, "qwen", "GPU-bb");
}

static void who_waited_in_vain_beside_a_cordoned_gpu_comes_back(void **state)
{
        waits_in_vain_for(*state, false, "`llama-supervisor gpus uncordon GPU-bb`");
}

static void who_waited_in_vain_beside_a_lost_gpu_comes_back(void **state)
{
        waits_in_vain_for(*state, true, "when what is lost is back");
}

/* Waiting for memory would be in vain: it is said at once. */
static void who_only_fits_on_a_cordoned_gpu_comes_back(void **state)
{
        struct world *w = *state;

        begin_qwen(w, 30, WITH_B, QWEN(""));
        order(w, "GPU-bb", true);
        wait_error(w, "qwen", "error", "`llama-supervisor gpus uncordon GPU-bb`");
        has_error(w, "qwen", "it starts when one that takes nothing now does so again");
        order(w, "GPU-bb", false);
        is_well_on(w, "qwen", "GPU-bb");
        /* The driver tells nothing of the size of one that is lost; it is remembered. */
        say(w, LOSE_B);
        wait_error(w, "qwen", "error", "it starts when one that takes nothing now does so again");
        say(w, WITH_B);
        is_well_on(w, "qwen", "GPU-bb");
}

/* As if it was lost before we came: nobody knows its size. */
static void who_may_only_fit_on_a_lost_gpu_comes_back(void **state)
{
        struct world *w = *state;

        begin_qwen(w, 30, WITH_B, QWEN(LATER));
        say(w, LOSE_B);
        w->fleet->gpu_notes[1].memory_total = 0;
        start(w, "qwen");
        wait_error(w, "qwen", "error", "does not fit into the GPUs that take work");
        say(w, WITH_B);
        is_well_on(w, "qwen", "GPU-bb");
}

#define WHOLE "gpu GPU-aa 00000000:01:00.0 FAKE-A total=85899345920 used=" EMPTY
#define SMALL "part 0 MIG-1 total=9663676416 used=0\n"
#define LARGE "total=42949672960 used=0\n"

/* Nobody takes work who took none before; but a person divided the GPU anew, and there is one more. */
static void who_waits_beside_a_cordoned_gpu_takes_a_new_one(void **state)
{
        struct world *w = *state;

        begin_qwen(w, 30, WHOLE SMALL "part 0 MIG-2 " LARGE, QWEN(LATER));
        order(w, "MIG-2", true);
        start(w, "qwen");
        wait_error(w, "qwen", "error", "`llama-supervisor gpus uncordon MIG-2`");
        assert_int_equal(member(w, "qwen")->bar, BAR_ROOM);
        say(w, WHOLE SMALL "part 0 MIG-2 " LARGE "part 0 MIG-3 " LARGE);
        is_well_on(w, "qwen", "MIG-3");
}

static void what_never_fits_is_refused_beside_a_cordoned_gpu_too(void **state)
{
        struct world *w = *state;

        begin_qwen(w, 90, WITH_B, QWEN(""));
        order(w, "GPU-bb", true);
        wait_error(w, "qwen", "error", "does not fit into the GPUs: ");
        assert_int_equal(member(w, "qwen")->bar, BAR_NONE);
}

static void none_takes_work(void **state)
{
        struct world *w = *state;

        begin(w, NVML, TWO, ENTRY("free", "") "," ENTRY("asked", ", \"on_demand\": {}"));
        order(w, "GPU-aa", true);
        say(w, "driver 580.1\n" A EMPTY "gpu GPU-bb 00000000:C1:00.0 FAKE-B lost\n");
        wait_error(w, "free", "error",
                   "no GPU takes work: GPU-aa is cordoned (test), GPU-bb is lost. It is started when one of "
                   "these takes "
                   "work again: `llama-supervisor gpus uncordon GPU-aa`; a lost one by a reset of it, or a "
                   "reboot");
        assert_int_equal(member(w, "free")->deaths, 0);
        order(w, "GPU-aa", false);
        is_well_on(w, "free", "GPU-aa");
}

/* The GPU of the CPU is none for a build that does not see it: it would compute on the CPU, and nobody would know. */
static void one_that_shares_the_memory_of_the_cpu_is_no_way_out(void **state)
{
        struct world *w = *state;
        static const char *const files[][2] = {{"vendor", "0x1002\n"},
                                               {"uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:05:00.0\n"},
                                               {"mem_info_vram_total", "536870912\n"},
                                               {"mem_info_vram_used", "1\n"},
                                               {"mem_info_gtt_total", "34359738368\n"}};

        for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
                _cleanup_free_ char *path = text_format("root/sys/class/drm/card0/device/%s", files[i][0]);

                put(w, path, files[i][1]);
        }
        begin(w, NVML, "driver 580.1\n" A EMPTY, ENTRY("free", ""));
        order(w, "GPU-aa", true);
        wait_error(w, "free", "error", "GPU GPU-aa is cordoned: test");
        assert_false(member(w, "free")->has_run);
        order(w, "GPU-aa", false);
        wait_status(w, "free", "ready");
}

/* A boot may end what it waited for, and nothing of it is said any more. */
static void what_was_said_of_a_wait_is_not_kept(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *cordons = text_format("%s/state/gpus.json", w->dir),
                            *counts = text_format("%s/state/instances/fixed.json", w->dir);

        begin(w, NVML, TWO, ENTRY("fixed", ", \"gpu\": [\"GPU-aa\"]"));
        order(w, "GPU-aa", true);
        wait_error(w, "fixed", "error", "GPU-aa is cordoned");
        (void)unlink(counts);
        member_save_counts(fleet_member(w->fleet, "fixed"));
        w->until = time_monotonic() + PATIENCE;
        while (access(counts, F_OK) < 0)
                assert_true(turn(w));
        close_fleet(w);
        assert_int_equal(unlink(cordons), 0);
        open_fleet(w);
        is_well_on(w, "fixed", "GPU-aa");
        assert_null(member(w, "fixed")->cause);
}

/* --- cordons by address ---------------------------------------------------------------------------------------------------- */

/* Until something has opened the card, the driver does not tell its uuid. */
static void a_cordon_holds_while_the_uuid_is_not_told(void **state)
{
        struct world *w = *state;

        put(w, SLOT("01"), INFO("GPU-aa"));
        begin(w, FROM_FILES, "", ENTRY("fixed", ", \"gpu\": [0]"));
        order(w, "GPU-aa", true);
        wait_error(w, "fixed", "error", "GPU-aa is cordoned");
        close_fleet(w);
        put(w, SLOT("01"), INFO(NOT_TOLD));
        open_fleet(w);
        wait_error(w, "fixed", "error", "GPU 0000:01:00.0 is cordoned: test");
        assert_false(member(w, "fixed")->has_run);
        put(w, SLOT("01"), INFO("GPU-aa"));
        look(w);
        assert_string_equal(fleet_find(w->fleet, "fixed")->status, "error");
        assert_non_null(w->fleet->gpu_notes[0].cordon);
        /* It was another card after all. */
        put(w, SLOT("01"), INFO("GPU-cc"));
        look(w);
        is_well_on(w, "fixed", "GPU-cc");
}

static void a_cordon_given_by_address_goes_to_the_uuid(void **state)
{
        struct world *w = *state;

        put(w, SLOT("01"), INFO(NOT_TOLD));
        begin(w, FROM_FILES, "", ENTRY("fixed", ", \"gpu\": [0]"));
        order(w, "0000:01:00.0", true);
        put(w, SLOT("01"), INFO("GPU-aa"));
        look(w);
        assert_string_equal(w->fleet->gpu_notes[0].cordon->gpu, "GPU-aa");
        close_fleet(w);
        put(w, SLOT("01"), INFO("GPU-cc"));
        open_fleet(w);
        is_well_on(w, "fixed", "GPU-cc");
        close_fleet(w);
        put(w, SLOT("01"), INFO("GPU-aa"));
        open_fleet(w);
        wait_error(w, "fixed", "error", "GPU-aa is cordoned");
        order(w, "0", false);
        is_well_on(w, "fixed", "GPU-aa");
        look(w);
        assert_null(w->fleet->gpu_notes[0].cordon);
}

/* --- who is found there ------------------------------------------------------------------------------------------------------ */

/* Put into another slot: nobody knows that it is cordoned before the driver tells who it is. */
static void who_was_put_there_by_mistake_goes(void **state)
{
        struct world *w = *state;

        put(w, SLOT("01"), INFO("GPU-aa"));
        begin(w, FROM_FILES, "", ENTRY("fixed", ", \"gpu\": [0]"));
        order(w, "GPU-aa", true);
        close_fleet(w);
        _cleanup_free_ char *path = text_format("%s/" SLOT("01"), w->dir);
        assert_int_equal(unlink(path), 0);
        put(w, SLOT("02"), INFO(NOT_TOLD));
        open_fleet(w);
        is_well_on(w, "fixed", "0000:02:00.0");
        put(w, SLOT("02"), INFO("GPU-aa"));
        look(w);
        wait_error(w, "fixed", "error", "GPU-aa is cordoned: test");
        assert_int_equal(member(w, "fixed")->deaths, 0); /* it was stopped, not killed */
        order(w, "GPU-aa", false);
        is_well_on(w, "fixed", "GPU-aa");
}

/* A daemon that was killed between the cordon and the last of those who had to go. */
static void who_was_left_there_by_an_earlier_daemon_goes(void **state)
{
        struct world *w = *state;
        pid_t pid;

        begin(w, NVML, TWO, ENTRY("fixed", ", \"gpu\": [\"GPU-aa\"]") "," ENTRY("free", ""));
        wait_status(w, "fixed", "ready");
        wait_status(w, "free", "ready");
        pid = fleet_find(w->fleet, "fixed")->pid;
        w->fleet = fleet_free(w->fleet);
        put(w, "state/gpus.json",
            "{\"cordons\": [{\"gpu\": \"GPU-aa\", \"by\": \"person\", \"why\": \"loud\", \"since\": 1, "
            "\"bootId\": \"\"}]}");
        open_fleet(w);
        assert_int_equal(fleet_find(w->fleet, "fixed")->pid, pid);
        w->until = time_monotonic() + PATIENCE;
        while (!streq(fleet_find(w->fleet, "fixed")->status, "error")) {
                fleet_ask_gpus(w->fleet);
                assert_true(turn(w));
        }
        has_error(w, "fixed", "GPU-aa is cordoned: loud");
        assert_int_equal(kill(pid, 0), -1);
        w->until = time_monotonic() + PATIENCE;
        while (!fleet_find(w->fleet, "free")->gpu) { /* it saw both */
                fleet_ask_gpus(w->fleet);
                assert_true(turn(w));
        }
        is_well_on(w, "free", "GPU-bb");
}

/* Loaded anew once is enough, when its own variables put it where it was. */
static void who_goes_back_by_himself_is_left_alone(void **state)
{
        struct world *w = *state;
        char driver[512];
        pid_t pid;

        begin(w, NVML, TWO, ENTRY("own", ", \"env\": {\"CUDA_VISIBLE_DEVICES\": \"0\"}"));
        wait_status(w, "own", "ready");
        pid = fleet_find(w->fleet, "own")->pid;
        (void)snprintf(driver, sizeof driver, "driver 580.1\n" A FULL B EMPTY "process 0 %d 20401094656\n",
                       (int)pid);
        say(w, driver);
        order(w, "GPU-aa", true);
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(w->fleet, "own")->pid == pid)
                assert_true(turn(w));
        say(w, TWO); /* its memory is back */
        wait_status(w, "own", "ready");
        pid = fleet_find(w->fleet, "own")->pid;
        (void)snprintf(driver, sizeof driver, "driver 580.1\n" A FULL B EMPTY "process 0 %d 20401094656\n",
                       (int)pid);
        say(w, driver);
        look(w);
        look(w);
        assert_int_equal(fleet_find(w->fleet, "own")->pid, pid);
        assert_string_equal(fleet_find(w->fleet, "own")->status, "ready");
}

/* Its turn among its replicas does not come: it says so, and goes when it does. */
static void who_stays_says_why(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *script = text_format("#!/bin/sh\n[ -e %s/broken ] && exit 1\nexec %s \"$@\"\n",
                                                  w->dir, FAKE),
                            *path = text_format("%s/server", w->dir),
                            *broken = text_format("%s/broken", w->dir),
                            *entries = text_format(
                                    ENTRY("r",
                                          ", \"replicas\": 2, \"llama_server\": {\"binary\": \"%s/server\"}"),
                                    w->dir);

        put(w, "server", script);
        assert_int_equal(chmod(path, 0755), 0);
        begin(w, NVML, TWO, entries);
        wait_status(w, "r-0", "ready");
        wait_status(w, "r-1", "ready");
        put(w, "broken", "");
        order(w, "GPU-aa", true);
        wait_status(w, "r-0", "error");
        look(w);
        wait_error(w, "r-1", "ready", "stays on GPU GPU-aa, which is cordoned (test): r-0 did not come back");
        assert_int_equal(unlink(broken), 0);
        start(w, "r-0");
        is_well_on(w, "r-0", "GPU-bb");
        w->until = time_monotonic() + PATIENCE;
        while (!fleet_find(w->fleet, "r-1")->gpu) {
                fleet_ask_gpus(w->fleet);
                assert_true(turn(w));
        }
        is_well_on(w, "r-1", "GPU-bb");
}

/* --- parts, and GPUs that are not there ------------------------------------------------------------------------------------ */

/* Nobody tells of the parts of a GPU that is lost. */
static void a_part_is_lost_with_the_whole(void **state)
{
        struct world *w = *state;
        uint64_t deaths;

        begin(w, NVML, "driver 580.1\n" A EMPTY "part 0 MIG-1 total=12884901888 used=1000\n" B EMPTY,
              ENTRY("part", ", \"gpu\": [\"MIG-1\"]") "," ENTRY("each", ", \"replicas\": \"per-gpu\""));
        is_well_on(w, "part", "MIG-1");
        is_well_on(w, "each-1", "GPU-bb");
        is_well_on(w, "each-0", "MIG-1");
        say(w, "driver 580.1\ngpu GPU-aa 00000000:01:00.0 FAKE-A lost\n" B EMPTY);
        wait_error(w, "part", "error", "GPU MIG-1 is lost");
        wait_error(w, "each-0", "error", "GPU MIG-1 is lost"); /* it is the same one as before */
        is_well_on(w, "each-1", "GPU-bb");
        deaths = member(w, "part")->deaths;
        assert_int_equal(deaths, 1);
        assert_int_equal(member(w, "part")->in.retries, 0);
        say(w, "driver 580.1\n" A EMPTY "part 0 MIG-1 total=12884901888 used=1000\n" B EMPTY);
        is_well_on(w, "part", "MIG-1");
        assert_int_equal(member(w, "part")->deaths, deaths);
}

static void one_that_is_not_there_is_waited_for(void **state)
{
        struct world *w = *state;

        put(w, SLOT("01"), INFO("GPU-aa"));
        begin(w, FROM_FILES, "", ENTRY("fixed", ", \"gpu\": [\"GPU-cc\"]"));
        wait_error(w, "fixed", "error", "GPU GPU-cc is not there: this machine has 1 that we can see");
        assert_int_equal(member(w, "fixed")->deaths, 0);
        assert_string_equal(member(w, "fixed")->cause->name, "gpu_missing");
        put(w, SLOT("02"), INFO(NOT_TOLD));
        look(w);
        assert_string_equal(fleet_find(w->fleet, "fixed")->status, "error");
        put(w, SLOT("02"), INFO("GPU-cc"));
        look(w);
        is_well_on(w, "fixed", "GPU-cc");
}

/* --- errors ---------------------------------------------------------------------------------------------------------------- */

static void one_error_told_twice_is_one(void **state)
{
        struct world *w = *state;

        begin(w, NVML, TWO, ENTRY("fixed", ", \"gpu\": [\"GPU-aa\"]"));
        is_well_on(w, "fixed", "GPU-aa");
        gpu_care_xid(w->fleet, 0, 94, loop_now(w->loop));
        gpu_care_xid(w->fleet, 0, 94, loop_now(w->loop));
        assert_null(w->fleet->gpu_notes[0].cordon);
        gpu_care_xid(w->fleet, 0, 94, loop_now(w->loop) + USEC_PER_SEC);
        assert_non_null(w->fleet->gpu_notes[0].cordon);
}

/* The kernel's log, as far as the fleet can tell; it shows our pids. To be opened before the fleet. */
static int open_kernel(struct world *w)
{
        _cleanup_free_ char *path = text_format("%s/root/dev/kmsg", w->dir),
                            *ns = text_format("%s/root/proc/self/ns/pid", w->dir);
        int fd;

        put(w, "root/dev/null", "");
        put(w, "root/proc/self/ns/mnt", "");
        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(symlink("pid:[4026531836]", ns), 0);
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        assert_true(fd >= 0);
        return fd;
}

/* Its line was read when it returns. */
static void kernel_names(struct world *w, int kernel, pid_t pid)
{
        int left = 1;

        assert_true(dprintf(kernel, "3,6,99,-;NVRM: Xid (PCI:0000:01:00): 31, pid=%d, name=x, Ch 00000008\n",
                            (int)pid) > 0);
        w->until = time_monotonic() + PATIENCE;
        while (ioctl(kernel, FIONREAD, &left) == 0 && left > 0)
                assert_true(turn(w));
        assert_int_equal(left, 0);
}

static pid_t start_stranger(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                for (;;)
                        (void)pause();
        }
        assert_true(pid > 0);
        return pid;
}

static void end(pid_t pid)
{
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void error_31(struct world *w)
{
        gpu_care_xid(w->fleet, 0, 31, loop_now(w->loop));
}

static bool is_given_up(struct world *w, const char *name)
{
        return member(w, name)->kill_kind == DEATH_GPU;
}

#define TWO_ON_A ENTRY("hit", ", \"gpu\": [\"GPU-aa\"]") "," ENTRY("beside", ", \"gpu\": [\"GPU-aa\"]")

static int begin_two(struct world *w)
{
        int kernel = open_kernel(w);

        begin(w, NVML, TWO, TWO_ON_A);
        is_well_on(w, "hit", "GPU-aa");
        is_well_on(w, "beside", "GPU-aa");
        return kernel;
}

/* Most programs end by such an error before the driver's word comes: that does not make it anybody else's. */
static void a_stranger_that_died_of_its_error_harms_nobody(void **state)
{
        struct world *w = *state;
        _cleanup_close_ int kernel = begin_two(w);
        pid_t pid = start_stranger();

        kernel_names(w, kernel, pid);
        end(pid);
        error_31(w);
        assert_false(is_given_up(w, "hit"));
        assert_false(is_given_up(w, "beside"));
        /* It had ended before its line was read. */
        kernel_names(w, kernel, pid);
        error_31(w);
        assert_false(is_given_up(w, "hit"));
        assert_false(is_given_up(w, "beside"));
        /* A line explains one error: of another one nobody is named. */
        error_31(w);
        assert_true(is_given_up(w, "hit"));
        assert_true(is_given_up(w, "beside"));
}

static void one_of_ours_that_died_of_its_error_harms_nobody(void **state)
{
        struct world *w = *state;
        _cleanup_close_ int kernel = begin_two(w);
        struct member *m = fleet_member(w->fleet, "hit");
        pid_t pid = process_pid(m->process);

        kernel_names(w, kernel, pid);
        assert_int_equal(kill(pid, SIGKILL), 0);
        w->until = time_monotonic() + PATIENCE;
        while (m->deaths == 0)
                assert_true(turn(w));
        wait_status(w, "hit", "ready");
        m->last_death_at -= 4 * USEC_PER_SEC; /* the driver's thread was slow */
        error_31(w);
        assert_false(is_given_up(w, "hit"));
        assert_false(is_given_up(w, "beside"));
}

/* llama-server behind a wrapper that stays: the instance was hit though the process that the kernel named is gone. */
static void of_ours_that_lives_on_it_is_restarted(void **state)
{
        struct world *w = *state;
        _cleanup_close_ int kernel = open_kernel(w);
        _cleanup_free_ char
                *file = text_format("%s/child", w->dir),
                *wrapper = text_format("%s/wrapper", w->dir),
                *more = text_format(ENTRY("hit", ", \"gpu\": [\"GPU-aa\"], \"llama_server\": {\"binary\": "
                                                 "\"%s\"}") "," ENTRY("beside", ", \"gpu\": [\"GPU-aa\"]"),
                                    wrapper),
                *text = text_format(
                        "#!/bin/sh\ncase \"$*\" in *--host*)\n" /* not when it is asked for help */
                        "(sleep 1000 & echo $! > %s.new) && mv %s.new %s;;\nesac\nexec %s \"$@\"\n",
                        file, file, file, FAKE);
        int pid = 0;
        FILE *f;

        put(w, "wrapper", text);
        assert_int_equal(chmod(wrapper, 0755), 0);
        /* It is ours to be buried: no zombie is left. */
        assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        begin(w, NVML, TWO, more);
        is_well_on(w, "hit", "GPU-aa");
        is_well_on(w, "beside", "GPU-aa");
        f = fopen(file, "re");
        assert_non_null(f);
        assert_int_equal(fscanf(f, "%d", &pid), 1);
        (void)fclose(f);
        kernel_names(w, kernel, (pid_t)pid);
        end((pid_t)pid);
        assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
        error_31(w);
        assert_true(is_given_up(w, "hit"));
        assert_false(is_given_up(w, "beside"));
}

/* No more lines are looked into at once; it is done later for those that count. */
static void a_kernel_that_talks_without_end_hides_nobody(void **state)
{
        struct world *w = *state;
        _cleanup_close_ int kernel = begin_two(w);

        for (unsigned i = 0; i < 40; i++)
                assert_true(dprintf(kernel, "3,6,99,-;NVRM: Xid (PCI:0000:c1:00): 13, pid=%d, name=x\n",
                                    (int)getpid()) > 0);
        kernel_names(w, kernel, process_pid(member(w, "hit")->process));
        error_31(w);
        assert_true(is_given_up(w, "hit"));
        assert_false(is_given_up(w, "beside"));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
        const struct CMUnitTest tests[] = {
                TEST(at_an_endpoint_it_waits_for_its_gpu),
                TEST(who_computes_without_is_not_touched),
                TEST(what_it_waits_for_is_forgotten_with_the_wait),
                TEST(who_was_barred_meanwhile_waits_anew),
                TEST(who_waited_in_vain_beside_a_cordoned_gpu_comes_back),
                TEST(who_waited_in_vain_beside_a_lost_gpu_comes_back),
                TEST(who_only_fits_on_a_cordoned_gpu_comes_back),
                TEST(who_may_only_fit_on_a_lost_gpu_comes_back),
                TEST(who_waits_beside_a_cordoned_gpu_takes_a_new_one),
                TEST(what_never_fits_is_refused_beside_a_cordoned_gpu_too),
                TEST(none_takes_work),
                TEST(one_that_shares_the_memory_of_the_cpu_is_no_way_out),
                TEST(what_was_said_of_a_wait_is_not_kept),
                TEST(a_cordon_holds_while_the_uuid_is_not_told),
                TEST(a_cordon_given_by_address_goes_to_the_uuid),
                TEST(who_was_put_there_by_mistake_goes),
                TEST(who_was_left_there_by_an_earlier_daemon_goes),
                TEST(who_goes_back_by_himself_is_left_alone),
                TEST(who_stays_says_why),
                TEST(a_part_is_lost_with_the_whole),
                TEST(one_that_is_not_there_is_waited_for),
                TEST(one_error_told_twice_is_one),
                TEST(a_stranger_that_died_of_its_error_harms_nobody),
                TEST(one_of_ours_that_died_of_its_error_harms_nobody),
                TEST(of_ours_that_lives_on_it_is_restarted),
                TEST(a_kernel_that_talks_without_end_hides_nobody),
        };

        return cmocka_run_group_tests_name("fleet/gpu_care", tests, NULL, NULL);
}
