/* fake_llama_server: answers like the real llama-server (its captured answers, log lines, exit codes, ways to stop) without a
 * model, and fails in the ways that --fake-help lists. One thread and one epoll; a few hundred KB each, so that a benchmark
 * can start a thousand.
 *
 * Known differences: requests with a chunked body are refused with 400; /v1/responses, /infill and audio are not there; tokens
 * are the words of one sentence; the prompt's length is guessed from its bytes. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "fake_requests.h"

/* --- listening ------------------------------------------------------------------------------------------------- */

static bool bind_one(const char *host)
{
        union {
                struct sockaddr sa;
                struct sockaddr_un un;
                struct sockaddr_in in;
                struct sockaddr_in6 in6;
        } a = {0};
        socklen_t len;
        int fd, one = 1;

        if (streq(host, "localhost"))
                host = "127.0.0.1";
        if (ends_with(host, ".sock")) {
                if (strlen(host) >= sizeof(a.un.sun_path))
                        return false;
                a.un.sun_family = AF_UNIX;
                strcpy(a.un.sun_path, host);
                len = sizeof(a.un);
                socket_path = strdup(host);
        } else if (inet_pton(AF_INET, host, &a.in.sin_addr) == 1) {
                a.in.sin_family = AF_INET;
                a.in.sin_port = htons((uint16_t)opt.port);
                len = sizeof(a.in);
        } else if (inet_pton(AF_INET6, host, &a.in6.sin6_addr) == 1) {
                a.in6.sin6_family = AF_INET6;
                a.in6.sin6_port = htons((uint16_t)opt.port);
                len = sizeof(a.in6);
        } else {
                return false;
        }
        fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return false;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, &a.sa, len) < 0 || listen(fd, 512) < 0) {
                (void)close(fd);
                return false;
        }
        if (a.sa.sa_family != AF_UNIX && getsockname(fd, &a.sa, &len) == 0)
                last_port = opt.port == 0 ? ntohs(a.in.sin_port) : (int)opt.port;
        listeners[n_listeners++] = fd;
        return true;
}

static void bind_all(void)
{
        char hosts[1024], *save = NULL, *host;

        (void)snprintf(hosts, sizeof(hosts), "%s", opt.host);
        for (host = strtok_r(hosts, ",", &save); host && n_listeners < LISTENERS_MAX;
             host = strtok_r(NULL, ",", &save))
                if (!bind_one(host)) {
                        log_line('E',
                                 "srv         start: couldn't bind HTTP server socket, hostname: %s, port: "
                                 "%ld",
                                 opt.host, opt.port);
                        die(2);
                }
}

static void log_listening(void)
{
        char hosts[1024], *save = NULL, *host;

        (void)snprintf(hosts, sizeof(hosts), "%s", opt.host);
        for (host = strtok_r(hosts, ",", &save); host; host = strtok_r(NULL, ",", &save))
                if (ends_with(host, ".sock"))
                        log_line('I', "srv  llama_server: listening on unix://%s", host);
                else
                        log_line('I', "srv  llama_server: listening on http://%s:%d", host, last_port);
}

/* --- life ------------------------------------------------------------------------------------------------------ */

/* Installed after the load, as upstream: before that SIGTERM kills. */
static void on_term(int signo)
{
        static const char MESSAGE[] = "Received second interrupt, terminating immediately.\n";
        uint64_t one = 1;

        (void)signo;
        if (term_signals++ > 0) {
                (void)!write(STDERR_FILENO, MESSAGE, sizeof(MESSAGE) - 1);
                _exit(1);
        }
        (void)!write(wakefd, &one, sizeof(one));
}

/* A child that outlives SIGTERM. It ends itself after ten minutes, so that a failed test leaves nothing for ever. */
static void leave_grandchild(bool session)
{
        if (fork() != 0)
                return;
        if (session)
                (void)setsid();
        (void)signal(SIGTERM, SIG_IGN);
        (void)signal(SIGINT, SIG_IGN);
        (void)alarm(600);
        for (;;)
                (void)pause();
}

/* The process that was started only waits; its child is the server. */
static void lie_about_peer(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                return;
        }
        (void)waitpid(pid, NULL, 0);
        _exit(1);
}

