/* gpus_facts.c: what the GPUs of this machine are and do, and who is on them. */
#include "fleet/gpus.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/gpu_care.h"
#include "fleet/gpu_hits.h"
#include "fleet/place_private.h"
#include "host/gpu_watch.h"
#include "host/process_kin.h"

static const usec_t START_PATIENCE = 2 * USEC_PER_SEC; /* for NVIDIA's library, before anything is started */
static const usec_t HURRY_FOR = 5 * USEC_PER_SEC;
/* A library that was opened anew, or a moment without files, is no loss: so many looks in a row must miss it, over so long. */
enum { ABSENT_LOOKS = 3 };
static const usec_t ABSENT_FOR = USEC_PER_SEC;
/* The GPUs could not be watched, since we were short of files, or of memory: tried again. */
static const usec_t WATCH_AGAIN = USEC_PER_SEC;
static const usec_t STALE_AFTER = 3 * GPU_WATCH_INTERVAL;

const char *const fleet_gpu_states[] = {"ok", "cordoned", "lost", "unknown", NULL};

struct gpus {
        struct gpu_watch *watch;
        struct timer *again;                             /* there is none yet, though there may be GPUs */
        struct gpu_process processes[GPU_PROCESSES_MAX]; /* gpu: place in f->gpus */
        pid_t leaders[GPU_PROCESSES_MAX]; /* of the instance that each of them belongs to, 0: of none */
        size_t n_processes;
        char driver[64];
        char problem[192]; /* why figures are missing, "": they are not */
        bool is_short;     /* the last snapshot could not be taken, since we are short of files */
        bool silent;       /* the driver owes an answer for too long: a thread of ours waits in it */
        bool guessed;      /* replicas were counted before the first snapshot, and not again since */
        bool untold, told; /* … before their programs had told what they can use; one has since */
        usec_t at;         /* monotonic, of the last snapshot */
        usec_t realtime;
        uint64_t number;
};

/* --- what came ------------------------------------------------------------------------------------------------------- */

/* The same thing in two lists: a part is known by its uuid, a whole one by where it is plugged in. */
static bool is_same(const struct gpu *a, const struct gpu *b)
{
        if (a->is_mig || b->is_mig)
                return a->is_mig && b->is_mig && streq(a->uuid, b->uuid);
        return a->vendor == b->vendor && streq(a->pci, b->pci);
}

/* A process of ours remembers it. */
static bool is_remembered(const struct fleet *f, size_t place)
{
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];
                uint64_t mask = m->process ? m->gpu_mask | m->gpu_seen | m->gpu_was_seen : 0;

                if ((mask | (m->hold ? m->hold->mask | m->hold->seen : 0)) >> place & 1)
                        return true;
        }
        return false;
}

/* Its place; FLEET_GPUS: there is no room. Places are never given to another one, but those of parts that are gone, when there are no others. */
static size_t place_of(struct fleet *f, const struct gpu *g)
{
        size_t place = f->n_gpus;

        for (size_t i = 0; i < f->n_gpus; i++)
                if (is_same(f->gpus + i, g) || (g->is_mig && streq(g->uuid, f->gpu_notes[i].gone)))
                        return i;
        if (place == FLEET_GPUS)
                for (place = 0; place < FLEET_GPUS; place++)
                        if (f->gpu_notes[place].gone[0] && !is_remembered(f, place))
                                break;
        if (place == FLEET_GPUS)
                return FLEET_GPUS;
        if (place < f->n_gpus)
                f->places->freeing[place] = (struct freeing){0};
        f->gpu_notes[place] = (struct gpu_note){0};
        f->n_gpus = MAX(f->n_gpus, place + 1);
        return place;
}

/* The GPU that it is a part of, in the list; NULL: it is not there either, or it is no part. */
static const struct gpu *whole_of(const struct gpu *part, const struct gpu *list, size_t n)
{
        for (size_t i = 0; part->is_mig && i < n; i++)
                if (!list[i].is_mig && list[i].vendor == part->vendor && streq(list[i].pci, part->pci))
                        return list + i;
        return NULL;
}

