/* exposition.h: /metrics as Prometheus text or OpenMetrics, written piece by piece.
 *
 * Two snapshots, each of one moment, so that no instance is there twice although the text is built over several turns: exposition_new
 * takes that of the instances and of the daemon, exposition_gather that of all the rest, in a turn of its own, since each of them is a
 * millisecond or two with 1,000 instances. exposition_more writes the next pieces. It reads no clock and no file, but for
 * process_facts_read. Names begin with llama_supervisor_, the daemon's own standard ones with process_.
 * Source: the Prometheus exposition formats, "Text format details". */
#ifndef LSV_HTTP_EXPOSITION_H
#define LSV_HTTP_EXPOSITION_H

#include "fleet/fleet.h"
#include "fleet/handover.h"
#include "http/auth.h"
#include "http/exposition_text.h"
#include "http/gateway.h"
#include "http/feed.h"
#include "http/gate.h"
#include "net/server.h"

struct exposition;

/* Of our own process, from /proc/self. What could not be read is 0. */
struct process_facts {
        double cpu_seconds;
        uint64_t rss, virtual_size; /* bytes */
        unsigned open_fds, max_fds;
        unsigned threads;
};
void process_facts_read(struct process_facts *ret);

struct hubs;
struct exposition_certificate {
        const char *listen; /* the listener's address; outlives the exposition */
        usec_t until;       /* realtime */
};
enum { EXPOSITION_CERTIFICATES_MAX = 64 };

struct exposition_facts {
        struct feed_counts feed;
        struct server_counts server;
        struct process_facts process;
        uint64_t gate_refused[GATE_VERDICTS];
        struct auth_counts auth;
        struct gateway_counts gateway;
        unsigned keys; /* in force */
        struct exposition_certificate certificates[EXPOSITION_CERTIFICATES_MAX];
        size_t n_certificates;
        uint64_t tls_reloads, tls_reloads_failed;
        struct handover_counts upgrades;
        uint64_t router_errors, busy, follow_skipped, scrapes_cut, log_lost;
        unsigned followers;
        usec_t uptime, started_realtime, realtime, loop_lag, loop_turn;
        struct loop_delays loop_delays;
        struct hubs *hubs; /* NULL: none */
};

int exposition_new(struct fleet *fleet, const struct exposition_facts *facts, enum exposition_format format,
                   struct exposition **ret);
/* Once, before the first exposition_more. 0 or -ENOMEM: then it can only be freed. */
int exposition_gather(struct exposition *x, struct fleet *fleet);
struct exposition *exposition_free(struct exposition *x);

/* Appends text until out holds at least `enough` bytes or all is written. True while there is more. */
bool exposition_more(struct exposition *x, struct buffer *out, size_t enough);

#endif
