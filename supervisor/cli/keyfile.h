/* keyfile.h: the keys file as the CLI changes it: locked, read strictly, written whole and renamed; blocking.
 *
 * The lock is on the file's folder (flock), since the file itself is replaced; it is waited for ten seconds at most. A file that
 * is there keeps its mode, owner and group; a new one is 0600, or 0640 for the group llama-supervisor when root makes it and there
 * is one. A link is followed to the file that it names. */
#ifndef LSV_CLI_KEYFILE_H
#define LSV_CLI_KEYFILE_H

#include "core/keys.h"

struct keyfile {
        char *path;        /* behind all links */
        int lock;          /* the folder's descriptor; -1: only for reading */
        bool is_new;       /* it was not there */
        struct keys *keys; /* to be changed between open and save */
};

/* 0, or -errno with *ret_error (malloc'd, may be NULL without memory). A missing file has no keys. */
int keyfile_open(const char *path, bool for_writing, struct keyfile *ret, char **ret_error);
/* Writes it; on failure the old file is still there, whole. */
int keyfile_save(struct keyfile *f, char **ret_error);
void keyfile_finish(struct keyfile *f); /* gives the lock back; a zeroed one is fine */
#define _cleanup_keyfile_ _cleanup_(keyfile_finish)

#endif