static void forget_part(struct fleet *f, size_t place)
{
        struct gpu *g = f->gpus + place;

        log_info(NULL, "GPU %s is not there any more: the one that it was a part of (%s) was divided anew",
                 g->uuid, g->pci);
        f->gpu_notes[place] = (struct gpu_note){0};
        (void)snprintf(f->gpu_notes[place].gone, sizeof f->gpu_notes[place].gone, "%s", g->uuid);
        *g = (struct gpu){.vendor = g->vendor, .index = -1, .is_mig = true, .has_mig = true};
}

void gpus_tell(struct fleet *f, int level, const char *kind, const struct gpu *g, const char *text)
{
        const struct history_event e = {.kind = kind, .gpu = g ? gpus_name(g) : NULL, .text = text};

        history_tell(f->history, level, &e);
}

static void tell_changes(struct fleet *f, size_t place, const struct gpu *g, usec_t now)
{
        struct gpu_note *note = f->gpu_notes + place;
        char text[256];

        for (uint64_t k = MAX(note->xids, g->figures.xids - MIN(g->figures.xids, (uint64_t)GPU_XIDS_KEPT));
             k < g->figures.xids; k++)
                gpu_care_xid(f, place, g->figures.recent_xids[k % GPU_XIDS_KEPT], now);
        note->xids = g->figures.xids; /* begins anew with the driver */
        if (g->figures.is_lost != note->told_lost && !g->is_mig) {
                (void)snprintf(
                        text, sizeof text,
                        g->figures.is_lost
                                ? "GPU %s (%s) is lost: its driver cannot reach it. What runs on it will "
                                  "fail; a reset of the GPU or a reboot may bring it back"
                                : "GPU %s (%s) is back",
                        gpus_name(g), g->name);
                gpus_tell(f, g->figures.is_lost ? LOG_ERR : LOG_NOTICE,
                          g->figures.is_lost ? "gpu_lost" : "gpu_back", g, text);
                if (g->figures.is_lost)
                        gpu_care_lost(f, place, now);
                else
                        gpu_care_back(f);
        }
        note->told_lost = g->figures.is_lost;
}

/* It was there before. True: it is given up. */
static bool miss(struct fleet *f, size_t place, const struct gpu *list, size_t n)
{
        struct gpu_note *note = f->gpu_notes + place;
        struct gpu *g = f->gpus + place;
        const struct gpu *whole = whole_of(g, list, n);
        usec_t at = f->gpu_facts->at;

        g->figures.known = 0;
        if (!note->absent)
                note->absent_since = at;
        if (note->absent < ABSENT_LOOKS)
                note->absent++;
        if (whole && whole->figures.is_lost) {
                g->figures.is_lost = true; /* with all its parts, of which nothing is told then */
        } else if (note->absent < ABSENT_LOOKS || usec_sub(at, note->absent_since) < ABSENT_FOR) {
                fleet_gpus_hurry(f);
        } else if (
                whole &&
                whole->memory_total) { /* it answers, and has that part no more: a person divided it anew */
                forget_part(f, place);
                return true;
        } else {
                g->figures.is_lost = true;
        }
        return false;
}

static void take_list(struct fleet *f, const struct gpu *list, size_t n, size_t *ret_places)
{
        bool changed = false;
        uint64_t seen = 0;

        for (size_t i = 0; i < n; i++) {
                size_t known = f->n_gpus, place = place_of(f, list + i);

                ret_places[i] = place;
                if (place == FLEET_GPUS)
                        continue;
                seen |= UINT64_C(1) << place;
                changed = changed || place >= known || f->gpu_notes[place].gone[0];
                f->gpus[place] = list[i];
                f->gpu_notes[place].absent = 0;
                f->gpu_notes[place].gone[0] = '\0';
        }
        for (size_t i = 0; i < f->n_gpus; i++)
                if (!(seen >> i & 1) && gpus_is_there(f->gpus + i))
                        changed = miss(f, i, list, n) || changed;
        if (changed) {
                if (f->binaries)
                        binaries_forget_devices(f->binaries, 0);
                gpu_care_changed(f); /* who waits for one of them may have it, or is told another thing */
        }
}

