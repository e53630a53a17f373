/* fake_requests.h: the life of a request in the fake llama-server: head, fault or answer, queue, slot, tokens, cancel. Part of
 * fake_llama_server.c, which alone includes it. */
#ifndef FAKE_REQUESTS_H
#define FAKE_REQUESTS_H

#include <netinet/in.h>
#include <netinet/tcp.h>

#include "fake_answers.h"

/* --- jobs ------------------------------------------------------------------------------------------------------ */

static void job_end(struct conn *c)
{
        if (c->slot >= 0) {
                slots[c->slot].owner = NULL;
                log_line('I',
                         "slot      release: id  %d | task %ld | stop processing: n_tokens = %ld, truncated "
                         "= 0",
                         c->slot, c->id, c->n_prompt + c->done);
        }
        c->slot = -1;
        c->job = JOB_NONE;
        c->in_tail = false;
        c->text_len = 0;
        if (c->text)
                c->text[0] = '\0';
        c->idle_at = now_usec() + keep_alive();
}

static void job_cancel(struct conn *c)
{
        log_line('W', "srv          stop: cancel task, id_task = %ld", c->id);
        job_end(c);
        conn_drop(c);
}

/* First come, first served; there is no limit to the queue. */
static void jobs_dispatch(int64_t now)
{
        int i;

        for (i = 0; i < n_slots && !stopping; i++) {
                struct conn *c, *first = NULL;

                if (slots[i].owner)
                        continue;
                for (c = conns; c; c = c->next)
                        if (c->job == JOB_QUEUED && (!first || c->id < first->id))
                                first = c;
                if (!first)
                        return;
                first->slot = i;
                first->job = JOB_PROMPT;
                first->started = now;
                first->next_at = now + MAX(fault.prompt_ms, 0) * 1000;
                if (fault.prompt_work)
                        work_for(MAX(fault.prompt_ms, 0) * 1000);
                slots[i] = (struct slot){.owner = first,
                                         .used = true,
                                         .stream = first->stream,
                                         .ignore_eos = first->ignore_eos,
                                         .id_task = first->id,
                                         .n_prompt = first->n_prompt,
                                         .max_tokens = first->wanted};
                log_line('I', "slot get_availabl: id  %d | task -1 | selected slot by LRU, t_last = -1", i);
                log_line('I', "slot launch_slot_: id  %d | task %ld | processing task, is_child = 0", i,
                         first->id);
        }
}

/* The last of the answer; upstream it leaves the HTTP thread a moment after the slot is free. */
static void job_tell_end(struct conn *c, bool stop)
{
        if (c->stream && !fault.bad_chunk)
                stream_end(c, stop);
        else if (!c->stream)
                whole_answer(c, stop);
        job_end(c);
        conn_flush(c);
}

/* One decode step of one job. */
static void job_step(struct conn *c, int64_t now)
{
        long natural = fault.tokens != OFF ? (long)fault.tokens : (long)ARRAY_SIZE(WORDS) + 1;
        bool stop, last;

        if (wedged(now)) {
                c->next_at = now + 1000000;
                return;
        }
        if (c->in_tail) {
                job_tell_end(c, c->stopped);
                return;
        }
        if (c->job == JOB_PROMPT) {
                if (fault.prompt_burn != OFF)
                        burn(fault.prompt_burn);
                c->job = JOB_DECODE;
                c->decode_from = now_usec();
                total.prompt += c->n_prompt;
                total.prompt_s += (double)(c->decode_from - c->started) / 1e6;
        }
        c->done++;
        total.decodes++;
        slots[c->slot].n_decoded = c->done;
        stop = !c->ignore_eos && c->done >= natural;
        last = stop || (c->wanted >= 0 && c->done >= c->wanted);
        if (!stop && c->stream)
                stream_token(c, word(c->done - 1));
        if (!stop && !c->stream)
                append(&c->text, &c->text_len, &c->text_cap, word(c->done - 1), strlen(word(c->done - 1)));
        if (c->stream && fault.cut_after != OFF && c->done >= fault.cut_after) {
                conn_flush(c);
                job_end(c);
                conn_drop(c);
                return;
        }
        if (c->stream && fault.bad_chunk) {
                conn_put(c, "XYZ\r\n", 5);
                last = true;
        }
        /* A context that never ends would let an ignore_eos request without max_tokens run for ever, as it does upstream. */
        if (last) {
                total.predicted += c->done;
                total.predicted_s += (double)(now_usec() - c->decode_from) / 1e6;
                max_seq = MAX(max_seq, c->n_prompt + c->done);
                log_line(
                        'I',
                        "slot print_timing: id  %d | task %ld |       total time =    %7.2f ms / %5ld tokens",
                        c->slot, c->id, (double)(now_usec() - c->started) / 1000, c->n_prompt + c->done);
                if (fault.tail_ms != OFF) {
                        conn_flush(c);
                        slots[c->slot].owner = NULL;
                        c->slot = -1;
                        c->in_tail = true;
                        c->stopped = stop;
                        c->next_at = now + fault.tail_ms * 1000;
                        return;
                }
                job_tell_end(c, stop);
                return;
        }
        c->next_at = fault.tok_s > 0 ? MAX(c->next_at + 1000000 / fault.tok_s, now - 1000000) : now;
        conn_flush(c);
}

