/* handover.c: the stages of an upgrade, from the order to the exec, and what the next program finds. */
#include "fleet/handover.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/text.h"
#include "fleet/gpus.h"
#include "fleet/handover_private.h"
#include "fleet/private.h"
#include "host/notify.h"
#include "host/record.h"
#include "host/reexec.h"

static const usec_t LOOK_WAITING = 50 * USEC_PER_MSEC, LOOK_HELD = 5 * USEC_PER_MSEC;
/* A check that is older says too little of what will be run: files are replaced, and configurations edited, while we wait. */
static const usec_t CHECK_FRESH = 2 * USEC_PER_SEC;
/* Of HANDOVER_HOLD: for the goodbyes of feeds and of answers that were just sent. */
static const usec_t LEAVE = USEC_PER_SEC;

/* --- telling --------------------------------------------------------------------------------------------------------- */

static const char *const stage_states[] = {
        [STAGE_CHECKING] = "checking",
        [STAGE_WAITING] = "waiting",
        [STAGE_HOLDING] = "holding",
        [STAGE_LEAVING] = "leaving",
};

static void set_stage(struct handover *h, enum handover_stage stage)
{
        h->stage = stage;
        if (stage != STAGE_NONE)
                h->state = stage_states[stage];
}

static void note(struct handover *h, const char *state, const char *message)
{
        h->state = state;
        (void)text_set(&h->message, message);
        h->at = loop_realtime(h->loop);
}

static void tell_asker(struct handover *h, int r, const char *message)
{
        handover_end_fn *fn = h->on_end;

        h->on_end = NULL;
        if (fn)
                fn(h->end_owner, r, message);
}

/* --- ends ------------------------------------------------------------------------------------------------------------ */

/* Everything is as before. */
static void undo(struct handover *h)
{
        enum handover_stage stage = h->stage;

        timer_set(h->timer, USEC_INFINITY);
        handover_stop_check(h);
        h->stage = STAGE_NONE;
        h->held_at = 0;
        if (h->doors && stage >= STAGE_HOLDING)
                h->doors->hold(h->doors_owner, false);
        if (h->doors)
                h->doors->set_closing(h->doors_owner, false);
}

void handover_give_up(struct handover *h, int error, const char *state, const char *message)
{
        _cleanup_free_ char *text = NULL;

        undo(h);
        note(h, state, message);
        *(error == -EBUSY ? &h->n_postponed : &h->n_failed) += 1;
        text = text_format("upgrade %s: %s", state, message);
        fleet_tell(h->fleet, error == -EBUSY ? LOG_WARNING : LOG_ERR,
                   error == -EBUSY ? "upgrade_postponed" : "upgrade_failed", text ? text : message);
        tell_asker(h, error, message);
}

/* --- who is in the way ------------------------------------------------------------------------------------------------- */

/* An order that is being carried out, and is on no record: the next program would not know of it. */
static const struct member *in_transit(const struct fleet *f)
{
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];

                if (m->roll || m->in.want_again || m->in.state == INSTANCE_DRAINING ||
                    m->in.state == INSTANCE_STOPPING || m->in.state == INSTANCE_KILLING)
                        return m;
        }
        return NULL;
}

/* Since when the oldest piece of work runs; USEC_INFINITY: none does. */
static usec_t oldest_work(const struct handover *h)
{
        return MIN(activity_oldest(h->fleet->activity), h->doors->oldest(h->doors_owner));
}

static bool is_busy(const struct handover *h)
{
        return h->doors->busy(h->doors_owner) || activity_oldest(h->fleet->activity) != USEC_INFINITY ||
               in_transit(h->fleet) || binaries_is_asking(h->fleet->binaries);
}

struct blockers {
        struct handover *h;
        struct json_writer w;
        struct buffer words;
        unsigned n;
};

static bool one_more(struct blockers *b)
{
        if (++b->n > HANDOVER_BLOCKERS_MAX)
                return false;
        if (b->n > 1 && b->n <= 3)
                (void)buffer_puts(&b->words, "; ");
        return true;
}

