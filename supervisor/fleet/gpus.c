/* gpus.c: from "gpu" in the config to the GPUs of this machine and the variables that pin a child to them. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/text.h"
#include "fleet/demand_private.h"
#include "fleet/gpu_care.h"
#include "fleet/place_private.h"

/* --- which of them its program can use ------------------------------------------------------------------------------ */

/* A list that lacks a kind of GPU is not believed for longer: that driver may have come late. */
static const usec_t BELIEVED = 10 * USEC_PER_MIN;

bool gpus_is_there(const struct gpu *g)
{
        return !g->is_mig || g->uuid[0];
}

static uint64_t all_gpus(const struct fleet *f)
{
        uint64_t mask = 0;

        for (size_t i = 0; i < f->n_gpus; i++)
                if (gpus_is_there(f->gpus + i))
                        mask |= UINT64_C(1) << i;
        return mask;
}

static unsigned kind_of(const struct gpu *g)
{
        return g->vendor == GPU_NVIDIA ? DEVICES_CUDA : DEVICES_ROCM;
}

bool gpus_are_mixed(const struct gpu *list, size_t n)
{
        unsigned found = 0;

        for (size_t i = 0; i < n; i++)
                if (gpus_is_there(list + i))
                        found |= kind_of(list + i);
        return found == (DEVICES_CUDA | DEVICES_ROCM);
}

/* With variables of its own it may see what it does not see without: it is asked without. */
bool gpus_asks(const struct config_instance *e)
{
        static const char *const telling[] = {"LD_",   "GGML_",   "HSA_", "HIP_", "ROCR_",
                                              "CUDA_", "NVIDIA_", "GPU_", NULL};

        for (char *const *v = e->env; v && *v; v++)
                for (const char *const *t = telling; *t; t++)
                        if (starts_with(*v, *t))
                                return false;
        return !e->adopt && e->binary && e->gpu_mode != CONFIG_GPU_NONE;
}

uint64_t gpus_of_kinds(const struct gpu *list, size_t n, const struct devices *d)
{
        bool any = d->n <= 0 || (d->kinds & DEVICES_OTHER);
        uint64_t mask = 0;

        for (size_t i = 0; i < n; i++)
                if (gpus_is_there(list + i) && (any || (d->kinds & kind_of(list + i))))
                        mask |= UINT64_C(1) << i;
        return mask;
}

bool gpus_are_picked(const struct fleet *f, const struct config_instance *e)
{
        return gpus_are_mixed(f->gpus, f->n_gpus) && gpus_asks(e);
}

uint64_t gpus_reach(const struct fleet *f, const struct config_instance *e)
{
        struct devices d;

        if (!gpus_are_picked(f, e))
                return all_gpus(f);
        binaries_devices_told(f->binaries, e->binary, &d);
        return gpus_of_kinds(f->gpus, f->n_gpus, &d);
}

bool gpus_reach_all(const struct fleet *f, const struct config_instance *e)
{
        return gpus_reach(f, e) == all_gpus(f);
}

/* --- by name --------------------------------------------------------------------------------------------------------- */

size_t gpus_find(const struct gpu *list, size_t n, uint64_t reach, const char *id)
{
        size_t found = n;

        for (size_t i = n; i-- > 0;) {
                char index[12];

                (void)snprintf(index, sizeof index, "%d", list[i].index);
                if (!streq(id, list[i].uuid) && (list[i].is_mig || !streq(id, index)))
                        continue;
                if (found == n || (reach >> i & 1) || !(reach >> found & 1))
                        found = i;
        }
        return found;
}

static const struct gpu *find_gpu(const struct fleet *f, const struct config_instance *e, const char *id,
                                  size_t *ret_i)
{
        *ret_i = gpus_find(f->gpus, f->n_gpus, gpus_reach(f, e), id);
        return *ret_i < f->n_gpus ? f->gpus + *ret_i : NULL;
}

/* Parts are told by the library alone, and so are all GPUs in some containers. */
static bool some_are_missing(const struct fleet *f, const struct config_instance *e)
{
        size_t i;

        for (char *const *id = e->gpu_mode == CONFIG_GPU_LIST ? e->gpu : NULL; id && *id; id++)
                if (!find_gpu(f, e, *id, &i))
                        return true;
        return false;
}