static void job_begin(struct conn *c, enum job_kind kind, const char *body, size_t len, bool conversation)
{
        static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        const char *options = json_find(body, "stream_options");
        size_t i;

        c->kind = kind;
        c->stream = json_true(body, "stream");
        c->usage = options && json_true(options, "include_usage");
        c->per_token = json_true(body, "timings_per_token");
        c->progress = json_true(body, "return_progress");
        c->ignore_eos = json_true(body, "ignore_eos");
        c->wanted =
                json_number(body, "max_tokens",
                            json_number(body, "max_completion_tokens", json_number(body, "n_predict", -1)));
        c->ping_s = json_number(body, "sse_ping_interval", opt.ping_s);
        c->detached = conversation;
        c->n_prompt = 3 + (long)len / 16;
        c->cached = 0;
        c->done = 0;
        c->headed = false;
        c->slot = -1;
        c->id = next_task++;
        c->sent_at = now_usec();
        for (i = 0; i + 1 < sizeof(c->name); i++)
                c->name[i] = ALPHABET[(unsigned)rand() % (sizeof(ALPHABET) - 1)];
        c->name[i] = '\0';
        if (c->n_prompt >= n_ctx_slot) {
                char text[300];

                (void)snprintf(
                        text, sizeof(text),
                        "{\"error\":{\"code\":400,\"message\":\"request (%ld tokens) exceeds the available "
                        "context size (%d tokens), try "
                        "increasing "
                        "it\",\"type\":\"exceed_context_size_error\",\"n_prompt_tokens\":%ld,\"n_ctx\":%d}}",
                        c->n_prompt, n_ctx_slot, c->n_prompt, n_ctx_slot);
                answer(c, 400, text);
                return;
        }
        c->job = JOB_QUEUED;
}

/* --- requests -------------------------------------------------------------------------------------------------- */

struct request {
        char *method, *path, *query;
        const char *body;
        size_t len;
        bool conversation, authorized;
};

static void answer_not_found(struct conn *c)
{
        answer(c, 404,
               "{\"error\":{\"message\":\"File Not Found\",\"type\":\"not_found_error\",\"code\":404}}");
}

/* Faults of answers. True when one of them took the request. */
static bool answer_fault(struct conn *c, const char *path)
{
        static const char RUBBISH[] = "\x00\xff\xfe\x16\x03garbage\r\n\r\n\x80\x81 HTTP/9.9 abc\r\n:\r\n";
        char body[200];
        int64_t now = now_usec();

        if (fault.silent_idle_after != OFF && now >= since + fault.silent_idle_after) {
                c->drip = DRIP_NEVER;
                return true;
        }
        if (!fault_reaches(path))
                return false;
        if (fault.reset) {
                conn_drop(c);
                return true;
        }
        if (fault.garbage) {
                conn_put(c, RUBBISH, sizeof(RUBBISH) - 1);
                c->close_after = true;
                return true;
        }
        if (fault.endless_headers) {
                conn_put(c, "HTTP/1.1 200 OK\r\n", 17);
                c->drip = DRIP_ENDLESS;
                c->drip_at = now;
                return true;
        }
        if (fault.slow_headers) {
                c->drip = DRIP_SLOW;
                c->drip_at = now;
                return false;
        }
        if (fault.status != OFF) {
                (void)snprintf(
                        body, sizeof(body),
                        "{\"error\":{\"code\":%d,\"message\":\"Compute error.\",\"type\":\"server_error\"}}",
                        (int)fault.status);
                answer(c, (int)fault.status, body);
                return true;
        }
        if (fault.garbage_json) {
                answer(c, 200, "{\"data\":[{\"id\":'\xff',]");
                return true;
        }
        if (fault.short_body) {
                answer_with(c, 200, "", JSON_TYPE, "{\"status\":\"ok\"}", 15, false, 115);
                c->close_after = true;
                return true;
        }
        if (fault.bad_chunk && !starts_with(path, "/v1/chat")) {
                static const char CHUNKS[] =
                        "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json\r\n"
                        "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"status\r\nXYZ\r\n\":\"ok\"}\r\n0\r\n\r\n";

                conn_put(c, CHUNKS, sizeof(CHUNKS) - 1);
                return true;
        }
        return false;
}

