/* feed_gpus.c: the feed's topic "gpus": what GET /api/v1/gpus tells, after each look at the GPUs, which is once a second while anybody has it. */
#include "base/json.h"
#include "fleet/gpus.h"
#include "http/feed_private.h"

static void put(struct feed *f, struct json_writer *w)
{
        json_key(w, "gpus");
        fleet_put_gpus(f->fleet, w);
}

static uint64_t number(const struct feed *f)
{
        return fleet_gpus_number(f->fleet);
}

static void look(struct feed *f)
{
        fleet_gpus_hurry(f->fleet);
}

const struct feed_topic_kind feed_topic_gpus = {"gpus", put, number, look};
