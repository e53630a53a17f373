/* gpu_care.c: which GPUs take work: cordons, why they are there, who may lift them, and what becomes of the instances. */
#include "fleet/gpu_care.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/demand_private.h"
#include "fleet/gpus.h"
#include "fleet/place_private.h"
#include "host/record.h"

#define STORE "gpus.json"

enum { CORDONS_MAX = GPUS_MAX, STORE_MAX = 64 * 1024 };

struct gpu_care {
        struct gpu_cordon cordons[CORDONS_MAX]; /* also of GPUs that are not there now */
        size_t n;
        uint64_t suspects; /* bit by place: deaths to be judged at the end of the turn */
        uint64_t out;      /* bit by place: which took no work at the last look */
        size_t named;      /* GPUs that had a uuid then, and how many there were */
        size_t found;
        bool look_again;    /* somebody who is barred may not be so any more */
        bool may_have_room; /* the GPUs are others than before: nor may be who found no room (BAR_ROOM) */
        bool look_round;    /* somebody may be where he should not be */
};

/* --- what is cordoned ------------------------------------------------------------------------------------------------ */

/* A part's whole GPU is where it is plugged in. */
static bool is_within(const struct gpu *part, const struct gpu *whole)
{
        return part == whole || (part->is_mig && !whole->is_mig && part->vendor == whole->vendor &&
                                 streq(part->pci, whole->pci));
}

uint64_t gpus_with_parts(const struct fleet *f, size_t place)
{
        uint64_t mask = 0;

        for (size_t i = 0; i < f->n_gpus; i++)
                if (is_within(f->gpus + i, f->gpus + place))
                        mask |= UINT64_C(1) << i;
        return mask;
}

const struct gpu_cordon *gpus_cordon(const struct fleet *f, const struct gpu *g)
{
        for (size_t i = 0; i < f->n_gpus; i++)
                if (f->gpu_notes[i].cordon && is_within(g, f->gpus + i))
                        return f->gpu_notes[i].cordon;
        return NULL;
}

bool gpus_takes_work(const struct fleet *f, const struct gpu *g)
{
        return !g->figures.is_lost && !g->has_mig && !gpus_cordon(f, g);
}

/* By its address only as long as no uuid is known, of the one or of the other: another card in that slot has no cordon. */
static bool is_of(const struct gpu_cordon *x, const struct gpu *g)
{
        if (g->uuid[0] && streq(x->gpu, g->uuid))
                return true;
        return !g->is_mig && (streq(x->gpu, g->pci) || (!g->uuid[0] && streq(x->pci, g->pci)));
}

/* Which GPU has which cordon. */
static void match(struct fleet *f)
{
        const struct gpu_care *c = f->gpu_care;

        for (size_t i = 0; i < f->n_gpus; i++) {
                f->gpu_notes[i].cordon = NULL;
                for (size_t k = 0; k < c->n && !f->gpu_notes[i].cordon; k++)
                        if (is_of(c->cordons + k, f->gpus + i))
                                f->gpu_notes[i].cordon = c->cordons + k;
        }
}

/* Of a GPU that has one: its uuid, which may not have been known, and where it is now. True: that is news. */
static bool name_cordon(struct gpu_cordon *x, const struct gpu *g)
{
        bool is_known = (!g->uuid[0] || streq(x->gpu, g->uuid)) && (g->is_mig || streq(x->pci, g->pci));

        if (is_known)
                return false;
        (void)snprintf(x->gpu, sizeof x->gpu, "%s", g->uuid[0] ? g->uuid : x->gpu);
        (void)snprintf(x->pci, sizeof x->pci, "%s", g->is_mig ? "" : g->pci);
        return true;
}

/* --- on disk --------------------------------------------------------------------------------------------------------- */