static void handle_post(struct conn *c, const struct request *r)
{
        const char *path = r->path, *end;
        bool chat = streq(path, "/v1/chat/completions") || streq(path, "/chat/completions");
        bool completions = streq(path, "/v1/completions"),
             native = streq(path, "/completion") || streq(path, "/completions");
        bool messages = streq(path, "/v1/messages");

        if (!chat && !completions && !native && !messages && !streq(path, "/tokenize") &&
            !streq(path, "/detokenize") && !streq(path, "/v1/embeddings") && !streq(path, "/embedding") &&
            !streq(path, "/embeddings") && !streq(path, "/v1/rerank") && !streq(path, "/apply-template")) {
                answer_not_found(c);
                return;
        }
        if (strstr(path, "embedding") && !opt.embeddings) {
                answer_error(c, 501, "not_supported_error",
                             "This server does not support embeddings. Start it with `--embeddings`");
                return;
        }
        if (strstr(path, "rerank")) {
                answer_error(c, 501, "not_supported_error",
                             "This server does not support reranking. Start it with `--reranking`");
                return;
        }
        end = r->len ? json_skip(json_space(r->body), 0) : NULL;
        if (!end || *json_space(end)) {
                answer_error(
                        c, 400, "invalid_request_error",
                        r->len ? "[json.exception.parse_error.101] parse error at line 1, column 2: syntax "
                                 "error while parsing "
                                 "object key - invalid literal; last read: '{b'; expected string literal"
                               : "[json.exception.parse_error.101] parse error at line 1, column 1: "
                                 "attempting to parse an empty "
                                 "input; check that your input string or stream contains the expected JSON");
                return;
        }
        if ((chat || messages) && !json_find(r->body, "messages")) {
                answer_error(c, 400, "invalid_request_error", "'messages' is required");
                return;
        }
        if (chat && !opt.mmproj && strstr(json_find(r->body, "messages"), "\"image_url\"")) {
                answer_error(c, 500, "server_error",
                             "image input is not supported - hint: if this is unexpected, you may need to "
                             "provide the mmproj");
                return;
        }
        if (chat || completions || native || messages) {
                job_begin(c,
                          chat          ? CHAT
                          : completions ? COMPLETIONS
                          : native      ? NATIVE
                                        : MESSAGES,
                          r->body, r->len, r->conversation);
        } else if (streq(path, "/tokenize")) {
                struct text t = {0};
                size_t i;

                text_add(&t, "{\"tokens\":[263");
                for (i = 12; i + 2 < r->len; i += 4)
                        text_add(&t, ",%d", 300 + r->body[i]);
                text_add(&t, "]}");
                answer(c, 200, t.s);
                free(t.s);
        } else if (streq(path, "/detokenize")) {
                answer(c, 200, "{\"content\":\" the quick\"}");
        } else if (streq(path, "/apply-template")) {
                answer(c, 200, "{\"prompt\":\"<|user|>hi</s><|assistant|>\"}");
        } else {
                struct text t = {0};
                unsigned i;

                text_add(&t,
                         "{\"model\":\"%s\",\"object\":\"list\",\"usage\":{\"prompt_tokens\":4,\"total_"
                         "tokens\":4},\"data\":[{\"embedding\":[",
                         escaped(alias()));
                for (i = 0; i < (model.n_embd ? model.n_embd : 8); i++)
                        text_add(&t, "%s%.3f", i ? "," : "", (double)(i % 17) / 17 - 0.5);
                text_add(&t, "],\"index\":0,\"object\":\"embedding\"}]}");
                answer(c, 200, t.s);
                free(t.s);
        }
}

