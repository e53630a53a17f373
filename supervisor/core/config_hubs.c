/* config_hubs.c: what must be true of the entries of `hubs` beyond each key for itself. Each driver's rules are a function of its own. */
#include "base/text.h"
#include "core/config_internal.h"

/* Folders of the state and labels of metrics are named after it. */
static void check_hub_name(struct config_load *l, size_t i)
{
        struct config_hub *h = l->config->hubs + i;
        bool given = h->name != NULL;

        if (!given && text_set(&h->name, config_hub_driver_name(h->driver)) < 0) {
                l->failed_memory = true;
                return;
        }
        if (streq(h->name, "spool")) {
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, "name",
                            "\"spool\" is the job folder's own name");
                return;
        }
        for (size_t k = 0; k < i; k++) {
                const struct config_hub *other = l->config->hubs + k;

                if (!other->name || !streq(other->name, h->name))
                        continue;
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, given ? "name" : "driver",
                            "the name \"%s\" is taken already by the hub at %s:%u%s", h->name,
                            other->where.file, other->where.line, given ? "" : "; give this one a \"name\"");
                return;
        }
}

void config_check_hubs(struct config_load *l)
{
        for (size_t i = 0; i < l->config->n_hubs; i++) {
                size_t back = config_path_add(l, "hubs[%u]", l->hubs[i].index);

                check_hub_name(l, i);
                config_path_back(l, back);
        }
}
