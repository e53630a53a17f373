/* notify.h: what we tell systemd (sd_notify); without NOTIFY_SOCKET in our environment all of it does nothing.
 * Source: sd_notify(3), sd_watchdog_enabled(3). The main process speaks (NotifyAccess=main); children never get
 * NOTIFY_SOCKET, since their environment is given whole. */
#ifndef LSV_HOST_NOTIFY_H
#define LSV_HOST_NOTIFY_H

#include <stdbool.h>

#include "base/time.h"

bool notify_is_on(void); /* systemd (or a test) listens */

void notify_ready(void); /* the doors are open; also the end of a reload */
/* One line for `systemctl status`; control bytes are made harmless, 200 bytes at most. */
void notify_status(const char *text);
/* A reload begins, now; notify_ready ends it (with Type=notify-reload, systemd 253 and later, `systemctl reload` waits). */
void notify_reloading(void);
void notify_stopping(void);
void notify_watchdog(void); /* we are alive */
/* Starting, reloading or stopping takes until then, whatever the unit's timeout says. */
void notify_extend_timeout(usec_t span);

/* Descriptors that systemd keeps for the next process of this unit (FileDescriptorStoreMax=), by name. What is there under the same
 * name stays as well. */
void notify_store(int fd, const char *name);
void notify_unstore(const char *name);

/* True when the unit has WatchdogSec= for this process: *ret is that interval; notify_watchdog at half of it. */
bool notify_is_watchdog_on(usec_t *ret);

#endif
