/* gollama_private.h: what the files of the GoLlama driver share; nobody else includes it.
 *
 * gollama.c          the driver: what is held, what runs, its ends
 * gollama_door.c     the listener, what the hub asks there, and the form of our answers
 * gollama_register.c that the hub knows us, and still does */
#ifndef LSV_HUB_GOLLAMA_PRIVATE_H
#define LSV_HUB_GOLLAMA_PRIVATE_H

#include "base/list.h"
#include "core/cidr.h"
#include "hub/driver.h"
#include "net/fetch.h"
#include "net/server.h"

enum {
        HELD_MAX = 1024,
        SMALL_BODY_MAX = 16 << 10,
        STATS_MAX = 1 << 20,
        CREDENTIALS_MAX = 4096,
        ALLOW_MAX = 64,
};
#define LOOK_EVERY   (10 * USEC_PER_SEC) /* whether the hub still has us */
#define RETRY_MAX    (30 * USEC_PER_SEC)
#define REVOKED_WAIT (2 * USEC_PER_MIN)
#define HOLD_MAX     (10 * USEC_PER_MIN) /* for a slot; then another worker may have more luck */

/* One /execute. */
struct gjob {
        struct list node;
        struct hub_link *link;
        struct request *req; /* NULL: the hub has gone */
        struct hub_job *pub; /* NULL: held */
        char id[HUB_ID_MAX];
        char *path, *model, *body;
        size_t body_len;
        usec_t came;
        bool lost_tell, settled_tell;
        enum hub_settled how;
};

struct hub_link {
        struct loop *loop;
        const struct hub_events *on;
        void *owner;
        char *name, *worker, *base, *ca_file, *key_file, *advertise;
        char *user, *password;
        struct cidr allow[ALLOW_MAX];
        size_t n_allow;
        struct server *server;
        struct listener *listener;
        struct fetcher *fetcher;
        struct timer *timer, *teller;
        struct hub_driver_counts counts;

        enum hub_state state;
        char why[300];
        usec_t retry_at, look_at;
        unsigned failures;
        bool state_tell, draining;

        /* A registration, or a look, on its way. */
        struct fetch *fetch;
        struct request *asked; /* by /connect: who waits for what the hub said */
        char *asked_user, *asked_password;

        unsigned total, slots;
        char model[CONFIG_ALIAS_MAX];
        struct list held, running;
        unsigned n_held;
        uint64_t number;
        uint64_t born;
};

/* --- gollama.c */
void gollama_tell_later(struct hub_link *l);
void gollama_set_state(struct hub_link *l, enum hub_state state, usec_t retry_at, const char *why);
void gollama_arm(struct hub_link *l);
void gollama_free_job(struct gjob *j);
void gollama_start_held(struct hub_link *l); /* hands on what is held, as far as there is room */
request_gone_fn gollama_on_job_gone;

/* --- gollama_door.c */
void gollama_plain(struct request *req, int status, const char *words);
/* An answer of our own in the form that the hub reads. r: NULL, or whose figures it has. */
void gollama_answer_text(struct request *req, const char *prefix, const char *text,
                         const struct hub_result *r);
void gollama_on_request(void *owner, struct request *req);
int gollama_listen(struct hub_link *l, const struct config_hub *hub, char **ret_why);

/* --- gollama_register.c */
int gollama_read_credentials(struct hub_link *l, char **ret_why);
void gollama_register(struct hub_link *l); /* a token, then ourselves */
void gollama_look(struct hub_link *l);     /* whether the hub still has us */
void gollama_end_asked(struct hub_link *l, int status, const char *type, const char *body, size_t len);

#endif
