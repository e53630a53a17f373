/* nats_conf.h: the nats.conf of a hub, with its comments, as `hub init --write-config` writes it. Pure. */
#ifndef LSV_CORE_NATS_CONF_H
#define LSV_CORE_NATS_CONF_H

#include "base/buffer.h"

/* One message holds a whole request (images in it) or a whole answer. nats-server itself advises against more. */
#define NATS_PAYLOAD_MAX (8 << 20)
#define NATS_ACCOUNT     "LLM"

struct nats_conf {
        const char *server_name, *listen, *store_dir, *pid_file;
        const char *users_file;         /* relative to nats.conf */
        const char *tls_cert, *tls_key; /* NULL: no TLS */
};

void nats_conf_print(const struct nats_conf *c, struct buffer *out);
/* Where a nats.conf, ours or one that was changed since, says that clients connect, as seen from its own machine: "HOST:PORT" (of all addresses: the
 * loopback). Only what stands there line by line is understood: listen, net, host, port; not what is included, or a variable. 0; -ENOENT: it does not
 * say; -EINVAL: its port is no number; -ENAMETOOLONG. */
int nats_conf_address(const char *text, size_t len, char *buf, size_t size);

#endif
