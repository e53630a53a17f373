/* gpu_verify.c: whether instances compute where they were meant to: before a start by what their program sees, and once they are ready by where the
 * driver shows their processes. */
#include "fleet/gpu_care.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/gpus.h"
#include "host/process_kin.h"

/* The driver's lists are not of the same moment as the answer of a server. */
static const usec_t PATIENCE = 3 * USEC_PER_SEC;

#define WAYS_OUT                                                                                             \
        "Look at `llama-server --list-devices`, `systemctl status llama-supervisor-gpu` and the driver; or " \
        "say that the CPU is meant: \"gpu\": \"none\" here, or \"cpu_fallback\": \"allow\" under \"gpus\""

struct process_kin *gpus_kin(const struct fleet *f)
{
        struct process_kin *kin;

        if (process_kin_new(&kin) < 0)
                return NULL;
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];

                if (m->process && process_kin_add(kin, process_pid(m->process),
                                                  m->group ? cgroup_path(m->group) : NULL, i) < 0)
                        return process_kin_free(kin);
        }
        return kin;
}

bool gpus_uses_none(const struct member *m)
{
        const struct config_instance *e = m->entry;
        bool is_pinned = e->gpu_mode == CONFIG_GPU_LIST || e->replicas_per_gpu;

        /* Variables of ours, which pin it, stand before those of the daemon. */
        return e->gpu_mode == CONFIG_GPU_NONE || m->on_cpu || gpu_is_declined(e->args, e->env) ||
               (!is_pinned && gpu_is_declined(NULL, m->fleet->own_env));
}

static bool is_judged(const struct member *m)
{
        const struct config_instance *e = m->entry;

        return e->gpu_mode != CONFIG_GPU_NONE && !m->fleet->config->gpus_cpu_allowed &&
               !gpu_is_declined(e->args, e->env) && !gpu_is_declined(NULL, m->fleet->own_env) &&
               !gpu_is_remote(e->args, e->env);
}

/* "GPU GPU-aa", "GPU GPU-aa or another one of 2". */
static void name_meant(const struct member *m, char *ret, size_t size)
{
        const struct fleet *f = m->fleet;
        const struct gpu *first = NULL;
        unsigned n = 0;

        for (size_t i = 0; i < f->n_gpus; i++)
                if (!f->gpus[i].has_mig && !f->gpus[i].is_shared &&
                    (m->gpu_mask == 0 || (m->gpu_mask >> i & 1))) {
                        first = first ? first : f->gpus + i;
                        n++;
                }
        (void)snprintf(ret, size, n > 1 ? "GPU %s or another one of %u" : "GPU %s",
                       first ? gpus_name(first) : "?", n);
}

int gpu_verify_before(struct member *m, enum member_bar *ret, char *why, size_t size)
{
        const struct fleet *f = m->fleet;
        char digest[CONFIG_DIGEST_MAX], meant[160];
        struct devices devices;
        bool some_work = false;
        int r;

        m->on_cpu = false;
        if (gpus_uses_none(m) || gpu_is_remote(m->entry->args, m->entry->env))
                return 0;
        if (is_judged(m) && m->bar == BAR_CPU && streq(m->digest, config_instance_digest(m->entry, digest))) {
                *ret = BAR_CPU;
                name_meant(m, meant, sizeof meant);
                (void)snprintf(
                        why, size,
                        "it ran on the CPU, though %s was meant: no process of it was on a GPU. " WAYS_OUT,
                        meant);
                return -ENODEV;
        }
        for (size_t i = 0; i < f->n_gpus; i++)
                some_work = some_work || (gpus_takes_work(f, f->gpus + i) && !f->gpus[i].is_shared);
        /* Its own environment may be what lets it find its libraries: then only its start can tell. */
        if (!some_work || (m->entry->env && m->entry->env[0]))
                return 0;
        r = binaries_devices(f->binaries, m->entry->binary, &devices);
        if (r == -EINPROGRESS)
                return r;
        if (r < 0 || devices.n != 0)
                return 0;
        if (!is_judged(m)) { /* it may: then none is its business */
                m->on_cpu = true;
                return 0;
        }
        *ret = BAR_DEVICES;
        name_meant(m, meant, sizeof meant);
        (void)snprintf(
                why, size,
                "it would run on the CPU, though %s was meant: %.90s sees no GPU (--list-devices). " WAYS_OUT,
                meant, m->entry->binary);
        return -ENODEV;
}

/* What /proc shows of those that the driver does not show. */
struct look {
        bool is_wanted;
        bool has_server; /* the server itself is among its processes: without it nothing follows from what the others do not do */
        bool has_file, is_hidden; /* of a GPU; some files cannot be seen */
};

struct looks {
        const struct fleet *f;
        struct look *of; /* by the member's place */
};

