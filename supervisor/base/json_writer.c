/* json_writer.c: JSON out. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "base/text.h"

void json_begin(struct json_writer *w, struct buffer *out)
{
        *w = (struct json_writer){.out = out};
}

static void before_value(struct json_writer *w)
{
        if (w->need_comma)
                (void)buffer_putc(w->out, ',');
        w->need_comma = true;
}

static void open_with(struct json_writer *w, char c)
{
        before_value(w);
        (void)buffer_putc(w->out, c);
        w->need_comma = false;
}

static void close_with(struct json_writer *w, char c)
{
        (void)buffer_putc(w->out, c);
        w->need_comma = true;
}

void json_open_object(struct json_writer *w)
{
        open_with(w, '{');
}

void json_close_object(struct json_writer *w)
{
        close_with(w, '}');
}

void json_open_array(struct json_writer *w)
{
        open_with(w, '[');
}

void json_close_array(struct json_writer *w)
{
        close_with(w, ']');
}

static void put_quoted(struct json_writer *w, const char *text, size_t len)
{
        const unsigned char *s = (const unsigned char *)text;
        size_t plain = 0, n;

        (void)buffer_putc(w->out, '"');
        for (size_t i = 0; i < len;) {
                n = text_utf8_sequence(s + i, len - i);
                bool c1 = n == 2 && s[i] == 0xc2 && s[i + 1] < 0xa0; /* a terminal may obey it */

                if (n && !c1 && s[i] >= 0x20 && s[i] != '"' && s[i] != '\\' && s[i] != 0x7f) {
                        i += n;
                        continue;
                }
                (void)buffer_append(w->out, text + plain, i - plain);
                if (n == 0)
                        (void)buffer_puts(w->out, "\xef\xbf\xbd");
                else if (c1)
                        (void)buffer_printf(w->out, "\\u%04x", s[++i]);
                else if (s[i] == '"' || s[i] == '\\')
                        (void)buffer_printf(w->out, "\\%c", s[i]);
                else if (s[i] == '\n')
                        (void)buffer_puts(w->out, "\\n");
                else if (s[i] == '\t')
                        (void)buffer_puts(w->out, "\\t");
                else
                        (void)buffer_printf(w->out, "\\u%04x", s[i]);
                plain = ++i;
        }
        (void)buffer_append(w->out, text + plain, len - plain);
        (void)buffer_putc(w->out, '"');
}

void json_key(struct json_writer *w, const char *key)
{
        before_value(w);
        put_quoted(w, key, strlen(key));
        (void)buffer_putc(w->out, ':');
        w->need_comma = false;
}

void json_put_string_n(struct json_writer *w, const char *s, size_t len)
{
        before_value(w);
        put_quoted(w, s, len);
}

void json_put_string(struct json_writer *w, const char *s)
{
        if (s)
                json_put_string_n(w, s, strlen(s));
        else
                json_put_null(w);
}

void json_put_int(struct json_writer *w, int64_t v)
{
        before_value(w);
        (void)buffer_printf(w->out, "%" PRId64, v);
}

void json_put_uint(struct json_writer *w, uint64_t v)
{
        before_value(w);
        (void)buffer_printf(w->out, "%" PRIu64, v);
}

void json_put_double(struct json_writer *w, double v, int decimals)
{
        before_value(w);
        if (isfinite(v))
                (void)buffer_printf(w->out, "%.*f", decimals, v);
        else
                (void)buffer_puts(w->out, "null");
}

void json_put_bool(struct json_writer *w, bool v)
{
        before_value(w);
        (void)buffer_puts(w->out, v ? "true" : "false");
}

void json_put_null(struct json_writer *w)
{
        before_value(w);
        (void)buffer_puts(w->out, "null");
}

void json_put_raw(struct json_writer *w, const char *json, size_t len)
{
        before_value(w);
        (void)buffer_append(w->out, json, len);
}

void json_string(struct json_writer *w, const char *key, const char *s)
{
        json_key(w, key);
        json_put_string(w, s);
}

void json_int(struct json_writer *w, const char *key, int64_t v)
{
        json_key(w, key);
        json_put_int(w, v);
}

void json_uint(struct json_writer *w, const char *key, uint64_t v)
{
        json_key(w, key);
        json_put_uint(w, v);
}

void json_double(struct json_writer *w, const char *key, double v, int decimals)
{
        json_key(w, key);
        json_put_double(w, v, decimals);
}

void json_bool(struct json_writer *w, const char *key, bool v)
{
        json_key(w, key);
        json_put_bool(w, v);
}

void json_null(struct json_writer *w, const char *key)
{
        json_key(w, key);
        json_put_null(w);
}