static void save(struct fleet *f)
{
        const struct gpu_care *c = f->gpu_care;
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;
        int r = -ENOMEM;

        buffer_init(&b, STORE_MAX);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "cordons");
        json_open_array(&w);
        for (size_t i = 0; i < c->n; i++) {
                json_open_object(&w);
                json_string(&w, "gpu", c->cordons[i].gpu);
                json_string(&w, "pci", c->cordons[i].pci);
                json_string(&w, "by", c->cordons[i].by);
                json_string(&w, "why", c->cordons[i].why);
                json_uint(&w, "since", c->cordons[i].since);
                json_string(&w, "bootId", c->cordons[i].boot);
                json_close_object(&w);
        }
        json_close_array(&w);
        json_close_object(&w);
        /* At once, since a kill -9 may come next; and again with fsync, since power may go. */
        if (!b.failed)
                r = record_save_now(f->config->state_dir, STORE, b.data, b.len);
        if (r < 0)
                log_err(NULL,
                        "%s/" STORE
                        " could not be written: %s; a restart would forget which GPUs are cordoned",
                        f->config->state_dir, strerror(-r));
        else
                (void)record_save(f->loop, f->config->state_dir, STORE, b.data, b.len);
}

/* A boot resets the machine's software, and mostly its GPUs; what the driver said of the hardware stays said. */
static bool ends_with_boot(const struct gpu_cordon *c)
{
        return streq(c->by, "deaths") || streq(c->by, "lost");
}

static void read_cordon(struct fleet *f, struct gpu_care *c, const struct json_value *v, bool *ret_changed)
{
        const char *gpu = json_get_string(v, "gpu"), *pci = json_get_string(v, "pci"),
                   *by = json_get_string(v, "by"), *why = json_get_string(v, "why"),
                   *boot = json_get_string(v, "bootId");
        struct gpu_cordon *x = c->cordons + c->n;
        char text[GPU_WHY_MAX];

        if (!gpu || !*gpu || strlen(gpu) >= sizeof x->gpu || !by || strlen(by) >= sizeof x->by ||
            c->n == CORDONS_MAX)
                return;
        *x = (struct gpu_cordon){.since = (usec_t)json_get_int(v, "since", 0)};
        (void)snprintf(x->gpu, sizeof x->gpu, "%s", gpu);
        if (pci && strlen(pci) < sizeof x->pci)
                (void)snprintf(x->pci, sizeof x->pci, "%s", pci);
        (void)snprintf(x->by, sizeof x->by, "%s", by);
        (void)snprintf(x->why, sizeof x->why, "%s", why ? why : "");
        (void)snprintf(x->boot, sizeof x->boot, "%s", boot ? boot : "");
        if (ends_with_boot(x) && !streq(x->boot, process_boot_id())) {
                (void)snprintf(text, sizeof text,
                               "GPU %s is not cordoned any more, since the machine was booted; it was: %s",
                               x->gpu, x->why);
                history_tell(f->history, LOG_NOTICE,
                             &(struct history_event){.kind = "gpu_uncordoned", .gpu = x->gpu, .text = text});
                *ret_changed = true;
                return;
        }
        c->n++;
}

int gpu_care_new(struct fleet *f, struct gpu_care **ret)
{
        struct gpu_care *c = calloc(1, sizeof *c);
        _cleanup_free_ char *text = NULL;
        struct json_value *v = NULL;
        bool changed = false;
        size_t len;
        int r;

        if (!c)
                return -ENOMEM;
        r = record_load(f->config->state_dir, STORE, STORE_MAX, &text, &len);
        if (r == 0)
                r = json_parse(text, len, &v, NULL);
        if (r < 0 && r != -ENOENT)
                log_err(NULL, "%s/" STORE " cannot be read (%s): no GPU counts as cordoned",
                        f->config->state_dir, r == -EBADMSG ? "it is not JSON" : strerror(-r));
        for (size_t i = 0; v && i < json_count(json_get(v, "cordons")); i++)
                read_cordon(f, c, json_at(json_get(v, "cordons"), i), &changed);
        json_free(v);
        *ret = f->gpu_care = c;
        if (changed)
                save(f);
        return 0;
}

struct gpu_care *gpu_care_free(struct gpu_care *c)
{
        free(c);
        return NULL;
}

/* --- cordons --------------------------------------------------------------------------------------------------------- */

const char *gpus_name(const struct gpu *g)
{
        return g->uuid[0] ? g->uuid : g->pci;
}