static void give_memory(struct fleet *f)
{
        struct gpus *s = f->gpu_facts;
        struct process_kin *kin = s->n_processes ? gpus_kin(f) : NULL;

        place_look_begins(f);
        for (size_t i = 0; i < f->n_members; i++)
                f->members[i]->gpu_memory = f->members[i]->gpu_seen = 0;
        for (size_t i = 0; i < s->n_processes; i++) {
                const struct gpu_process *p = s->processes + i;
                size_t whose = kin ? process_kin_of(kin, p->pid) : PROCESS_KIN_NOBODY;
                struct member *m = whose != PROCESS_KIN_NOBODY ? f->members[whose] : NULL;

                s->leaders[i] = m ? process_pid(m->process) : 0;
                if (!m)
                        continue;
                place_saw(m, p->gpu, p->memory);
                m->gpu_memory += p->memory;
                m->gpu_seen |= UINT64_C(1) << p->gpu;
                m->gpu_was_seen |= UINT64_C(1) << p->gpu;
        }
        process_kin_free(kin);
}

static void take_processes(struct gpus *s, const struct gpu_snapshot *snapshot, const size_t *places)
{
        s->n_processes = 0;
        for (size_t i = 0; i < snapshot->n_processes; i++) {
                struct gpu_process p = snapshot->processes[i];

                p.gpu = places[p.gpu];
                if (p.gpu < FLEET_GPUS)
                        s->processes[s->n_processes++] = p;
        }
}

static void on_snapshot(void *owner, const struct gpu_snapshot *snapshot, const char *why, usec_t now)
{
        struct fleet *f = owner;
        struct gpus *s = f->gpu_facts;
        size_t places[GPUS_MAX];

        s->silent = !snapshot;
        s->is_short = snapshot && snapshot->is_old;
        if (!snapshot) {
                (void)snprintf(s->problem, sizeof s->problem, "%s", why);
                s->number++;
                gpus_tell(f, LOG_ERR, "gpu_silent", NULL, why);
                loop_wake(f->loop);
                return;
        }
        if (snapshot->is_old) {
                if (!streq(s->problem, snapshot->problem))
                        log_warn(NULL, "%s", snapshot->problem);
                (void)snprintf(s->problem, sizeof s->problem, "%s", snapshot->problem);
                s->number++;
                return;
        }
        s->at = now; /* before anybody asks whether the figures are fresh */
        s->realtime = loop_realtime(f->loop);
        take_list(f, snapshot->gpus, snapshot->n, places);
        take_processes(s, snapshot, places);
        give_memory(f);
        gpu_care_found(f);
        for (size_t i = 0; i < f->n_gpus; i++)
                tell_changes(f, i, f->gpus + i, now);
        gpu_verify_all(f, now);
        if (snapshot->problem[0] && !streq(s->problem, snapshot->problem))
                log_warn(NULL, "figures of NVIDIA's GPUs are not known: %s", snapshot->problem);
        (void)snprintf(s->problem, sizeof s->problem, "%s", snapshot->problem);
        (void)snprintf(s->driver, sizeof s->driver, "%s", snapshot->driver);
        s->number++;
        loop_wake(f->loop);
}

bool gpus_are_guessed(const struct fleet *f)
{
        const struct gpus *s = f->gpu_facts;

        return s && !s->at && (s->watch || (s->again && timer_due(s->again) != USEC_INFINITY));
}

bool gpus_are_awaited(const struct fleet *f)
{
        return gpus_are_guessed(f) && !f->gpu_facts->silent;
}

bool gpus_became_known(struct fleet *f)
{
        struct gpus *s = f->gpu_facts;

        if (!s || !(s->guessed || s->told) || gpus_are_guessed(f))
                return false;
        s->guessed = s->told = false;
        return true;
}

void gpus_ask_for_replicas(struct fleet *f, const struct config *c, bool anew)
{
        bool some = false;
        struct devices d;

        for (size_t i = 0; i < c->n_instances; i++) {
                const struct config_instance *e = c->instances + i;

                if (!e->replicas_per_gpu || !gpus_are_picked(f, e))
                        continue;
                if (anew && !gpus_reach_all(f, e)) {
                        binaries_forget_devices(f->binaries, 0);
                        anew = false; /* of all programs */
                }
                (void)binaries_devices(f->binaries, e->binary, &d);
                some = some || gpus_replicas_are_guessed(f, e);
        }
        if (f->gpu_facts)
                f->gpu_facts->untold = some;
}