int gpus_ask(const struct member *m)
{
        const struct fleet *f = m->fleet;
        struct devices d;

        if (gpus_are_awaited(f) && (m->entry->replicas_per_gpu || some_are_missing(f, m->entry)))
                return -EINPROGRESS;
        if (!gpus_are_picked(f, m->entry))
                return 0;
        if (!gpus_reach_all(f, m->entry))
                binaries_forget_devices(f->binaries, BELIEVED);
        return binaries_devices(f->binaries, m->entry->binary, &d) == -EINPROGRESS ? -EINPROGRESS : 0;
}

/* Of these, those that compute: not a divided one, of which programs can only use the parts; and none that shares the CPU's memory where there are
 * others: it is for the screen, and most programs do not see it, and would run on the CPU. */
uint64_t gpus_computing(const struct gpu *list, size_t n, uint64_t among)
{
        uint64_t own = 0, shared = 0;

        for (size_t i = 0; i < n; i++)
                if ((among >> i & 1) && !list[i].has_mig)
                        *(list[i].is_shared ? &shared : &own) |= UINT64_C(1) << i;
        return own ? own : shared;
}

static uint64_t computing(const struct fleet *f, uint64_t among)
{
        return gpus_computing(f->gpus, f->n_gpus, among);
}

/* A member has that name, or a process of an earlier daemon. */
static bool is_taken(const struct fleet *f, const char *name)
{
        const struct member *m = fleet_member(f, name);
        _cleanup_free_ char *record = text_format("%s/%s.json", f->instances_dir, name);

        return m ? !m->removed : record && access(record, F_OK) == 0;
}

/* Until a driver has told which GPUs there are, or its program which it can use, nobody is too many: who is there stays, by the name that he has.
 * n: GPUs that are known already, of which a driver may tell more, and a program fewer. */
static unsigned replicas_guessed(const struct fleet *f, const struct config_instance *e, unsigned n)
{
        char name[CONFIG_NAME_MAX];
        unsigned found = 0;

        for (unsigned k = 0; k < CONFIG_REPLICAS_MAX; k++)
                if (is_taken(f, config_replica_name(e, k, CONFIG_REPLICAS_MAX, name, sizeof name)))
                        found = k + 1;
        if (found)
                return MAX(gpus_are_guessed(f) ? MAX(n, found) : found,
                           2U); /* of a single one the name would be another */
        return is_taken(f, e->name) ? 1 : n;
}

bool gpus_replicas_are_guessed(const struct fleet *f, const struct config_instance *e)
{
        return e->replicas_per_gpu &&
               (gpus_are_guessed(f) ||
                (gpus_are_picked(f, e) && binaries_devices_awaited(f->binaries, e->binary)));
}

bool gpus_are_untold(const struct fleet *f, const struct config_instance *e)
{
        struct devices d = {0};

        if (gpus_are_picked(f, e))
                binaries_devices_told(f->binaries, e->binary, &d);
        return d.n < 0;
}

unsigned fleet_replicas(const struct fleet *f, const struct config_instance *entry)
{
        unsigned n;

        if (!entry->replicas_per_gpu)
                return demand_replicas(f, entry);
        n = (unsigned)__builtin_popcountll(computing(f, gpus_reach(f, entry)));
        if (gpus_are_guessed(f) || (gpus_replicas_are_guessed(f, entry) && gpus_are_untold(f, entry)))
                n = replicas_guessed(f, entry, n);
        return MIN(MAX(n, 1U), (unsigned)CONFIG_REPLICAS_MAX);
}

/* The one that it is pinned to, or was: FLEET_GPUS: none, or it is not there. */
static size_t pinned_to(const struct fleet *f, const struct member *m)
{
        for (size_t i = 0; m->gpu && m->gpu[0] && i < f->n_gpus; i++)
                if (streq(m->gpu[0], f->gpus[i].uuid) ||
                    (!f->gpus[i].uuid[0] && streq(m->gpu[0], f->gpus[i].pci)))
                        return i;
        return FLEET_GPUS;
}

/* The place of a replica's GPU: its own, as long as that is there, so that a part that comes or goes moves nobody; else that of its number, else one
 * that no other replica has. n_gpus: there are fewer. */
