/* nats_scene.h: a real nats-server on loopback, a second client that is libnats' own blocking one, and the driver between them and a
 * connector that only writes down what it is told. A program of tests ends with NATS_MAIN; in a build without libnats that is all there is of it. */
#ifndef LSV_TEST_NATS_SCENE_H
#define LSV_TEST_NATS_SCENE_H

#ifndef LSV_HAVE_NATS
#include <stdio.h>

int main(void)
{
        (void)fprintf(stderr, "this build has no libnats\n");
        return 77;
}
#else
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <nats/nats.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/text.h"
#include "core/nats_month.h"
#include "hub/driver.h"

#define PATIENCE (60 * USEC_PER_SEC)
enum { JOBS_MAX = 64 };

struct taken {
        struct hub_job job;
        char id[HUB_ID_MAX], token[HUB_TOKEN_MAX], model[128], path[64], key[64], body[256];
        unsigned attempt;
        usec_t lease, deadline;
        enum ticket_priority priority;
        bool wants_text, wants_events;
        bool settled, lost, cancelled;
        enum hub_settled how;
};

struct worker {
        struct scene *s;
        struct hub_link *link;
        struct taken jobs[JOBS_MAX];
        size_t n;
        unsigned states, limited; /* how often a state was told, and of these, with a limit */
        int refuse;               /* on_job answers this */
};

struct scene {
        char dir[64], url[64], config[96];
        int port;
        pid_t server;
        struct loop *loop;
        struct timer *stop;
        natsConnection *admin;
        bool without_months; /* provision makes no stream of results */
        struct worker a, b;
};

/* --- the server ------------------------------------------------------------------------------------------------------ */

static inline bool have_server(void)
{
        return access("/usr/sbin/nats-server", X_OK) == 0 || access("/usr/bin/nats-server", X_OK) == 0;
}

/* One that nobody has and the kernel gives to no outgoing connection, as the scenarios choose theirs: a server here dies and comes back,
 * and its port must not be had meanwhile by a program of tests next door. */
static inline int free_port(void)
{
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int r;

        do {
                int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
                uint16_t dice;

                assert_true(fd >= 0);
                assert_int_equal(getrandom(&dice, sizeof(dice), 0), sizeof(dice));
                a.sin_port = htons((uint16_t)(15000 + dice % 15000));
                r = bind(fd, (struct sockaddr *)&a, sizeof(a));
                (void)close(fd);
        } while (r < 0);
        return ntohs(a.sin_port);
}

static inline bool answers(int port)
{
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in a = {.sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                .sin_port = htons((uint16_t)port)};
        bool yes = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

        (void)close(fd);
        return yes;
}

static inline void server_config(struct scene *s, const char *users)
{
        FILE *f = fopen(s->config, "we");

        assert_non_null(f);
        (void)fprintf(f, "listen: 127.0.0.1:%d\njetstream { store_dir: \"%s/js\" }\nmax_payload: 65536\n%s\n",
                      s->port, s->dir, users);
        (void)fclose(f);
}

static inline void server_start(struct scene *s)
{
        usec_t until = time_monotonic() + PATIENCE;

        s->server = fork();
        assert_true(s->server >= 0);
        if (s->server == 0) {
                int null = open("/dev/null", O_RDWR | O_CLOEXEC);

                /* A test that fails leaves none behind. */
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)dup2(null, STDOUT_FILENO);
                (void)dup2(null, STDERR_FILENO);
                (void)execlp("nats-server", "nats-server", "-c", s->config, (char *)NULL);
                (void)execl("/usr/sbin/nats-server", "nats-server", "-c", s->config, (char *)NULL);
                _exit(127);
        }
        while (!answers(s->port)) {
                assert_true(time_monotonic() < until);
                (void)usleep(5000);
        }
}

static inline void server_kill(struct scene *s, int signal)
{
        (void)kill(s->server, signal);
        assert_int_equal(waitpid(s->server, NULL, 0), s->server);
        s->server = 0;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        (void)st;
        (void)type;
        (void)ftw;
        return remove(path);
}

