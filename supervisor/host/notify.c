/* notify.c: sd_notify in words. */
#include "host/notify.h"

#include <inttypes.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "base/macros.h"

void notify_ready(void)
{
        (void)sd_notify(0, "READY=1");
}

void notify_reloading(void)
{
        (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, time_monotonic());
}

void notify_stopping(void)
{
        (void)sd_notify(0, "STOPPING=1");
}

void notify_status(const char *text)
{
        static char last[256];

        if (streq(last, text))
                return;
        (void)snprintf(last, sizeof last, "%s", text);
        (void)sd_notifyf(0, "STATUS=%s", text);
}

void notify_watchdog(void)
{
        (void)sd_notify(0, "WATCHDOG=1");
}

void notify_extend_timeout(usec_t more)
{
        (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, more);
}

bool notify_is_watchdog_on(usec_t *ret_interval)
{
        uint64_t usec = 0;

        if (sd_watchdog_enabled(0, &usec) <= 0)
                return false;
        *ret_interval = usec;
        return true;
}
