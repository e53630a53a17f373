/* fuzz_json.c: what the strict check lets pass, json-c reads; what json-c prints, the check lets pass. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/json_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tokens(const struct json_scan *s, size_t len)
{
        char *out = malloc(len + 1);

        for (size_t i = 0; i < s->count && out; i++) {
                const struct json_token *t = s->tokens + i;

                if (t->start >= t->end || t->end > len || t->next <= i || t->next > s->count)
                        abort();
                if (t->type == JSON_STRING && json_scan_string(s, i, out) > t->end - t->start - 2)
                        abort();
        }
        free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const char *text = (const char *)data;
        struct json_error e = {0}, f = {0};
        struct json_value *v;
        struct json_scan scan;
        int r = json_check(text, size, &e), q;
        char *printed;

        q = json_scan(&scan, text, size, 0, SIZE_MAX, &f);
        if (r != q || e.offset != f.offset || e.offset > size)
                abort();
        if (q == 0)
                check_tokens(&scan, size);
        json_scan_finish(&scan);
        if (json_scan(&scan, text, size, JSON_SCAN_COMMENTS | JSON_SCAN_DUPLICATES, 10000, &f) == 0)
                check_tokens(&scan, size);
        json_scan_finish(&scan);
        if (r < 0)
                return 0;
        if (json_parse(text, size, &v, NULL) < 0)
                abort();
        printed = json_print(v, false);
        /* json-c prints 1e999 as Infinity: the one way in which it does not keep to the grammar. */
        if (printed && !strstr(printed, "Infinity") && json_check(printed, strlen(printed), NULL) < 0)
                abort();
        free(printed);
        json_free(v);
        return 0;
}