static const char *base_of(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

/* A wrapper that hands it to another daemon (docker exec, systemd-run) is there, too, and is on no GPU. Who answers is the server, if it is no relay; where
 * nobody tells who answers (TCP), its name says so. */
static bool is_server(const struct member *m, pid_t pid)
{
        char program[PATH_MAX];

        if ((m->peer && pid != m->peer) || process_program(pid, program, sizeof program) < 0)
                return false;
        return strstr(base_of(program), "llama") ||
               (m->peer && streq(base_of(program), base_of(m->entry->binary)));
}

static bool see(void *arg, pid_t pid, size_t whose)
{
        struct looks *all = arg;
        const struct member *m = all->f->members[whose];
        struct look *l = all->of + whose;
        int r;

        if (!l->is_wanted)
                return true;
        r = gpu_is_open(all->f->config->gpus_root, pid);
        l->has_file = l->has_file || r > 0;
        l->is_hidden = l->is_hidden || r < 0;
        l->has_server = l->has_server || is_server(m, pid);
        return true;
}

static enum gpu_verified weigh(const struct member *m, const struct gpu_evidence *of_all,
                               const struct look *look)
{
        const struct fleet *f = m->fleet;
        char *const *env = m->command.env ? m->command.env : m->entry->env;
        struct gpu_evidence e = *of_all;

        e.given = m->gpu_mask;
        e.seen = m->gpu_was_seen;
        e.is_remote = gpu_is_remote(m->command.argv, env);
        e.files_are_known = look->has_server && !look->is_hidden;
        e.has_file = look->has_file;
        /* A build may well leave one alone that shares the CPU's memory. */
        for (size_t i = 0; !e.seen && i < f->n_gpus; i++)
                if (f->gpus[i].is_shared)
                        e.given &= ~(UINT64_C(1) << i);
        if (m->gpu_mask && !e.given)
                return GPU_UNKNOWN; /* nothing else was given, and nobody can tell: not to be asked at each look */
        return gpu_verify(&e);
}

static void name_seen(const struct member *m, char *ret, size_t size)
{
        const struct fleet *f = m->fleet;
        size_t n = 0;

        ret[0] = '\0';
        for (size_t i = 0; i < f->n_gpus && n < size; i++)
                if (m->gpu_was_seen >> i & 1)
                        n += (size_t)snprintf(ret + n, size - n, "%s%s", n ? ", " : "",
                                              gpus_name(f->gpus + i));
}

static void conclude(struct member *m, enum gpu_verified v, usec_t now)
{
        char text[GPU_WHY_MAX], meant[160], seen[160];

        m->gpu_verified = v;
        member_changed(m);
        name_meant(m, meant, sizeof meant);
        switch (v) {
        case GPU_VERIFIED:
        case GPU_NOT_VERIFIED:
                break;
        case GPU_UNKNOWN:
                log_debug(m->name, "nobody can tell whether it is on %s", meant);
                break;
        case GPU_WRONG:
                name_seen(m, seen, sizeof seen);
                (void)snprintf(text, sizeof text,
                               "computes on %s, though %s was meant: its build does not follow the variables "
                               "that pin "
                               "(Vulkan?); give it --device",
                               seen, meant);
                member_set_error(m, text);
                member_tell(m, LOG_WARNING, "gpu_wrong", text);
                break;
        case GPU_ON_CPU:
                if (!is_judged(m)) {
                        log_info(m->name, "runs on the CPU");
                        m->on_cpu = true;
                        m->gpu_mask = 0;
                        break;
                }
                (void)snprintf(text, sizeof text, "runs on the CPU, though %s was meant", meant);
                /* Nothing is asked before a start of the one, so it would be stopped and loaded again for ever; the other was there before us. */
                if (m->entry->endpoint.len || m->adopted) {
                        member_set_error(m, text);
                        member_tell(m, LOG_WARNING, "gpu_wrong", text);
                        m->on_cpu = true;
                        m->gpu_mask = 0;
                        break;
                }
                log_err(m->name, "%s: it is stopped", text);
                member_set_error(m, text);
                m->bar = BAR_CPU; /* told in full when it is down */
                m->in.want_again = true;
                member_stop(m, now);
                break;
        }
        member_touch(m);
}

static bool is_to_be_looked_at(const struct member *m)
{
        char *const *env = m->command.env ? m->command.env : m->entry->env;

        return m->process && m->in.state == INSTANCE_READY && m->gpu_verified == GPU_NOT_VERIFIED &&
               m->entry->gpu_mode != CONFIG_GPU_NONE && (m->gpu_mask || m->on_cpu) && m->in.want_up &&
               !gpu_is_declined(m->command.argv, env);
}

/* One look at /proc for all whom the driver does not show. */
static void look_at_files(struct looks *all, size_t n_wanted, usec_t now)
{
        struct process_kin *kin = n_wanted ? gpus_kin(all->f) : NULL;

        if (kin)
                (void)process_kin_walk(kin, now, see, all);
        process_kin_free(kin);
}

void gpu_verify_all(struct fleet *f, usec_t now)
{
        struct looks all = {.f = f};
        struct gpu_evidence e;
        size_t n = 0, n_hidden = 0;

        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];

                if (m->bar == BAR_DEVICES && m->in.state == INSTANCE_FAILED)
                        gpu_care_back(f); /* asked again now and then: a driver may come later */
                n += is_to_be_looked_at(m);
        }
        all.of = n ? calloc(f->n_members, sizeof *all.of) : NULL;
        if (!all.of)
                return;
        e = (struct gpu_evidence){.told = gpus_told(f),
                                  .peopled = gpus_peopled(f),
                                  .sees_all = gpu_pids_are_ours(f->config->gpus_root)};
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];

                all.of[i].is_wanted = is_to_be_looked_at(m) && !m->gpu_was_seen && !m->on_cpu &&
                                      usec_sub(now, m->in.ready_since) >= PATIENCE;
                n_hidden += all.of[i].is_wanted;
        }
        look_at_files(&all, n_hidden, now);
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];
                enum gpu_verified v;

                if (!is_to_be_looked_at(m))
                        continue;
                if (m->on_cpu) /* its program sees no GPU */
                        v = m->gpu_was_seen ? GPU_VERIFIED : GPU_ON_CPU;
                else
                        v = weigh(m, &e, all.of + i);
                if (v == GPU_NOT_VERIFIED)
                        continue;
                if (v == GPU_VERIFIED || usec_sub(now, m->in.ready_since) >= PATIENCE)
                        conclude(m, v, now);
                else
                        fleet_gpus_hurry(f);
        }
        free(all.of);
}
