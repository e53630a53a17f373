/* handover_check.c: is the installed program fit? It is asked itself, as a child, and the configuration must lead it to our children. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

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