static void put_blocker(struct blockers *b, const char *id, const char *model, const char *instance,
                        const char *what, const char *peer, usec_t age)
{
        char span[TIME_SPAN_MAX];

        if (!one_more(b))
                return;
        json_open_object(&b->w);
        json_string(&b->w, "id", id);
        json_string(&b->w, "model", model);
        json_string(&b->w, "instance", instance);
        json_string(&b->w, "what", what);
        json_string(&b->w, "peer", peer);
        json_double(&b->w, "age", (double)age / (double)USEC_PER_SEC, 3);
        json_close_object(&b->w);
        if (b->n > 3)
                return;
        if (id)
                (void)buffer_printf(&b->words, "%s (%s on %s, for %s)", id, model,
                                    instance ? instance : "no instance yet",
                                    time_span(age, span, sizeof(span)));
        else
                (void)buffer_printf(&b->words, "%s%s%s, for %s", what, peer ? " from " : "", peer ? peer : "",
                                    time_span(age, span, sizeof(span)));
}

static void put_record(void *arg, const struct activity_record *rec)
{
        struct blockers *b = arg;

        put_blocker(b, rec->id, rec->model, rec->instance[0] ? rec->instance : NULL, rec->path,
                    rec->peer[0] ? rec->peer : NULL, usec_sub(loop_now(b->h->loop), rec->arrived));
}

static void put_other(void *arg, const char *what, const char *peer, usec_t age)
{
        put_blocker(arg, NULL, NULL, NULL, what, peer, age);
}

static void put_instance(struct blockers *b, const struct member *m)
{
        char what[CONFIG_NAME_MAX + 48];

        (void)snprintf(what, sizeof(what), "instance %s is %s", m->name,
                       m->roll || m->in.want_again ? "restarting" : instance_status(m->in.state));
        put_blocker(b, NULL, NULL, m->name, what, NULL, usec_sub(loop_now(b->h->loop), m->in.since));
}

/* Names who is in the way now; words for people, malloc'd. */
static char *name_blockers(struct handover *h)
{
        struct blockers b = {.h = h};
        const struct member *m = in_transit(h->fleet);

        buffer_clear(&h->blockers);
        json_begin(&b.w, &h->blockers);
        buffer_init(&b.words, 0);
        json_open_array(&b.w);
        if (m)
                put_instance(&b, m);
        activity_each_running(h->fleet->activity, put_record, &b);
        h->doors->each_blocker(h->doors_owner, put_other, &b);
        json_close_array(&b.w);
        if (b.n > 3)
                (void)buffer_printf(&b.words, " and %u more", b.n - 3);
        if (!b.n)
                (void)buffer_puts(&b.words, "something that ended just now");
        return buffer_steal(&b.words);
}

/* --- the last step ------------------------------------------------------------------------------------------------------ */

static void become_next(struct handover *h)
{
        _cleanup_buffer_ struct buffer text = {0};
        _cleanup_free_ char *message = NULL;
        int *fds = NULL;
        size_t n = 0;
        int r;

        buffer_init(&text, REEXEC_TEXT_MAX - 64);
        notify_reloading();
        r = handover_write_text(h, &text, &fds, &n);
        if (r == 0) {
                log_info(NULL, "upgrade: %s runs in this process now", reexec_binary());
                r = reexec_now(text.data, text.len, fds, n);
        }
        free(fds);
        message = text_format("%s could not be run: %s; version " LSV_VERSION " goes on", reexec_binary(),
                              strerror(-r));
        notify_ready();
        handover_give_up(h, r, "failed", message ? message : strerror(-r));
}

static void begin_leaving(struct handover *h, usec_t now)
{
        struct fleet *f = h->fleet;

        set_stage(h, STAGE_LEAVING);
        h->stage_until = usec_add(now, LEAVE);
        tell_asker(h, 0, "the new program takes over now");
        for (size_t i = 0; i < f->n_members; i++) {
                member_save_counts(f->members[i]);
                if (f->members[i]->process)
                        member_save_record(f->members[i]);
        }
        h->doors->leave(h->doors_owner);
}

/* --- stages ------------------------------------------------------------------------------------------------------------- */

static void check_again(struct handover *h, usec_t now)
{
        _cleanup_free_ char *message = NULL;
        int r = handover_check(h);

        if (r < 0) {
                message = text_format("%s could not be run: %s", reexec_binary(), strerror(-r));
                handover_give_up(h, r, "failed", message ? message : strerror(-r));
                return;
        }
        set_stage(h, STAGE_CHECKING);
        h->stage_until = usec_add(now, HANDOVER_CHECK);
        timer_set(h->timer, h->stage_until);
}