void gpus_told_devices(struct fleet *f)
{
        if (f->gpu_facts && f->gpu_facts->untold)
                f->gpu_facts->told = true;
}

bool gpus_are_hidden(const struct fleet *f)
{
        return f->gpu_facts && f->gpu_facts->is_short;
}

bool fleet_gpus_are_silent(const struct fleet *f)
{
        return f->gpu_facts && f->gpu_facts->silent;
}

/* --- looking --------------------------------------------------------------------------------------------------------- */

static int watch_gpus(struct fleet *f)
{
        const struct config *c = f->config;
        struct gpus *s = f->gpu_facts;
        int r = gpu_watch_new(f->loop, c->gpus_root, c->gpus_nvml, on_snapshot, f, &s->watch);

        if (r < 0)
                timer_set(s->again, usec_add(loop_now(f->loop), WATCH_AGAIN));
        return r;
}

static void on_again(void *owner, usec_t now)
{
        struct fleet *f = owner;

        (void)now;
        if (watch_gpus(f) == 0)
                log_info(NULL, "the GPUs %s", f->gpu_facts->watch ? "are watched now" : "are none");
        loop_wake(f->loop); /* for those who wait for them */
}

static void read_gpus(struct fleet *f)
{
        struct gpu list[GPUS_MAX];
        size_t places[GPUS_MAX];
        struct gpus *s;
        int n;

        if (!f->gpu_facts && !(f->gpu_facts = calloc(1, sizeof *f->gpu_facts)))
                return;
        s = f->gpu_facts;
        if (!s->again && timer_new(f->loop, on_again, f, &s->again) < 0)
                return;
        gpu_care_changed(f); /* what is configured may be another thing */
        gpu_hits_open(f);
        if (s->watch)
                return; /* it finds what came meanwhile by itself */
        n = watch_gpus(f);
        if (n < 0)
                log_warn(NULL, "the GPUs cannot be watched, and it is tried again: %s", strerror(-n));
        if (n == 0 && (!s->watch || gpu_watch_wait(s->watch, START_PATIENCE)))
                return;
        /* The driver takes its time; what the kernel shows is there already. We do not ask for it ourselves: a driver that hangs may hang there, too. */
        if (s->watch)
                take_list(f, list, gpu_watch_files(s->watch, list, GPUS_MAX), places);
        gpu_care_found(f);
}

void fleet_read_gpus(struct fleet *f)
{
        read_gpus(f);
        if (gpus_are_guessed(f))
                f->gpu_facts->guessed = true;
}

void fleet_forget_gpus(struct fleet *f)
{
        if (f->gpu_facts) {
                f->gpu_facts->watch = gpu_watch_free(f->gpu_facts->watch);
                f->gpu_facts->again = timer_free(f->gpu_facts->again);
        }
        gpu_hits_close(f);
        free(f->gpu_facts);
        f->gpu_facts = NULL;
}

void fleet_ask_gpus(struct fleet *f)
{
        if (f->gpu_facts && f->gpu_facts->watch)
                gpu_watch_ask(f->gpu_facts->watch, loop_now(f->loop));
}

void fleet_gpus_hurry(struct fleet *f)
{
        if (f->gpu_facts && f->gpu_facts->watch)
                gpu_watch_hurry(f->gpu_facts->watch, usec_add(loop_now(f->loop), HURRY_FOR));
}

uint64_t fleet_gpus_number(const struct fleet *f)
{
        return f->gpu_facts ? f->gpu_facts->number : 0;
}

/* --- telling --------------------------------------------------------------------------------------------------------- */

/* The last snapshot is so old that its figures would be a lie. */
static bool is_stale(const struct fleet *f)
{
        const struct gpus *s = f->gpu_facts;

        return !s || !s->at || usec_sub(loop_now(f->loop), s->at) > STALE_AFTER;
}

usec_t fleet_gpus_at(const struct fleet *f)
{
        return f->gpu_facts ? f->gpu_facts->at : 0;
}

bool fleet_gpus_are_fresh(const struct fleet *f)
{
        return !is_stale(f);
}

static const char *state_of(const struct fleet *f, const struct gpu *g)
{
        if (g->figures.is_lost)
                return "lost";
        if (gpus_cordon(f, g))
                return "cordoned";
        return is_stale(f) || !g->memory_total ? "unknown" : "ok";
}

