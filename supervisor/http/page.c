/* page.c: the page: web/index.html around the fleet as plain HTML, which is what a browser without JavaScript, lynx and curl read.
 * All links are relative, for proxies that put us below a path of their own. */
#include <stdio.h>

#include "base/text.h"
#include "fleet/summary.h"
#include "http/doors_private.h"
#include "http/respond.h"
#include "http/web.h"

/* Own scripts and styles alone, nothing inline, nothing from another host, no forms, no frames; and text becomes HTML only through
 * the sanitizer's policy. */
#define PAGE_HEADERS                                                                                         \
        "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "                 \
        "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "              \
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify\r\n"            \
        "X-Frame-Options: DENY\r\n"                                                                          \
        "Cross-Origin-Opener-Policy: same-origin\r\n"                                                        \
        "Referrer-Policy: no-referrer\r\n"

static void put_text(struct buffer *b, const char *s)
{
        for (; s && *s; s++)
                switch (*s) {
                case '&':
                        (void)buffer_puts(b, "&amp;");
                        break;
                case '<':
                        (void)buffer_puts(b, "&lt;");
                        break;
                case '>':
                        (void)buffer_puts(b, "&gt;");
                        break;
                case '"':
                        (void)buffer_puts(b, "&quot;");
                        break;
                case '\'':
                        (void)buffer_puts(b, "&#39;");
                        break;
                default:
                        (void)buffer_putc(b, *s);
                }
}

static void put_instance(struct buffer *b, const struct report *r)
{
        char span[TIME_SPAN_MAX] = "";

        if (r->uptime)
                (void)time_span(r->uptime * USEC_PER_SEC, span, sizeof(span));
        (void)buffer_puts(b, r->last_error ? "<tr class=\"d\"><td><a href=\"api/v1/instances/"
                                           : "<tr><td><a href=\"api/v1/instances/");
        put_text(b, r->instance);
        (void)buffer_puts(b, "\">");
        put_text(b, r->instance);
        (void)buffer_puts(b, "</a></td><td class=\"w\">");
        put_text(b, r->model);
        (void)buffer_puts(b, "</td><td class=\"");
        put_text(b, r->status);
        (void)buffer_puts(b, "\">");
        put_text(b, r->status);
        (void)buffer_printf(
                b, "</td><td class=\"n\">%s</td><td class=\"n\">%llu</td><td><a href=\"api/v1/instances/",
                span, (unsigned long long)r->restarts);
        put_text(b, r->instance);
        (void)buffer_puts(b, "/logs\">log</a></td></tr>\n");
        if (!r->last_error)
                return;
        (void)buffer_puts(b, "<tr><td colspan=\"6\">");
        put_text(b, r->last_error);
        (void)buffer_puts(b, "</td></tr>\n");
}

static void put_instances(struct buffer *b, struct fleet *f)
{
        size_t n = fleet_count(f);

        if (n == 0) {
                (void)buffer_puts(b, "<p>Add one to <code>instances</code> in the configuration, then "
                                     "<code>llama-supervisor reload</code>.</p>\n");
                return;
        }
        (void)buffer_puts(b, "<table>\n<tr><th>Instance</th><th class=\"w\">Model</th><th>State</th><th "
                             "class=\"n\">Up for</th>"
                             "<th class=\"n\">Restarts</th><th></th></tr>\n");
        for (size_t i = 0; i < n; i++)
                put_instance(b, fleet_report(f, i));
        (void)buffer_puts(b, "</table>\n");
}

static void put_routes(struct buffer *b)
{
        (void)buffer_puts(b, "<h2>Doors</h2>\n<table>\n");
        for (const struct route *r = doors_routes; r->pattern; r++) {
                bool link =
                        r->methods & ROUTE_GET && !strchr(r->pattern, '{') && !(r->flags & ROUTE_ANY_BODY);

                if (!r->doc)
                        continue;
                (void)buffer_printf(b, "<tr><td>%s</td><td>",
                                    r->methods & ROUTE_GET    ? "GET"
                                    : r->methods & ROUTE_POST ? "POST"
                                                              : "DELETE");
                if (link)
                        (void)buffer_printf(b, "<a href=\"%s\"><code>%s</code></a>",
                                            r->pattern[1] ? r->pattern + 1 : "./", r->pattern);
                else
                        (void)buffer_printf(b, "<code>%s</code>", r->pattern);
                (void)buffer_puts(b, "</td><td>");
                put_text(b, r->doc);
                (void)buffer_puts(b, "</td></tr>\n");
        }
        (void)buffer_puts(b, "</table>\n");
}

static void put_state(struct buffer *b, struct doors *d)
{
        const char *reload_error = fleet_reload_error(d->fleet);
        char span[TIME_SPAN_MAX];
        struct summary summary;

        summary_of(d->fleet, &summary);
        (void)buffer_puts(b, "<p>");
        put_text(b, summary.sentence);
        (void)buffer_printf(b, ". Version %s, up for %s.</p>\n", LSV_VERSION,
                            time_span(usec_sub(loop_now(d->loop), d->started), span, sizeof(span)));
        if (reload_error) {
                (void)buffer_puts(b, "<p class=\"error\">The last reload failed: ");
                put_text(b, reload_error);
                (void)buffer_puts(b, "</p>\n");
        }
        put_instances(b, d->fleet);
        put_routes(b);
}

void page_handle(struct call *call)
{
        size_t len = (size_t)(web_page.end - web_page.begin);
        const char *mark = memmem(web_page.begin, len, WEB_STATE_MARK, strlen(WEB_STATE_MARK));
        const char *after = mark ? mark + strlen(WEB_STATE_MARK) : web_page.end;
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        (void)buffer_append(&b, web_page.begin, (size_t)((mark ? mark : web_page.end) - web_page.begin));
        if (caller_may(&call->caller, CONFIG_SCOPE_READ))
                put_state(&b, call->doors);
        else
                (void)buffer_puts(
                        &b, "<p>The state of the fleet is told to those who show a key. A browser needs "
                            "JavaScript for "
                            "that; <code>curl -H \"Authorization: Bearer KEY\"</code> needs none.</p>\n");
        (void)buffer_append(&b, after, (size_t)(web_page.end - after));
        if (b.failed)
                doors_respond_error(call->req, 503, "not enough memory for the page");
        else
                respond_text(call->req, 200, "text/html; charset=utf-8", PAGE_HEADERS, b.data, b.len);
}