/* --- the other client ------------------------------------------------------------------------------------------------ */

static inline void admin_connect(struct scene *s, const char *user, const char *password)
{
        natsOptions *o = NULL;

        assert_int_equal(natsOptions_Create(&o), NATS_OK);
        (void)natsOptions_SetURL(o, s->url);
        if (user)
                (void)natsOptions_SetUserInfo(o, user, password);
        (void)natsOptions_SetReconnectWait(o, 50);
        (void)natsOptions_SetMaxReconnect(o, 10000);
        assert_int_equal(natsConnection_Connect(&s->admin, o), NATS_OK);
        natsOptions_Destroy(o);
}

/* JetStream may begin a moment after the port is open. */
static inline void api(struct scene *s, const char *subject, const struct buffer *body,
                       struct nats_answer *ret)
{
        usec_t until = time_monotonic() + PATIENCE;

        for (;;) {
                natsMsg *m = NULL;
                natsStatus ns = natsConnection_Request(&m, s->admin, subject, body ? body->data : "",
                                                       body ? (int)body->len : 0, 5000);

                if (ns == NATS_OK &&
                    nats_answer_parse(natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m), ret) == 0 &&
                    ret->err_code != 10008 && ret->err_code != 10039) {
                        natsMsg_Destroy(m);
                        return;
                }
                natsMsg_Destroy(m);
                assert_true(time_monotonic() < until);
                (void)usleep(20000);
        }
}

static inline void make_stream(struct scene *s, const char *name, const struct buffer *body)
{
        char subject[NATS_SUBJECT_MAX];
        struct nats_answer a;

        (void)snprintf(subject, sizeof(subject), "$JS.API.STREAM.CREATE.%s", name);
        api(s, subject, body, &a);
        if (a.code)
                fail_msg("%s: %s", subject, a.description);
}

static inline void make_month(struct scene *s, unsigned month, const struct nats_layout *l)
{
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;
        char name[NATS_MONTH_STREAM_MAX];

        buffer_init(&b, 0);
        json_begin(&w, &b);
        nats_put_results(&w, month, l);
        make_stream(s, nats_results_stream(month, name), &b);
}

/* Those that a job of these days can belong to, and the next one, whose lack would be told. */
static inline void make_months(struct scene *s, const struct nats_layout *l)
{
        unsigned near[2];
        size_t n = nats_months_near(time_realtime() * 1000, near);

        for (unsigned month = near[0]; month <= nats_month_add(near[n - 1], 1);
             month = nats_month_add(month, 1))
                make_month(s, month, l);
}

static inline void drop_months(struct scene *s)
{
        unsigned near[2];
        size_t n = nats_months_near(time_realtime() * 1000, near);

        for (size_t i = 0; i < n; i++) {
                char subject[NATS_SUBJECT_MAX], name[NATS_MONTH_STREAM_MAX];
                struct nats_answer a = {0};

                (void)snprintf(subject, sizeof(subject), "$JS.API.STREAM.DELETE.%s",
                               nats_results_stream(near[i], name));
                api(s, subject, NULL, &a);
        }
}

static inline void provision(struct scene *s, const struct nats_layout *l, const char *const *models)
{
        struct nats_answer a;

        for (unsigned i = 0; i < NATS_STREAMS; i++) {
                _cleanup_buffer_ struct buffer b = {0};
                struct json_writer w;

                if (i == NATS_RESULTS)
                        continue;
                buffer_init(&b, 0);
                json_begin(&w, &b);
                nats_put_stream(&w, (enum nats_stream)i, l);
                make_stream(s, nats_stream_name((enum nats_stream)i), &b);
        }
        if (!s->without_months)
                make_months(s, l);
        for (; *models; models++)
                for (unsigned c = 0; c < NATS_CLASSES; c++) {
                        _cleanup_buffer_ struct buffer b;
                        struct json_writer w;
                        char subject[NATS_SUBJECT_MAX + 64], name[NATS_SUBJECT_MAX];

                        buffer_init(&b, 0);
                        json_begin(&w, &b);
                        assert_int_equal(nats_put_consumer(&w, *models, (enum nats_class)c, l), 0);
                        assert_int_equal(nats_consumer(*models, (enum nats_class)c, name), 0);
                        (void)snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.DURABLE.CREATE.JOBS.%s",
                                       name);
                        api(s, subject, &b, &a);
                        if (a.code)
                                fail_msg("%s: %s", subject, a.description);
                }
}

