/* handover_check.c: is the installed program fit? It is asked itself, as a child, and the configuration must lead it to our children. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/text.h"
#include "fleet/handover_private.h"
#include "fleet/private.h"
#include "host/reexec.h"

enum { CHECK_OUTPUT_MAX = 4096 };

/* Children are found by their records, below one directory. The configuration is read in the pool, as for a reload. */
struct place {
        struct handover *handover; /* NULL: it is gone */
        fleet_load_fn *load;
        void *load_owner;
        struct config *next;
        struct buffer words;
        int r;
};

void handover_stop_check(struct handover *h)
{
        if (h->check && !process_has_exited(h->check))
                (void)process_signal_group(h->check, SIGKILL);
        h->check = process_free(h->check);
        close_fd(&h->check_output);
        h->check_output = -1;
        h->wants_place = false;
}

void handover_forget_place(struct handover *h)
{
        if (h->place)
                h->place->handover = NULL;
        h->place = NULL;
}

/* What the new program said, on one line; malloc'd. */
static char *read_output(struct handover *h)
{
        char text[CHECK_OUTPUT_MAX + 1];
        ssize_t n = pread(h->check_output, text, CHECK_OUTPUT_MAX, 0);
        size_t len;

        text[MAX(n, 0)] = '\0';
        len = strlen(text);
        while (len && text[len - 1] == '\n')
                text[--len] = '\0';
        for (char *p = text; *p; p++)
                if (*p == '\n')
                        *p = ';';
        (void)text_harmless(text);
        return text_dup(text);
}

static void read_place(void *job)
{
        struct place *p = job;

        p->r = p->load(p->load_owner, &p->next, &p->words);
}

struct holding {
        const struct endpoint *at;
        bool held;
};

static void compare_listener(void *arg, int fd, const char *name, enum inherited_from from)
{
        struct holding *x = arg;
        struct endpoint bound = {.len = sizeof(bound.addr)};

        (void)name;
        (void)from;
        if (getsockname(fd, &bound.addr.sa, &bound.len) == 0 && endpoint_equal(&bound, x->at))
                x->held = true;
}

static bool has_no_port(const struct endpoint *at)
{
        return at->addr.sa.sa_family == AF_INET ? !at->addr.in.sin_port : !at->addr.in6.sin6_port;
}

/* 0, or why the next program could not listen there, besides what it takes over from us: -errno. */
static int try_to_bind(const struct handover *h, const struct endpoint *at)
{
        struct holding x = {.at = at};
        int on = 1;

        if (!at->len || endpoint_is_unix(at) || has_no_port(at))
                return 0;
        h->doors->each_listener(h->doors_owner, compare_listener, &x);
        if (x.held)
                return 0;
        _cleanup_close_ int fd = socket(at->addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (at->addr.sa.sa_family == AF_INET6)
                (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
        return bind(fd, &at->addr.sa, at->len) < 0 ? -errno : 0;
}

/* The next program would end where it cannot open a door, and nobody would serve. Words, malloc'd; NULL: it can. */
static char *find_closed_door(const struct handover *h, const struct config *next)
{
        for (size_t i = 0; i < next->n_listen; i++) {
                int r = try_to_bind(h, &next->listen[i].endpoint);

                if (r < 0)
                        return text_format("%s: the new program could not listen there: %s",
                                           next->listen[i].address, strerror(-r));
        }
        return NULL;
}

static void know_place(void *job)
{
        struct place *p = job;
        struct handover *h = p->handover;
        _cleanup_free_ char *message = NULL;

        if (h)
                h->place = NULL;
        if (h && h->wants_place) {
                h->wants_place = false;
                /* The new program likes it: what we ourselves do not understand may be keys that came with it. */
                if (p->r == 0 && p->next && !streq(p->next->runtime_dir, h->fleet->config->runtime_dir))
                        message =
                                text_format("runtime_dir has changed in the configuration (%s, now %s): this "
                                            "needs a restart, since the children are found by it",
                                            h->fleet->config->runtime_dir, p->next->runtime_dir);
                else if (p->r == 0 && p->next)
                        message = find_closed_door(h, p->next);
                if (message)
                        handover_give_up(h, -EBADMSG, "failed", message);
                else
                        handover_begin_waiting(h, loop_now(h->loop));
        }
        config_free(p->next);
        buffer_finish(&p->words);
        free(p);
}

static int ask_place(struct handover *h)
{
        struct place *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        *p = (struct place){.handover = h, .load = h->load, .load_owner = h->load_owner};
        buffer_init(&p->words, 64 * 1024);
        r = loop_work(h->loop, read_place, know_place, p);
        if (r < 0) {
                free(p);
                return r;
        }
        h->place = p;
        h->wants_place = true;
        return 0;
}

static void on_checked(void *owner, const struct process_exit *ended, usec_t now)
{
        struct handover *h = owner;
        _cleanup_free_ char *said = read_output(h), *message = NULL;
        bool good = ended->kind == EXIT_CODE && ended->value == 0;

        if (!good && ended->kind == EXIT_CODE)
                message = text_format("%s refuses the configuration: %s", reexec_binary(),
                                      said && said[0] ? said : "it did not say why");
        else if (!good)
                message = text_format("%s check %s", reexec_binary(),
                                      now >= h->stage_until ? "did not end in time and was killed"
                                                            : "was killed");
        handover_stop_check(h);
        if (!good)
                handover_give_up(h, -EBADMSG, "failed", message ? message : "the new program is not fit");
        else if (ask_place(h) < 0)
                handover_give_up(h, -EAGAIN, "failed",
                                 "the configuration cannot be read: too much waits for the disk");
}

int handover_check(struct handover *h)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0);
        char *argv[] = {(char *)reexec_binary(), (char *)"check", (char *)"--config",
                        (char *)h->fleet->config->file, NULL};
        struct process_spec spec = {
                .binary = argv[0], .argv = argv, .envp = environ, .cwd = cwd, .umask = 077};
        int r;

        h->check_output = memfd_create("check", MFD_CLOEXEC);
        if (h->check_output < 0)
                return -errno;
        spec.output = h->check_output;
        r = process_spawn(h->loop, &spec, on_checked, h, &h->check);
        if (r < 0)
                handover_stop_check(h);
        return r;
}