static void put_figure(struct json_writer *w, const char *key, bool known, double value, int digits)
{
        if (known)
                json_double(w, key, value, digits);
        else
                json_null(w, key);
}

static void put_size(struct json_writer *w, const char *key, bool known, uint64_t value)
{
        if (known)
                json_uint(w, key, value);
        else
                json_null(w, key);
}

static void put_what_it_does(const struct fleet *f, const struct gpu *g, const struct gpu_note *note,
                             struct json_writer *w)
{
        const struct gpu_figures *x = &g->figures;
        unsigned known = is_stale(f) ? 0 : x->known;

        put_figure(w, "utilization", known & GPU_KNOWS_USE, x->use, 2);
        put_figure(w, "temperature", known & GPU_KNOWS_TEMPERATURE, x->temperature, 1);
        put_figure(w, "power", known & GPU_KNOWS_POWER, x->power, 1);
        put_figure(w, "powerLimit", known & GPU_KNOWS_POWER_LIMIT, x->power_limit, 1);
        if (known & GPU_KNOWS_THROTTLE) {
                json_key(w, "throttle");
                json_open_array(w);
                for (int i = 0; i < GPU_THROTTLES; i++)
                        if (x->throttle >> i & 1)
                                json_put_string(w, gpu_throttle_name((enum gpu_throttle)i));
                json_close_array(w);
        } else {
                json_null(w, "throttle");
        }
        if (known & GPU_KNOWS_ECC) {
                json_key(w, "ecc");
                json_open_object(w);
                json_uint(w, "corrected", x->ecc_corrected);
                json_uint(w, "uncorrected", x->ecc_uncorrected);
                json_close_object(w);
        } else {
                json_null(w, "ecc");
        }
        if (note->xid_at) {
                json_key(w, "lastError");
                json_open_object(w);
                json_uint(w, "xid", x->last_xid);
                json_uint(w, "count", x->xids);
                report_put_moment(w, "at", note->xid_at);
                json_close_object(w);
        } else {
                json_null(w, "lastError");
        }
}

/* Who is seen on it, and who is meant for it: pinned there, or (without a pin) free to use all. */
static bool is_on(const struct member *m, size_t place, uint64_t known)
{
        if (!m->process)
                return false;
        if (known >> place & 1)
                return m->gpu_seen >> place & 1;
        return m->gpu_mask >> place & 1;
}

uint64_t gpus_told(const struct fleet *f)
{
        uint64_t mask = 0;

        for (size_t i = 0; i < f->n_gpus; i++)
                if ((f->gpus[i].figures.known & GPU_KNOWS_PROCESSES) && !is_stale(f))
                        mask |= UINT64_C(1) << i;
        return mask;
}

static void put_cordon(const struct fleet *f, const struct gpu *g, struct json_writer *w)
{
        const struct gpu_cordon *x = gpus_cordon(f, g);

        if (!x) {
                json_null(w, "cordon");
                return;
        }
        json_key(w, "cordon");
        json_open_object(w);
        json_string(w, "by", x->by);
        json_string(w, "why", x->why);
        report_put_moment(w, "since", x->since);
        json_close_object(w);
}

uint64_t gpus_peopled(const struct fleet *f)
{
        const struct gpus *s = f->gpu_facts;
        uint64_t mask = 0;

        for (size_t i = 0; s && i < s->n_processes; i++)
                if (kill(s->processes[i].pid, 0) == 0 || errno == EPERM)
                        mask |= UINT64_C(1) << s->processes[i].gpu;
        return mask;
}

static const struct member *member_led_by(const struct fleet *f, pid_t leader)
{
        for (size_t i = 0; leader && i < f->n_members; i++)
                if (f->members[i]->process && process_pid(f->members[i]->process) == leader)
                        return f->members[i];
        return NULL;
}

