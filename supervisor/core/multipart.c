/* multipart.c: delimiters, the head of a part, and the parameters of its Content-Disposition. */
#include "core/multipart.h"

#include <errno.h>

#include "core/http1.h"
#include "core/http1_build.h"

/* --- parameters: ; name=token ; name="quoted" ---------------------------------------------------------------------- */

struct param {
        struct slice name, value; /* value: as between its quotes */
        bool escaped;             /* there are backslashes in it */
};

/* 1: *ret is the next one; 0: there is none; -EINVAL. */
static int next_param(struct slice *rest, struct param *ret)
{
        struct slice s = slice_trim(*rest);
        struct param p = {0};
        size_t n;

        if (!s.n) {
                *rest = s;
                return 0;
        }
        if (s.p[0] != ';')
                return -EINVAL;
        s = slice_trim(slice_sub(s, 1, s.n));
        n = slice_find(s, '=');
        p.name = slice_sub(s, 0, n);
        if (n == s.n || !http1_is_token(p.name))
                return -EINVAL;
        s = slice_sub(s, n + 1, s.n);
        if (s.n && s.p[0] == '"') {
                for (n = 1; n < s.n && s.p[n] != '"'; n++)
                        if (s.p[n] == '\\') {
                                p.escaped = true;
                                n++;
                        }
                if (n >= s.n)
                        return -EINVAL;
                p.value = slice_sub(s, 1, n);
                n++;
        } else {
                for (n = 0; n < s.n && s.p[n] != ';' && s.p[n] != ' ' && s.p[n] != '\t'; n++)
                        ;
                p.value = slice_sub(s, 0, n);
                if (!http1_is_token(p.value))
                        return -EINVAL;
        }
        *rest = slice_sub(s, n, s.n);
        *ret = p;
        return 1;
}

static bool is_boundary(struct slice s)
{
        if (s.n < 1 || s.n > MULTIPART_BOUNDARY_MAX || s.p[s.n - 1] == ' ')
                return false;
        for (size_t i = 0; i < s.n; i++) {
                char c = s.p[i];

                if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) &&
                    (c == '\0' || !strchr("'()+_,-./:=? ", c)))
                        return false;
        }
        return true;
}

int multipart_boundary(struct slice content_type, struct slice *ret)
{
        size_t n = slice_find(content_type, ';');
        struct slice rest = slice_sub(content_type, n, content_type.n), found = {0};
        struct param p;
        int r;

        if (!slice_eq_nocase(slice_trim(slice_sub(content_type, 0, n)), SLICE("multipart/form-data")))
                return -ENOENT;
        while ((r = next_param(&rest, &p)) > 0) {
                if (!slice_eq_nocase(p.name, SLICE("boundary")))
                        continue;
                if (found.p || p.escaped)
                        return -EINVAL;
                found = p.value;
        }
        if (r < 0 || !found.p || !is_boundary(found))
                return -EINVAL;
        *ret = found;
        return 0;
}

/* --- the walk -------------------------------------------------------------------------------------------------------- */

static int fail(struct multipart *m, const char *why)
{
        m->error = why;
        return -EBADMSG;
}

void multipart_init(struct multipart *m, struct slice body, struct slice boundary)
{
        *m = (struct multipart){.rest = body};
        memcpy(m->delimiter, "\r\n--", 4);
        boundary.n = MIN(boundary.n, (size_t)MULTIPART_BOUNDARY_MAX);
        memcpy(m->delimiter + 4, boundary.p, boundary.n);
        m->delimiter_len = 4 + boundary.n;
}

static bool take(struct slice *s, struct slice what)
{
        if (!slice_starts_with(*s, what))
                return false;
        *s = slice_sub(*s, what.n, s->n);
        return true;
}

