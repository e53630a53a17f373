/* children.c: GET /metrics/instances: what the llama-servers tell of themselves (llamacpp:*), with the labels instance and model.
 *
 * Instances come and go while they are asked and taken apart: who is to be taken is noted by name when the asking is over, and looked up when
 * its turn comes, so that each is told once, under its own labels, and who went is not.
 *
 * Those that are ready are asked, FLEET_METRICS_AT_ONCE at a time; what answers in time is taken apart line by line, some instances a
 * turn, and put together by families, as both formats want it. Only families whose names begin with llamacpp: are taken, FAMILIES_MAX at
 * most, and LINES_MAX lines of each instance, so that no server can make series without end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "core/relabel.h"
#include "http/doors_private.h"
#include "http/exposition.h"
#include "http/respond.h"

enum {
        FAMILIES_MAX = 64,
        LINES_MAX = 256, /* of one instance */
        INSTANCES_A_TURN = 50,
        SLICE_BYTES = 256 * 1024,
        QUEUE_MAX = 384 * 1024,
        NAME_MAX_ = 96,
        HELP_MAX = 200,
};

static const char own_prefix[] = "llamacpp:";
static const usec_t ASK_INTERVAL = 5 * USEC_PER_MSEC, PATIENCE = 3 * USEC_PER_SEC,
                    WRITE_INTERVAL = USEC_PER_MSEC;

struct family {
        char name[NAME_MAX_], type[16], help[HELP_MAX];
        size_t first, last; /* of its lines, counted from 1; 0: none */
};

struct line {
        size_t at, len; /* in the arena */
        size_t next;    /* of the same family, counted from 1 */
};

struct children {
        struct doors *doors;
        struct request *req;
        struct timer *timer;
        enum exposition_format format;
        usec_t since, asked_until, give_up;
        char **names;             /* who is to be taken; NULL: still being asked */
        size_t n_names, instance; /* the next one */
        struct family families[FAMILIES_MAX];
        size_t n_families;
        struct line *lines;
        size_t n_lines, cap_lines;
        struct buffer arena, up; /* up: who has answered */
        size_t family, line;     /* what is written next */
        bool has_begun, has_head, failed;
};

static void children_free(struct children *c)
{
        c->doors->n_scrapes--;
        timer_free(c->timer);
        buffer_finish(&c->arena);
        buffer_finish(&c->up);
        for (size_t i = 0; i < c->n_names; i++)
                free(c->names[i]);
        free(c->names);
        free(c->lines);
        free(c);
}

static void children_gone(void *owner, struct request *req)
{
        (void)req;
        children_free(owner);
}

static void cut(struct children *c)
{
        struct request *req = c->req;
        bool begun = c->has_begun;

        request_on_gone(req, NULL, NULL);
        children_free(c);
        if (begun)
                request_abort(req);
        else
                doors_respond_error(req, 503, "not enough memory for the metrics of the instances");
}

/* --- taking ------------------------------------------------------------------------------------------------------- */

static struct family *find_family(struct children *c, struct slice name)
{
        for (size_t i = 0; i < c->n_families; i++)
                if (slice_eq_str(name, c->families[i].name))
                        return c->families + i;
        return NULL;
}

static struct family *family_of_sample(struct children *c, struct slice name)
{
        for (size_t i = 0; i < c->n_families; i++)
                if (relabel_is_of(name, slice_str(c->families[i].name), slice_str(c->families[i].type)))
                        return c->families + i;
        return NULL;
}

static void copy(char *to, size_t size, struct slice from)
{
        size_t n = MIN(from.n, size - 1);

        if (n)
                memcpy(to, from.p, n);
        to[n] = '\0';
}

static void take_comment(struct children *c, const struct relabel_line *line)
{
        static const char *const types[] = {"counter", "gauge", "histogram", "summary"};
        struct family *f = find_family(c, line->name);

        if (!f) {
                if (c->n_families == FAMILIES_MAX || line->name.n >= NAME_MAX_ ||
                    !slice_starts_with(line->name, slice_str(own_prefix)))
                        return;
                f = c->families + c->n_families++;
                *f = (struct family){.type = "untyped"};
                copy(f->name, sizeof(f->name), line->name);
        }
        if (line->kind == RELABEL_HELP && !f->help[0])
                copy(f->help, sizeof(f->help), line->text);
        if (line->kind == RELABEL_TYPE && streq(f->type, "untyped"))
                for (size_t i = 0; i < ARRAY_SIZE(types); i++)
                        if (slice_eq_str(line->text, types[i]))
                                copy(f->type, sizeof(f->type), line->text);
}

static void take_sample(struct children *c, const struct relabel_line *line, struct slice ours)
{
        struct family *f = family_of_sample(c, line->name);
        size_t at = c->arena.len;

        if (!f || !relabel_put(&c->arena, line, ours))
                return;
        if (c->n_lines == c->cap_lines) {
                size_t cap = MAX(c->cap_lines * 2, (size_t)256);
                struct line *more = reallocarray(c->lines, cap, sizeof(*more));

                if (!more) {
                        c->failed = true;
                        return;
                }
                c->lines = more;
                c->cap_lines = cap;
        }
        c->lines[c->n_lines++] = (struct line){.at = at, .len = c->arena.len - at};
        if (f->last)
                c->lines[f->last - 1].next = c->n_lines;
        else
                f->first = c->n_lines;
        f->last = c->n_lines;
}