static void print_and_exit(void)
{
        _cleanup_close_ int fd = open(fault.print_file, O_RDONLY | O_CLOEXEC);
        char buf[4096];
        ssize_t n;

        while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0)
                write_all(STDERR_FILENO, buf, (size_t)n);
        _exit((int)fault.print_code);
}

static void die_out_of_memory(void)
{
        log_line('E', "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4168.09 MiB on device 0: "
                      "cudaMalloc failed: out of memory");
        log_line('E', "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4370558976");
        log_line('E', "llama_model_load: error loading model: unable to allocate CUDA0 buffer");
        log_line('E', "llama_model_load_from_file_impl: failed to load model");
        log_line('E', "cmn  common_init_: failed to load model '%s'", opt.model);
        log_line('E', "srv    load_model: failed to load model, '%s'", opt.model);
        die(1);
}

static void die_loading(const char *how)
{
        static const struct {
                const char *name;
                int signo;
        } SIGNALS[] = {
                {"SEGV", SIGSEGV}, {"ABRT", SIGABRT}, {"KILL", SIGKILL}, {"TERM", SIGTERM}, {"BUS", SIGBUS}};
        size_t i;

        for (i = 0; i < ARRAY_SIZE(SIGNALS); i++)
                if (streq(how, SIGNALS[i].name))
                        die_of(SIGNALS[i].signo);
        _exit(atoi(how));
}

/* The real one tries a second time: it first fits its parameters to the free memory. */
static void read_model(void)
{
        int try;

        log_line('I', "srv    load_model: loading model '%s'", opt.model);
        model_read(opt.model, &model);
        if (model.second_error[0] == '\0')
                return;
        for (try = 0; try < 2; try++) {
                if (model.first_error[0])
                        log_line('E', "%s", model.first_error);
                log_line('E', "llama_model_load: error loading model: %s", model.second_error);
                log_line('E', "llama_model_load_from_file_impl: failed to load model");
                if (try == 0)
                        log_line('E', "common_fit_params: encountered an error while trying to fit params to "
                                      "free device "
                                      "memory: failed to load model");
        }
        log_line('E', "cmn  common_init_: failed to load model '%s'", opt.model);
        log_line('E', "srv    load_model: failed to load model, '%s'", opt.model);
        die(1);
}

static void load_done(int64_t now)
{
        struct sigaction sa = {.sa_handler = on_term};

        loading = false;
        since = now;
        if (!router) {
                log_line('I', "cmn          init: llama threadpool init, n_threads = %ld",
                         opt.threads > 0 ? opt.threads : 2L);
                log_line('I',
                         "srv    load_model: initializing, n_slots = %d, n_ctx_slot = %d, kv_unified = '%s'",
                         n_slots, n_ctx_slot, opt.kv_unified || opt.slots_wanted <= 0 ? "true" : "false");
                if (opt.cache_ram == 0)
                        log_line('W',
                                 "srv          init: --cache-idle-slots requires --cache-ram, disabling");
                log_line('I', "srv  llama_server: model loaded");
        }
        if (!fault.ignore_term) {
                (void)sigaction(SIGTERM, &sa, NULL);
                (void)sigaction(SIGINT, &sa, NULL);
        }
        log_listening();
        if (getenv("LLAMA_SERVER_ROUTER_PORT")) {
                log_line('I', "srv    operator(): EOF on stdin detected, forcing shutdown...");
                _exit(1);
        }
}

/* Slots and their context, as measured: -np not given means four slots that share one context. */
static void size_slots(void)
{
        long ctx = opt.ctx > 0 ? opt.ctx : (long)model.n_ctx_train;

        n_slots = opt.slots_wanted > 0 ? (int)MIN(opt.slots_wanted, (long)SLOTS_MAX) : 4;
        if (opt.slots_wanted > 0 && !opt.kv_unified && opt.ctx > 0)
                ctx /= n_slots;
        n_ctx_slot = (int)MIN(ctx, (long)model.n_ctx_train);
}

