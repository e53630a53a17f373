/* gpu_world.h: GPUs that are not there, for a fleet_world.h: a fake library of NVIDIA's, and a tree like /proc and /sys. */
#ifndef GPU_WORLD_H
#define GPU_WORLD_H

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fleet/fleet_world.h"
#include "fleet/private.h"

#define GIB(n) ((uint64_t)(n) << 30)

/* Below root/, with the folders on the way. */
static inline void put_file(const struct world *w, const char *path, const char *text)
{
        _cleanup_free_ char *whole = text_format("%s/root/%s", w->dir, path);
        int fd;

        for (char *p = whole + strlen(w->dir) + 1; (p = strchr(p, '/')); *p++ = '/') {
                *p = '\0';
                (void)mkdir(whole, 0700);
        }
        fd = open(whole, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
        (void)close(fd);
}

/* What the library tells from now on (tests/fakes/fake_nvml.c has the form). */
static inline void put_nvidia(const struct world *w, const char *text)
{
        _cleanup_free_ char *path = text_format("%s/nvml", w->dir),
                            *next = text_format("%s/nvml.new", w->dir);
        FILE *f = fopen(next, "we");

        assert_non_null(f);
        (void)fputs(text, f);
        assert_int_equal(fclose(f), 0);
        assert_int_equal(rename(next, path), 0);
        put_file(w, "dev/nvidiactl", "");
        assert_int_equal(setenv("FAKE_NVML", path, 1), 0);
}

/* As the kernel shows it. */
static inline void put_card(const struct world *w, const char *pci, const char *uuid)
{
        _cleanup_free_ char *path = text_format("proc/driver/nvidia/gpus/%s/information", pci),
                            *text = text_format("Model: \t\t FAKE\nGPU UUID: \t %s\nBus Location: \t %s\n",
                                                uuid, pci);

        put_file(w, path, text);
}

static inline void put_amd(const struct world *w, const char *unique_id, bool shares)
{
        static const char base[] = "sys/class/drm/card1/device/";
        const struct {
                const char *name, *text;
        } files[] = {
                {"vendor", "0x1002\n"},
                {"device", "0x744c\n"},
                {"uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:0a:00.0\n"},
                {"mem_info_vram_total", shares ? "536870912\n" : "25769803776\n"},
                {"mem_info_vram_used", "0\n"},
                {"mem_info_gtt_total", "16000000000\n"},
                {"unique_id", unique_id},
        };

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                _cleanup_free_ char *path = text_format("%s%s", base, files[i].name);

                put_file(w, path, files[i].text);
        }
}

static inline void put_text(FILE *f, const char *s)
{
        uint64_t n = strlen(s);

        (void)fwrite(&n, 8, 1, f);
        (void)fwrite(s, 1, n, f);
}

/* A model of that size, nearly all of it a hole: as tests/scenario/gpus.py. */
static inline void put_model(const struct world *w, const char *name, uint64_t size)
{
        static const struct {
                const char *name;
                uint32_t value;
        } keys[] = {{"llama.context_length", 8192},
                    {"llama.embedding_length", 4096},
                    {"llama.block_count", 32},
                    {"llama.attention.head_count", 32},
                    {"llama.attention.head_count_kv", 8}};
        _cleanup_free_ char *path = text_format("%s/%s", w->dir, name);
        const uint32_t version = 3, text = 8, number = 4;
        const uint64_t n[] = {0, 1 + ARRAY_SIZE(keys)};
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        (void)fputs("GGUF", f);
        (void)fwrite(&version, 4, 1, f);
        (void)fwrite(n, 8, 2, f);
        put_text(f, "general.architecture");
        (void)fwrite(&text, 4, 1, f);
        put_text(f, "llama");
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                put_text(f, keys[i].name);
                (void)fwrite(&number, 4, 1, f);
                (void)fwrite(&keys[i].value, 4, 1, f);
        }
        assert_int_equal(fclose(f), 0);
        assert_int_equal(truncate(path, (off_t)size), 0);
}

static inline void write_gpus_config(struct world *w, const char *instances)
{
        const char *before = w->more;
        _cleanup_free_ char *more = text_format("\"gpus\": {\"nvml\": \"" BINARY_DIR
                                                "/tests/fakes/fake_nvml.so\", \"root\": \"%s/root\"},%s",
                                                w->dir, before ? before : "");

        w->more = more;
        write_config(w, instances);
        w->more = before;
}

/* With the GPUs that were put before. devices: what the programs see of them, lines of --list-devices. */
static inline void begin_gpus(struct world *w, const char *devices, const char *instances)
{
        assert_int_equal(setenv("FAKE_DEVICES", devices, 1), 0);
        write_gpus_config(w, instances);
        open_fleet(w);
}

static inline const struct report *find(const struct world *w, const char *name)
{
        const struct report *r = fleet_find(w->fleet, name);

        if (!r)
                fail_msg("%s is not there", name);
        return r;
}

static inline void wait_error(struct world *w, const char *name, const char *words)
{
        const char *error;

        wait_status(w, name, "error");
        error = find(w, name)->last_error;
        if (!error || !strstr(error, words))
                fail_msg("%s says \"%s\", not \"%s\"", name, error ? error : "-", words);
}

static inline bool is_pinned(const struct world *w, const char *name, const char *gpu)
{
        const struct report *r = find(w, name);

        return r->gpu && r->gpu[0] && streq(r->gpu[0], gpu) && !r->gpu[1];
}

#endif