/* Room for one more: of a GPU that is not there, if need be. */
static struct gpu_cordon *make_room(struct fleet *f)
{
        struct gpu_care *c = f->gpu_care;

        for (size_t i = 0; c->n == CORDONS_MAX && i < c->n; i++) {
                bool is_there = false;

                for (size_t k = 0; k < f->n_gpus; k++)
                        is_there = is_there || f->gpu_notes[k].cordon == c->cordons + i;
                if (!is_there)
                        memmove(c->cordons + i, c->cordons + i + 1, (--c->n - i) * sizeof *c->cordons);
        }
        return c->n < CORDONS_MAX ? c->cordons + c->n++ : NULL;
}

/* advice: what a person does about it, NULL. */
static int cordon(struct fleet *f, size_t place, const char *by, bool breaks, const char *why,
                  const char *advice, usec_t now)
{
        const struct gpu *g = f->gpus + place;
        struct gpu_cordon *x;
        char text[1024];

        if (f->gpu_notes[place].cordon) { /* the first reason stands */
                gpu_leave_all(f, place, breaks, why, now);
                return 0;
        }
        x = make_room(f);
        if (!x)
                return -ENOSPC;
        *x = (struct gpu_cordon){.since = loop_realtime(f->loop)};
        (void)snprintf(x->gpu, sizeof x->gpu, "%s", gpus_name(g));
        (void)snprintf(x->pci, sizeof x->pci, "%s", g->is_mig ? "" : g->pci);
        (void)snprintf(x->by, sizeof x->by, "%s", by);
        (void)snprintf(x->why, sizeof x->why, "%s", why);
        (void)snprintf(x->boot, sizeof x->boot, "%s", process_boot_id());
        match(f);
        save(f);
        (void)snprintf(text, sizeof text,
                       "GPU %s (%s) is cordoned: %.256s. Nothing is started there until `llama-supervisor "
                       "gpus uncordon %s`%s%.256s",
                       gpus_name(g), g->name, why, gpus_name(g), advice ? ". What to do: " : "",
                       advice ? advice : "");
        gpus_tell(f, streq(by, "person") ? LOG_NOTICE : LOG_ERR, "gpu_cordoned", g, text);
        gpu_leave_all(f, place, breaks, why, now);
        return 0;
}

static void uncordon(struct fleet *f, size_t place)
{
        struct gpu_care *c = f->gpu_care;

        /* Mostly one; two, when it got one by its address before its uuid was told. */
        while (f->gpu_notes[place].cordon) {
                size_t i = (size_t)(f->gpu_notes[place].cordon - c->cordons);

                memmove(c->cordons + i, c->cordons + i + 1, (--c->n - i) * sizeof *c->cordons);
                match(f);
        }
        f->gpu_notes[place].deaths.n = f->gpu_notes[place].deaths.next = 0;
        f->gpu_notes[place].chance_at = f->gpu_notes[place].lost_at = 0;
        save(f);
        c->look_again = true;
        loop_wake(f->loop);
}

/* --- facts ----------------------------------------------------------------------------------------------------------- */

void gpu_care_xid(struct fleet *f, size_t place, unsigned xid, usec_t now)
{
        const struct gpu_xid *x = gpu_xid_find(xid);
        struct gpu_note *note = f->gpu_notes + place;
        const struct gpu *g = f->gpus + place;
        bool is_repeated;
        char text[GPU_WHY_MAX];

        note->xid_at = loop_realtime(f->loop);
        (void)snprintf(text, sizeof text, "GPU %d (%s): its driver reports error %u (Xid): %s%s%s", g->index,
                       gpus_name(g), xid, x->words, x->action == GPU_CORDON ? "" : ". What to do: ",
                       x->action == GPU_CORDON ? "" : x->advice); /* else the cordon tells it */
        gpus_tell(f, x->action == GPU_TELL ? LOG_WARNING : LOG_ERR, "gpu_error", g, text);
        (void)snprintf(text, sizeof text, "Xid %u: %s", xid, x->words);
        switch (x->action) {
        case GPU_TELL:
                break;
        case GPU_RESTART:
                gpu_leave_restart(f, place, xid, text, now);
                break;
        case GPU_CORDON:
                (void)cordon(f, place, "xid", x->breaks, text, x->advice, now);
                break;
        case GPU_RESTART_THEN_CORDON:
                /* A driver tells of one error for each program that it hit: those of one look are one. */
                is_repeated = note->chance_at && note->chance_at != now &&
                              usec_sub(now, note->chance_at) < GPU_REPEAT_WINDOW;
                note->chance_at = now;
                if (!is_repeated) {
                        gpu_leave_restart(f, place, xid, text, now);
                        break;
                }
                (void)snprintf(text, sizeof text, "Xid %u, not for the first time: %s", xid, x->words);
                (void)cordon(f, place, "xid", true, text, x->advice, now);
                break;
        }
}

