/* manager.c: one question to systemd. */
#include "host/manager.h"

#include <errno.h>
#include <stdlib.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/text.h"
#include "base/time.h"

#define SERVICE "org.freedesktop.systemd1"
#define UNIT    "org.freedesktop.systemd1.Unit"
#define JOB     "org.freedesktop.systemd1.Job"

static const usec_t PATIENCE = 5 * USEC_PER_SEC;

/* "start", "stop", "restart" …, or NULL: nothing is ordered. malloc'd. */
static int job_of_unit(sd_bus *bus, char **ret)
{
        sd_bus_message *found = NULL, *job = NULL;
        const char *unit, *path;
        uint32_t id;
        int r;

        r = sd_bus_call_method(bus, SERVICE, "/org/freedesktop/systemd1", SERVICE ".Manager", "GetUnitByPID",
                               NULL, &found, "u", (uint32_t)getpid());
        if (r >= 0)
                r = sd_bus_message_read(found, "o", &unit);
        if (r >= 0)
                r = sd_bus_get_property(bus, SERVICE, unit, UNIT, "Job", NULL, &job, "(uo)");
        if (r >= 0)
                r = sd_bus_message_read(job, "(uo)", &id, &path);
        *ret = NULL;
        if (r >= 0 && id)
                r = sd_bus_get_property_string(bus, SERVICE, path, JOB, "JobType", NULL, ret);
        sd_bus_message_unref(found);
        sd_bus_message_unref(job);
        return r;
}

int manager_wants_stop(void)
{
        _cleanup_free_ char *type = NULL;
        sd_bus *bus = NULL;
        int r;

        /* A user's own manager names itself to what it starts; the system's does not. */
        r = getenv("MANAGERPID") ? sd_bus_open_user(&bus) : sd_bus_open_system(&bus);
        if (r >= 0)
                r = sd_bus_set_method_call_timeout(bus, PATIENCE);
        if (r >= 0)
                r = job_of_unit(bus, &type);
        sd_bus_flush_close_unref(bus);
        if (r < 0)
                return r;
        return type && (streq(type, "stop") || streq(type, "restart") || streq(type, "try-restart"));
}
