/* notify.c: sd_notify in our words. */
#include "host/notify.h"

#include <inttypes.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "base/macros.h"
#include "base/text.h"

bool notify_is_on(void)
{
        return getenv("NOTIFY_SOCKET") != NULL;
}

void notify_ready(void)
{
        (void)sd_notify(0, "READY=1");
}

void notify_status(const char *text)
{
        char line[208];

        (void)snprintf(line, sizeof line, "%.200s", text);
        (void)text_harmless(line); /* a newline would begin a second assignment */
        (void)sd_notifyf(0, "STATUS=%s", line);
}

void notify_reloading(void)
{
        (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, time_monotonic());
}

void notify_stopping(void)
{
        (void)sd_notify(0, "STOPPING=1");
}

void notify_watchdog(void)
{
        (void)sd_notify(0, "WATCHDOG=1");
}

void notify_extend_timeout(usec_t span)
{
        (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, span);
}

void notify_store(int fd, const char *name)
{
        char text[320];

        (void)snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%.255s", name);
        (void)sd_pid_notify_with_fds(0, 0, text, &fd, 1);
}

void notify_unstore(const char *name)
{
        (void)sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%.255s", name);
}

bool notify_is_watchdog_on(usec_t *ret)
{
        uint64_t usec;

        if (sd_watchdog_enabled(0, &usec) <= 0 || usec == 0)
                return false;
        *ret = usec;
        return true;
}