void gpu_care_lost(struct fleet *f, size_t place, usec_t now)
{
        struct gpu_note *note = f->gpu_notes + place;
        bool is_repeated = note->lost_at && usec_sub(now, note->lost_at) < GPU_REPEAT_WINDOW;
        char text[GPU_WHY_MAX];

        note->lost_at = now;
        (void)snprintf(text, sizeof text, "GPU %s is lost", gpus_name(f->gpus + place));
        if (is_repeated)
                (void)cordon(f, place, "lost", true, "it was lost more than once within a day",
                             "look at its power, its seat and its temperature", now);
        else
                gpu_leave_all(f, place, true, text, now);
}

void gpu_care_back(struct fleet *f)
{
        f->gpu_care->look_again = f->gpu_care->look_round = true;
        loop_wake(f->loop);
}

void gpu_care_changed(struct fleet *f)
{
        f->gpu_care->may_have_room = true;
        gpu_care_back(f);
}

void gpu_care_found(struct fleet *f)
{
        struct gpu_care *c = f->gpu_care;
        bool is_news = false;
        size_t named = 0;
        uint64_t out;

        match(f);
        for (size_t i = 0; i < f->n_gpus; i++) {
                struct gpu_note *note = f->gpu_notes + i;

                named += f->gpus[i].uuid[0] != '\0';
                if (f->gpus[i].memory_total)
                        note->memory_total = f->gpus[i].memory_total;
                if (note->cordon)
                        is_news =
                                name_cordon(c->cordons + (note->cordon - c->cordons), f->gpus + i) || is_news;
        }
        if (is_news)
                save(f);
        out = gpu_care_out(f);
        if ((c->out & ~out) || c->named != named || c->found != f->n_gpus)
                c->look_again = true;
        c->out = out;
        c->named = named;
        c->found = f->n_gpus;
        c->look_round = true;
        loop_wake(f->loop);
}

/* FNV-1a */
static uint64_t number_of(const char *name)
{
        uint64_t h = UINT64_C(14695981039346656037);

        for (; *name; name++)
                h = (h ^ (unsigned char)*name) * UINT64_C(1099511628211);
        return h;
}

void gpu_care_death(struct member *m, usec_t now)
{
        struct fleet *f = m->fleet;
        uint64_t mask = m->gpu_was_seen ? m->gpu_was_seen : m->gpu_mask;
        enum gpu_blame blame = gpu_blame(m->cause ? m->cause->name : NULL);
        size_t place = 0;

        if (m->kill_kind == DEATH_GPU)
                return; /* one error of the driver kills all who are there: it was judged by itself */
        if (!m->process || !mask || (mask & (mask - 1)) || blame == GPU_BLAMELESS)
                return; /* of several GPUs nobody knows which it was */
        while (!(mask >> place & 1))
                place++;
        gpu_deaths_add(&f->gpu_notes[place].deaths, blame, number_of(m->entry->name), now);
        f->gpu_care->suspects |= mask;
}

/* A crash may be the model's fault, too: the GPU is suspected only when there is another one, where that model does not die, and nobody else is well
 * on this one. */
