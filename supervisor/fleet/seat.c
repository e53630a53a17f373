/* seat.c: one instance as the dispatch sees it: may it be leased, by how many, who holds it, and what happens to them when it goes. */
#include "fleet/seat.h"

#include <errno.h>
#include <stdio.h>

#include "base/macros.h"
#include "base/text.h"
#include "fleet/dispatch_private.h"

/* The end of an answer may still lie in the socket when its writer is dead already: leases of an instance that died by itself
 * are told after this, and most have seen the end of their connection by then. */
#define ORPHAN_GRACE (100 * USEC_PER_MSEC)

/* --- pools ------------------------------------------------------------------------------------------------------------ */

void pool_unref(struct pool *p)
{
        if (!p || --p->refs > 0)
                return;
        upstream_free(p->upstream);
        free(p);
}

static int pool_new(struct seat *s)
{
        struct pool *p = calloc(1, sizeof *p);
        int r;

        if (!p)
                return -ENOMEM;
        r = upstream_new(s->member->fleet->loop, &s->member->endpoint, s->slots, &p->upstream);
        if (r < 0) {
                free(p);
                return r;
        }
        p->refs = 1;
        s->pool = p;
        return 0;
}

static void drop_pool(struct seat *s)
{
        pool_unref(s->pool);
        s->pool = NULL;
}

/* --- leases ------------------------------------------------------------------------------------------------------------- */

int seat_lease(struct seat *s, struct ticket *t)
{
        if (!s->pool) {
                int r = pool_new(s);

                if (r < 0)
                        return r;
        }
        s->pool->refs++;
        s->held++;
        t->leased_at = loop_now(s->member->fleet->loop);
        if (!t->ignores_slots) {
                s->leased++;
                desk_slot_taken(s->desk, t->side, t->leased_at);
        }
        s->peak = MAX(s->peak, s->leased);
        t->pool = s->pool;
        t->seat = s;
        t->leased = (struct life){s->id, s->life};
        t->state = TICKET_LEASED;
        t->tries++;
        (void)text_copy(t->instance, sizeof t->instance, s->member->name);
        list_append(&s->leases, &t->node);
        desk_changed_figures(s->desk);
        return 0;
}

/* The ticket lets go of its seat, not of its pool: its exchange still runs there. */
static void leave_seat(struct ticket *t)
{
        struct seat *s = t->seat;

        if (!s)
                return;
        list_remove(&t->node);
        s->held--;
        if (!t->ignores_slots) {
                usec_t now = loop_now(s->member->fleet->loop);

                s->leased--;
                if (s->desk)
                        desk_slot_left(s->desk, t->side, usec_sub(now, t->leased_at), now);
        }
        if (t->paused)
                s->paused--;
        t->paused = false;
        t->seat = NULL;
        if (s->held == 0 && s->member->in.state == INSTANCE_DRAINING)
                member_touch(s->member);
        desk_changed_figures(t->desk);
        if (s->desk) {
                desk_changed_figures(s->desk);
                desk_touch_all(s->desk, true);
        }
}

void seat_release(struct ticket *t)
{
        leave_seat(t);
        list_remove(&t->node);
        pool_unref(t->pool);
        t->pool = NULL;
}

static char *words_for_going(const struct member *m)
{
        switch (m->in.state) {
        case INSTANCE_STOPPING:
                return text_format("%s is stopped", m->name);
        case INSTANCE_KILLING:
                return text_format("%s did not answer any more and is killed", m->name);
        case INSTANCE_LOST:
                return text_format("%s does not answer any more", m->name);
        default:
                return text_format("%s: %s", m->name, m->last_error ? m->last_error : "it is gone");
        }
}

static void take_away(struct seat *s, struct ticket *t, bool later, usec_t now)
{
        struct dispatch *d = t->dispatch;

        free(t->message);
        t->message = words_for_going(s->member);
        leave_seat(t);
        t->state = later ? TICKET_ORPHAN : TICKET_REVOKED;
        t->orphaned_at = now;
        if (later && list_is_empty(&d->orphans))
                timer_set(d->orphans_timer, now + ORPHAN_GRACE);
        list_append(later ? &d->orphans : &d->calls, &t->node);
        loop_wake(d->fleet->loop);
}

static void take_all_away(struct seat *s, bool later, usec_t now)
{
        while (!list_is_empty(&s->leases))
                take_away(s, LIST_ENTRY(s->leases.next, struct ticket, node), later, now);
}

bool seat_is_dying(struct seat *s)
{
        const struct member *m = s->member;

        if (s->alive && !s->dying)
                s->dying = m->facts.exited || (m->process && process_is_dying(m->process));
        return s->dying;
}

/* --- what the member tells ---------------------------------------------------------------------------------------------- */

static bool is_alive(const struct member *m)
{
        return m->in.state == INSTANCE_READY || m->in.state == INSTANCE_UNHEALTHY ||
               m->in.state == INSTANCE_DRAINING || m->in.state == INSTANCE_LOADING;
}

static bool is_on_its_way(const struct member *m)
{
        if (!m->in.want_up || m->removed || m->fleet->stopping)
                return false;
        switch (m->in.state) {
        case INSTANCE_OFF:
                return !m->fleet->started;
        case INSTANCE_FAILED:
        case INSTANCE_LOST:
                return false;
        default:
                return true;
        }
}

