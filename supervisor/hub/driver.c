/* driver.c: which drivers this build has. */
#include "hub/driver.h"

/* Each driver's line is switched on by the commit that brings it. */
const struct hub_driver *hub_driver_for(enum config_hub_driver driver, const char **ret_why)
{
        switch (driver) {
        case CONFIG_HUB_NATS:
#ifdef LSV_HAVE_NATS
                return &hub_driver_nats;
#else
                *ret_why = "this build has no driver for NATS hubs: it was built without libnats";
                return NULL;
#endif
        case CONFIG_HUB_CONVEX:
                return &hub_driver_convex;
        case CONFIG_HUB_GOLLAMA:
                return &hub_driver_gollama;
        }
        *ret_why = "this build does not know that kind of hub";
        return NULL;
}

const struct hub_driver *hub_driver_for_spool(const struct config *config)
{
        return config_spool_is_on(config) ? &hub_driver_spool : NULL;
}
