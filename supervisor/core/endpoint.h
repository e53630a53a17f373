/* endpoint.h: where a server listens, as text and as a value.
 * Forms: "unix:/path" "/path" "http://HOST:PORT[/]" "HOST:PORT" "[::1]:PORT"; hosts are IP addresses or "localhost". */
#ifndef LSV_CORE_ENDPOINT_H
#define LSV_CORE_ENDPOINT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

struct endpoint {
        socklen_t len; /* 0: no endpoint */
        union {
                struct sockaddr sa;
                struct sockaddr_un un;
                struct sockaddr_in in;
                struct sockaddr_in6 in6;
        } addr;
};

/* 0; -EINVAL not of the forms above; -ENAMETOOLONG a unix path over 107 bytes; -EPROTONOSUPPORT "https://…";
 * -EADDRNOTAVAIL a host name that is neither an address nor localhost (names are not resolved here). */
int endpoint_parse(const char *s, struct endpoint *ret);
int endpoint_from_unix(const char *path, struct endpoint *ret);
bool endpoint_is_unix(const struct endpoint *e);
bool endpoint_is_loopback(const struct endpoint *e); /* unix, 127.0.0.0/8, ::1 */
bool endpoint_equal(const struct endpoint *a, const struct endpoint *b);
/* "http://127.0.0.1:8077" or "unix:/path"; returns buf; ENDPOINT_TEXT_MAX is enough. */
#define ENDPOINT_TEXT_MAX 128
char *endpoint_text(const struct endpoint *e, char *buf, size_t size);
/* The value of a Host header for it ("127.0.0.1:8077", "localhost" for unix). */
char *endpoint_host(const struct endpoint *e, char *buf, size_t size);

#endif
