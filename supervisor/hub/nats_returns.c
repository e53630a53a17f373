/* nats_returns.c: what is given back without blame (the worker stops, no slot became free) is written down in the stream RETURNS, and counted
 * before a job's tries are said to be used up (core/nats_layout.h).
 *
 * Written down first, given back then: whoever gets the job next finds the note. Where it cannot be written (a hub of an earlier version, a key
 * without the right) the job is given back all the same, and has used up a try. */
#include "hub/nats_private.h"

#ifdef LSV_HAVE_NATS

#include <errno.h>
#include <stdio.h>

#define NOTE_TIME (QUESTION_TIME / 2) /* a daemon that stops has 5 s for all of it */

static void put_note(struct hub_link *l, struct buffer *out)
{
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_string(&w, "worker", l->worker);
        json_uint(&w, "at", loop_realtime(l->loop) / 1000);
        json_close_object(&w);
}

static void noted(struct hub_link *l, void *arg, const struct nats_message *m)
{
        struct claim *c = arg;
        struct nats_answer a = {0};
        int r = reply_parse(m, &a);

        if (link_is_up(l) && (r < 0 || a.code))
                link_note(l, "job %s is given back, and it cannot be noted that nobody failed it: %s", c->id,
                          r >= 0 ? a.description
                          : r == -EHOSTDOWN
                                  ? "there is no stream RETURNS: \"llama-supervisor hub init\" makes it"
                                  : "no answer");
        nats_answer_finish(&a);
        claim_nak(c, c->nak_delay, c->nak_blames);
}

bool returns_note(struct claim *c)
{
        char subject[NATS_SUBJECT_MAX];
        _cleanup_buffer_ struct buffer b = {0};

        if (!nats_counts_returns(c->max_deliver) || c->noted == c->attempt || c->link->no_returns)
                return false;
        c->noted = c->attempt;
        buffer_init(&b, 0);
        put_note(c->link, &b);
        return !b.failed && request(c->link, nats_subject_return(c->id, c->attempt, subject), NULL, 0, b.data,
                                    b.len, NOTE_TIME, noted, c) == 0;
}

void returns_note_plain(struct hub_link *l, const char *id, unsigned delivery)
{
        char subject[NATS_SUBJECT_MAX];
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        put_note(l, &b);
        if (!b.failed)
                (void)nats_wire_publish(l->wire, nats_subject_return(id, delivery, subject), NULL, NULL, 0,
                                        b.data, b.len);
}

static void counted(struct hub_link *l, void *arg, const struct nats_message *m)
{
        struct claim *c = arg;
        struct nats_answer a = {0};
        int r = reply_parse(m, &a);

        if (r >= 0 && (!a.code || a.err_code == NATS_ERR_NO_STREAM))
                c->returned = (int)MIN(a.n_subjects, (size_t)NATS_RETURNS_MAX);
        else if (link_is_up(l))
                l->counts.errors++;
        nats_answer_finish(&a);
        if (c->returned < 0 && link_is_up(l) && c->held && !c->job)
                claim_look_again(c);
        else
                claim_weigh(c);
        pulls_plan(l, loop_now(l->loop));
}

int returns_ask(struct claim *c)
{
        char subject[NATS_SUBJECT_MAX], api[NATS_SUBJECT_MAX];
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "subjects_filter", nats_subject_returns(c->id, subject));
        json_close_object(&w);
        (void)snprintf(api, sizeof(api), "$JS.API.STREAM.INFO.%s", nats_stream_name(NATS_RETURNS));
        return b.failed ? -ENOMEM
                        : request(c->link, api, NULL, 0, b.data, b.len, QUESTION_TIME / 2, counted, c);
}

#endif