static unsigned slots_of(const struct member *m)
{
        return m->entry->slots ? m->entry->slots : MAX(m->slots, 1U);
}

static void went_down(struct seat *s)
{
        enum instance_state state = s->member->in.state;
        bool we_end_it = state == INSTANCE_STOPPING || state == INSTANCE_KILLING;

        take_all_away(s, !we_end_it, loop_now(s->member->fleet->loop));
        drop_pool(s);
        s->life++;
        s->dying = false;
        dispatch_look_at_doubts(s->member->fleet->dispatch);
        s->ejection = (struct ejection){0};
        s->others = s->peak = 0;
        s->heard = 0;
}

void seat_changed(struct seat *s)
{
        const struct member *m = s->member;
        bool was_ready = s->ready, was_on_its_way = s->on_its_way, was_alive = s->alive;
        unsigned slots = s->slots;

        s->alive = is_alive(m);
        s->ready = m->in.state == INSTANCE_READY && m->in.want_up && !m->yields && !m->removed &&
                   m->endpoint.len > 0;
        s->on_its_way = !s->ready && is_on_its_way(m);
        s->slots = slots_of(m);
        /* The first request comes before the server was asked how many slots it has. */
        if (s->pool && slots != s->slots)
                upstream_set_max_idle(s->pool->upstream, s->slots);
        if (was_alive && !s->alive)
                went_down(s);
        if (s->desk && (was_ready != s->ready || was_on_its_way != s->on_its_way || slots != s->slots))
                desk_touch_all(s->desk, false);
}

/* What is busy beyond the leases that may have been there since the last look is not ours. */
void seat_looked(struct seat *s, unsigned busy)
{
        s->others = busy > s->peak ? busy - s->peak : 0;
        s->peak = s->leased;
}

unsigned seat_held(const struct seat *s)
{
        return s->held;
}

unsigned seat_in_flight(const struct seat *s)
{
        return s->leased + s->others;
}

unsigned seat_queue(const struct seat *s)
{
        return s->desk ? desk_waiting_with_others(s->desk) : 0;
}

unsigned seat_owed(const struct seat *s)
{
        return s->leased - MIN(s->leased, s->paused);
}

uint64_t seat_heard(const struct seat *s)
{
        return s->heard;
}

void seat_told(struct seat *s)
{
        unsigned in_flight = seat_in_flight(s), queue = seat_queue(s);

        if (in_flight != s->told_in_flight || queue != s->told_queue)
                member_figures_changed(s->member);
        s->told_in_flight = in_flight;
        s->told_queue = queue;
}

/* --- birth ------------------------------------------------------------------------------------------------------------------ */

int seat_new(struct member *m, struct seat **ret)
{
        struct seat *s = calloc(1, sizeof *s);

        if (!s)
                return -ENOMEM;
        s->member = m;
        s->id = ++m->fleet->dispatch->seats_ever;
        s->slots = 1;
        list_init(&s->leases);
        *ret = s;
        return 0;
}

void seat_leave_desk(struct seat *s)
{
        struct desk *desk = s->desk;

        if (!desk)
                return;
        while (s->pinned && s->pinned->count > 0) {
                struct ticket *t = CONTAINER_OF(queue_first(s->pinned), struct ticket, item);

                desk_leave(t);
                ticket_refuse(t, REFUSAL_REMOVED, 0,
                              text_format("the instance %s is not there any more", s->member->name));
        }
        take_all_away(s, false, loop_now(s->member->fleet->loop));
        shared_drop_seat(desk->dispatch, s);
        desk->n_seats--;
        memmove(&desk->seats[s->at], &desk->seats[s->at + 1], (desk->n_seats - s->at) * sizeof *desk->seats);
        memmove(&desk->candidates[s->at], &desk->candidates[s->at + 1],
                (desk->n_seats - s->at) * sizeof *desk->candidates);
        for (size_t i = s->at; i < desk->n_seats; i++)
                desk->seats[i]->at = i;
        s->desk = NULL;
        desk_touch(desk);
        if (!desk->entry)
                dispatch_config_changed(desk->dispatch); /* it may have been the last thing here */
}

int seat_join_desk(struct seat *s, struct desk *desk)
{
        if (s->desk == desk)
                return 0;
        if (desk->n_seats == desk->cap_seats) {
                size_t cap = desk->cap_seats ? desk->cap_seats * 2 : 2;
                struct seat **seats = reallocarray(desk->seats, cap, sizeof(struct seat *));
                struct balancer_candidate *candidates;

                if (seats)
                        desk->seats = seats;
                candidates = reallocarray(desk->candidates, cap, sizeof *candidates);
                if (candidates)
                        desk->candidates = candidates;
                if (!seats || !candidates)
                        return -ENOMEM;
                desk->cap_seats = cap;
        }
        seat_leave_desk(s);
        s->at = desk->n_seats++;
        desk->seats[s->at] = s;
        desk->candidates[s->at] =
                (struct balancer_candidate){.id = balancer_hash(s->member->name, strlen(s->member->name))};
        s->desk = desk;
        seat_changed(s);
        desk_touch(desk);
        return 0;
}

struct seat *seat_free(struct seat *s)
{
        if (!s)
                return NULL;
        seat_leave_desk(s);
        if (s->pinned)
                queue_finish(s->pinned);
        free(s->pinned);
        drop_pool(s);
        free(s);
        return NULL;
}