static bool due(int64_t after, int64_t now, int64_t *wake)
{
        if (after == OFF)
                return false;
        if (now >= since + after)
                return true;
        *wake = MIN(*wake, since + after);
        return false;
}

/* What the switches do by the clock. */
static void faults_tick(int64_t now, int64_t *wake)
{
        static bool unlinked, talked;
        static int64_t talked_at;

        if (fault.exit_after != OFF) {
                if (now >= started_at + fault.exit_after)
                        _exit((int)MAX(fault.exit_code, 0));
                *wake = MIN(*wake, started_at + fault.exit_after);
        }
        if (loading)
                return;
        if (due(fault.crash_after, now, wake))
                _exit(fault.exit_code == OFF ? 1 : (int)fault.exit_code);
        if (due(fault.segv_after, now, wake))
                die_of(SIGSEGV);
        if (due(fault.kill_after, now, wake))
                die_of(SIGKILL);
        if (due(fault.abort_after, now, wake)) {
                log_line('E', "CUDA error: an illegal memory access was encountered");
                fprintf(stderr, "./ggml/src/ggml-backend.cpp:294: GGML_ASSERT(buf != NULL && \"tensor buffer "
                                "not set\") failed\n");
                die_of(SIGABRT);
        }
        if (!unlinked && socket_path && due(fault.unlink_after, now, wake)) {
                (void)unlink(socket_path);
                unlinked = true;
        }
        if (due(fault.hang_after, now, wake))
                for (;;)
                        (void)pause();
        if (fault.silent_busy != OFF &&
            due(fault.silent_busy_after == OFF ? 1000000 : fault.silent_busy_after, now, wake)) {
                burn(fault.silent_busy);
                fault.silent_busy = OFF;
        }
        if ((fault.log_ansi || fault.log_nul) && (!talked || now >= talked_at + 1000000)) {
                static const char ANSI[] =
                        "\033[31mred\033[0m \033]0;title\007 \033[2J\033[1;1H\r over\bwritten \x9b"
                        "1m\n";
                static const char NULS[] = "nul \0 in the middle, \xff\xfe broken utf-8 \xc3\n";

                if (fault.log_ansi)
                        write_all(STDERR_FILENO, ANSI, sizeof(ANSI) - 1);
                if (fault.log_nul)
                        write_all(STDERR_FILENO, NULS, sizeof(NULS) - 1);
                talked = true;
                talked_at = now;
        }
        if (fault.log_ansi || fault.log_nul)
                *wake = MIN(*wake, talked_at + 1000000);
        if (fault.log_flood != OFF || fault.log_endless_line) {
                int64_t rate = fault.log_flood == OFF ? 1000000 : fault.log_flood, bytes;
                char block[4096];

                memset(block, 'x', sizeof(block));
                if (!fault.log_endless_line)
                        block[100] = block[1000] = block[2000] = block[sizeof(block) - 1] = '\n';
                if (flood_at == 0)
                        flood_at = now;
                /* At most a quarter of a second is made up for: a slow reader must not make it burst. */
                for (bytes = MIN(now - flood_at, 250000) * rate / 1000000; bytes > 0;
                     bytes -= (int64_t)sizeof(block))
                        write_all(STDERR_FILENO, block, sizeof(block));
                flood_at = now;
                *wake = MIN(*wake, now + 10000);
        }
}

