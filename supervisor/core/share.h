/* share.h: splits free slots among takers by weight. Pure.
 *
 * Each slot is offered to the taker that has had least for its weight (virtual time: what it took, divided by its weight: weighted fair
 * queueing by start times). A taker of which it is not known that it wants any more (it was offered some and did not take them) is idle:
 * it is offered all that is free, beside the others, since an offer costs nothing and it may be the only one with work; when it
 * takes one, it begins where the busy ones are, so that nobody saves up turns by being idle. So two takers that both have work share by their
 * weights, and one alone has everything.
 * Source: Demers, Keshav, Shenker 1989; Goyal, Vin, Cheng 1996 (start-time fair queueing). */
#ifndef LSV_CORE_SHARE_H
#define LSV_CORE_SHARE_H

#include <stdbool.h>
#include <stddef.h>

struct share_taker {
        double weight; /* over 0 */
        double time;   /* virtual; 0 at birth */
        bool idle;
        unsigned most;    /* that it may be offered */
        unsigned offered; /* out */
};

void share_split(unsigned free, struct share_taker *takers, size_t n);
/* What it is at after it took one; `least`: of share_least. */
double share_took(const struct share_taker *t, double least);
/* The least virtual time of those that are not idle; that of the idle ones if all are. */
double share_least(const struct share_taker *takers, size_t n);

#endif
