/* web.c: the door /web/: modules and styles of the page, kept by browsers for as long as they like. */
#include "http/web.h"

#include <stdio.h>

#include "base/text.h"
#include "http/doors_private.h"
#include "http/respond.h"

enum { ETAG_MAX = 40, HEADERS_MAX = DOORS_CORS_MAX + 512 };

/* Nothing of it is a page; whoever opens it as one gets no rights. */
#define WEB_HEADERS                                                                                          \
        "X-Content-Type-Options: nosniff\r\n"                                                                \
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n" \
        "Vary: Accept-Encoding\r\n"
#define KEEP_FOR_EVER "Cache-Control: public, max-age=31536000, immutable\r\n"
#define KEEP_AND_ASK  "Cache-Control: no-cache\r\n"

static const struct web_file *find(const char *name)
{
        for (const struct web_file *f = web_files; f->name; f++)
                if (streq(f->name, name))
                        return f;
        return NULL;
}

/* One element of Accept-Encoding: is it gzip (or anything), and is it not forbidden by a weight of 0? */
static bool element_takes_gzip(struct slice item, bool *ret_any)
{
        const char *semicolon = item.n ? memchr(item.p, ';', item.n) : NULL;
        struct slice coding =
                slice_trim(semicolon ? (struct slice){item.p, (size_t)(semicolon - item.p)} : item);
        bool zero = false;

        if (semicolon) {
                struct slice rest =
                        slice_trim((struct slice){semicolon + 1, item.n - (size_t)(semicolon - item.p) - 1});

                zero = rest.n >= 3 && rest.p[0] == 'q' && rest.p[1] == '=' && rest.p[2] == '0';
                for (size_t i = 3; zero && i < rest.n; i++)
                        zero = rest.p[i] == '.' || rest.p[i] == '0';
        }
        *ret_any = slice_eq(coding, SLICE("*"));
        return !zero && (*ret_any || slice_eq(coding, SLICE("gzip")));
}

static bool takes_gzip(const struct http1_request *head)
{
        struct slice value = {0}, item;
        bool by_star = false, any;

        if (http1_header_find(head->headers, head->n_headers, "accept-encoding", &value) != 1)
                return false;
        while (http1_list_next(&value, &item)) {
                bool takes = element_takes_gzip(item, &any);

                /* What is said of gzip itself counts more than what is said of all. */
                if (!any && item.n >= 4 && strncmp(item.p, "gzip", 4) == 0)
                        return takes;
                by_star |= takes;
        }
        return by_star;
}

static bool has_it_already(const struct http1_request *head, const char *etag)
{
        struct slice value = {0}, item;

        if (http1_header_find(head->headers, head->n_headers, "if-none-match", &value) != 1)
                return false;
        while (http1_list_next(&value, &item)) {
                if (slice_starts_with(item, SLICE("W/")))
                        item = (struct slice){item.p + 2, item.n - 2};
                if (slice_eq(item, SLICE("*")) ||
                    (item.n == strlen(etag) && memcmp(item.p, etag, item.n) == 0))
                        return true;
        }
        return false;
}

void web_handle(struct call *call)
{
        size_t version = strlen(web_version);
        bool kept = strncmp(call->rest, web_version, version) == 0 && call->rest[version] == '/';
        const struct web_file *f = find(kept ? call->rest + version + 1 : call->rest);
        char cors[DOORS_CORS_MAX], headers[HEADERS_MAX], etag[ETAG_MAX];
        bool gzip;

        if (!f) {
                call->doors->counts.errors++;
                doors_respond_error(call->req, 404,
                                    "there is no such file of the page (this is version %s of it): load the "
                                    "page again",
                                    web_version);
                return;
        }
        gzip = takes_gzip(call->head);
        (void)snprintf(etag, sizeof(etag), "\"%s%s\"", f->tag, gzip ? "-gz" : "");
        (void)snprintf(headers, sizeof(headers), "%s%s%sETag: %s\r\n%s", kept ? KEEP_FOR_EVER : KEEP_AND_ASK,
                       WEB_HEADERS, gzip ? "Content-Encoding: gzip\r\n" : "", etag,
                       doors_cors(call->req, cors, sizeof(cors)));
        if (has_it_already(call->head, etag))
                request_respond(call->req, 304, NULL, headers, NULL, 0);
        else if (gzip)
                request_respond(call->req, 200, f->type, headers, f->gz_begin,
                                (size_t)(f->gz_end - f->gz_begin));
        else
                request_respond(call->req, 200, f->type, headers, f->begin, (size_t)(f->end - f->begin));
}