/* The stream's sequence of the job. headers: pairs, NULL-ended. */
static inline uint64_t hand_in(struct scene *s, const char *model, enum nats_class c, const char *id,
                               const char *body, const char *const *headers)
{
        char subject[NATS_SUBJECT_MAX];
        struct nats_answer a = {0};
        natsMsg *m = NULL, *answer = NULL;
        natsStatus r = NATS_ERR;

        assert_int_equal(nats_subject_job(model, c, subject), 0);
        assert_int_equal(natsMsg_Create(&m, subject, NULL, body, (int)strlen(body)), NATS_OK);
        if (id) {
                (void)natsMsgHeader_Set(m, NATS_HEADER_JOB, id);
                (void)natsMsgHeader_Set(m, NATS_HEADER_MSG_ID, id);
        }
        for (; headers && *headers; headers += 2)
                (void)natsMsgHeader_Set(m, headers[0], headers[1]);
        /* A server that has just begun may lose one; one with an id counts once, however often it is said. */
        for (unsigned i = 0; i < 5 && r != NATS_OK; i++)
                if (i == 0 || (id && r == NATS_TIMEOUT))
                        r = natsConnection_RequestMsg(&answer, s->admin, m, 5000);
        assert_int_equal(r, NATS_OK);
        assert_int_equal(
                nats_answer_parse(natsMsg_GetData(answer), (size_t)natsMsg_GetDataLength(answer), &a), 0);
        if (a.code)
                fail_msg("%s", a.description);
        natsMsg_Destroy(m);
        natsMsg_Destroy(answer);
        return a.seq;
}

static inline char *result_in(struct scene *s, unsigned month, const char *id)
{
        char subject[NATS_SUBJECT_MAX], ask[NATS_SUBJECT_MAX], stream[NATS_MONTH_STREAM_MAX];
        struct nats_answer a = {0};
        _cleanup_buffer_ struct buffer b;

        buffer_init(&b, 0);
        (void)buffer_printf(&b, "{\"last_by_subj\":\"%s\"}", nats_subject_result(month, id, subject));
        (void)snprintf(ask, sizeof(ask), "$JS.API.STREAM.MSG.GET.%s", nats_results_stream(month, stream));
        api(s, ask, &b, &a);
        return a.code ? NULL : a.message;
}

/* The result of a job of these days as it lies in its stream; NULL: none. */
static inline char *result_of(struct scene *s, const char *id)
{
        unsigned near[2];
        size_t n = nats_months_near(time_realtime() * 1000, near);
        char *text = NULL;

        for (size_t i = 0; i < n && !text; i++)
                text = result_in(s, near[i], id);
        return text;
}

/* Stored by somebody else, in this month. */
static inline void put_result(struct scene *s, const char *id, const char *text)
{
        char subject[NATS_SUBJECT_MAX];

        (void)nats_subject_result(nats_month_of(time_realtime() * 1000), id, subject);
        assert_int_equal(natsConnection_PublishString(s->admin, subject, text), NATS_OK);
        assert_int_equal(natsConnection_Flush(s->admin), NATS_OK);
}

static inline uint64_t jobs_left(struct scene *s, const char *consumer)
{
        struct nats_answer a = {0};
        char subject[NATS_SUBJECT_MAX + 64];

        (void)snprintf(subject, sizeof(subject), "$JS.API.CONSUMER.INFO.JOBS.%s", consumer);
        api(s, subject, NULL, &a);
        return a.num_pending + a.num_ack_pending;
}

