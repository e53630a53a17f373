/* fetch.c: libcurl's multi interface on the loop. */
#include "net/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/buffer.h"
#include "base/list.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"

enum { EVENTS_A_TURN = 16, CONNECTIONS_KEPT = 4 };

struct fetcher {
        struct loop *loop;
        CURLM *multi;
        int epoll;
        struct watch *watch;
        struct timer *timer;
        struct list running, done;
        struct fetcher_counts counts;
        bool *gone; /* set while libcurl or an owner is at work: fetcher_free marks it */
};

struct fetch {
        struct list node;
        struct fetcher *fetcher;
        CURL *easy;
        struct curl_slist *headers;
        char *body;
        struct buffer answer;
        fetch_done_fn *on_done;
        void *owner;
        CURLcode result;
        bool too_long;
        char error[CURL_ERROR_SIZE];
};

/* --- one fetch -------------------------------------------------------------------------------------------------- */

static struct fetch *discard(struct fetch *x)
{
        if (!x)
                return NULL;
        list_remove(&x->node);
        if (x->easy) {
                (void)curl_multi_remove_handle(x->fetcher->multi, x->easy);
                curl_easy_cleanup(x->easy);
        }
        curl_slist_free_all(x->headers);
        free(x->body);
        buffer_finish(&x->answer);
        free(x);
        return NULL;
}

static size_t on_body(char *data, size_t size, size_t n, void *owner)
{
        struct fetch *x = owner;

        if (buffer_append(&x->answer, data, size * n) < 0) {
                x->too_long = true;
                return 0;
        }
        return size * n;
}

static const char *words_of(const struct fetch *x)
{
        if (x->too_long)
                return "the answer is longer than we take";
        if (x->result == CURLE_OPERATION_TIMEDOUT)
                return "no answer in time";
        return *x->error ? x->error : curl_easy_strerror(x->result);
}

static void tell(struct fetch *x)
{
        struct fetch_answer answer = {.body = ""};
        struct fetcher *f = x->fetcher;
        curl_off_t retry_after = 0;
        long status = 0, sent = 0;

        (void)curl_easy_getinfo(x->easy, CURLINFO_REQUEST_SIZE, &sent);
        answer.sent = sent > 0;
        if (x->result == CURLE_OK) {
                (void)curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
                (void)curl_easy_getinfo(x->easy, CURLINFO_RETRY_AFTER, &retry_after);
                answer.status = (int)status;
                answer.retry_after = (unsigned)MIN(MAX(retry_after, 0), 86400);
                if (x->answer.len) {
                        answer.body = x->answer.data;
                        answer.body_len = x->answer.len;
                }
        } else {
                answer.why = words_of(x);
                f->counts.failed++;
        }
        f->counts.running--;
        /* The owner may free the fetcher; this one is in no list of it any more. */
        list_remove(&x->node);
        (void)curl_multi_remove_handle(f->multi, x->easy);
        x->on_done(x->owner, &answer);
        curl_easy_cleanup(x->easy);
        x->easy = NULL;
        (void)discard(x);
}

/* --- libcurl's wishes ------------------------------------------------------------------------------------------- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *owner, void *known)
{
        struct epoll_event ev = {.data.fd = fd};
        struct fetcher *f = owner;

        (void)easy;
        if (what == CURL_POLL_REMOVE) {
                (void)epoll_ctl(f->epoll, EPOLL_CTL_DEL, fd, NULL);
                return 0;
        }
        if (what & CURL_POLL_IN)
                ev.events |= EPOLLIN;
        if (what & CURL_POLL_OUT)
                ev.events |= EPOLLOUT;
        if (epoll_ctl(f->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev) < 0 &&
            (errno != EEXIST || epoll_ctl(f->epoll, EPOLL_CTL_MOD, fd, &ev) < 0) &&
            (errno != ENOENT || epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &ev) < 0))
                log_debug(NULL, "libcurl's socket cannot be watched: %s", strerror(errno));
        (void)curl_multi_assign(f->multi, fd, f); /* any pointer: it is in the set */
        return 0;
}

static int on_timeout(CURLM *multi, long ms, void *owner)
{
        struct fetcher *f = owner;

        (void)multi;
        /* Never from here into libcurl: 0 means the next turn. */
        timer_set(f->timer, ms < 0 ? USEC_INFINITY : usec_add(loop_now(f->loop), (usec_t)ms * USEC_PER_MSEC));
        return 0;
}

