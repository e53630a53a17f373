/* page.c: the fleet as one plain page without scripts: what a browser without JavaScript, lynx and curl can read. */
#include <stdio.h>

#include "base/text.h"
#include "fleet/summary.h"
#include "http/doors_private.h"
#include "http/respond.h"

/* The page loads nothing, runs nothing, and cannot be framed. */
#define PAGE_HEADERS                                                                                         \
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; "       \
        "base-uri 'none'; frame-ancestors 'none'\r\n"                                                        \
        "X-Frame-Options: DENY\r\n"                                                                          \
        "Referrer-Policy: no-referrer\r\n"

static const char page_top[] =
        "<!doctype html>\n"
        "<html lang=\"en\">\n"
        "<head>\n"
        "<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        "<meta name=\"color-scheme\" content=\"light dark\">\n"
        "<meta http-equiv=\"refresh\" content=\"5\">\n"
        "<title>llama-supervisor</title>\n"
        "<style>\n"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\n"
        "table{border-collapse:collapse;width:100%}\n"
        "th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid "
        "#8884;vertical-align:top}\n"
        "td.n,th.n{text-align:right}\n"
        "tr.d>td{border-bottom:0;padding-bottom:0}\n"
        "code{font-size:.9em;overflow-wrap:anywhere}\n"
        "@media(max-width:45rem){.w{display:none}th,td{padding-right:.5rem}}\n"
        ".ready{color:#1a7f37}.crashed,.error,.unhealthy{color:#cf222e}\n"
        "@media(prefers-color-scheme:dark){.ready{color:#3fb950}.crashed,.error,.unhealthy{color:#ff7b72}}\n"
        "</style>\n"
        "</head>\n"
        "<body>\n";

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
        (void)buffer_puts(b, r->last_error ? "<tr class=\"d\"><td><a href=\"/api/v1/instances/"
                                           : "<tr><td><a href=\"/api/v1/instances/");
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
                b, "</td><td class=\"n\">%s</td><td class=\"n\">%llu</td><td><a href=\"/api/v1/instances/",
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
                        (void)buffer_printf(b, "<a href=\"%s\"><code>%s</code></a>", r->pattern, r->pattern);
                else
                        (void)buffer_printf(b, "<code>%s</code>", r->pattern);
                (void)buffer_puts(b, "</td><td>");
                put_text(b, r->doc);
                (void)buffer_puts(b, "</td></tr>\n");
        }
        (void)buffer_puts(b, "</table>\n");
}

void page_handle(struct call *call)
{
        struct doors *d = call->doors;
        const char *reload_error = fleet_reload_error(d->fleet);
        _cleanup_buffer_ struct buffer b = {0};
        char span[TIME_SPAN_MAX];
        struct summary summary;

        summary_of(d->fleet, &summary);
        buffer_init(&b, 0);
        (void)buffer_puts(&b, page_top);
        (void)buffer_printf(&b, "<h1>llama-supervisor</h1>\n<p>");
        put_text(&b, summary.sentence);
        (void)buffer_printf(&b, ". Version %s, up for %s.</p>\n", LSV_VERSION,
                            time_span(usec_sub(loop_now(d->loop), d->started), span, sizeof(span)));
        if (reload_error) {
                (void)buffer_puts(&b, "<p class=\"error\">The last reload failed: ");
                put_text(&b, reload_error);
                (void)buffer_puts(&b, "</p>\n");
        }
        put_instances(&b, d->fleet);
        put_routes(&b);
        (void)buffer_puts(&b, "</body>\n</html>\n");
        if (b.failed)
                doors_respond_error(call->req, 503, "not enough memory for the page");
        else
                respond_text(call->req, 200, "text/html; charset=utf-8", PAGE_HEADERS, b.data, b.len);
}