/* --- the scripted connector ----------------------------------------------------------------------------------------- */

static inline void on_state(void *owner)
{
        struct worker *w = owner;
        struct hub_status st;

        w->states++;
        if (!w->link)
                return;
        hub_driver_nats.status(w->link, &st);
        w->limited += st.limit != NULL;
}

static inline int on_job(void *owner, const struct hub_claim *claim, struct hub_job **ret)
{
        struct worker *w = owner;
        struct taken *t = &w->jobs[w->n];

        if (w->refuse)
                return w->refuse;
        assert_true(w->n < JOBS_MAX);
        w->n++;
        (void)text_copy(t->id, sizeof(t->id), claim->id);
        (void)text_copy(t->token, sizeof(t->token), claim->token);
        (void)text_copy(t->model, sizeof(t->model), claim->model);
        (void)text_copy(t->path, sizeof(t->path), claim->path);
        (void)text_copy(t->key, sizeof(t->key), claim->key);
        (void)text_copy(t->body, sizeof(t->body), claim->body);
        assert_int_equal(claim->body[claim->body_len], 0);
        t->attempt = claim->attempt;
        t->lease = claim->lease;
        t->deadline = claim->deadline;
        t->priority = claim->priority;
        t->wants_text = claim->wants_text;
        t->wants_events = claim->wants_events;
        t->job = (struct hub_job){.id = t->id, .token = t->token, .attempt = claim->attempt, .run = 1};
        *ret = &t->job;
        return 0;
}

static inline void on_settled(void *owner, struct hub_job *job, enum hub_settled how)
{
        struct taken *t = CONTAINER_OF(job, struct taken, job);

        (void)owner;
        assert_false(t->settled);
        t->settled = true;
        t->how = how;
}

static inline void on_lost(void *owner, struct hub_job *job, const char *why)
{
        struct taken *t = CONTAINER_OF(job, struct taken, job);

        (void)owner;
        assert_non_null(why);
        assert_false(t->lost);
        t->lost = true;
}

static inline void on_cancel(void *owner, const char *id)
{
        struct worker *w = owner;

        for (size_t i = 0; i < w->n; i++)
                if (streq(w->jobs[i].id, id))
                        w->jobs[i].cancelled = true;
}

static const struct hub_events worker_events = {on_state, on_job, on_settled, on_lost, on_cancel};

static inline void worker_open(struct scene *s, struct worker *w, const char *name, const char *user,
                               const char *credentials)
{
        struct config_hub hub = {.driver = CONFIG_HUB_NATS,
                                 .url = s->url,
                                 .credentials_file = (char *)credentials,
                                 .user = (char *)user};
        struct hub_open with = {.loop = s->loop,
                                .hub = &hub,
                                .name = "nats",
                                .worker = name,
                                .dir = s->dir,
                                .events = &worker_events,
                                .owner = w};
        char *why = NULL;

        w->s = s;
        if (hub_driver_nats.open(&with, &w->link, &why) < 0)
                fail_msg("%s", why);
}

static inline struct hub_status status_of(const struct worker *w)
{
        struct hub_status st;

        hub_driver_nats.status(w->link, &st);
        return st;
}

static inline void worker_close(struct worker *w)
{
        w->link = hub_driver_nats.close(w->link);
        memset(w->jobs, 0, sizeof(w->jobs));
        w->n = 0;
}

static inline void credits(struct worker *w, unsigned total, const char *model, unsigned slots)
{
        const struct hub_credit c = {
                .model = model, .free = slots, .slots = slots, .context = 4096, .ready = true};

        hub_driver_nats.set_credits(w->link, total, &c, total ? 1 : 0);
}

/* --- time --------------------------------------------------------------------------------------------------------------- */

static inline void time_is_up(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        loop_stop(s->loop);
}

static inline void run_for(struct scene *s, usec_t span)
{
        timer_set(s->stop, time_monotonic() + span);
        loop_run(s->loop);
}

