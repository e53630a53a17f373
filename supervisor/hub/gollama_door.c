/* gollama_door.c: the listener of the GoLlama driver: who may come, what is asked, and the form of our answers. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/text.h"
#include "hub/gollama_private.h"

static usec_t now_of(const struct hub_link *l)
{
        return loop_now(l->loop);
}

/* --- answering -------------------------------------------------------------------------------------------------- */

void gollama_plain(struct request *req, int status, const char *words)
{
        _cleanup_free_ char *line = text_format("%s\n", words);

        request_respond(req, status, "text/plain; charset=utf-8", "X-Content-Type-Options: nosniff\r\n",
                        line ? line : "", line ? strlen(line) : 0);
}

/* An answer of our own in the form that the hub reads. */
void gollama_answer_text(struct request *req, const char *prefix, const char *text,
                         const struct hub_result *r)
{
        _cleanup_free_ char *content = text_format("%s%s", prefix, text);
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "object", "chat.completion");
        json_string(&w, "model", r ? r->model : "");
        json_key(&w, "choices");
        json_open_array(&w);
        json_open_object(&w);
        json_int(&w, "index", 0);
        json_string(&w, "finish_reason", "stop");
        json_key(&w, "message");
        json_open_object(&w);
        json_string(&w, "role", "assistant");
        json_string(&w, "content", content);
        json_close_object(&w);
        json_close_object(&w);
        json_close_array(&w);
        json_key(&w, "usage");
        json_open_object(&w);
        json_uint(&w, "prompt_tokens", r ? r->prompt_tokens : 0);
        json_uint(&w, "completion_tokens", r ? r->tokens : 0);
        json_uint(&w, "total_tokens", r ? r->prompt_tokens + r->tokens : 0);
        json_close_object(&w);
        json_close_object(&w);
        if (!content || b.failed)
                gollama_plain(req, 503, "out of memory");
        else
                request_respond(req, 200, "application/json", NULL, b.data, b.len);
}

/* --- what is asked ----------------------------------------------------------------------------------------------- */

static void on_execute(void *owner, struct request *req, const char *text, size_t len)
{
        struct hub_link *l = owner;
        struct json_value *v = NULL;
        const char *endpoint;
        struct gjob *j;

        if (json_parse(text, len, &v, NULL) < 0 || !json_is_object(v)) {
                v = json_free(v);
                gollama_plain(req, 400, "Invalid request");
                return;
        }
        endpoint = json_get_string(v, "endpoint");
        if (!endpoint || !json_is_object(json_get(v, "body"))) {
                gollama_plain(req, 400, endpoint ? "Missing body" : "Missing endpoint");
                v = json_free(v);
                return;
        }
        j = calloc(1, sizeof *j);
        if (j) {
                list_init(&j->node);
                j->path = text_dup(endpoint);
                j->model = text_dup(json_get_string(json_get(v, "body"), "model"));
                j->body = json_print(json_get(v, "body"), false);
        }
        v = json_free(v);
        if (!j || !j->path || !j->body || l->draining || l->n_held >= HELD_MAX) {
                l->counts.refused++;
                if (j)
                        gollama_free_job(j);
                gollama_plain(req, 503, l->draining ? "this worker stops" : "too much waits here");
                return;
        }
        (void)snprintf(j->id, sizeof j->id, "%s-%llx-%llu", l->worker, (unsigned long long)l->born,
                       (unsigned long long)++l->number);
        j->link = l;
        j->body_len = strlen(j->body);
        j->came = now_of(l);
        j->req = req;
        request_on_gone(req, gollama_on_job_gone, j);
        list_append(&l->held, &j->node);
        l->n_held++;
        gollama_start_held(l);
        gollama_arm(l);
}

/* --- the listener ----------------------------------------------------------------------------------------------- */

static void on_connect_gone(void *owner, struct request *req)
{
        (void)req;
        ((struct hub_link *)owner)->asked = NULL;
}