static size_t gpu_of_replica(const struct member *m)
{
        const struct fleet *f = m->fleet;
        uint64_t all = computing(f, gpus_reach(f, m->entry)), left = all;
        size_t own = pinned_to(f, m), i = 0;

        if (own < f->n_gpus && (all >> own & 1))
                return own;
        for (size_t k = 0; k < f->n_members; k++) {
                const struct member *o = f->members[k];
                size_t at = o != m && o->entry->replicas_per_gpu && streq(o->entry->name, m->entry->name)
                                    ? pinned_to(f, o)
                                    : FLEET_GPUS;

                if (at < FLEET_GPUS)
                        left &= ~(UINT64_C(1) << at);
        }
        for (unsigned n = m->replica; all && n > 0; n--)
                all &= all - 1;
        if (all & -all & left)
                left = all & -all;
        while (i < f->n_gpus && !(left >> i & 1))
                i++;
        /* One that its program does not see now, and no other is free: that is what is wrong then. */
        if (i == f->n_gpus && own < f->n_gpus && (computing(f, all_gpus(f)) >> own & 1))
                return own;
        return i;
}

void fleet_mask_pinned(struct member *m)
{
        const struct fleet *f = m->fleet;
        size_t i;

        m->gpu_mask = 0;
        for (char *const *id = m->gpu; id && *id; id++)
                for (i = 0; i < f->n_gpus; i++)
                        if (streq(*id, f->gpus[i].uuid) || streq(*id, f->gpus[i].pci))
                                m->gpu_mask |= UINT64_C(1) << i;
        if (!m->gpu && m->entry->gpu_mode == CONFIG_GPU_AUTO)
                m->gpu_mask = gpus_reach(f, m->entry);
        if (gpus_uses_none(m))
                m->gpu_mask = 0;
}

static bool is_out(const struct fleet *f, const struct gpu *g)
{
        return g->figures.is_lost || gpus_cordon(f, g);
}

/* CUDA gives a process one part of a divided GPU, and nothing beside it: the whole ones, or the part with most room. */
static uint64_t all_that_work(const struct fleet *f, uint64_t among)
{
        uint64_t whole = 0, part = 0, most = 0;

        for (size_t i = 0; i < f->n_gpus; i++) {
                const struct gpu *g = f->gpus + i;
                uint64_t room = g->memory_total - MIN(g->memory_used, g->memory_total);

                if (!(among >> i & 1) || !gpus_takes_work(f, g))
                        continue;
                if (!g->is_mig) {
                        whole |= UINT64_C(1) << i;
                } else if (!part || room > most) {
                        part = UINT64_C(1) << i;
                        most = room;
                }
        }
        return whole ? whole : part;
}

uint64_t gpu_care_out(const struct fleet *f)
{
        uint64_t mask = 0;

        for (size_t i = 0; i < f->n_gpus; i++)
                if (!f->gpus[i].has_mig && is_out(f, f->gpus + i))
                        mask |= UINT64_C(1) << i;
        return mask;
}

static void PRINTF_LIKE(3, 4) append(char *ret, size_t size, const char *fmt, ...)
{
        size_t at = strlen(ret);
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(ret + at, size - at, fmt, ap);
        va_end(ap);
}

enum { GPUS_NAMED = 3 };

void gpu_care_way_back(const struct fleet *f, uint64_t mask, char *ret, size_t size)
{
        uint64_t out = mask & gpu_care_out(f);
        unsigned n = 0, lost = 0;

        ret[0] = '\0';
        for (size_t i = 0; i < f->n_gpus; i++) {
                const struct gpu_cordon *cordon = gpus_cordon(f, f->gpus + i);

                if (!(out >> i & 1))
                        continue;
                lost += cordon == NULL;
                if (cordon && n++ < GPUS_NAMED)
                        append(ret, size, "%s`llama-supervisor gpus uncordon %.90s`",
                               n == 1 ? "It is started when one of these takes work again: " : ", ",
                               cordon->gpu);
        }
        if (n > GPUS_NAMED)
                append(ret, size, " …");
        if (lost)
                append(ret, size,
                       n ? "; a lost one by a reset of it, or a reboot"
                         : "It is started when what is lost is back: by a reset of it, or a reboot");
}