/* A statement's condition, looked at every 5 ms. */
#define WAIT_FOR(s, condition)                                                                               \
        do {                                                                                                 \
                usec_t until_ = time_monotonic() + PATIENCE;                                                 \
                while (!(condition)) {                                                                       \
                        if (time_monotonic() > until_)                                                       \
                                fail_msg("%s:%d: never: %s", __FILE__, __LINE__, #condition);                \
                        run_for((s), 5 * USEC_PER_MSEC);                                                     \
                }                                                                                            \
        } while (0)

static const char *const usual_models[] = {"tiny", "org/big:8b", NULL};

static inline void scene_begin(struct scene *s, const char *users, const char *admin, const char *password)
{
        memset(s, 0, sizeof(*s));
        (void)snprintf(s->dir, sizeof(s->dir), "/tmp/lsv-nats-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
        (void)snprintf(s->config, sizeof(s->config), "%s/nats.conf", s->dir);
        s->port = free_port();
        (void)snprintf(s->url, sizeof(s->url), "nats://127.0.0.1:%d", s->port);
        server_config(s, users);
        server_start(s);
        admin_connect(s, admin, password);
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, time_is_up, s, &s->stop), 0);
}

static inline void scene_usual(struct scene *s, usec_t lease)
{
        struct nats_layout l = NATS_LAYOUT_DEFAULT;

        scene_begin(s, "", NULL, NULL);
        l.ack_wait = lease;
        provision(s, &l, usual_models);
}

static inline void scene_end(struct scene *s)
{
        worker_close(&s->a);
        worker_close(&s->b);
        natsConnection_Destroy(s->admin);
        s->stop = timer_free(s->stop);
        assert_null(loop_free(s->loop));
        if (s->server)
                server_kill(s, SIGKILL);
        assert_int_equal(nftw(s->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static inline void up(struct scene *s, struct worker *w, const char *name)
{
        worker_open(s, w, name, NULL, NULL);
        WAIT_FOR(s, status_of(w).state == HUB_UP);
}

static inline void complete(struct worker *w, size_t i, const char *body)
{
        struct hub_result r = {.status = 200,
                               .body = body,
                               .body_len = strlen(body),
                               .text = "",
                               .instance = "i",
                               .model = w->jobs[i].model,
                               .tokens = 7,
                               .finished_at = 1795175834000};

        w->jobs[i].settled = false;
        hub_driver_nats.complete(w->link, &w->jobs[i].job, &r);
        assert_false(w->jobs[i].settled);
}

/* As the connector does: what is not known is ordered again. */
static inline void complete_until_known(struct worker *w, size_t i, const char *body)
{
        complete(w, i, body);
        WAIT_FOR(w->s, w->jobs[i].settled);
        while (w->jobs[i].how == HUB_UNKNOWN) {
                run_for(w->s, 50 * USEC_PER_MSEC);
                complete(w, i, body);
                WAIT_FOR(w->s, w->jobs[i].settled);
        }
}

#define SETTLED(s, w, i, as)                                                                                 \
        do {                                                                                                 \
                WAIT_FOR((s), (w)->jobs[i].settled);                                                         \
                if ((w)->jobs[i].how != (as))                                                                \
                        fail_msg("%s:%d: settled as %s, not %s", __FILE__, __LINE__,                         \
                                 hub_settled_name((w)->jobs[i].how), hub_settled_name(as));                  \
        } while (0)

/* The tests of a program, each a cmocka_unit_test(). */
#define NATS_MAIN(...)                                                                                       \
        int main(void)                                                                                       \
        {                                                                                                    \
                const struct CMUnitTest tests[] = {__VA_ARGS__};                                             \
                int r;                                                                                       \
                                                                                                             \
                if (!have_server()) {                                                                        \
                        (void)fprintf(stderr, "there is no nats-server here\n");                             \
                        return 77;                                                                           \
                }                                                                                            \
                r = cmocka_run_group_tests(tests, NULL, NULL);                                               \
                nats_Close();                                                                                \
                return r;                                                                                    \
        }

#endif
#endif
