/* notify.h: what we tell the service manager (sd_notify(3)); nothing happens without NOTIFY_SOCKET. */
#ifndef LSV_HOST_NOTIFY_H
#define LSV_HOST_NOTIFY_H

#include <stdbool.h>

#include "base/time.h"

void notify_ready(void);                  /* the doors are open (or a reload is over) */
void notify_reloading(void);              /* with MONOTONIC_USEC, as Type=notify-reload wants */
void notify_stopping(void);
void notify_status(const char *text);     /* one line for `systemctl status`; the same text twice is told once */
void notify_watchdog(void);
void notify_extend_timeout(usec_t more);  /* EXTEND_TIMEOUT_USEC */
/* The manager expects a watchdog message within *ret_interval. */
bool notify_is_watchdog_on(usec_t *ret_interval);

#endif
