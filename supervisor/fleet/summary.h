/* summary.h: the fleet in numbers and in one sentence, so that REST, the page, sd_notify and the CLI say the same words. */
#ifndef LSV_FLEET_SUMMARY_H
#define LSV_FLEET_SUMMARY_H

#include "fleet/fleet.h"

enum { SUMMARY_STATUSES = 9, SUMMARY_SENTENCE_MAX = 256 };
/* The public words (DESIGN §2) in the order of a life: "initial" "starting" "ready" … "idle". */
extern const char *const summary_statuses[SUMMARY_STATUSES];
/* The place of a word in it; 0 ("initial") for one that is not there. */
size_t summary_status_index(const char *status);

struct summary {
        size_t total;
        unsigned counts[SUMMARY_STATUSES];
        unsigned queued;                     /* requests that wait */
        char sentence[SUMMARY_SENTENCE_MAX]; /* "2 of 4 instances are ready, 1 starting, 1 crashed" */
        char line[SUMMARY_SENTENCE_MAX];     /* for `systemctl status`: "3/4 ready, 2 queued; 1 crashed" */
};
void summary_of(struct fleet *f, struct summary *ret);

#endif
