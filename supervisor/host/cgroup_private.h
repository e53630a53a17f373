/* cgroup_private.h: what cgroup.c (the tree that is delegated to us) and cgroup_group.c (one group in it) share. */
#ifndef LSV_HOST_CGROUP_PRIVATE_H
#define LSV_HOST_CGROUP_PRIVATE_H

#include <limits.h>

#include "base/list.h"
#include "host/cgroup.h"

enum { CGROUP_NAME_BYTES = 256, CGROUP_SMALL_BYTES = 4096 };

#define CGROUP_PREFIX "instance-"
#define CGROUP_LOCK   "lock"

struct cgroup {
        struct list node; /* in cgroups->going once it is retired */
        struct loop *loop;
        int parent, fd; /* directories: of the one above, its own; close-on-exec */
        bool used;
        char file[CGROUP_NAME_BYTES];
        char *path;
};

/* A file of a group that fits into one read, NUL-ended: 0 or -errno. */
int cgroup_read_file(int dir, const char *file, char *buf, size_t size);
/* In one write: 0 or -errno. */
int cgroup_write_file(int dir, const char *file, const char *text);
/* A directory, never descriptor 0: the descriptor or -errno. */
int cgroup_open_dir(int at, const char *path);
/* The group of a process in the v2 hierarchy, out of the text of its /proc/PID/cgroup; false: it is in none. */
bool cgroup_of_text(char *text, const char **ret);
/* malloc'd; NULL: gone, or in none. 0: our own. */
char *cgroup_of_pid(pid_t pid);
/* Where cgroup v2 is mounted: malloc'd. -ENODEV: nowhere. */
int cgroup_find_root(char **ret);
int cgroup_open_at(int parent, const char *file, const char *path, struct cgroup **ret);
void cgroup_thaw(struct cgroup *g); /* if it is frozen */
/* 0, -EBUSY: somebody is in it. Groups below it go, too. */
int cgroup_remove(int parent, const char *file);

#endif
