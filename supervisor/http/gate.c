/* gate.c: Host, Origin and content types against the list of friends. */
#include "http/gate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

#include "core/http1_uri.h"

enum { ORIGIN_MAX = 512 };

/* --- addresses ------------------------------------------------------------------------------------------------ */

/* A numeric address; length 0 when the host is a name. */
struct number {
        unsigned char bytes[16];
        size_t len;
};

static struct number number_of(const struct http1_authority *a)
{
        char text[INET6_ADDRSTRLEN];
        struct number n = {0};

        if (a->host.n >= sizeof(text))
                return n;
        memcpy(text, a->host.p, a->host.n);
        text[a->host.n] = '\0';
        if (a->ipv6)
                n.len = inet_pton(AF_INET6, text, n.bytes) == 1 ? 16 : 0;
        else
                n.len = inet_pton(AF_INET, text, n.bytes) == 1 ? 4 : 0;
        return n;
}

static struct number number_of_endpoint(const struct endpoint *e)
{
        struct number n = {0};

        if (e->addr.sa.sa_family == AF_INET) {
                n.len = 4;
                memcpy(n.bytes, &e->addr.in.sin_addr, 4);
        } else if (e->addr.sa.sa_family == AF_INET6) {
                n.len = 16;
                memcpy(n.bytes, &e->addr.in6.sin6_addr, 16);
        }
        return n;
}

