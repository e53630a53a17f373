/* doors_private.h: what the files of the doors share: the doors themselves, and one request at its handler. */
#ifndef LSV_HTTP_DOORS_PRIVATE_H
#define LSV_HTTP_DOORS_PRIVATE_H

#include "base/list.h"
#include "http/auth.h"
#include "http/doors.h"
#include "http/feed.h"
#include "http/gate.h"
#include "http/gateway.h"
#include "http/ownlog.h"
#include "http/router.h"

#define DOORS_CONTROL "control" /* the tag of the control socket's listener */

/* What runs over more than one turn is bounded in number; one more is answered 503 and counted. */
enum {
        DOORS_FOLLOWERS_MAX = 256,
        DOORS_CONTROL_EXTRA = 32,
        DOORS_SCRAPES_MAX = 8,
        DOORS_CONTROL_SCRAPES_EXTRA = 1,
        DOORS_BODY_MAX = 4096,
        DOORS_START_BODY_MAX = 65536,
        DOORS_PATH_MAX = 1024
};

struct doors_counts {
        uint64_t gate_refused[GATE_VERDICTS];
        uint64_t
                errors; /* answers of 4xx and 5xx by the router itself: not found, method, scope, parameters */
        uint64_t busy;  /* refused: too many followers or scrapes */
        uint64_t scrapes_cut; /* their readers took too long */
        uint64_t tls_reloads, tls_reloads_failed;
        uint64_t follow_skipped; /* bytes of logs that slow followers did not get */
};

/* One listener with what an upgrade must know of it. */
struct doorway {
        struct listener *listener;
        enum inherited_from from;
        char name[INHERITED_NAME_MAX];
};

struct doors {
        struct loop *loop;
        struct fleet *fleet;
        struct server *server;
        struct feed *feed;
        struct auth *auth;
        struct doors_certificate *certificates; /* doors_tls.c */
        size_t n_certificates;
        struct gateway *gateway;
        struct handover *handover; /* NULL: none */
        struct hubs *hubs;         /* NULL: none */
        struct doorway *doorways;
        size_t n_doorways;
        uint64_t applied; /* the number of the configuration that auth has taken over */
        bool subscribed, turning;
        usec_t started, started_realtime;
        char **addresses; /* as bound, NULL-ended, without the control socket */
        char *control;    /* path of the control socket */
        char *listen_json;
        struct doors_counts counts;
        struct ownlog *ownlog;
        struct list follows; /* follow.c */
        unsigned n_follows;
        struct timer *follow_timer;
        unsigned n_scrapes;     /* scrape.c */
        usec_t scrape_deadline; /* 30 s; tests have less time */
};

struct call {
        struct doors *doors;
        struct request *req;
        const struct http1_request *head;
        const struct route *route;
        const char *name;     /* of {name}; valid during the handler, as is: */
        const char *rest;     /* of {path} */
        bool control;         /* came by the control socket */
        struct caller caller; /* nobody on routes that are open to all */
};

/* Into the log and the history: something that people should know. text is copied. */
void doors_tell(struct doors *d, const char *kind, const char *text, bool bad);

/* --- upgrades (doors_handover.c) */
/* Listens at an address of the configuration, or on the socket that came for it: as server_listen. */
int doors_listen(struct doors *d, const struct endpoint *at, const char *address, const char *tag,
                 struct listener **ret);
/* On one that a socket unit gave and the configuration does not name. */
int doors_listen_on(struct doors *d, const struct inherited_socket *s, struct listener **ret);
/* All are open: takes the connections that were handed on, and joins the handover. */
void doors_join_handover(struct doors *d);
void doors_leave_handover(struct doors *d);
void upgrade_handle(struct call *call);

/* --- TLS (doors_tls.c) */
/* The listener's certificate, watched from now on. The address was added to d->addresses just before. */
int doors_tls_open(struct doors *d, const struct config_listen *at, struct listener *l, char **ret_error);
void doors_tls_reload(struct doors *d);
void doors_tls_close(struct doors *d);
struct exposition_certificate;
size_t doors_tls_certificates(const struct doors *d, struct exposition_certificate *ret, size_t max);

/* The table of all routes (routes.c), ended by a row without pattern. */
extern const struct route doors_routes[];

/* --- query parameters; each answers 400 naming the parameter and returns false when it is wrong */
bool call_get_uint(struct call *call, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
                   uint64_t *ret);
bool call_get_bool(struct call *call, const char *name,
                   bool *ret); /* "" and "1", "true" are true; absent is false */
/* *ret is buf, or NULL when it is absent. */
bool call_get_text(struct call *call, const char *name, char *buf, size_t size, const char **ret);

/* 404 for an instance that is not there, with the nearest name. */
void call_no_instance(struct call *call, const char *name);
void doors_no_instance(struct doors *d, struct request *req, const char *name);
/* Who ordered what, and why it was not done: message, or else errno r. */
void doors_log_order(const char *subject, const char *order, const struct request *req, int r,
                     const char *message);

/* --- handlers ------------------------------------------------------------------------------------------------------- */
/* api.c */
void health_handle(struct call *call);
void ready_handle(struct call *call);
void status_handle(struct call *call);
void instances_handle(struct call *call);
void instance_handle(struct call *call);
void why_handle(struct call *call);
void start_handle(struct call *call);
void stop_handle(struct call *call);
void restart_handle(struct call *call);
void drain_handle(struct call *call);
void history_handle(struct call *call);
void reload_handle(struct call *call);
void events_handle(struct call *call);
void websocket_handle(struct call *call);
void socketio_handle(struct call *call);
/* files of their own */
void page_handle(struct call *call);   /* page.c */
void web_handle(struct call *call);    /* web.c */
void scrape_handle(struct call *call); /* scrape.c */
void logs_handle(struct call *call);   /* follow.c */
/* library.c */
void library_handle(struct call *call);
void instances_order_handle(struct call *call);
void instance_order_handle(struct call *call);
/* demand.c */
void load_handle(struct call *call);
void unload_handle(struct call *call);
void openapi_handle(struct call *call); /* assets.c */
void asyncapi_handle(struct call *call);
void children_handle(struct call *call); /* children.c */
/* scrape.c: the format that this request asks for. */
enum exposition_format exposition_wanted(const struct request *req);
void gpus_handle(struct call *call); /* gpus.c */
void gpu_cordon_handle(struct call *call);
void gpu_uncordon_handle(struct call *call);
void plan_handle(struct call *call); /* plan.c */
/* hubs.c */
void hubs_handle(struct call *call);
void hub_handle(struct call *call);
/* One array of all: whole reports, or name, state and the like alone. */
void doors_put_hubs(struct doors *d, struct json_writer *w);
void doors_put_hub_states(struct doors *d, struct json_writer *w);
void requests_handle(struct call *call); /* requests.c */
void farm_handle(struct call *call);     /* farm.c */
void request_cancel_handle(struct call *call);
int follow_init(struct doors *d);
/* follow.c: all streams end, since another program takes over. */
void follow_end_all(struct doors *d);
/* follow.c: the instance of this name is gone, its streams end. */
void follow_instance_gone(struct doors *d, const char *name);

#endif