/* None of those that it might use. */
static void tell_all_out(const struct fleet *f, uint64_t mask, char *why, size_t size)
{
        char way[GPU_WHY_MAX / 2];
        unsigned n = 0;

        (void)snprintf(why, size, "no GPU takes work: ");
        for (size_t i = 0; i < f->n_gpus; i++) {
                const struct gpu_cordon *cordon = gpus_cordon(f, f->gpus + i);

                if (!(mask >> i & 1) || n++ >= GPUS_NAMED)
                        continue;
                append(why, size, "%s%.45s is ", n == 1 ? "" : ", ", gpus_name(f->gpus + i));
                if (cordon)
                        append(why, size, "cordoned (%.40s)", cordon->why);
                else
                        append(why, size, "lost");
        }
        if (n > GPUS_NAMED)
                append(why, size, ", and so are %u more", n - GPUS_NAMED);
        gpu_care_way_back(f, mask, way, sizeof way);
        append(why, size, ". %s", way);
}

/* Why one of its GPUs takes no work, and what to do about it. */
static void tell_bar(const struct fleet *f, const struct gpu *g, char *why, size_t size)
{
        const struct gpu_cordon *cordon = gpus_cordon(f, g);

        if (g->figures.is_lost)
                (void)snprintf(why, size,
                               "GPU %s is lost: its driver cannot reach it. It comes back with the GPU: "
                               "reset that, or "
                               "reboot; or give it another \"gpu\"",
                               gpus_name(g));
        else
                (void)snprintf(why, size,
                               "GPU %s is cordoned: %.200s. It comes back with `llama-supervisor gpus "
                               "uncordon %s`; or "
                               "give it another \"gpu\"",
                               gpus_name(g), cordon ? cordon->why : "", cordon ? cordon->gpu : gpus_name(g));
}

static void tell_missing(const struct fleet *f, const char *id, char *why, size_t size)
{
        unsigned n = (unsigned)__builtin_popcountll(all_gpus(f));

        if (starts_with(id, "MIG-"))
                (void)snprintf(why, size,
                               "GPU %.90s is not there: no GPU has such a part (MIG) now. It comes back with "
                               "that part; or "
                               "give it another \"gpu\": `llama-supervisor gpus` shows what there is",
                               id);
        else
                (void)snprintf(why, size,
                               "GPU %.90s is not there: this machine has %u that we can see. It comes back "
                               "with that GPU; "
                               "or give it another \"gpu\"",
                               id, n);
}

/* CUDA would take any of the parts, and not tell which. */
static void tell_divided(const struct fleet *f, const struct gpu *g, char *why, size_t size)
{
        bool some = false;

        (void)snprintf(why, size, "GPU %s is divided (MIG), and programs can only use its parts",
                       gpus_name(g));
        for (size_t i = 0; i < f->n_gpus; i++) {
                const struct gpu *part = f->gpus + i;

                if (!part->is_mig || !part->uuid[0] || !streq(part->pci, g->pci))
                        continue;
                append(why, size, "%s%s", some ? ", " : ": name one of them as its \"gpu\": ", part->uuid);
                some = true;
        }
        if (!some)
                append(why, size, ", of which there are none");
}

static void tell_unreached(const struct config_instance *e, const struct gpu *g, char *why, size_t size)
{
        (void)snprintf(why, size,
                       "GPU %s (%s) is none that %.90s can use: its --list-devices names others only. Take a "
                       "build for it, or give it "
                       "another \"gpu\" (of \"per-gpu\": a reload counts anew)",
                       gpus_name(g), gpu_vendor_name(g->vendor), e->binary);
}

/* Why it cannot be pinned to that one. */
static bool is_barred(const struct fleet *f, const struct config_instance *e, size_t place, char *why,
                      size_t size)
{
        const struct gpu *g = f->gpus + place;

        if (!(gpus_reach(f, e) >> place & 1))
                tell_unreached(e, g, why, size);
        else if (is_out(f, g))
                tell_bar(f, g, why, size);
        else if (g->has_mig)
                tell_divided(f, g, why, size);
        else
                return false;
        return true;
}

static bool auto_is_barred(const struct member *m, char *why, size_t size)
{
        const struct fleet *f = m->fleet;
        uint64_t meant = computing(f, gpus_reach(f, m->entry));

        if (f->config->gpus_cpu_allowed || gpus_uses_none(m) || !meant || (meant & ~gpu_care_out(f)))
                return false;
        if (meant & (meant - 1))
                tell_all_out(f, meant, why, size);
        else
                tell_bar(f, f->gpus + __builtin_ctzll(meant), why, size);
        return true;
}