/* A CORS pre-flight; the order of its fields is another one. */
static void answer_options(struct conn *c)
{
        struct text t = {0};

        text_add(&t,
                 "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
                 "Access-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Methods: GET, POST, DELETE, "
                 "OPTIONS\r\n"
                 "Access-Control-Allow-Headers: *\r\nContent-Type: text/html\r\n%s\r\nContent-Length: "
                 "0\r\n\r\n",
                 c->keep ? "Keep-Alive: timeout=5, max=100" : "Connection: close");
        conn_put(c, t.s, t.len);
        free(t.s);
        c->close_after = !c->keep;
        c->idle_at = now_usec() + keep_alive();
}

static void handle(struct conn *c, struct request *r)
{
        bool get = streq(r->method, "GET"), head = streq(r->method, "HEAD"), health;
        size_t prefix = strlen(opt.prefix);
        int64_t now = now_usec();

        if (answer_fault(c, r->path))
                return;
        if (starts_with(r->path, opt.prefix))
                r->path += prefix;
        health = streq(r->path, "/health") || streq(r->path, "/v1/health");
        if (loading) {
                if (streq(r->path, "/"))
                        answer_not_found(c);
                else
                        answer(c, 503,
                               "{\"error\":{\"message\":\"Loading "
                               "model\",\"type\":\"unavailable_error\",\"code\":503}}");
                return;
        }
        if (opt.api_keys && !health && !r->authorized) {
                log_line('W', "srv    operator(): Unauthorized: Invalid API Key");
                answer(c, 401,
                       "{\"error\":{\"message\":\"Invalid API "
                       "Key\",\"type\":\"authentication_error\",\"code\":401}}");
                return;
        }
        if (streq(r->method, "OPTIONS")) {
                answer_options(c);
        } else if (health && (get || head)) {
                if (fault.health_500_after != OFF && now >= since + fault.health_500_after)
                        answer_error(c, 500, "server_error", "unknown error");
                else
                        answer_with(c, 200, "", JSON_TYPE, "{\"status\":\"ok\"}", 15, head, 15);
                if (fault.health_burn != OFF) {
                        conn_flush(c);
                        while (now_usec() < now + fault.health_burn * 1000)
                                ;
                }
        } else if (get && (streq(r->path, "/v1/models") || streq(r->path, "/models"))) {
                answer_models(c);
        } else if (get && streq(r->path, "/props")) {
                answer_props(c);
        } else if (get && (streq(r->path, "/slots") || streq(r->path, "/metrics"))) {
                if (wedged(now))
                        c->drip = DRIP_NEVER;
                else if (streq(r->path, "/slots"))
                        answer_slots(c, r->query);
                else
                        answer_metrics(c);
        } else if (get && streq(r->path, "/lora-adapters")) {
                answer(c, 200, "[]");
        } else if (streq(r->method, "POST") && !router) {
                handle_post(c, r);
        } else {
                answer_not_found(c);
        }
}

/* The value of a field in the head, "" if it is not there; in static storage. */
static const char *field(const char *head, const char *name)
{
        static char value[512];
        size_t n = strlen(name);
        const char *p;

        for (p = strstr(head, "\r\n"); p && p[2] != '\r'; p = strstr(p + 2, "\r\n"))
                if (strncasecmp(p + 2, name, n) == 0 && p[2 + n] == ':') {
                        p += 3 + n + strspn(p + 3 + n, " \t");
                        (void)snprintf(value, sizeof(value), "%.*s", (int)strcspn(p, "\r"), p);
                        return value;
                }
        return "";
}

static bool key_is_right(const char *head)
{
        const char *v = field(head, "Authorization"), *p;
        char key[512];

        if (starts_with(v, "Bearer "))
                v += 7;
        else
                v = field(head, "X-Api-Key");
        (void)snprintf(key, sizeof(key), "%s", v);
        for (p = opt.api_keys; p && *key && *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ','))
                if (strlen(key) == strcspn(p, ",") && strncmp(p, key, strlen(key)) == 0)
                        return true;
        return false;
}

static void answer_bad_request(struct conn *c)
{
        static const char TEXT400[] = "HTTP/1.1 400 Bad Request\r\nServer: llama.cpp\r\nConnection: "
                                      "close\r\nContent-Length: 0\r\n\r\n";

        conn_put(c, TEXT400, sizeof(TEXT400) - 1);
        c->close_after = true;
}