static void hold(struct handover *h, usec_t now)
{
        h->held_at = now;
        h->stage_until = MIN(usec_add(now, HANDOVER_HOLD - LEAVE), MAX(h->give_up_at, now));
        set_stage(h, STAGE_HOLDING);
        h->doors->hold(h->doors_owner, true);
}

/* Also by force: the exec would wait for that thread with everything held. */
static const char gpus_silent[] = "the driver of a GPU does not answer, and a thread waits in it: upgrade "
                                  "when it answers again (gpus), or "
                                  "restart the machine";

static void postpone(struct handover *h)
{
        _cleanup_free_ char *names = name_blockers(h);
        _cleanup_free_ char *message = text_format("%s outlasted the drain deadline", names ? names : "work");

        handover_give_up(h, -EBUSY, "postponed", message ? message : "work outlasted the drain deadline");
}

static void cut(struct handover *h)
{
        _cleanup_free_ char *names = name_blockers(h);

        log_warn(NULL, "upgrade: cut by --force: %s", names ? names : "");
        h->doors->cut(h->doors_owner);
}

static void look_waiting(struct handover *h, usec_t now)
{
        bool is_late = now >= h->give_up_at, is_free = !is_busy(h);

        if (!is_free && is_late && !h->force) {
                postpone(h);
                return;
        }
        /* Whoever was there before the last look has to be done first: a hold that must fail only keeps others waiting. */
        if (!is_free && !is_late &&
            (oldest_work(h) <= h->after || in_transit(h->fleet) || binaries_is_asking(h->fleet->binaries)))
                return;
        if (usec_sub(now, h->checked_at) > CHECK_FRESH) {
                check_again(h, now);
                return;
        }
        if (fleet_gpus_are_silent(h->fleet)) {
                handover_give_up(h, -EBUSY, "postponed", gpus_silent);
                return;
        }
        hold(h, now);
        if (!is_free && is_late)
                cut(h);
}

static void look_holding(struct handover *h, usec_t now)
{
        if (!is_busy(h)) {
                begin_leaving(h, now);
                return;
        }
        if (now < h->stage_until)
                return;
        if (h->force && now >= h->give_up_at) {
                /* What ends by itself was given its time; an instance that is being stopped is found by its record. */
                cut(h);
                begin_leaving(h, now);
                return;
        }
        h->doors->hold(h->doors_owner, false);
        h->after = h->held_at;
        h->held_at = 0;
        set_stage(h, STAGE_WAITING);
}

static void look_leaving(struct handover *h, usec_t now)
{
        if (now < h->stage_until && (!h->doors->is_quiet(h->doors_owner) || record_is_saving()))
                return;
        become_next(h);
}

void handover_begin_waiting(struct handover *h, usec_t now)
{
        h->checked_at = now;
        if (!h->give_up_at) {
                log_info(NULL, "upgrade: %s likes the configuration; waiting for what runs", reexec_binary());
                h->after = now;
                h->give_up_at = usec_add(now, h->fleet->config->stop.drain);
                h->doors->set_closing(h->doors_owner, true);
        }
        set_stage(h, STAGE_WAITING);
        timer_set(h->timer, now);
}

static void on_timer(void *owner, usec_t now)
{
        struct handover *h = owner;

        if (h->stage == STAGE_CHECKING) {
                if (h->check)
                        (void)process_signal_group(h->check, SIGKILL); /* on_checked follows */
                else
                        handover_give_up(h, -ETIMEDOUT, "failed",
                                         "the configuration could not be read in time");
                return;
        }
        if (h->stage == STAGE_WAITING)
                look_waiting(h, now);
        if (h->stage == STAGE_HOLDING)
                look_holding(h, now);
        if (h->stage == STAGE_LEAVING)
                look_leaving(h, now);
        if (h->stage > STAGE_CHECKING)
                timer_set(h->timer, usec_add(now, h->stage == STAGE_WAITING ? LOOK_WAITING : LOOK_HELD));
}

/* --- the order --------------------------------------------------------------------------------------------------------- */