static bool is_to_blame(const struct fleet *f, size_t place, usec_t window, usec_t now)
{
        const struct gpu_deaths *deaths = &f->gpu_notes[place].deaths;
        bool has_other = false;

        for (size_t i = 0; i < f->n_gpus; i++) {
                if (i == place)
                        continue;
                has_other = has_other || gpus_takes_work(f, f->gpus + i);
                for (unsigned k = 0; k < deaths->n; k++)
                        if (usec_sub(now, deaths->ring[k].at) <= window &&
                            gpu_deaths_has(&f->gpu_notes[i].deaths, deaths->ring[k].model, window, now))
                                return false;
        }
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];

                if (gpu_leave_is_on(m, UINT64_C(1) << place) && m->in.state == INSTANCE_READY &&
                    !gpu_deaths_has(deaths, number_of(m->entry->name), window, now))
                        return false;
        }
        return has_other;
}

static void judge_deaths(struct fleet *f, size_t place, usec_t now)
{
        const struct config *c = f->config;
        const struct gpu_deaths *deaths = &f->gpu_notes[place].deaths;
        unsigned guilty = gpu_deaths_count(deaths, GPU_GUILTY, c->gpus_deaths_window, now),
                 all = gpu_deaths_count(deaths, GPU_SUSPECT, c->gpus_deaths_window, now);
        char why[128], span[TIME_SPAN_MAX];

        if (!c->gpus_deaths || f->gpu_notes[place].cordon || all < c->gpus_deaths ||
            (guilty < c->gpus_deaths && !is_to_blame(f, place, c->gpus_deaths_window, now)))
                return;
        (void)snprintf(why, sizeof why, "%u deaths of instances on it within %s", all,
                       time_span(c->gpus_deaths_window, span, sizeof span));
        (void)cordon(f, place, "deaths", false, why,
                     "`llama-supervisor history` tells of them; test the card, then uncordon it", now);
}

/* --- who may run ----------------------------------------------------------------------------------------------------- */

/* What was barred for a GPU comes back with it. */
static void come_back(struct member *m, usec_t now)
{
        m->bar = BAR_NONE;
        member_set_error(m, NULL);
        m->cause = NULL;
        if (!demand_order(m, FLEET_START, true, now))
                member_step(m, EV_START, now);
        member_changed(m);
        member_touch(m);
}

static void bar(struct member *m, enum member_bar kind, const char *why, usec_t now)
{
        m->bar = kind;
        m->cause = cause_named(kind == BAR_GPU || kind == BAR_ROOM ? "gpu_cordoned"
                               : kind == BAR_ABSENT                ? "gpu_missing"
                                                                   : "cpu_fallback");
        m->load_failed = true;
        m->hold = place_forget(m->hold); /* it waits for nothing else any more, and anew when it is back */
        member_set_error(m, why);
        member_tell(m, LOG_ERR, "barred", why);
        member_step(m, EV_BARRED, now);
}

void gpu_care_bar_for_room(struct member *m, uint64_t out, const char *why, usec_t now)
{
        m->bar_gpus = out;
        bar(m, BAR_ROOM, why, now);
}

/* 0, or why not. */
static int judge(struct member *m, enum member_bar *ret, char *why, size_t size)
{
        *ret = gpu_care_bars(m, why, size);
        return *ret ? -ENODEV : gpu_verify_before(m, ret, why, size);
}

bool gpu_care_lets(struct member *m, usec_t now)
{
        enum member_bar kind;
        char why[GPU_WHY_MAX];
        int r;

        if (m->entry->endpoint.len && m->in.state == INSTANCE_PENDING)
                return true; /* somebody may answer there already: judged when nobody does (SEEKING) */
        gpu_leave_left(m);
        r = judge(m, &kind, why, sizeof why);
        if (r == -ENODEV)
                bar(m, kind, why, now);
        else if (r == 0)
                m->bar = BAR_NONE;
        return r == 0;
}

