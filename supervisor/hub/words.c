/* words.c: the words of the drivers' seam. */
#include "base/macros.h"
#include "hub/driver.h"
#include "hub/submit.h"

static const char *const states[] = {
        [HUB_CONNECTING] = "connecting", [HUB_UP] = "up",           [HUB_DOWN] = "down",
        [HUB_REVOKED] = "revoked",       [HUB_DRAINED] = "drained",
};
_Static_assert(ARRAY_SIZE(states) == HUB_STATES, "each state has its word");

const char *hub_state_name(enum hub_state s)
{
        return states[s];
}

static const char *const fails[] = {
        [HUB_FAIL_RETRY] = "retry",     [HUB_FAIL_PERMANENT] = "permanent", [HUB_FAIL_NO_MODEL] = "no_model",
        [HUB_FAIL_EXPIRED] = "expired", [HUB_FAIL_CANCELLED] = "cancelled",
};
_Static_assert(ARRAY_SIZE(fails) == HUB_FAILS, "each failure has its word");

const char *hub_fail_name(enum hub_fail f)
{
        return fails[f];
}

static const char *const settleds[] = {
        [HUB_STORED] = "stored",
        [HUB_ALREADY] = "already",
        [HUB_LEASE_LOST] = "lease_lost",
        [HUB_UNKNOWN] = "unknown",
};
_Static_assert(ARRAY_SIZE(settleds) == HUB_SETTLEDS, "each end has its word");

const char *hub_settled_name(enum hub_settled s)
{
        return settleds[s];
}

static const char *const outcomes[] = {
        [SUBMIT_OK] = "ok",
        [SUBMIT_CLIENT_ERROR] = "client_error",
        [SUBMIT_FULL] = "hub_full",
        [SUBMIT_DOWN] = "hub_down",
        [SUBMIT_TIMEOUT] = "hub_timeout",
        [SUBMIT_GAP] = "hub_gap",
        [SUBMIT_FAILED] = "hub_failed",
        [SUBMIT_CANCELLED] = "cancelled",
};
_Static_assert(ARRAY_SIZE(outcomes) == SUBMIT_OUTCOMES, "each outcome has its word");

const char *submit_outcome_name(enum submit_outcome o)
{
        return outcomes[o];
}