enum member_bar gpu_care_bars(struct member *m, char *why, size_t size)
{
        const struct config_instance *e = m->entry;
        const struct fleet *f = m->fleet;
        bool declines = gpu_is_declined(e->args, e->env); /* what befalls a GPU does not touch it */
        size_t i = 0;

        if (e->replicas_per_gpu) {
                i = gpu_of_replica(m);
                if (i == f->n_gpus) {
                        (void)snprintf(why, size,
                                       "replicas is \"per-gpu\", and this machine has %s. It is started when "
                                       "there is one for it: `llama-supervisor gpus` tells which there are",
                                       all_gpus(f) ? "fewer GPUs for it than it had"
                                                   : "no GPU that we can see");
                        return BAR_ABSENT;
                }
                return !declines && is_barred(f, e, i, why, size) ? BAR_GPU : BAR_NONE;
        }
        if (e->gpu_mode == CONFIG_GPU_AUTO)
                return auto_is_barred(m, why, size) ? BAR_GPU : BAR_NONE;
        for (char *const *id = e->gpu_mode == CONFIG_GPU_LIST ? e->gpu : NULL; id && *id; id++) {
                if (!find_gpu(f, e, *id, &i)) {
                        tell_missing(f, *id, why, size);
                        return BAR_ABSENT;
                }
                if (!declines && is_barred(f, e, i, why, size))
                        return BAR_GPU;
        }
        return BAR_NONE;
}

int fleet_pin(struct member *m, char ***ret_env, char *detail, size_t size)
{
        const struct fleet *f = m->fleet;
        const struct gpu *pinned[FLEET_GPUS];
        bool declines = gpu_is_declined(m->entry->args, m->entry->env), hides = false;
        size_t n = 0, i, replica = m->entry->replicas_per_gpu ? gpu_of_replica(m) : 0;

        m->gpu = text_list_free(m->gpu);
        m->gpu_mask = 0;
        *ret_env = NULL;
        if (m->entry->replicas_per_gpu) {
                i = replica;
                if (i == f->n_gpus) {
                        (void)snprintf(detail, size, "replicas is \"per-gpu\", and this machine has %s",
                                       f->n_gpus ? "fewer GPUs for it than it had"
                                                 : "no GPU that we can see");
                        return -ENODEV;
                }
                pinned[n++] = &f->gpus[i];
                m->gpu_mask = UINT64_C(1) << i;
        } else if (m->entry->gpu_mode == CONFIG_GPU_LIST) {
                for (char *const *id = m->entry->gpu; id && *id && n < FLEET_GPUS; id++) {
                        pinned[n] = find_gpu(f, m->entry, *id, &i);
                        if (!pinned[n]) {
                                tell_missing(f, *id, detail, size);
                                return -ENODEV;
                        }
                        m->gpu_mask |= UINT64_C(1) << i;
                        n++;
                }
        } else if (m->entry->gpu_mode == CONFIG_GPU_AUTO && gpus_uses_none(m)) {
                hides = declines && gpu_care_out(f);
                if (!hides)
                        return 0;
        } else if (m->entry->gpu_mode == CONFIG_GPU_AUTO) {
                /* Not placed: llama-server spreads over all it sees, and sees all that take work. */
                m->gpu_mask = gpus_reach(f, m->entry);
                if (m->hold && m->hold->mask)
                        m->gpu_mask = m->hold->mask;
                else if (gpu_care_out(f) & m->gpu_mask)
                        m->gpu_mask = all_that_work(f, m->gpu_mask);
                else
                        return 0;
                for (i = 0; i < f->n_gpus; i++)
                        if (m->gpu_mask >> i & 1)
                                pinned[n++] = &f->gpus[i];
        }
        for (i = 0; i < n; i++)
                if (is_barred(f, m->entry, (size_t)(pinned[i] - f->gpus), detail, size)) {
                        if (!declines)
                                return -ENODEV;
                        hides = true;
                }
        /* With -ngl 0 a program opens what it sees all the same, and may put a large batch there: not on one that is out. */
        if (hides)
                n = 0;
        for (i = 0; i < n; i++)
                if (text_list_add(&m->gpu, pinned[i]->uuid[0] ? pinned[i]->uuid : pinned[i]->pci) < 0)
                        return -ENOMEM;
        if (gpus_uses_none(m))
                m->gpu_mask = 0;
        return gpu_env(pinned, n, ret_env);
}
