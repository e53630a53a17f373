/* library.c: who waits for a walk through models_dir, when one is due, and how what it found is told. */
#include "fleet/library.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/text.h"
#include "fleet/library_private.h"
#include "fleet/private.h"

struct library_wait {
        struct list node;
        library_done_fn *done;
        void *owner;
        usec_t until;
        struct library *library;
};

/* A walk under way: the pool reads `old` and writes `found`, the loop neither until it is done. */
struct scan {
        struct library *library; /* NULL: nobody wants it any more */
        char *dir;
        struct shelf *old, *found;
};

struct library {
        struct loop *loop;
        struct shelf *shelf; /* of the last walk, NULL before the first */
        struct scan *scan;
        struct list waits;
        unsigned n_waits;
        struct timer *patience;
        bool out_of_memory; /* the last walk */
};

/* --- walking --------------------------------------------------------------------------------------------------------- */

static void answer(struct library *l, struct library_wait *w, int r)
{
        library_done_fn *done = w->done;
        void *owner = w->owner;

        list_remove(&w->node);
        l->n_waits--;
        free(w);
        done(owner, r);
}

/* An answer may ask again: only those who wait now are answered. */
static void answer_all(struct library *l, int r)
{
        struct list now;

        list_init(&now);
        while (!list_is_empty(&l->waits)) {
                struct list *node = l->waits.next;

                list_remove(node);
                list_append(&now, node);
        }
        while (!list_is_empty(&now))
                answer(l, LIST_ENTRY(now.next, struct library_wait, node), r);
}

static void scan_work(void *job)
{
        struct scan *s = job;

        s->found = shelf_scan(s->dir, s->old);
}

static void scan_done(void *job)
{
        struct scan *s = job;
        struct library *l = s->library;

        if (!l) { /* the library is gone, and has left its shelf to us */
                shelf_free(s->old);
                shelf_free(s->found);
                free(s->dir);
                free(s);
                return;
        }
        l->scan = NULL;
        l->out_of_memory = !s->found;
        if (s->found) {
                shelf_free(l->shelf);
                l->shelf = s->found;
        } else {
                log_warn(NULL, "not enough memory to look through %s", s->dir);
        }
        free(s->dir);
        free(s);
        answer_all(l, l->out_of_memory ? -ENOMEM : 0);
}

static int begin_scan(struct library *l, const char *dir)
{
        struct scan *s = calloc(1, sizeof *s);
        int r = -ENOMEM;

        if (!s)
                return r;
        s->library = l;
        s->old = l->shelf;
        s->dir = strdup(dir);
        if (s->dir)
                r = loop_work(l->loop, scan_work, scan_done, s);
        if (r < 0) {
                free(s->dir);
                free(s);
                return r;
        }
        l->scan = s;
        return 0;
}

/* --- asking ------------------------------------------------------------------------------------------------------------ */

static void on_patience(void *owner, usec_t now)
{
        struct library *l = owner;

        /* In the order of their coming, so the first is the most patient. */
        while (!list_is_empty(&l->waits)) {
                struct library_wait *w = LIST_ENTRY(l->waits.next, struct library_wait, node);

                if (w->until > now) {
                        timer_set(l->patience, w->until);
                        return;
                }
                answer(l, w, -ETIMEDOUT);
        }
}

int library_ask(struct library *l, const char *dir, bool look_again, library_done_fn *done, void *owner,
                struct library_wait **ret)
{
        usec_t now = loop_now(l->loop), fresh = look_again ? LIBRARY_FRESH_ASKED : LIBRARY_FRESH;
        struct library_wait *w;
        int r;

        if (l->shelf && streq(l->shelf->dir, dir) && usec_sub(now, l->shelf->at) < fresh)
                return 1;
        if (l->n_waits == LIBRARY_WAITS_MAX)
                return -EAGAIN;
        w = calloc(1, sizeof *w);
        if (!w)
                return -ENOMEM;
        /* A walk under way may be of another folder (a reload): its answer is of what was asked for a moment ago. */
        r = l->scan ? 0 : begin_scan(l, dir);
        if (r < 0) {
                free(w);
                return r;
        }
        *w = (struct library_wait){
                .done = done, .owner = owner, .until = usec_add(now, LIBRARY_PATIENCE), .library = l};
        if (list_is_empty(&l->waits))
                timer_set(l->patience, w->until);
        list_append(&l->waits, &w->node);
        l->n_waits++;
        *ret = w;
        return 0;
}

struct library_wait *library_cancel(struct library_wait *w)
{
        if (!w)
                return NULL;
        list_remove(&w->node);
        w->library->n_waits--;
        free(w);
        return NULL;
}

int library_new(struct loop *loop, struct library **ret)
{
        struct library *l = calloc(1, sizeof *l);
        int r;

        if (!l)
                return -ENOMEM;
        l->loop = loop;
        list_init(&l->waits);
        r = timer_new(loop, on_patience, l, &l->patience);
        if (r < 0) {
                free(l);
                return r;
        }
        *ret = l;
        return 0;
}