int handover_begin(struct handover *h, bool force, handover_end_fn *on_end, void *owner, const char **ret_why)
{
        _cleanup_free_ char *message = NULL;
        usec_t now = loop_now(h->loop);
        int r;

        if (h->stage != STAGE_NONE) {
                *ret_why = "an upgrade is under way already";
                return -EALREADY;
        }
        if (h->place) {
                *ret_why =
                        "the upgrade before still reads the configuration, from a disk that does not answer";
                return -EALREADY;
        }
        if (h->fleet->stopping || !h->doors) {
                *ret_why = "the supervisor stops";
                return -ESHUTDOWN;
        }
        if (fleet_gpus_are_silent(h->fleet)) {
                *ret_why = gpus_silent;
                return -EALREADY;
        }
        if (!reexec_binary()) {
                *ret_why = "it is not known which file this program was started from";
                return -ENOENT;
        }
        r = handover_check(h);
        if (r < 0) {
                message = text_format("%s could not be run: %s", reexec_binary(), strerror(-r));
                note(h, "failed", message ? message : strerror(-r));
                fleet_tell(h->fleet, LOG_ERR, "upgrade_failed", h->message);
                *ret_why = h->message;
                return r == -ENOENT || r == -EACCES || r == -ENOEXEC ? -ENOENT : r;
        }
        h->force = force;
        h->on_end = on_end;
        h->end_owner = owner;
        h->begun = now;
        h->held_at = h->give_up_at = 0;
        buffer_clear(&h->blockers);
        note(h, NULL, NULL);
        set_stage(h, STAGE_CHECKING);
        h->stage_until = usec_add(now, HANDOVER_CHECK);
        timer_set(h->timer, h->stage_until);
        log_info(NULL, "upgrade%s: asking %s", force ? " (by force)" : "", reexec_binary());
        return 0;
}

void handover_forget(struct handover *h, const void *owner)
{
        if (h->on_end && h->end_owner == owner)
                h->on_end = NULL;
}

void handover_abandon(struct handover *h)
{
        if (!h || h->stage == STAGE_NONE)
                return;
        handover_give_up(h, -ESHUTDOWN, "failed", "the supervisor stops");
}

/* --- reports --------------------------------------------------------------------------------------------------------------- */

static void put_seconds(struct json_writer *w, const char *key, usec_t span)
{
        if (span)
                json_double(w, key, (double)span / (double)USEC_PER_SEC, 3);
        else
                json_null(w, key);
}

void handover_put(const struct handover *h, struct json_writer *w)
{
        json_uint(w, "generation", h ? h->generation : 0);
        json_key(w, "upgrade");
        if (!h || !h->state) {
                json_put_null(w);
                return;
        }
        json_open_object(w);
        json_string(w, "state", h->state);
        json_string(w, "message", h->message);
        report_put_moment(w, "at", h->at);
        json_string(w, "from", h->from);
        put_seconds(w, "took", h->took);
        put_seconds(w, "held", h->held);
        json_close_object(w);
}

struct handover_counts handover_counts(const struct handover *h)
{
        return h ? (struct handover_counts){h->generation, h->n_postponed, h->n_failed}
                 : (struct handover_counts){0};
}

void handover_put_blockers(const struct handover *h, struct json_writer *w)
{
        if (h->blockers.len && !h->blockers.failed)
                json_put_raw(w, h->blockers.data, h->blockers.len);
        else
                json_put_raw(w, "[]", 2);
}

/* --- life ------------------------------------------------------------------------------------------------------------------ */

int handover_new(struct handover **ret)
{
        struct handover *h = calloc(1, sizeof(*h));
        size_t len;
        int r;

        if (!h)
                return -ENOMEM;
        h->lock = h->own_lock = h->check_output = -1;
        buffer_init(&h->blockers, 256 * 1024);
        r = inherited_new(&h->inherited);
        if (r == 0)
                r = reexec_receive(h->inherited, &h->text, &len);
        if (r == 0 && h->text)
                r = handover_read_text(h, h->text, len);
        if (r < 0) {
                (void)handover_free(h);
                return r;
        }
        *ret = h;
        return 0;
}

static void close_came(struct handover *h)
{
        for (size_t i = 0; i < h->n_came; i++)
                close_fd(&h->came[i]);
        h->n_came = 0;
}

