/* config_json.c: an object of the user's own, which we hand on and do not read. It is written again without comments and white
 * space, with its variables expanded, and so is the same text however it was laid out. */
#include "core/config_internal.h"

#include <math.h>
#include <stdio.h>

#include "base/text.h"

static bool write_value(struct config_load *l, struct config_spot at, const struct config_key *key,
                        struct json_writer *w);

static const struct json_token *token_of(struct config_spot at)
{
        return at.doc->scan.tokens + at.token;
}

static const char *shown(const char *s, char buf[80])
{
        (void)snprintf(buf, 80, "%s", s);
        (void)text_harmless(buf);
        return buf;
}

/* One member, `e` its key. */
static bool write_member(struct config_load *l, struct config_spot e, const struct config_key *key,
                         struct json_writer *w)
{
        struct config_spot value = {e.doc, e.token + 1};
        _cleanup_free_ char *name = malloc(token_of(e)->end - token_of(e)->start);
        const char *why;
        char buf[80];
        size_t back;
        bool good;

        if (!name) {
                l->failed_memory = true;
                return false;
        }
        (void)json_scan_string(&e.doc->scan, e.token, name);
        why = key && key->check ? key->check(name) : NULL;
        if (why) {
                config_error(l, e, "\"%s\" %s", shown(name, buf), why);
                return false;
        }
        json_key(w, name);
        back = config_path_add(l, ".%s", shown(name, buf));
        good = write_value(l, value, NULL, w);
        config_path_back(l, back);
        return good;
}

/* key: of the row, for the outermost object only. */
static bool write_object(struct config_load *l, struct config_spot at, const struct config_key *key,
                         struct json_writer *w)
{
        struct config_spot e = {at.doc, at.token + 1};
        char spot[CONFIG_SPOT_MAX];
        size_t first, second;
        bool good = true;

        if (json_scan_duplicate(&at.doc->scan, at.token, &first, &second)) {
                struct config_spot one = {at.doc, (uint32_t)first}, two = {at.doc, (uint32_t)second};

                config_error(l, two, "key given twice, first at %s",
                             config_spot_text(&one, spot, sizeof spot));
                return false;
        }
        json_open_object(w);
        for (uint32_t i = 0; i < token_of(at)->count; i++) {
                good &= write_member(l, e, key, w);
                e.token = at.doc->scan.tokens[e.token + 1].next;
        }
        json_close_object(w);
        return good;
}

static bool write_array(struct config_load *l, struct config_spot at, struct json_writer *w)
{
        struct config_spot e = {at.doc, at.token + 1};
        bool good = true;

        json_open_array(w);
        for (uint32_t i = 0; i < token_of(at)->count; i++, e.token = token_of(e)->next) {
                size_t back = config_path_add(l, "[%u]", i);

                good &= write_value(l, e, NULL, w);
                config_path_back(l, back);
        }
        json_close_array(w);
        return good;
}

/* As deep as the scanner lets it be (JSON_DEPTH_MAX). */
static bool write_value(struct config_load *l, struct config_spot at, const struct config_key *key,
                        struct json_writer *w)
{
        const struct json_token *t = token_of(at);
        _cleanup_free_ char *s = NULL;

        switch (t->type) {
        case JSON_OBJECT:
                return write_object(l, at, key, w);
        case JSON_ARRAY:
                return write_array(l, at, w);
        case JSON_STRING:
                s = config_take_string(l, at, "");
                if (!s)
                        return false;
                json_put_string(w, s);
                return true;
        case JSON_NUMBER:
                /* llama-server refuses a whole request for a number that does not fit into a double. */
                if (!isfinite(config_take_number(at))) {
                        config_error(l, at, "is too long or too large for a number");
                        return false;
                }
                break;
        case JSON_TRUE:
        case JSON_FALSE:
        case JSON_NULL:
                break;
        }
        json_put_raw(w, at.doc->text + t->start, t->end - t->start);
        return true;
}

bool config_json_set(struct config_load *l, struct config_spot at, const struct config_key *key, void *base)
{
        char **place = CONFIG_FIELD(char *, base, key->offset), max[CONFIG_NUMBER_MAX];
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;

        buffer_init(&text, (size_t)key->max);
        json_begin(&w, &text);
        if (token_of(at)->type != JSON_OBJECT) {
                config_error(l, at, "expected an object");
                return false;
        }
        if (token_of(at)->count == 0)
                return true; /* as if it were not there */
        if (!write_value(l, at, key, &w))
                return false;
        if (text.failed) {
                config_error(l, at, "is longer than %s",
                             config_size_text((uint64_t)key->max, max, sizeof max));
                return false;
        }
        *place = buffer_steal(&text);
        if (!*place)
                l->failed_memory = true;
        return *place;
}