struct library *library_free(struct library *l)
{
        if (!l)
                return NULL;
        while (!list_is_empty(&l->waits))
                (void)library_cancel(LIST_ENTRY(l->waits.next, struct library_wait, node));
        timer_free(l->patience);
        if (l->scan)
                l->scan->library = NULL; /* it frees the shelf that it reads */
        else
                shelf_free(l->shelf);
        free(l);
        return NULL;
}

struct library *fleet_library(struct fleet *f)
{
        return f->library;
}

/* --- telling ------------------------------------------------------------------------------------------------------------- */

static void put_text(struct json_writer *w, const char *key, const char *s)
{
        json_string(w, key, s && *s ? s : NULL);
}

static void put_number(struct json_writer *w, const char *key, uint64_t v)
{
        if (v)
                json_uint(w, key, v);
        else
                json_null(w, key);
}

static void put_list(struct json_writer *w, const char *key, char *const *list)
{
        json_key(w, key);
        json_open_array(w);
        for (; list && *list; list++)
                json_put_string(w, *list);
        json_close_array(w);
}

static void put_instances(struct json_writer *w, const struct fleet *f, const struct shelf_file *x)
{
        json_key(w, "instances");
        json_open_array(w);
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];
                const char *path = m->entry->model_path;

                if (!m->removed && m->entry->model_kind == CONFIG_MODEL_FILE && path &&
                    (streq(path, x->path) || streq_ptr(path, x->real)))
                        json_put_string(w, m->name);
        }
        json_close_array(w);
}

/* "small/qwen.gguf" of a header without a name is "qwen". */
static void put_name(struct json_writer *w, const struct shelf_file *x)
{
        const char *slash = strrchr(x->file, '/'), *base = slash ? slash + 1 : x->file;
        size_t n = strlen(base);

        if (x->facts.name[0]) {
                json_string(w, "name", x->facts.name);
                return;
        }
        json_key(w, "name");
        json_put_string_n(w, base, n > 5 ? n - 5 : n);
}

static void put_model(struct json_writer *w, const struct fleet *f, const struct shelf_file *x)
{
        const struct gguf *g = &x->facts;
        char text[TIME_ISO_MAX];
        bool known = !x->header_error && (g->kind == GGUF_COMPLETION || g->kind == GGUF_EMBEDDING);

        json_open_object(w);
        json_string(w, "file", x->file);
        json_string(w, "path", x->path);
        put_name(w, x);
        put_text(w, "architecture", g->architecture);
        put_number(w, "parameters", x->all_parameters);
        put_text(w, "quantization", g->quantization);
        put_number(w, "context", g->context);
        json_uint(w, "size", x->all_size);
        json_string(w, "modifiedAt",
                    x->mtime ? time_iso((usec_t)MAX(x->mtime / 1000, (int64_t)1), text, sizeof text) : NULL);
        json_string(w, "type", !known ? NULL : g->kind == GGUF_EMBEDDING ? "embedding" : "completion");
        json_bool(w, "chatTemplate", g->has_chat_template);
        json_uint(w, "parts", x->parts);
        json_string(w, "pooling", known ? gguf_pooling_name(g->pooling) : NULL);
        put_list(w, "companions", x->companions);
        put_instances(w, f, x);
        json_string(w, "error", x->error);
        json_close_object(w);
}

static bool is_companion(const struct shelf_file *x)
{
        return !x->error && (x->facts.kind == GGUF_MMPROJ || x->facts.kind == GGUF_ADAPTER);
}

static void put_companion(struct json_writer *w, const struct shelf_file *x)
{
        json_open_object(w);
        json_string(w, "file", x->file);
        json_string(w, "kind", x->facts.kind == GGUF_MMPROJ ? "mmproj" : "adapter");
        json_uint(w, "size", x->size);
        json_close_object(w);
}

void library_put(struct fleet *f, struct json_writer *w)
{
        static const struct shelf nothing;
        const struct shelf *s = f->library->shelf ? f->library->shelf : &nothing;
        char text[TIME_ISO_MAX];

        json_open_object(w);
        json_key(w, "models");
        json_open_array(w);
        for (size_t i = 0; i < s->n; i++)
                if (!s->files[i].hidden && !is_companion(s->files + i))
                        put_model(w, f, s->files + i);
        json_close_array(w);
        json_key(w, "companions");
        json_open_array(w);
        for (size_t i = 0; i < s->n; i++)
                if (is_companion(s->files + i))
                        put_companion(w, s->files + i);
        json_close_array(w);
        json_string(w, "dir", s->dir);
        json_string(w, "error", s->error);
        put_list(w, "warnings", s->warnings);
        json_string(w, "scannedAt", s->realtime ? time_iso(s->realtime, text, sizeof text) : NULL);
        json_double(w, "scanTime", (double)s->took / (double)USEC_PER_SEC, 3);
        json_close_object(w);
}
