/* doors.h: everything that listens: the HTTP listeners of the config and the control socket, one router behind them.
 *
 * Each request passes the same gate first: Host and Origin (allowed_hosts, allowed_origins; loopback names and the
 * listener's own address always pass), then the route table. Errors are OpenAI-shaped JSON. The control socket
 * (runtime_dir/control.sock, 0660) serves the same routes without the Host gate; the file's mode is its key. */
#ifndef LSV_HTTP_DOORS_H
#define LSV_HTTP_DOORS_H

#include "fleet/fleet.h"
#include "fleet/handover.h"
#include "hub/hubs.h"
#include "net/server.h"

struct doors;

/* Binds the listeners of fleet_config() and the control socket, and writes runtime_dir/listen.json
 * ({"listen":["http://127.0.0.1:43211"],"control":"/run/…/control.sock"}), the addresses as bound. On failure *ret_error (malloc'd) says
 * which address and why. A non-loopback listener without keys is refused here unless the config says "insecure": true.
 * handover (NULL: none): sockets that came with our start are used instead of binding, those of a socket unit that the configuration does not name are
 * further doors, and connections that an earlier program handed on go on; the doors do their part in upgrades.
 * hubs (NULL: none): shown, and handed requests in. */
int doors_open(struct loop *loop, struct fleet *fleet, struct handover *handover, struct hubs *hubs,
               struct doors **ret, char **ret_error);
/* Closes all; streams are ended. Always NULL. */
struct doors *doors_close(struct doors *d);

/* The text of the answer's error: {"error":{"message","type","code","param":null}}. type by status: invalid_request_error,
 * authentication_error, permission_error, not_found_error, unavailable_error, server_error. */
void doors_respond_error(struct request *req, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Header lines that an answer to this request needs so that a page of an allowed origin may read it ("" when it tells no
 * Origin), for request_respond's and request_begin's `headers`; further lines may be appended. DOORS_CORS_MAX bytes of buf. */
enum { DOORS_CORS_MAX = 700 };
char *doors_cors(const struct request *req, char *buf, size_t size);

#endif