/* Behind a delimiter. 1: a part follows, 0: the body ends here. */
static int after_delimiter(struct multipart *m)
{
        if (take(&m->rest, SLICE("\r\n")))
                return 1;
        if (!take(&m->rest, SLICE("--")))
                return fail(m, "a boundary in the middle of a line");
        (void)take(&m->rest, SLICE("\r\n"));
        m->ended = true;
        return m->rest.n ? fail(m, "something follows the last boundary") : 0;
}

static int read_disposition(struct multipart *m, struct slice value, struct multipart_part *part)
{
        size_t n = slice_find(value, ';');
        struct slice rest = slice_sub(value, n, value.n);
        struct param p;
        int r;

        if (part->name.p)
                return fail(m, "a part with two names");
        if (!slice_eq_nocase(slice_trim(slice_sub(value, 0, n)), SLICE("form-data")))
                return fail(m, "a part that is no form-data");
        while ((r = next_param(&rest, &p)) > 0) {
                if (slice_eq_nocase(p.name, SLICE("filename")) || slice_eq_nocase(p.name, SLICE("filename*")))
                        part->is_file = true;
                if (slice_eq_nocase(p.name, SLICE("name*")))
                        return fail(m, "a name in an extended form");
                if (!slice_eq_nocase(p.name, SLICE("name")))
                        continue;
                if (part->name.p)
                        return fail(m, "a part with two names");
                if (p.escaped)
                        return fail(m, "a name with escapes");
                part->name = p.value;
        }
        return r < 0 ? fail(m, "a Content-Disposition that is malformed") : 0;
}

/* The header lines up to the empty one. */
static int read_head(struct multipart *m, struct multipart_part *part)
{
        size_t begin = m->rest.n;
        int r;

        for (;;) {
                const char *end =
                        m->rest.n
                                ? memmem(m->rest.p, MIN(m->rest.n, (size_t)MULTIPART_HEAD_MAX + 2), "\r\n", 2)
                                : NULL;
                struct slice line, name, value;

                if (!end || begin - m->rest.n > MULTIPART_HEAD_MAX)
                        return fail(m, "the head of a part does not end, or is too long");
                line = slice_sub(m->rest, 0, (size_t)(end - m->rest.p));
                m->rest = slice_sub(m->rest, line.n + 2, m->rest.n);
                if (!line.n)
                        return part->name.p ? 0 : fail(m, "a part without a name");
                name = slice_sub(line, 0, slice_find(line, ':'));
                if (name.n == line.n || !http1_is_token(name))
                        return fail(m, "a malformed header line in a part");
                value = slice_trim(slice_sub(line, name.n + 1, line.n));
                if (!http1_is_field_value(value))
                        return fail(m, "a malformed header line in a part");
                if (!slice_eq_nocase(name, SLICE("content-disposition")))
                        continue;
                r = read_disposition(m, value, part);
                if (r < 0)
                        return r;
        }
}

int multipart_next(struct multipart *m, struct multipart_part *ret)
{
        struct multipart_part part = {0};
        const char *end;
        int r;

        if (m->error)
                return -EBADMSG;
        if (m->ended)
                return 0;
        if (m->parts == 0) {
                /* The first delimiter has no line end of its own in front. */
                if (!take(&m->rest, (struct slice){m->delimiter + 2, m->delimiter_len - 2}))
                        return fail(m, "it does not begin with its boundary");
                r = after_delimiter(m);
                if (r <= 0)
                        return r;
        }
        if (m->parts++ == MULTIPART_PARTS_MAX)
                return fail(m, "too many parts");
        r = read_head(m, &part);
        if (r < 0)
                return r;
        end = m->rest.n ? memmem(m->rest.p, m->rest.n, m->delimiter, m->delimiter_len) : NULL;
        if (!end)
                return fail(m, "a part that does not end with the boundary");
        part.data = slice_sub(m->rest, 0, (size_t)(end - m->rest.p));
        m->rest = slice_sub(m->rest, part.data.n + m->delimiter_len, m->rest.n);
        r = after_delimiter(m);
        if (r < 0)
                return r;
        *ret = part;
        return 1;
}
