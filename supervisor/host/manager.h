/* manager.h: what the service manager says of the unit that we run in, asked over D-Bus. It waits for the answer (a few seconds at
 * most), so it is for programs without a loop: ExecStopPost=.
 * Source: org.freedesktop.systemd1(5). */
#ifndef LSV_HOST_MANAGER_H
#define LSV_HOST_MANAGER_H

/* Somebody has ordered our unit to stop (or to restart, which begins with a stop), and that order is being carried out:
 * 1: so it is; 0: there is no such order; -errno: it could not be asked (no systemd, no message bus, not in a unit). */
int manager_wants_stop(void);

#endif
