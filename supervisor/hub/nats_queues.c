/* nats_queues.c: which of the models that we offer have a queue at the hub. Somebody has to make it ("hub init"), and who forgot that sees a hub
 * that is up and sends nothing: so it is said, and such a model is not announced, since a request for it would wait for nobody. */
#include "hub/nats_private.h"

#ifdef LSV_HAVE_NATS

#include <stdio.h>

#include "base/log.h"
#include "base/text.h"

/* Answers come in a row: one heartbeat tells of all. */
static const usec_t BEAT_SOON = 100 * USEC_PER_MSEC;

enum { NAMED_MAX = 3 };

void queue_told(struct hub_link *l, struct consumer *c, bool there)
{
        if (there ? c->there : c->missing)
                return;
        c->there = there;
        c->missing = !there;
        l->look_at_queues = true;
        l->beat_at = MIN(l->beat_at, loop_now(l->loop) + BEAT_SOON);
}

bool queue_is_there(const struct pull_model *m)
{
        bool there = false;

        for (unsigned class = 0; class < NATS_CLASSES; class ++)
                there = there || m->consumers[class].there;
        return there;
}

static bool lacks_one(const struct pull_model *m)
{
        bool missing = false;

        for (unsigned class = 0; class < NATS_CLASSES; class ++)
                missing = missing || m->consumers[class].missing;
        return m->offered && missing;
}

/* "" when every model has its queues. */
static void describe(const struct hub_link *l, char *text, size_t size)
{
        _cleanup_buffer_ struct buffer names = {0}, list = {0};
        unsigned n = 0;

        buffer_init(&names, 0);
        buffer_init(&list, 0);
        for (size_t k = 0; k < l->n_models; k++) {
                const struct pull_model *m = l->models[k];

                if (!lacks_one(m) || n++ >= NAMED_MAX)
                        continue;
                (void)buffer_printf(&names, "%s\"%.60s\"%s", n > 1 ? ", " : "", m->name,
                                    queue_is_there(m) ? " (of one class)" : "");
                (void)buffer_printf(&list, "%s%.60s", n > 1 ? "," : "", m->name);
        }
        *text = '\0';
        if (n == 0)
                return;
        if (n > NAMED_MAX) {
                (void)buffer_printf(&names, " and %u more", n - NAMED_MAX);
                (void)buffer_puts(&list, ",…");
        }
        (void)snprintf(text, size,
                       "the hub has no queue for %s: \"llama-supervisor hub init --models %s\" makes what is "
                       "missing",
                       names.data ? names.data : "a model", list.data ? list.data : "…");
        (void)text_harmless(text);
}

/* Of some of them it will be known in a moment. */
static bool is_asking(const struct hub_link *l)
{
        for (size_t k = 0; k < l->n_models; k++)
                for (unsigned class = 0; class < NATS_CLASSES; class ++)
                        if (l->models[k]->consumers[class].state == CONSUMER_ASKED)
                                return true;
        return false;
}

void queues_tell(struct hub_link *l)
{
        char text[TROUBLE_MAX];

        if (!l->look_at_queues || is_asking(l))
                return;
        l->look_at_queues = false;
        describe(l, text, sizeof(text));
        if (streq(text, l->trouble))
                return;
        if (*text) {
                l->counts.errors++;
                log_warn(l->name, "%s", text);
        } else {
                log_info(l->name, "the hub has a queue for every model that is offered now");
        }
        (void)text_copy(l->trouble, sizeof(l->trouble), text);
        l->events->on_state(l->owner);
}

#endif