static void note_names(struct children *c)
{
        struct fleet *f = c->doors->fleet;
        size_t n = fleet_count(f);

        c->names = calloc(MAX(n, (size_t)1), sizeof(*c->names));
        for (size_t i = 0; c->names && i < n; i++) {
                c->names[i] = strdup(fleet_brief(f, i).instance);
                c->n_names += c->names[i] != NULL;
                if (!c->names[i])
                        break;
        }
        c->failed = !c->names || c->n_names < n;
}

static void take_instance(struct children *c, const char *name)
{
        const struct report *r = fleet_find(c->doors->fleet, name);
        _cleanup_buffer_ struct buffer labels = {0};
        struct relabel_line line;
        struct slice text;
        int e = fleet_metrics_of(c->doors->fleet, name, c->since, &text);

        if (e == -ENOTCONN || e == -ENOENT || !r)
                return;
        buffer_init(&labels, 0);
        (void)buffer_puts(&labels, "instance=\"");
        exposition_put_label_value(&labels, r->instance);
        (void)buffer_puts(&labels, "\",model=\"");
        exposition_put_label_value(&labels, r->model);
        (void)buffer_putc(&labels, '"');
        c->failed = c->failed || labels.failed;
        exposition_put_series(&c->up, EXPOSITION_PREFIX "instance_metrics_told", "", labels.data, labels.len,
                              NULL, NULL);
        (void)buffer_puts(&c->up, e == 0 ? "1\n" : "0\n");
        for (unsigned n = 0; e == 0 && n < LINES_MAX && relabel_next(&text, &line); n++)
                if (line.kind == RELABEL_SAMPLE)
                        take_sample(c, &line, (struct slice){labels.data, labels.len});
                else
                        take_comment(c, &line);
}

/* --- telling ------------------------------------------------------------------------------------------------------- */

static bool write_more(struct children *c, struct buffer *out)
{
        if (!c->has_head) {
                exposition_put_head(out, c->format, EXPOSITION_PREFIX "instance_metrics_told", "gauge",
                                    "1 when the instance told its own metrics, 0 when it did not.");
                (void)buffer_append(out, c->up.data, c->up.len);
                c->has_head = true;
        }
        while (c->family < c->n_families && out->len < SLICE_BYTES) {
                const struct family *f = c->families + c->family;

                if (!c->line && f->first) {
                        exposition_put_head(out, c->format, f->name, f->type,
                                            f->help[0] ? f->help : "As the instance tells.");
                        c->line = f->first;
                }
                while (c->line && out->len < SLICE_BYTES) {
                        const struct line *l = c->lines + c->line - 1;

                        (void)buffer_append(out, c->arena.data + l->at, l->len);
                        c->line = l->next;
                }
                if (!c->line)
                        c->family++;
        }
        if (c->family < c->n_families)
                return true;
        if (c->format == EXPOSITION_OPENMETRICS)
                (void)buffer_puts(out, "# EOF\n");
        return false;
}

static void on_write(struct children *c, usec_t now)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct request *req = c->req;
        bool more;

        if (now >= c->give_up) {
                c->doors->counts.scrapes_cut++;
                cut(c);
                return;
        }
        if (!c->has_begun)
                respond_begin(req, 200, exposition_content_type(c->format), "Vary: Accept\r\n");
        c->has_begun = true;
        timer_set(c->timer, usec_add(now, WRITE_INTERVAL));
        if (request_queued(req) > QUEUE_MAX)
                return;
        buffer_init(&b, 0);
        more = write_more(c, &b);
        if (b.failed || request_write(req, b.data, b.len) < 0) {
                cut(c);
                return;
        }
        if (more)
                return;
        request_on_gone(req, NULL, NULL);
        children_free(c);
        request_end(req);
}

static void on_timer(void *owner, usec_t now)
{
        struct children *c = owner;
        struct fleet *f = c->doors->fleet;

        if (c->asked_until) {
                if (now < c->asked_until && fleet_ask_metrics(f, c->since) > 0) {
                        timer_set(c->timer, usec_add(now, ASK_INTERVAL));
                        return;
                }
                c->asked_until = 0;
                note_names(c);
        }
        for (unsigned n = 0; n < INSTANCES_A_TURN && c->instance < c->n_names; n++)
                take_instance(c, c->names[c->instance++]);
        if (c->failed || c->arena.failed || c->up.failed)
                cut(c);
        else if (c->instance < c->n_names)
                timer_set(c->timer, now);
        else
                on_write(c, now);
}

void children_handle(struct call *call)
{
        struct doors *d = call->doors;
        struct children *c;

        if (d->n_scrapes >= DOORS_SCRAPES_MAX + (call->control ? DOORS_CONTROL_SCRAPES_EXTRA : 0)) {
                d->counts.busy++;
                respond_error_with(call->req, 503, NULL, "Retry-After: 1\r\n",
                                   "too many scrapes run at once");
                return;
        }
        c = calloc(1, sizeof(*c));
        if (!c || timer_new(d->loop, on_timer, c, &c->timer) < 0) {
                free(c);
                doors_respond_error(call->req, 503, "not enough memory for the metrics of the instances");
                return;
        }
        c->doors = d;
        c->req = call->req;
        c->format = exposition_wanted(call->req);
        c->since = loop_now(d->loop);
        c->asked_until = usec_add(c->since, PATIENCE);
        c->give_up = usec_add(c->asked_until, d->scrape_deadline);
        buffer_init(&c->arena, 0);
        buffer_init(&c->up, 0);
        d->n_scrapes++;
        request_on_gone(call->req, children_gone, c);
        (void)fleet_ask_metrics(d->fleet, c->since);
        timer_set(c->timer, usec_add(c->since, ASK_INTERVAL));
}