/* Takes one whole request out of what came. False when there is none yet. */
static bool take_request(struct conn *c)
{
        char *end = c->in_len ? strstr(c->in, "\r\n\r\n") : NULL, *line_end, *body, saved;
        struct request r = {0};
        unsigned long length = 0;
        const char *v;
        size_t whole;

        if (!end) {
                if (c->in_len > HEAD_MAX)
                        answer_bad_request(c);
                return false;
        }
        v = field(c->in, "Content-Length");
        length = strtoul(v, NULL, 10);
        body = end + 4;
        whole = (size_t)(body - c->in) + length;
        if (*field(c->in, "Transfer-Encoding")) {
                answer_bad_request(c);
                return false;
        }
        if (c->in_len < whole)
                return false;
        v = field(c->in, "Connection");
        c->keep = strcasecmp(v, "close") != 0;
        r.conversation = *field(c->in, "X-Conversation-Id") != '\0';
        r.authorized = key_is_right(c->in);
        (void)snprintf(c->unique, sizeof(c->unique), "%.63s",
                       *field(c->in, "X-Unique") ? field(c->in, "X-Unique") : "-");
        line_end = strstr(c->in, "\r\n");
        *line_end = '\0';
        r.method = c->in;
        r.path = strchr(c->in, ' ');
        if (!r.path || !strchr(r.path + 1, ' ')) {
                answer_bad_request(c);
                return false;
        }
        *r.path++ = '\0';
        c->once = strstr(r.path, " HTTP/1.0") != NULL;
        *strchr(r.path, ' ') = '\0';
        r.query = strchr(r.path, '?');
        if (r.query)
                *r.query++ = '\0';
        else
                r.query = r.path + strlen(r.path);
        if (fault.close_reused > 0 && c->requests > 0) {
                static int64_t reused;

                if (++reused % fault.close_reused == 0) {
                        conn_drop(c);
                        return false;
                }
        }
        if (streq(r.method, "POST"))
                journal("POST %lld %s %s%s", (long long)now_usec(), r.path, c->unique,
                        r.conversation ? " conversation" : "");
        saved = body[length];
        body[length] = '\0';
        r.body = body;
        r.len = length;
        c->requests++;
        handle(c, &r);
        body[length] = saved;
        memmove(c->in, c->in + whole, c->in_len - whole + 1);
        c->in_len -= whole;
        return true;
}

/* Idle connections keep no buffers: a thousand fakes with a prober each add up. */
static void conn_rest(struct conn *c)
{
        if (c->in_len == 0) {
                free(c->in);
                c->in = NULL;
                c->in_cap = 0;
        }
        if (c->out_len == 0) {
                free(c->out);
                c->out = NULL;
                c->out_cap = 0;
        }
}

static void conn_advance(struct conn *c)
{
        while (!c->dead && !c->close_after && c->job == JOB_NONE && c->drip == DRIP_NONE && !stopping &&
               take_request(c))
                ;
        conn_flush(c);
        conn_rest(c);
}

static void conn_read(struct conn *c, uint32_t events)
{
        char buf[4096];
        ssize_t n;

        while ((n = recv(c->fd, buf, sizeof(buf), 0)) > 0)
                append(&c->in, &c->in_len, &c->in_cap, buf, (size_t)n);
        if (n == 0 || (n < 0 && errno != EAGAIN) || events & (EPOLLHUP | EPOLLERR)) {
                if (!c->gone && (c->job || c->drip))
                        journal("GONE %lld %s", (long long)now_usec(), c->unique);
                c->gone = true;
        }
        conn_advance(c);
        if (!c->gone || c->dead)
                return;
        /* Epoll would report the closed end for ever. */
        (void)epoll_ctl(epfd, EPOLL_CTL_DEL, c->fd, NULL);
        if (c->job == JOB_NONE && c->out_len == 0)
                conn_drop(c);
        else if (c->job && c->detached)
                (void)close(steal_fd(&c->fd));
        else
                c->gone_at = now_usec() + (c->stream ? 0 : 1000000);
}

static void conn_accept(int fd)
{
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP};
        struct conn *c;
        int client, one = 1;

        client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0)
                return;
        c = calloc(1, sizeof(*c));
        if (!c) {
                (void)close(client);
                return;
        }
        (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        c->fd = client;
        c->slot = -1;
        c->idle_at = now_usec() + KEEP_ALIVE_USEC; /* --idle-ms is about those that were used */
        c->next = conns;
        conns = c;
        ev.data.ptr = c;
        (void)epoll_ctl(epfd, EPOLL_CTL_ADD, client, &ev);
}

#endif
