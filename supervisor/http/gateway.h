/* gateway.h: one OpenAI-compatible address in front of the fleet: requests for a model go through the relay to an instance, and its
 * answer comes back as it is made.
 *
 * The way of a request: its body is read whole (gateway.body_max; all bodies together eight times as much), the model is found in it
 * (core/peek, core/multipart), in the query, or is the default; the relay (fleet/relay.h) waits for a slot, sends it and streams the
 * answer. The status and headers of the instance pass, but those of its own connection, Server and Access-Control-*; ours are
 * added: X-Request-Id, X-Llama-Instance, X-Queue-Wait (milliseconds).
 *
 * A client that asked for a stream and has waited GATEWAY_PATIENCE in the queue gets the head of one (200), and in it comments that tell
 * how it goes; then errors can only come as events of that stream.
 * Back-pressure: a client that does not read pauses its instance. A client that leaves is told to the instance at once. */
#ifndef LSV_HTTP_GATEWAY_H
#define LSV_HTTP_GATEWAY_H

#include "http/router.h"
#include "net/loop.h"

struct doors;
struct gateway;

enum {
        GATEWAY_BODIES = 8,          /* times gateway.body_max: bodies of all requests together */
        GATEWAY_QUEUED_HIGH = 65536, /* bytes that a client has not taken, at which its instance is paused */
        GATEWAY_COLLECT_MAX =
                8388608, /* bytes of an answer that is made into another one (POST /chat, an error as an event) */
};

/* Why the gateway itself refused a request, before any queue: labels of a metric. */
enum gateway_refusal {
        GATEWAY_REFUSED_BODY,      /* not one JSON object, a broken form */
        GATEWAY_REFUSED_PARAMETER, /* a member of ours with a value that is none */
        GATEWAY_REFUSED_MODEL,     /* unknown, or none named */
        GATEWAY_REFUSED_INSTANCE,  /* of /upstream: not there, or not up */
        GATEWAY_REFUSED_BODIES,    /* too many large bodies at once */
        GATEWAY_REFUSED_MEMORY,
        GATEWAY_REFUSED_HUB, /* the model is at a hub alone, which is down or full */
        GATEWAY_REFUSALS,
};
static inline const char *gateway_refusal_name(enum gateway_refusal r)
{
        static const char *const names[GATEWAY_REFUSALS] = {
                [GATEWAY_REFUSED_BODY] = "body",     [GATEWAY_REFUSED_PARAMETER] = "parameter",
                [GATEWAY_REFUSED_MODEL] = "model",   [GATEWAY_REFUSED_INSTANCE] = "instance",
                [GATEWAY_REFUSED_BODIES] = "bodies", [GATEWAY_REFUSED_MEMORY] = "memory",
                [GATEWAY_REFUSED_HUB] = "hub",
        };

        return names[r];
}

struct gateway_counts {
        uint64_t refused[GATEWAY_REFUSALS];
        uint64_t requests, comments; /* told in streams that wait */
        uint64_t submitted;          /* handed in at a hub */
        uint64_t restarted; /* of those: cut, since another worker began anew behind text that was told */
        unsigned open;
};

int gateway_new(struct doors *doors, struct gateway **ret);
/* All requests must have gone. Always NULL. */
struct gateway *gateway_free(struct gateway *g);
const struct gateway_counts *gateway_counts(const struct gateway *g);
/* Cancels a request that is at a hub, by its id; false: there is none. */
bool gateway_cancel_submitted(struct gateway *g, const char *id, const char *why);

/* --- handlers ------------------------------------------------------------------------------------------------------- */
void gateway_generate(struct call *call);  /* takes a slot, may stream */
void gateway_compute(struct call *call);   /* takes a slot, answers at once: embeddings, rerank */
void gateway_ask(struct call *call);       /* takes none: /tokenize, /apply-template, counting tokens */
void gateway_look(struct call *call);      /* GET, takes none, wakes nobody: /props, /slots */
void gateway_direct(struct call *call);    /* /upstream/{name}/{path} */
void gateway_chat(struct call *call);      /* POST /chat */
void models_handle(struct call *call);     /* GET /v1/models */
void model_handle(struct call *call);      /* GET /v1/models/{path} */
void api_models_handle(struct call *call); /* GET /api/v1/models */
void stats_handle(struct call *call);      /* GET /stats, as GoLlama's hub tells it */

#endif