/* Switches from the control file replace the given ones; the pace and the file itself stay. */
static void control_tick(int64_t now, int64_t *wake)
{
        static struct timespec seen = {-1, -1};
        static ino_t seen_inode;
        static char text[4096];
        char *words[128], *const *w;
        struct faults next;
        struct stat st;
        ssize_t n;
        int fd;

        if (!fault.control || loading)
                return;
        *wake = MIN(*wake, now + 20000);
        if (stat(fault.control, &st) < 0 || st.st_size == 0)
                return;
        if (st.st_mtim.tv_sec == seen.tv_sec && st.st_mtim.tv_nsec == seen.tv_nsec && st.st_ino == seen_inode)
                return;
        seen = st.st_mtim;
        seen_inode = st.st_ino;
        fd = open(fault.control, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (fd >= 0)
                (void)close(fd);
        if (n < 0)
                return;
        text[n] = '\0';
        (void)split_words(text, words, ARRAY_SIZE(words));
        faults_clear(&next);
        next.control = fault.control;
        next.tok_s = fault.tok_s;
        next.tokens = fault.tokens;
        for (w = words; *w;) {
                int took = faults_take(&next, w);

                if (took <= 0) {
                        log_line('E', "fake: control: what is %s?", *w);
                        return;
                }
                w += took;
        }
        fault = next;
        since = now;
}

static void load_tick(int64_t now, int64_t *wake)
{
        int64_t load = (fault.load_ms == OFF ? 20 : fault.load_ms) * 1000;
        bool half = now >= started_at + load / 2;

        if (!loading)
                return;
        if (half && fault.oom_text)
                die_out_of_memory();
        if (half && fault.die_loading)
                die_loading(fault.die_loading);
        if (fault.load_503_forever)
                return;
        if (now >= started_at + load)
                load_done(now);
        else
                *wake = MIN(*wake, half ? started_at + load : started_at + load / 2);
}

/* Every connection's clock: keep-alive, dripping, pings, tokens, clients that left. */
static void conns_tick(int64_t now, int64_t *wake)
{
        struct conn *c;

        for (c = conns; c; c = c->next) {
                if (c->dead)
                        continue;
                if (c->gone && c->fd >= 0) {
                        if (c->job == JOB_NONE) {
                                conn_drop(c);
                                continue;
                        }
                        if (c->detached) {
                                (void)close(steal_fd(&c->fd));
                        } else if (now >= c->gone_at) {
                                job_cancel(c);
                                continue;
                        } else {
                                *wake = MIN(*wake, c->gone_at);
                        }
                }
                if ((c->drip == DRIP_SLOW || c->drip == DRIP_ENDLESS) && now >= c->drip_at) {
                        if (c->drip == DRIP_ENDLESS && c->out_len == 0) {
                                char line[1030] = "X-Fill: ";

                                memset(line + 8, 'a', 1020);
                                memcpy(line + 1028, "\r\n", 2);
                                conn_put(c, line, sizeof(line));
                                c->drip_at = now + 1000;
                        }
                        conn_flush(c);
                        if (c->drip == DRIP_SLOW && c->out_len == 0 && !c->dead) {
                                c->drip = DRIP_NONE;
                                conn_advance(c);
                        }
                }
                if (c->drip == DRIP_SLOW || c->drip == DRIP_ENDLESS)
                        *wake = MIN(*wake, c->drip_at);
                if ((c->job == JOB_PROMPT || c->job == JOB_DECODE) && !stopping) {
                        if (now >= c->next_at) {
                                job_step(c, now);
                                if (c->job == JOB_NONE && !c->dead)
                                        conn_advance(c);
                        }
                        if (c->job)
                                *wake = MIN(*wake, c->next_at);
                }
                if (c->dead)
                        continue;
                if (c->job && c->stream && c->ping_s > 0) {
                        if (now >= c->sent_at + c->ping_s * 1000000) {
                                stream_head(c);
                                chunk(c, ":\n\n", 3);
                                conn_flush(c);
                                if (stopping) {
                                        job_cancel(c);
                                        continue;
                                }
                        }
                        *wake = MIN(*wake, c->sent_at + c->ping_s * 1000000);
                }
                if (!c->job && c->drip == DRIP_NONE && c->in_len == 0 && c->out_len == 0) {
                        if (now >= c->idle_at)
                                conn_drop(c);
                        else
                                *wake = MIN(*wake, c->idle_at);
                }
        }
}

static void conns_bury(void)
{
        struct conn **p = &conns;

        while (*p) {
                struct conn *c = *p;

                if (c->fd < 0 && !c->job)
                        c->dead = true;
                if (!c->dead) {
                        p = &c->next;
                        continue;
                }
                *p = c->next;
                free(c->in);
                free(c->out);
                free(c->text);
                free(c);
        }
}

/* The first SIGTERM: no more tokens; the process ends when every request that is under way has lost its client. */
static void stop_tick(int64_t now, int64_t *wake)
{
        static int64_t term_at;
        struct conn *c;
        int i;

        if (term_signals == 0)
                return;
        if (!stopping) {
                /* A prompt's batch is finished first; until then all goes on. */
                for (c = conns; c; c = c->next)
                        if (c->job == JOB_PROMPT && !wedged(now))
                                return;
                stopping = true;
                term_at = now;
                log_line('I', "srv    operator(): operator(): cleaning up before exit...");
                for (i = 0; i < n_listeners; i++)
                        (void)close(listeners[i]);
        }
        if (fault.term_ms > 0 && now < term_at + fault.term_ms * 1000) {
                *wake = MIN(*wake, term_at + fault.term_ms * 1000);
                return;
        }
        for (c = conns; c; c = c->next)
                if (!c->dead && (c->job || c->in_len > 0))
                        return;
        _exit(0);
}

int main(int argc, char **argv)
{
        struct epoll_event ev = {.events = EPOLLIN}, events[16];
        int i, n;

        started_at = now_usec();
        srand((unsigned)started_at ^ (unsigned)getpid());
        (void)signal(SIGPIPE, SIG_IGN);
        parse_arguments(argc, argv);
        if (fault.print_file)
                print_and_exit();
        if (fault.ignore_term) {
                (void)signal(SIGTERM, SIG_IGN);
                (void)signal(SIGINT, SIG_IGN);
        }
        if (opt.log_file) {
                int fd = open(opt.log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

                if (fd >= 0)
                        (void)dup2(fd, STDERR_FILENO);
        }
        log_line('I', "srv  llama_server: initializing ...");
        log_line('I', "cmn  common_param: common_params_print_info: verbosity = 3 (adjust with the `-lv N` "
                      "CLI arg)");
        if (!opt.api_keys)
                log_line('W',
                         "srv  llama_server: security: no API key is set and CORS allows all origins (see "
                         "https://github.com/ggml-org/llama.cpp/pull/25655)");
        router = !opt.model && !opt.hf;
        if (fault.grandchild || fault.grandchild_session)
                leave_grandchild(fault.grandchild_session);
        if (fault.peer_lie)
                lie_about_peer();
        if (fault.never_bind)
                opt.host = "";
        bind_all();
        if (router)
                log_line('I', "srv  llama_server: starting server in router mode. models will be "
                              "automatically loaded on-demand");
        else if (opt.model)
                read_model();
        size_slots();
        if (fault.rss_mb > 0) {
                char *memory = malloc((size_t)fault.rss_mb << 20);

                if (memory)
                        memset(memory, 1, (size_t)fault.rss_mb << 20);
        }
        epfd = epoll_create1(EPOLL_CLOEXEC);
        wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ev.data.ptr = &wakefd;
        (void)epoll_ctl(epfd, EPOLL_CTL_ADD, wakefd, &ev);
        for (i = 0; i < n_listeners; i++) {
                ev.data.ptr = &listeners[i];
                (void)epoll_ctl(epfd, EPOLL_CTL_ADD, listeners[i], &ev);
        }
        for (;;) {
                int64_t now = now_usec(), wake = now + 3600000000;

                load_tick(now, &wake);
                control_tick(now, &wake);
                faults_tick(now, &wake);
                jobs_dispatch(now);
                conns_tick(now, &wake);
                jobs_dispatch(now);
                stop_tick(now, &wake);
                conns_bury();
                n = epoll_wait(epfd, events, ARRAY_SIZE(events),
                               (int)MAX((wake - now_usec() + 999) / 1000, 0));
                for (i = 0; i < n; i++) {
                        void *p = events[i].data.ptr;

                        if (p == &wakefd)
                                (void)!read(wakefd, &(uint64_t){0}, sizeof(uint64_t));
                        else if (p >= (void *)listeners && p < (void *)(listeners + LISTENERS_MAX))
                                conn_accept(*(int *)p);
                        else if (!((struct conn *)p)->dead) {
                                struct conn *c = p;

                                if (events[i].events & EPOLLOUT) {
                                        conn_watch(c, EPOLLIN);
                                        conn_flush(c);
                                }
                                if (!c->dead)
                                        conn_read(c, events[i].events);
                        }
                }
        }
}