static bool number_equal(const struct number *a, const struct number *b)
{
        return a->len && a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static bool is_everywhere(const struct number *n)
{
        static const unsigned char zeros[16];

        return n->len && memcmp(n->bytes, zeros, n->len) == 0;
}

/* 127.0.0.1 and ::1 only: other loopback numbers are nobody's name for this machine. */
static bool is_loopback_number(const struct number *n)
{
        static const unsigned char v4[4] = {127, 0, 0, 1}, v6[16] = {[15] = 1};

        return (n->len == 4 && memcmp(n->bytes, v4, 4) == 0) ||
               (n->len == 16 && memcmp(n->bytes, v6, 16) == 0);
}

static bool is_loopback_name(const struct http1_authority *a, const struct number *n)
{
        return slice_eq_nocase(a->host, SLICE("localhost")) || is_loopback_number(n);
}

/* Ours without being allowed by name. */
static bool is_own(const struct gate *g, const struct http1_authority *a)
{
        struct number n = number_of(a), bound = number_of_endpoint(g->bound);

        if (is_everywhere(&bound))
                return n.len > 0 || is_loopback_name(a, &n);
        if (endpoint_is_loopback(g->bound) && is_loopback_name(a, &n))
                return true;
        return number_equal(&n, &bound);
}

/* A friend's host: "name", "name:port", "*.name" (any host below it), or "*"; *ret_port is -1 when none is given. */
static bool host_matches(struct slice friend, const struct http1_authority *a, int *ret_port)
{
        bool below = slice_starts_with(friend, SLICE("*."));
        struct http1_authority f;
        size_t more;

        *ret_port = -1;
        if (slice_eq(friend, SLICE("*")))
                return true;
        if (http1_authority_parse(below ? slice_sub(friend, 2, friend.n) : friend, &f) < 0 ||
            f.ipv6 != a->ipv6)
                return false;
        *ret_port = f.port;
        if (!below)
                return slice_eq_nocase(f.host, a->host);
        if (a->host.n <= f.host.n + 1)
                return false;
        more = a->host.n - f.host.n;
        return a->host.p[more - 1] == '.' && slice_eq_nocase(slice_sub(a->host, more, a->host.n), f.host);
}

static bool is_allowed_host(const struct gate *g, const struct http1_authority *a)
{
        int port;

        for (char *const *h = g->allowed_hosts; h && *h; h++)
                if (host_matches(slice_str(*h), a, &port) && (port < 0 || port == a->port))
                        return true;
        return false;
}

/* --- origins ---------------------------------------------------------------------------------------------------- */

static int default_port(struct slice scheme)
{
        if (slice_eq_nocase(scheme, SLICE("http")))
                return 80;
        return slice_eq_nocase(scheme, SLICE("https")) ? 443 : 0;
}

static bool is_allowed_origin(const struct gate *g, struct slice scheme, const struct http1_authority *a)
{
        for (char *const *o = g->allowed_origins; o && *o; o++) {
                struct slice friend = slice_str(*o);
                size_t n = slice_find(friend, ':');
                int port, usual = default_port(scheme);

                if (streq(*o, "*"))
                        return true;
                if (slice_eq_nocase(slice_sub(friend, 0, n), scheme) &&
                    slice_starts_with(slice_sub(friend, n, friend.n), SLICE("://")) &&
                    host_matches(slice_sub(friend, n + 3, friend.n), a, &port) &&
                    (port < 0 ? usual : port) == (a->port < 0 ? usual : a->port))
                        return true;
        }
        return false;
}

/* A page that was itself loaded from this machine. On a listener on all addresses any number is a good Host, but not a good
 * Origin (a page of http://6.6.6.6 is a stranger), and a localhost page is of this machine only if it calls us so, too. */
static bool is_own_page(const struct gate *g, const struct http1_authority *a,
                        const struct http1_authority *host)
{
        struct number bound = number_of_endpoint(g->bound), n = number_of(a), h = number_of(host);

        if (is_everywhere(&bound))
                return is_loopback_name(a, &n) && is_loopback_name(host, &h);
        return is_own(g, a);
}

static bool origin_passes(const struct gate *g, struct slice origin, const struct http1_authority *host)
{
        struct http1_authority a;
        struct slice scheme;

        /* The bound keeps gate_cors whole. */
        if (origin.n > ORIGIN_MAX || http1_origin_parse(origin, &scheme, &a) < 0)
                return false;
        if (is_allowed_origin(g, scheme, &a))
                return true;
        if (default_port(scheme) == 0)
                return false;
        return is_own_page(g, &a, host) || http1_authority_equal(&a, host, default_port(scheme));
}

enum gate_verdict gate_check(const struct gate *g, const struct http1_request *head)
{
        struct http1_authority host;
        struct slice origin = {0};
        size_t n;

        if (!head->host.p || http1_authority_parse(head->host, &host) < 0 ||
            !(is_own(g, &host) || is_allowed_host(g, &host)))
                return GATE_HOST;
        n = http1_header_find(head->headers, head->n_headers, "origin", &origin);
        if (n == 0 || (n == 1 && origin_passes(g, origin, &host)))
                return GATE_PASS;
        return GATE_ORIGIN;
}

/* --- orders and preflights --------------------------------------------------------------------------------------- */

static bool has_header(const struct http1_request *head, const char *name)
{
        struct slice value;

        return http1_header_find(head->headers, head->n_headers, name, &value) > 0;
}

static bool is_empty(const struct http1_request *head)
{
        return head->framing == HTTP1_NO_BODY || (head->framing == HTTP1_LENGTH && head->content_length == 0);
}

/* The media type alone; false when there is none, or more than one header. */
static bool media_type(const struct http1_request *head, struct slice *ret)
{
        struct slice type = {0};

        if (http1_header_find(head->headers, head->n_headers, "content-type", &type) != 1)
                return false;
        *ret = slice_trim(slice_sub(type, 0, slice_find(type, ';')));
        return true;
}

enum gate_verdict gate_check_order(const struct http1_request *head)
{
        struct slice type;

        if (!has_header(head, "content-type"))
                return is_empty(head) ? GATE_PASS : GATE_CONTENT_TYPE;
        return media_type(head, &type) && slice_eq_nocase(type, SLICE("application/json"))
                       ? GATE_PASS
                       : GATE_CONTENT_TYPE;
}

enum gate_verdict gate_check_work(const struct http1_request *head, bool multipart)
{
        struct slice type;

        if (!has_header(head, "origin") && !has_header(head, "referer") &&
            !has_header(head, "sec-fetch-site") && !has_header(head, "sec-fetch-mode"))
                return GATE_PASS;
        /* Without Origin a form of a stranger's page cannot be told from one of ours. */
        if (multipart && has_header(head, "origin") && media_type(head, &type) &&
            slice_eq_nocase(type, SLICE("multipart/form-data")))
                return GATE_PASS;
        return gate_check_order(head);
}

bool gate_is_preflight(const struct http1_request *head)
{
        return head->method == HTTP1_OPTIONS && has_header(head, "origin") &&
               has_header(head, "access-control-request-method");
}

enum gate_verdict gate_check_preflight(const struct http1_request *head)
{
        return has_header(head, "access-control-request-private-network") ||
                               has_header(head, "access-control-request-local-network")
                       ? GATE_PRIVATE_NETWORK
                       : GATE_PASS;
}

/* --- words -------------------------------------------------------------------------------------------------------- */

static const struct {
        const char *name, *words;
        int status;
} verdicts[GATE_VERDICTS] = {
        [GATE_PASS] = {"pass", "passed", 200},
        [GATE_HOST] = {"host",
                       "the Host header names none of our addresses: use the address that we listen on, or "
                       "add the name "
                       "to gateway.allowed_hosts",
                       403},
        [GATE_ORIGIN] =
                {"origin",
                 "pages of this origin may not talk to us: add it to gateway.allowed_origins to allow it",
                 403},
        [GATE_CONTENT_TYPE] = {"content_type",
                               "the body must be JSON with Content-Type: application/json, or be empty", 415},
        [GATE_PRIVATE_NETWORK] = {"private_network",
                                  "requests from public pages into this network are not allowed", 403},
};

const char *gate_verdict_name(enum gate_verdict v)
{
        return verdicts[v].name;
}

int gate_verdict_status(enum gate_verdict v)
{
        return verdicts[v].status;
}

const char *gate_verdict_words(enum gate_verdict v)
{
        return verdicts[v].words;
}

char *gate_cors(const struct http1_request *head, char *buf, size_t size)
{
        struct slice origin = {0};

        buf[0] = '\0';
        if (http1_header_find(head->headers, head->n_headers, "origin", &origin) == 1 &&
            origin.n <= ORIGIN_MAX)
                (void)snprintf(buf, size, "Access-Control-Allow-Origin: %.*s\r\nVary: Origin\r\n",
                               (int)origin.n, origin.p);
        return buf;
}