static void on_connect(void *owner, struct request *req, const char *text, size_t len)
{
        struct hub_link *l = owner;
        struct json_value *v = NULL;
        const char *user, *password;

        if (json_parse(text, len, &v, NULL) < 0 || !(user = json_get_string(v, "username")) ||
            !(password = json_get_string(v, "password"))) {
                v = json_free(v);
                gollama_plain(req, 400, "Invalid request");
                return;
        }
        if (l->fetch || l->draining) {
                v = json_free(v);
                gollama_plain(req, 503, "a registration is under way");
                return;
        }
        l->asked_user = text_dup(user);
        l->asked_password = text_dup(password);
        v = json_free(v);
        l->asked = req;
        request_on_gone(req, on_connect_gone, l);
        gollama_register(l);
        gollama_arm(l);
}

static void tell_health(struct hub_link *l, struct request *req)
{
        static const char free_text[] = "{\"busy\":\"false\"}", busy_text[] = "{\"busy\":\"true\"}";
        bool busy = l->total == 0;

        if (!l->slots)
                gollama_plain(req, 503, "no llama-server is up");
        else
                request_respond(req, 200, "application/json", NULL, busy ? busy_text : free_text,
                                strlen(busy ? busy_text : free_text));
}

static bool is_allowed(const struct hub_link *l, const char *peer)
{
        for (size_t i = 0; i < l->n_allow; i++)
                if (cidr_has(l->allow + i, peer))
                        return true;
        return false;
}

void gollama_on_request(void *owner, struct request *req)
{
        const struct http1_request *head = request_head(req);
        bool is_post = head->method == HTTP1_POST, is_get = head->method == HTTP1_GET;
        struct hub_link *l = owner;

        if (!is_allowed(l, request_peer(req))) {
                l->counts.refused++;
                log_debug(l->name, "%s is not in `allow`", request_peer(req));
                gollama_plain(req, 403, "not for you");
                return;
        }
        if (slice_eq_str(head->path, "/health")) {
                if (is_get)
                        tell_health(l, req);
                else
                        gollama_plain(req, 405, "Method not allowed");
        } else if (slice_eq_str(head->path, "/execute") || slice_eq_str(head->path, "/connect")) {
                bool work = slice_eq_str(head->path, "/execute");

                if (!is_post)
                        gollama_plain(req, 405, "Method not allowed");
                else if (request_read_body(req, work ? HUB_JOB_BODY_MAX : SMALL_BODY_MAX,
                                           work ? on_execute : on_connect, l) < 0)
                        gollama_plain(req, 503, "out of room");
        } else {
                gollama_plain(req, 404, "404 page not found");
        }
}

static bool is_any(const struct endpoint *e)
{
        if (e->addr.sa.sa_family == AF_INET6)
                return IN6_IS_ADDR_UNSPECIFIED(&e->addr.in6.sin6_addr);
        return e->addr.in.sin_addr.s_addr == htonl(INADDR_ANY);
}

int gollama_listen(struct hub_link *l, const struct config_hub *hub, char **ret_why)
{
        char text[ENDPOINT_TEXT_MAX];
        struct endpoint e;
        int r;

        if (!hub->listen || endpoint_parse(hub->listen, &e) < 0 || endpoint_is_unix(&e)) {
                *ret_why = text_dup(
                        "a GoLlama hub dials its workers: \"listen\" says where (\"10.0.0.7:9001\")");
                return -EINVAL;
        }
        for (char **a = hub->allow; a && *a && l->n_allow < ALLOW_MAX; a++)
                if (cidr_parse(*a, l->allow + l->n_allow) == 0)
                        l->n_allow++;
        if (!l->n_allow) {
                *ret_why = text_dup("a GoLlama hub needs \"allow\": its own address");
                return -EINVAL;
        }
        if (is_any(&e) && !hub->advertise) {
                *ret_why =
                        text_format("listening on %s, a GoLlama hub needs \"advertise\": the URL by which it "
                                    "reaches us",
                                    hub->listen);
                return -EINVAL;
        }
        r = server_listen(l->server, &e, 0, "gollama", &l->listener);
        if (r < 0) {
                *ret_why = text_format("%s: %s", hub->listen, strerror(-r));
                return r;
        }
        l->advertise =
                text_dup(hub->advertise ? hub->advertise
                                        : endpoint_text(listener_endpoint(l->listener), text, sizeof text));
        /* The hub appends "/execute". */
        if (l->advertise && ends_with(l->advertise, "/"))
                l->advertise[strlen(l->advertise) - 1] = '\0';
        return l->advertise ? 0 : -ENOMEM;
}
