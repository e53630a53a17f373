/* seat.h: what the members and the fleet tell the dispatch. */
#ifndef LSV_FLEET_SEAT_H
#define LSV_FLEET_SEAT_H

#include "fleet/fleet.h"

struct dispatch;
struct member;
struct seat;

/* The fleet's: one dispatch, and what happens at the end of each turn. */
int dispatch_new(struct fleet *f, struct dispatch **ret);
struct dispatch *dispatch_free(struct dispatch *d); /* after all members: nobody is told any more */
void dispatch_config_changed(struct dispatch *d);   /* entries, aliases or members came or went */
void dispatch_settle(struct dispatch *d, usec_t now);
unsigned dispatch_waiting(const struct dispatch *d);
/* demand: the model was to be loaded, and that failed: all who wait for it are told with the cause. */
void dispatch_load_failed(struct dispatch *d, const char *entry);
/* demand: it turned out that it cannot be loaded: who waits asks again, and is told why. */
void dispatch_wish_dropped(struct dispatch *d, const char *entry);
void dispatch_stop(struct dispatch *d); /* the daemon stops: what waits is refused, what runs may end */

/* A member's: one seat, from its birth on. */
int seat_new(struct member *m, struct seat **ret);
struct seat *seat_free(struct seat *s);
void seat_changed(struct seat *s);               /* its state, wish, slots or settings */
void seat_looked(struct seat *s, unsigned busy); /* /slots was answered */
unsigned seat_held(const struct seat *s);        /* leases on it */
unsigned seat_in_flight(const struct seat *s);   /* busy slots: leases, and what came past us */
unsigned seat_queue(const struct seat *s);       /* what waits for its model */
unsigned seat_owed(const struct seat *s);        /* leases with a slot whose clients would take an answer */
uint64_t seat_heard(const struct seat *s);       /* bytes of answers, a sign of life */
void seat_told(struct seat *s);                  /* the figures are published */

#endif
