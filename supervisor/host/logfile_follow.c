/* logfile_follow.c: one inotify for all log files of a loop, and how much of which file is read when.
 *
 * A file is read when inotify says so, at once, unless it has used up its share of the current 50 ms: then its inotify
 * watch is taken away (a child that writes 25,000 times a second would wake us as often) and comes back when the time is
 * over. All files together have a share, too, and one turn has a smaller one, so that probes are never late by us. */
#include "host/logfile_private.h"

#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>

#define WINDOW     (50 * USEC_PER_MSEC)
#define POLL_PAUSE (250 * USEC_PER_MSEC)

enum {
        WINDOW_READS = 16, /* of one file */
        ALL_WINDOW_MAX = 2 << 20,
        ALL_TURN_MAX = 512 << 10,
        BUCKETS = 256,
};

struct hub {
        struct hub *next;
        struct loop *loop;
        unsigned refs;
        int inotify; /* -1: the user has too many; files are polled */
        struct watch *watch;
        struct timer *timer;
        struct list by_wd[BUCKETS];
        struct list unwatched;
        struct list ready;
        usec_t window_start;
        size_t window_bytes;
        char *buffer;
};

static struct hub *hubs;

static void make_ready(struct hub *hub, struct logfile *f)
{
        if (list_is_empty(&f->ready))
                list_append(&hub->ready, &f->ready);
}

static void watch_file(struct logfile *f)
{
        struct hub *hub = f->hub;
        char path[64];

        if (f->wd >= 0 || hub->inotify < 0)
                return;
        /* By descriptor: the name may lead elsewhere by now. */
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", f->file->fd);
        f->wd = inotify_add_watch(hub->inotify, path, IN_MODIFY);
        if (f->wd < 0) {
                f->wd = -1;
                return;
        }
        list_remove(&f->by_wd);
        list_append(&hub->by_wd[f->wd % BUCKETS], &f->by_wd);
}

static void unwatch_file(struct logfile *f)
{
        if (f->wd < 0)
                return;
        (void)inotify_rm_watch(f->hub->inotify, f->wd);
        f->wd = -1;
        list_remove(&f->by_wd);
        list_append(&f->hub->unwatched, &f->by_wd);
}

/* Reads one file once and decides when it is looked at again. Returns the bytes read. */
static size_t serve(struct hub *hub, struct logfile *f, usec_t now)
{
        bool more;
        size_t n;

        if (usec_sub(now, f->window_start) >= WINDOW) {
                f->window_start = now;
                f->window_bytes = 0;
                f->window_reads = 0;
        }
        watch_file(f); /* before reading, so that nothing falls in between */
        n = logfile_read(f, hub->buffer, CHUNK, false, now, &more); /* more: then the share is used up, too */
        f->window_bytes += n;
        f->window_reads++;
        rotation_check(f, now);
        f->hold_until = 0;
        if (f->window_bytes >= CHUNK || f->window_reads >= WINDOW_READS) {
                unwatch_file(f);
                f->hold_until = f->window_start + WINDOW;
                make_ready(hub, f);
        } else if (f->wd < 0) {
                f->hold_until = now + POLL_PAUSE;
                make_ready(hub, f);
        }
        return n;
}

static void serve_all(struct hub *hub, usec_t now)
{
        usec_t next = USEC_INFINITY;
        size_t turn = 0, n;

        if (usec_sub(now, hub->window_start) >= WINDOW) {
                hub->window_start = now;
                hub->window_bytes = 0;
        }
        LIST_FOREACH(&hub->ready, it)
        {
                struct logfile *f = LIST_ENTRY(it, struct logfile, ready);

                if (hub->window_bytes >= ALL_WINDOW_MAX) {
                        next = MIN(next, hub->window_start + WINDOW);
                        break;
                }
                if (turn >= ALL_TURN_MAX) {
                        next = now; /* others first, then we go on */
                        break;
                }
                if (f->hold_until <= now) {
                        list_remove(&f->ready);
                        n = serve(hub, f, now);
                        turn += n;
                        hub->window_bytes += n;
                }
                if (!list_is_empty(&f->ready))
                        next = MIN(next, f->hold_until);
        }
        timer_set(hub->timer, next);
}

static void on_timer(void *owner, usec_t now)
{
        serve_all(owner, now);
}

static void everything_is_ready(struct hub *hub)
{
        for (size_t i = 0; i < BUCKETS; i++)
                LIST_FOREACH(&hub->by_wd[i], it)
        make_ready(hub, LIST_ENTRY(it, struct logfile, by_wd));
}

