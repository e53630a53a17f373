/* fuzz_peek.c: bodies as strangers send them, against the strict scanner: whatever that one takes, peek takes, and both find the same
 * members; what peek makes of it is JSON again. Input: names to strip (separated by spaces), a newline, an object to set or nothing,
 * a newline, a body. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_scan.h"
#include "base/text.h"
#include "core/peek.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The last member of this name as the strict scanner knows it; NULL: none. */
static const struct json_token *find(const struct json_scan *s, const char *name)
{
        const struct json_token *found = NULL;
        size_t at = 1;

        for (uint32_t i = 0; i < s->tokens[0].count; i++) {
                const struct json_token *key = s->tokens + at;
                _cleanup_free_ char *text = malloc(key->end - key->start);

                if (!text)
                        abort();
                (void)json_scan_string(s, at, text);
                if (streq(text, name))
                        found = s->tokens + key->next;
                at = s->tokens[key->next].next;
        }
        return found;
}

static void compare(const struct peek *p, const struct json_scan *s)
{
        if (p->members != s->tokens[0].count)
                abort();
        for (unsigned k = 0; k < PEEK_KEYS; k++) {
                const struct json_token *t = find(s, peek_key_name(k));

                if (!t != (p->values[k].type == PEEK_ABSENT))
                        abort();
                if (t && (t->start != p->values[k].begin || t->end != p->values[k].end))
                        abort();
        }
}

static void check_edit(const struct peek *p, char **strip, const char *set, bool valid)
{
        const struct peek_edit edit = {PEEK_BIT(PEEK_ENSEMBLE) | PEEK_BIT(PEEK_PRIORITY), strip, set};
        struct peek_pieces pieces;
        struct peek_error e;
        struct json_error je;
        struct peek again;
        char *all, *at;

        if (peek_splice(p, &edit, &pieces) < 0)
                return;
        all = at = malloc(pieces.len + 1);
        if (!all)
                abort();
        for (unsigned i = 0; i < pieces.n; i++)
                at = mempcpy(at, pieces.iov[i].iov_base, pieces.iov[i].iov_len);
        if ((size_t)(at - all) != pieces.len)
                abort();
        if (valid && (!set || json_check(set, strlen(set), NULL) == 0) &&
            json_check(all, pieces.len, &je) < 0)
                abort();
        if (!set && (peek_scan((struct slice){all, pieces.len}, &again, &e) < 0 ||
                     again.values[PEEK_ENSEMBLE].type != PEEK_ABSENT ||
                     again.values[PEEK_PRIORITY].type != PEEK_ABSENT))
                abort();
        free(all);
        peek_pieces_finish(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct slice all = {(const char *)data, size};
        size_t a = slice_find(all, '\n'), b = a + 1 + slice_find(slice_sub(all, a + 1, size), '\n');
        struct slice body = slice_sub(all, b + 1, size);
        _cleanup_free_ char *names = slice_dup(slice_sub(all, 0, a)),
                            *set = slice_dup(slice_sub(all, a + 1, b));
        char *strip[9] = {NULL}, *save = NULL, buf[64];
        struct json_scan strict = {0};
        struct peek_error e = {0};
        struct peek p;
        uint64_t n;
        bool valid;
        int r;

        for (size_t i = 0; i < 8 && (strip[i] = strtok_r(i ? NULL : names, " ", &save)); i++)
                ;
        valid = json_scan(&strict, body.p, body.n, 0, 100000, NULL) == 0;
        r = peek_scan(body, &p, &e);
        if (r < 0 ? !e.message || e.offset > body.n : e.message != NULL)
                abort();
        if (valid && strict.tokens[0].type == JSON_OBJECT && strict.tokens[0].count <= PEEK_MEMBERS_MAX) {
                if (r < 0)
                        abort();
                compare(&p, &strict);
        }
        if (r == 0) {
                for (unsigned k = 0; k < PEEK_KEYS; k++) {
                        (void)peek_string(&p, k, buf, sizeof(buf));
                        (void)peek_uint(&p, k, UINT64_MAX, &n);
                        if (peek_raw(&p, k).n > body.n)
                                abort();
                }
                (void)peek_affinity(&p);
                check_edit(&p, strip, set && set[0] ? set : NULL, valid);
        }
        json_scan_finish(&strict);
        return 0;
}
