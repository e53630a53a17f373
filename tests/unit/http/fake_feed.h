/* fake_feed.h: a feed that only says that it was called, for the tests of the doors. Include it in one file of a program. */
#ifndef LSV_TESTS_FAKE_FEED_H
#define LSV_TESTS_FAKE_FEED_H

#include <errno.h>

#include "http/doors_private.h"

struct feed {
        struct feed_counts counts;
};

int feed_new(struct loop *loop, struct fleet *fleet, struct feed **ret)
{
        (void)loop;
        (void)fleet;
        *ret = calloc(1, sizeof(**ret));
        return *ret ? 0 : -ENOMEM;
}

int feed_set_hubs(struct feed *f, struct hubs *hubs)
{
        (void)f;
        (void)hubs;
        return 0;
}

void feed_set_ownlog(struct feed *f, struct ownlog *ownlog)
{
        (void)f;
        (void)ownlog;
}

struct feed *feed_free(struct feed *f)
{
        free(f);
        return NULL;
}

const struct feed_counts *feed_counts(const struct feed *f)
{
        return &f->counts;
}

static void say(struct request *req, const char *what)
{
        request_respond(req, 200, "text/plain", NULL, what, strlen(what));
}

void feed_websocket(struct feed *f, struct request *req)
{
        (void)f;
        say(req, "websocket");
}

void feed_sse(struct feed *f, struct request *req)
{
        (void)f;
        say(req, "sse");
}

void feed_on_key(struct feed *f, feed_key_fn *fn, void *owner)
{
        (void)f;
        (void)fn;
        (void)owner;
}

void feed_socketio(struct feed *f, struct request *req, bool may_read)
{
        (void)may_read;
        (void)f;
        say(req, "socketio");
}

void feed_restart(struct feed *f)
{
        (void)f;
}

unsigned feed_end_marked(struct feed *f, uint64_t mark)
{
        (void)f;
        (void)mark;
        return 0;
}

#endif