struct handover *handover_free(struct handover *h)
{
        if (!h)
                return NULL;
        handover_stop_check(h);
        handover_forget_place(h);
        h->timer = timer_free(h->timer);
        h->inherited = inherited_free(h->inherited);
        for (size_t i = h->next_connection; i < h->n_connections; i++)
                close_fd(&h->connections[i].fd);
        close_fd(&h->lock);
        close_came(h);
        buffer_finish(&h->blockers);
        free(h->connections);
        free(h->message);
        free(h->from);
        free(h->text);
        free(h);
        return NULL;
}

bool handover_is_next(const struct handover *h)
{
        return h->is_next;
}

int handover_take_lock(struct handover *h)
{
        return steal_fd(&h->lock);
}

int handover_take_kept(struct handover *h, const char *path)
{
        struct stat there, ours;

        if (!h || stat(path, &there) < 0)
                return -1;
        for (size_t i = 0; i < h->n_came; i++)
                if (h->came[i] >= 0 && fstat(h->came[i], &ours) == 0 && ours.st_ino == there.st_ino &&
                    ours.st_dev == there.st_dev)
                        return steal_fd(&h->came[i]);
        return -1;
}

int handover_keep(struct handover *h, int fd)
{
        if (h->n_kept == HANDOVER_KEPT_MAX)
                return -ENOSPC;
        h->kept[h->n_kept++] = fd;
        return 0;
}

void handover_drop(struct handover *h, int fd)
{
        for (size_t i = 0; i < h->n_kept; i++)
                if (h->kept[i] == fd) {
                        h->kept[i] = h->kept[--h->n_kept];
                        return;
                }
}

struct inherited *handover_inherited(struct handover *h)
{
        return h->inherited;
}

bool handover_take_connection(struct handover *h, int *ret_fd, int *ret_listener, const char **ret_bytes,
                              size_t *ret_len)
{
        while (h->next_connection < h->n_connections) {
                struct handover_connection *c = h->connections + h->next_connection++;

                if (c->fd < 0)
                        continue;
                *ret_fd = steal_fd(&c->fd);
                *ret_listener = c->listener;
                *ret_bytes = c->bytes;
                *ret_len = c->len;
                return true;
        }
        return false;
}

int handover_attach(struct handover *h, struct fleet *f, int lock, fleet_load_fn *load, void *load_owner)
{
        h->fleet = f;
        h->loop = f->loop;
        h->own_lock = lock;
        h->load = load;
        h->load_owner = load_owner;
        return timer_new(f->loop, on_timer, h, &h->timer);
}

static void store_listener(void *arg, int fd, const char *name, enum inherited_from from)
{
        (void)arg;
        /* Systemd holds those of its socket units itself. */
        if (from != INHERITED_UNIT)
                notify_store(fd, name);
}

void handover_join(struct handover *h, const struct handover_doors *doors, void *owner)
{
        struct inherited_socket left;
        char at[ENDPOINT_TEXT_MAX];

        h->doors = doors;
        h->doors_owner = owner;
        while (inherited_take_any(h->inherited, &left)) {
                log_info(NULL, "%s is not listened on any more: its socket of before is closed",
                         endpoint_text(&left.at, at, sizeof(at)));
                if (left.from == INHERITED_STORE || left.from == INHERITED_EXEC)
                        notify_unstore(left.name);
                (void)close(left.fd);
        }
        if (notify_is_on())
                doors->each_listener(owner, store_listener, h);
}

void handover_leave(struct handover *h)
{
        handover_abandon(h);
        h->doors = NULL;
}

void handover_finish(struct handover *h)
{
        char took[TIME_SPAN_MAX], held[TIME_SPAN_MAX];
        _cleanup_free_ char *message = NULL;
        usec_t now = time_monotonic();

        if (!h->is_next)
                return;
        h->took = usec_sub(now, h->came_begun);
        h->held = usec_sub(now, h->came_held);
        message = text_format("version %s took over from %s in %s, held for %s", LSV_VERSION,
                              h->from ? h->from : "another one", time_span(h->took, took, sizeof(took)),
                              time_span(h->held, held, sizeof(held)));
        note(h, "done", message);
        fleet_tell(h->fleet, LOG_INFO, "upgraded", message ? message : "another version took over");
        free(h->connections);
        h->connections = NULL;
        h->n_connections = h->next_connection = 0;
        free(h->text);
        h->text = NULL;
        close_came(h); /* of hubs that are not configured any more */
}
