/* peek_splice.c: the body as it is forwarded: runs of what came, without what goes, with what is set. */
#include <errno.h>

#include "core/peek_internal.h"

enum { PIECES_MAX = 32 }; /* more are copied into one */

/* Names of members that go: those of the caller's list, and decoded copies of those in edit.set. */
struct dropped {
        const struct peek_edit *edit;
        char **set;
        size_t n_set;
        struct slice set_members; /* what stands between set's brackets */
};

static void dropped_finish(struct dropped *d)
{
        for (size_t i = 0; i < d->n_set; i++)
                free(d->set[i]);
        free(d->set);
}

static int dropped_init(struct dropped *d, const struct peek_edit *edit)
{
        struct slice set = slice_str(edit->set);
        struct peek_cursor c = {.text = set.p, .len = set.n};
        struct peek_member m;
        size_t n, begin = 0, end = 0;
        int r;

        *d = (struct dropped){.edit = edit};
        if (!edit->set)
                return 0;
        peek_skip_space(&c);
        if (peek_look(&c) != '{')
                return -EBADMSG;
        c.at++;
        while ((r = peek_next(&c, d->n_set == 0, &m)) > 0) {
                char **more = reallocarray(d->set, d->n_set + 1, sizeof(*more));

                if (!more)
                        return -ENOMEM;
                d->set = more;
                r = peek_decode(m.key, d->set + d->n_set, &n);
                if (r < 0)
                        return r == -ENOMEM ? r : -EBADMSG;
                if (d->n_set++ == 0)
                        begin = m.begin;
                end = m.value.end;
        }
        d->set_members = slice_sub(set, begin, end);
        return r;
}

/* 1: it goes, 0: it stays, -ENOMEM. */
static int dropped_has(const struct dropped *d, struct slice raw)
{
        _cleanup_free_ char *decoded = NULL;
        struct slice name = raw;
        enum peek_key key;

        if (peek_has_escape(raw)) {
                int r = peek_decode(raw, &decoded, &name.n);

                if (r < 0)
                        return r == -ENOMEM ? r : 0;
                name.p = decoded;
        }
        key = peek_key_of(name);
        if (key < PEEK_KEYS && d->edit->drop & PEEK_BIT(key))
                return 1;
        for (char *const *s = d->edit->strip; s && *s; s++)
                if (slice_eq_str(name, *s))
                        return 1;
        for (size_t i = 0; i < d->n_set; i++)
                if (slice_eq_str(name, d->set[i]))
                        return 1;
        return 0;
}

static bool changes_nothing(const struct peek *p, const struct peek_edit *edit)
{
        if (edit->set || (edit->strip && edit->strip[0]))
                return false;
        for (unsigned i = 0; i < PEEK_KEYS; i++)
                if (edit->drop & PEEK_BIT(i) && p->values[i].type != PEEK_ABSENT)
                        return false;
        return true;
}

static void put_piece(struct peek_pieces *out, struct slice s)
{
        if (!s.n)
                return;
        out->iov[out->n++] = (struct iovec){(void *)s.p, s.n};
        out->len += s.n;
}

/* A run of members that stay next to each other goes as one piece. */
static void put_run(struct peek_pieces *out, struct slice run, bool *any)
{
        if (!run.n)
                return;
        if (*any)
                put_piece(out, SLICE(","));
        *any = true;
        put_piece(out, run);
}

static int splice_members(const struct peek *p, const struct dropped *d, struct peek_pieces *out)
{
        struct peek_cursor c = {.text = p->text.p, .len = p->text.n};
        size_t run = 0, run_end = 0;
        bool any = false, first = true;
        struct peek_member m;
        int r;

        peek_skip_space(&c);
        c.at++;
        put_piece(out, SLICE("{"));
        put_run(out, d->set_members, &any);
        for (; (r = peek_next(&c, first, &m)) > 0; first = false) {
                int goes = dropped_has(d, m.key);

                if (goes < 0)
                        return goes;
                if (goes) {
                        put_run(out, slice_sub(p->text, run, run_end), &any);
                        run = run_end = 0;
                        continue;
                }
                if (run_end == 0)
                        run = m.begin;
                run_end = m.value.end;
        }
        put_run(out, slice_sub(p->text, run, run_end), &any);
        put_piece(out, SLICE("}"));
        return r;
}

/* Many small pieces cost a writer more than one copy. */
static int flatten(struct peek_pieces *out)
{
        char *all = malloc(out->len), *at = all;

        if (!all)
                return -ENOMEM;
        for (unsigned i = 0; i < out->n; i++)
                at = mempcpy(at, out->iov[i].iov_base, out->iov[i].iov_len);
        free(out->memory);
        out->memory = all;
        out->one = (struct iovec){all, out->len};
        out->iov = &out->one;
        out->n = 1;
        return 0;
}

int peek_splice(const struct peek *p, const struct peek_edit *edit, struct peek_pieces *ret)
{
        _cleanup_(dropped_finish) struct dropped d = {0};
        int r;

        *ret = (struct peek_pieces){.n = 1, .len = p->text.n, .one = {(void *)p->text.p, p->text.n}};
        ret->iov = &ret->one;
        if (changes_nothing(p, edit))
                return 0;
        ret->n = 0;
        ret->len = 0;
        r = dropped_init(&d, edit);
        if (r < 0)
                return r;
        /* Each member that goes may end a run: a run and a comma for each, the brackets, and what is set. */
        ret->memory = reallocarray(NULL, 2 * (p->members + 1U) + 4, sizeof(*ret->iov));
        ret->iov = ret->memory;
        if (!ret->memory)
                return -ENOMEM;
        r = splice_members(p, &d, ret);
        if (r == 0 && ret->n > PIECES_MAX)
                r = flatten(ret);
        if (r < 0)
                peek_pieces_finish(ret);
        return r;
}

size_t peek_pieces_copied(const struct peek_pieces *p)
{
        return p->memory && p->memory == p->one.iov_base ? p->len : 0;
}

void peek_pieces_finish(struct peek_pieces *p)
{
        free(p->memory);
        *p = (struct peek_pieces){0};
}