static void collect(struct fetcher *f)
{
        CURLMsg *message;
        int left;

        while ((message = curl_multi_info_read(f->multi, &left))) {
                struct fetch *x = NULL;

                if (message->msg != CURLMSG_DONE)
                        continue;
                (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&x);
                x->result = message->data.result;
                list_remove(&x->node);
                list_append(&f->done, &x->node);
        }
}

static void work(struct fetcher *f, curl_socket_t fd, int events)
{
        int running;

        (void)curl_multi_socket_action(f->multi, fd, events, &running);
        collect(f);
}

static void tell_all(struct fetcher *f)
{
        bool gone = false, *outer = f->gone;

        f->gone = &gone;
        while (!gone && !list_is_empty(&f->done))
                tell(LIST_ENTRY(f->done.next, struct fetch, node));
        if (!gone)
                f->gone = outer;
        else if (outer)
                *outer = true;
}

static void on_watch(void *owner, unsigned events, usec_t now)
{
        struct epoll_event list[EVENTS_A_TURN];
        struct fetcher *f = owner;
        int n = epoll_wait(f->epoll, list, EVENTS_A_TURN, 0);

        (void)events;
        (void)now;
        for (int i = 0; i < n; i++) {
                int mask = 0;

                if (list[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                        mask |= CURL_CSELECT_IN;
                if (list[i].events & EPOLLOUT)
                        mask |= CURL_CSELECT_OUT;
                if (list[i].events & EPOLLERR)
                        mask |= CURL_CSELECT_ERR;
                work(f, list[i].data.fd, mask);
        }
        tell_all(f);
}

static void on_timer(void *owner, usec_t now)
{
        struct fetcher *f = owner;

        (void)now;
        work(f, CURL_SOCKET_TIMEOUT, 0);
        tell_all(f);
}

/* --- starting --------------------------------------------------------------------------------------------------- */

static int add_headers(struct fetch *x, const struct fetch_spec *spec)
{
        /* Without it libcurl waits a second for "100 Continue" before a long body. */
        struct curl_slist *list = curl_slist_append(NULL, "Expect:");

        if (!list)
                return -ENOMEM;
        x->headers = list;
        for (unsigned i = 0; i < FETCH_HEADERS_MAX && spec->headers[i]; i++) {
                if (strpbrk(spec->headers[i], "\r\n") || !strchr(spec->headers[i], ':'))
                        return -EINVAL;
                list = curl_slist_append(x->headers, spec->headers[i]);
                if (!list)
                        return -ENOMEM;
                x->headers = list;
        }
        return 0;
}

static int set_up(struct fetch *x, const struct fetch_spec *spec)
{
        usec_t connect = spec->connect_timeout ? spec->connect_timeout : 10 * USEC_PER_SEC;
        usec_t whole = spec->timeout ? spec->timeout : 30 * USEC_PER_SEC;
        CURL *e = x->easy;
        int r = add_headers(x, spec);
        bool ok = r == 0;

        if (r < 0)
                return r;
#define SET(option, value) ok = ok && curl_easy_setopt(e, option, value) == CURLE_OK
        SET(CURLOPT_URL, spec->url);
        SET(CURLOPT_CUSTOMREQUEST, spec->method);
        SET(CURLOPT_PRIVATE, x);
        SET(CURLOPT_ERRORBUFFER, x->error);
        SET(CURLOPT_HTTPHEADER, x->headers);
        SET(CURLOPT_WRITEFUNCTION, on_body);
        SET(CURLOPT_WRITEDATA, x);
        SET(CURLOPT_NOSIGNAL, 1L);
        SET(CURLOPT_NOPROGRESS, 1L);
        /* Else a fetch that ends while its name is looked up waits, on our loop, for the resolver's thread. */
        SET(CURLOPT_QUICK_EXIT, 1L);
        SET(CURLOPT_PROXY, "");
        SET(CURLOPT_PROTOCOLS_STR, "http,https");
        SET(CURLOPT_FOLLOWLOCATION, 0L);
        SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
        SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
        SET(CURLOPT_SSL_VERIFYPEER, 1L);
        SET(CURLOPT_SSL_VERIFYHOST, 2L);
        SET(CURLOPT_CONNECTTIMEOUT_MS, (long)MAX(connect / USEC_PER_MSEC, 1));
        SET(CURLOPT_TIMEOUT_MS, (long)MAX(whole / USEC_PER_MSEC, 1));
        SET(CURLOPT_USERAGENT, "llama-supervisor/" LSV_VERSION);
        if (spec->ca_file) {
                SET(CURLOPT_CAINFO, spec->ca_file);
                SET(CURLOPT_CAPATH, NULL);
        }
        if (spec->body) {
                x->body = malloc(spec->body_len + 1);
                if (!x->body)
                        return -ENOMEM;
                memcpy(x->body, spec->body, spec->body_len);
                SET(CURLOPT_POSTFIELDS, x->body);
                SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)spec->body_len);
        } else if (streq(spec->method, "POST")) {
                SET(CURLOPT_POSTFIELDS, "");
        }
#undef SET
        return ok ? 0 : -ENOMEM;
}