static void put_users(const struct fleet *f, size_t place, struct json_writer *w)
{
        const struct gpus *s = f->gpu_facts;
        uint64_t known = gpus_told(f);

        json_key(w, "instances");
        json_open_array(w);
        for (size_t i = 0; i < f->n_members; i++)
                if (is_on(f->members[i], place, known))
                        json_put_string(w, f->members[i]->name);
        json_close_array(w);
        if (!(known >> place & 1)) {
                json_null(w, "processes");
                return;
        }
        json_key(w, "processes");
        json_open_array(w);
        for (size_t i = 0; s && i < s->n_processes; i++) {
                const struct gpu_process *p = s->processes + i;
                const struct member *m;

                if (p->gpu != place)
                        continue;
                m = member_led_by(f, s->leaders[i]);
                json_open_object(w);
                json_int(w, "pid", p->pid);
                json_string(w, "instance", m ? m->name : NULL);
                put_size(w, "memory", p->memory > 0, p->memory);
                json_close_object(w);
        }
        json_close_array(w);
}

void fleet_put_gpus(struct fleet *f, struct json_writer *w)
{
        const struct gpus *s = f->gpu_facts;

        json_open_object(w);
        json_key(w, "gpus");
        json_open_array(w);
        for (size_t i = 0; i < f->n_gpus; i++) {
                const struct gpu *g = f->gpus + i;

                if (!gpus_is_there(g))
                        continue;
                json_open_object(w);
                if (g->index >= 0)
                        json_int(w, "index", g->index);
                else
                        json_null(w, "index");
                json_string(w, "vendor", gpu_vendor_name(g->vendor));
                json_string(w, "uuid", g->uuid[0] ? g->uuid : NULL);
                json_string(w, "name", g->name[0] ? g->name : NULL);
                json_string(w, "pci", g->pci);
                json_string(w, "mig", g->is_mig ? "part" : g->has_mig ? "divided" : NULL);
                json_string(w, "state", state_of(f, g));
                put_cordon(f, g, w);
                put_size(w, "memoryTotal", g->memory_total > 0, g->memory_total);
                put_size(w, "memoryUsed", g->memory_total > 0 && !is_stale(f) && !g->figures.is_lost,
                         g->memory_used);
                put_what_it_does(f, g, f->gpu_notes + i, w);
                put_users(f, i, w);
                json_close_object(w);
        }
        json_close_array(w);
        json_string(w, "driver", s && s->driver[0] ? s->driver : NULL);
        json_string(w, "problem", s && s->problem[0] ? s->problem : NULL);
        report_put_moment(w, "at", s ? s->realtime : 0);
        json_close_object(w);
}

size_t fleet_gpu_count(const struct fleet *f)
{
        size_t n = 0;

        for (size_t i = 0; i < f->n_gpus; i++)
                n += gpus_is_there(f->gpus + i);
        return n;
}

static const struct gpu *nth_there(const struct fleet *f, size_t n)
{
        const struct gpu *g = f->gpus;

        while (!gpus_is_there(g) || n-- > 0)
                g++;
        return g;
}

void fleet_gpu(const struct fleet *f, size_t i, struct fleet_gpu *ret)
{
        const struct gpu *g = nth_there(f, i);
        const struct gpu_figures *x = &g->figures;
        unsigned known = is_stale(f) ? 0 : x->known;

        *ret = (struct fleet_gpu){
                .uuid = gpus_name(g),
                .name = g->name,
                .vendor = gpu_vendor_name(g->vendor),
                .index = g->index,
                .state = state_of(f, g),
                .is_cordoned = gpus_cordon(f, g) != NULL,
                .memory_total = g->memory_total,
                .memory_used = g->memory_used,
                .has_use = known & GPU_KNOWS_USE,
                .has_temperature = known & GPU_KNOWS_TEMPERATURE,
                .has_power = known & GPU_KNOWS_POWER,
                .has_power_limit = known & GPU_KNOWS_POWER_LIMIT,
                .has_throttle = known & GPU_KNOWS_THROTTLE,
                .has_ecc = known & GPU_KNOWS_ECC,
                .use = x->use,
                .temperature = x->temperature,
                .power = x->power,
                .power_limit = x->power_limit,
                .throttle = x->throttle,
                .ecc_corrected = x->ecc_corrected,
                .ecc_uncorrected = x->ecc_uncorrected,
                .errors = x->xids,
                .last_error = x->last_xid,
        };
}

const char *fleet_gpu_throttle_name(unsigned bit)
{
        return bit < GPU_THROTTLES ? gpu_throttle_name((enum gpu_throttle)bit) : NULL;
}