void gpu_care_settle(struct fleet *f, usec_t now)
{
        struct gpu_care *c = f->gpu_care;
        enum member_bar kind;
        char why[GPU_WHY_MAX];

        for (size_t i = 0; c->suspects && i < f->n_gpus; i++)
                if (c->suspects >> i & 1)
                        judge_deaths(f, i, now);
        c->suspects = 0;
        if (c->look_round && f->started && !f->stopping) {
                c->look_round = false;
                gpu_leave_look_round(f, now);
        }
        if (!c->look_again || f->stopping)
                return;
        c->look_again = false;
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (!m->bar || m->in.state != INSTANCE_FAILED || m->removed)
                        continue;
                if (m->bar == BAR_ROOM && c->may_have_room)
                        m->bar_gpus = UINT64_MAX; /* any; kept while its program is asked what it sees */
                if (m->bar == BAR_ROOM && !(m->bar_gpus & ~gpu_care_out(f)))
                        continue;
                if (judge(m, &kind, why, sizeof why) == 0)
                        come_back(m, now);
        }
        c->may_have_room = false;
}

/* --- a person's orders ----------------------------------------------------------------------------------------------- */

static int find(const struct fleet *f, const char *id, size_t *ret_place, char **ret_message)
{
        _cleanup_buffer_ struct buffer known = {0};

        for (size_t i = 0; i < f->n_gpus; i++) {
                char index[12];

                (void)snprintf(index, sizeof index, "%d", f->gpus[i].index);
                if (streq(id, f->gpus[i].uuid) || streq(id, f->gpus[i].pci) ||
                    (f->gpus[i].index >= 0 && streq(id, index))) {
                        *ret_place = i;
                        return 0;
                }
        }
        buffer_init(&known, 0);
        for (size_t i = 0; i < f->n_gpus; i++)
                (void)buffer_printf(&known, "%s%s", i ? ", " : "", gpus_name(f->gpus + i));
        *ret_message = f->n_gpus ? text_format("there is no GPU \"%s\": there are %s", id,
                                               known.failed ? "others" : known.data)
                                 : text_format("there is no GPU \"%s\": no GPU is seen on this machine", id);
        return -ENOENT;
}

int fleet_cordon(struct fleet *f, const char *id, const char *reason, char **ret_message)
{
        const struct gpu_cordon *x;
        size_t place = 0;
        char why[200];
        int r = find(f, id, &place, ret_message);

        if (r < 0)
                return r;
        x = f->gpu_notes[place].cordon;
        if (x) {
                *ret_message =
                        text_format("GPU %s is cordoned already: %s", gpus_name(f->gpus + place), x->why);
                return 0;
        }
        (void)snprintf(why, sizeof why, "%s", reason && *reason ? reason : "a person asked");
        (void)text_harmless(why);
        r = cordon(f, place, "person", false, why, NULL, loop_now(f->loop));
        *ret_message =
                r < 0 ? text_format("too many GPUs are cordoned")
                      : text_format("GPU %s is cordoned; what runs there goes", gpus_name(f->gpus + place));
        return r;
}

int fleet_uncordon(struct fleet *f, const char *id, char **ret_message)
{
        const struct gpu *g;
        char text[GPU_WHY_MAX], why[sizeof((struct gpu_cordon *)0)->why];
        size_t place = 0;
        int r = find(f, id, &place, ret_message);

        if (r < 0)
                return r;
        g = f->gpus + place;
        if (!f->gpu_notes[place].cordon) {
                *ret_message =
                        gpus_cordon(f, g)
                                ? text_format("GPU %s is a part of one that is cordoned (%s): uncordon that",
                                              gpus_name(g), g->pci)
                                : text_format("GPU %s is not cordoned", gpus_name(g));
                return gpus_cordon(f, g) ? -EPERM : 0;
        }
        (void)snprintf(why, sizeof why, "%s", f->gpu_notes[place].cordon->why);
        uncordon(f, place);
        (void)snprintf(text, sizeof text, "GPU %s (%s) is not cordoned any more; it was: %s", gpus_name(g),
                       g->name, why);
        gpus_tell(f, LOG_NOTICE, "gpu_uncordoned", g, text);
        *ret_message = text_format("GPU %s is not cordoned any more%s", gpus_name(g),
                                   g->figures.is_lost ? ", but it is lost: its driver cannot reach it" : "");
        return 0;
}