static void take_event(struct hub *hub, const struct inotify_event *event)
{
        if (event->mask & IN_Q_OVERFLOW) {
                everything_is_ready(hub);
                return;
        }
        if (event->wd < 0)
                return;
        LIST_FOREACH(&hub->by_wd[event->wd % BUCKETS], it)
        {
                struct logfile *f = LIST_ENTRY(it, struct logfile, by_wd);

                if (f->wd != event->wd)
                        continue;
                if (event->mask & IN_IGNORED) { /* the file system was unmounted */
                        f->wd = -1;
                        list_remove(&f->by_wd);
                        list_append(&hub->unwatched, &f->by_wd);
                }
                make_ready(hub, f);
                return;
        }
}

static void on_inotify(void *owner, unsigned events, usec_t now)
{
        char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
        struct hub *hub = owner;
        ssize_t n;

        (void)events;
        for (unsigned round = 0; round < 16; round++) { /* what is left wakes us again */
                n = read(hub->inotify, buf, sizeof buf);
                if (n <= 0)
                        break;
                for (ssize_t at = 0; at < n;) {
                        const struct inotify_event *event = (const void *)(buf + at);

                        take_event(hub, event);
                        at += (ssize_t)(sizeof *event + event->len);
                }
        }
        serve_all(hub, now);
}

static struct hub *hub_free(struct hub *hub)
{
        for (struct hub **p = &hubs; *p; p = &(*p)->next)
                if (*p == hub) {
                        *p = hub->next;
                        break;
                }
        (void)watch_free(hub->watch);
        (void)timer_free(hub->timer);
        close_fd(&hub->inotify);
        free(hub->buffer);
        free(hub);
        return NULL;
}

static int hub_new(struct loop *loop, struct hub **ret)
{
        struct hub *hub = calloc(1, sizeof *hub);

        if (!hub)
                return -ENOMEM;
        hub->loop = loop;
        hub->inotify = -1;
        for (size_t i = 0; i < BUCKETS; i++)
                list_init(&hub->by_wd[i]);
        list_init(&hub->unwatched);
        list_init(&hub->ready);
        hub->buffer = malloc(CHUNK);
        if (!hub->buffer || timer_new(loop, on_timer, hub, &hub->timer) < 0) {
                (void)hub_free(hub);
                return -ENOMEM;
        }
        hub->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (hub->inotify >= 0 &&
            watch_new(loop, hub->inotify, WATCH_READ, on_inotify, hub, &hub->watch) < 0) {
                close_fd(&hub->inotify);
                hub->inotify = -1;
        }
        hub->next = hubs;
        hubs = hub;
        *ret = hub;
        return 0;
}

static struct hub *find_hub(struct loop *loop)
{
        struct hub *hub = hubs;

        while (hub && hub->loop != loop)
                hub = hub->next;
        return hub;
}

static bool list_has_path(struct list *head, const char *path)
{
        LIST_FOREACH(head, it)
        if (streq(LIST_ENTRY(it, struct logfile, by_wd)->path, path))
                return true;
        return false;
}

bool hub_has_path(struct loop *loop, const char *path)
{
        struct hub *hub = find_hub(loop);

        if (!hub)
                return false;
        for (size_t i = 0; i < BUCKETS; i++)
                if (list_has_path(&hub->by_wd[i], path))
                        return true;
        return list_has_path(&hub->unwatched, path);
}

int hub_join(struct logfile *f)
{
        struct hub *hub = find_hub(f->loop);
        int r;

        if (!hub) {
                r = hub_new(f->loop, &hub);
                if (r < 0)
                        return r;
        }
        hub->refs++;
        f->hub = hub;
        f->wd = -1;
        list_init(&f->ready);
        list_init(&f->by_wd);
        list_append(&hub->unwatched, &f->by_wd);
        hub_file_replaced(f);
        return 0;
}

void hub_leave(struct logfile *f)
{
        if (!f->hub)
                return;
        unwatch_file(f);
        list_remove(&f->by_wd);
        list_remove(&f->ready);
        if (--f->hub->refs == 0)
                (void)hub_free(f->hub);
        f->hub = NULL;
}

void hub_file_replaced(struct logfile *f)
{
        unwatch_file(f);
        watch_file(f);
        if (f->wd >= 0)
                return;
        f->hold_until = loop_now(f->loop) + POLL_PAUSE;
        make_ready(f->hub, f);
        timer_set(f->hub->timer, MIN(timer_due(f->hub->timer), f->hold_until));
}

char *hub_buffer(struct hub *hub)
{
        return hub->buffer;
}