int fetch_start(struct fetcher *f, const struct fetch_spec *spec, fetch_done_fn *on_done, void *owner,
                struct fetch **ret)
{
        struct fetch *x;
        int r;

        if (!starts_with(spec->url, "http://") && !starts_with(spec->url, "https://"))
                return -EINVAL;
        if (f->counts.running >= FETCH_MAX) {
                f->counts.refused++;
                return -EAGAIN;
        }
        x = calloc(1, sizeof *x);
        if (!x)
                return -ENOMEM;
        list_init(&x->node);
        x->fetcher = f;
        x->on_done = on_done;
        x->owner = owner;
        buffer_init(&x->answer, spec->body_max ? spec->body_max : FETCH_BODY_MAX);
        x->easy = curl_easy_init();
        r = x->easy ? set_up(x, spec) : -ENOMEM;
        if (r == 0 && curl_multi_add_handle(f->multi, x->easy) != CURLM_OK)
                r = -ENOMEM;
        if (r < 0) {
                (void)discard(x);
                return r;
        }
        list_append(&f->running, &x->node);
        f->counts.started++;
        f->counts.running++;
        *ret = x;
        return 0;
}

struct fetch *fetch_cancel(struct fetch *x)
{
        if (!x)
                return NULL;
        x->fetcher->counts.running--;
        return discard(x);
}

const struct fetcher_counts *fetcher_counts(const struct fetcher *f)
{
        return &f->counts;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

int fetcher_new(struct loop *loop, struct fetcher **ret)
{
        static bool initialised;
        struct fetcher *f;
        int r = 0;

        if (!initialised && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return -ENOMEM;
        initialised = true;
        f = calloc(1, sizeof *f);
        if (!f)
                return -ENOMEM;
        f->loop = loop;
        list_init(&f->running);
        list_init(&f->done);
        f->epoll = epoll_create1(EPOLL_CLOEXEC);
        f->multi = curl_multi_init();
        if (f->epoll < 0)
                r = -errno;
        else if (!f->multi)
                r = -ENOMEM;
        if (r == 0)
                r = timer_new(loop, on_timer, f, &f->timer);
        if (r == 0)
                r = watch_new(loop, f->epoll, WATCH_READ, on_watch, f, &f->watch);
        if (r < 0) {
                (void)fetcher_free(f);
                return r;
        }
        (void)curl_multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        (void)curl_multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f);
        (void)curl_multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
        (void)curl_multi_setopt(f->multi, CURLMOPT_TIMERDATA, f);
        (void)curl_multi_setopt(f->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT);
        *ret = f;
        return 0;
}

struct fetcher *fetcher_free(struct fetcher *f)
{
        if (!f)
                return NULL;
        if (f->gone)
                *f->gone = true;
        LIST_FOREACH(&f->running, it)
        (void)discard(LIST_ENTRY(it, struct fetch, node));
        LIST_FOREACH(&f->done, it2)
        (void)discard(LIST_ENTRY(it2, struct fetch, node));
        if (f->multi)
                (void)curl_multi_cleanup(f->multi);
        f->watch = watch_free(f->watch);
        f->timer = timer_free(f->timer);
        if (f->epoll >= 0)
                (void)close(f->epoll);
        free(f);
        return NULL;
}
