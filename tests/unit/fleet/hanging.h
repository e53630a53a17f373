/* hanging.h: a file system that does not answer: open(2) and stat(2) of names that hold "/hang" wait while `hanging` is set. */
#ifndef HANGING_H
#define HANGING_H

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static atomic_bool hanging;
static atomic_uint hung; /* calls that hang now */
static pthread_t loop_thread;
static atomic_uint in_loop; /* calls of such names by the loop's own thread */

static void hang(const char *path)
{
        const struct timespec pause = {.tv_nsec = 2000000};

        if (!strstr(path, "/hang"))
                return;
        if (pthread_equal(pthread_self(), loop_thread))
                in_loop++;
        hung++;
        while (hanging)
                (void)nanosleep(&pause, NULL);
        hung--;
}

/* The program's own definitions win over libc's. */
int open(const char *path, int flags, ...)
{
        mode_t mode = 0;
        va_list ap;

        va_start(ap, flags);
        if (flags & O_CREAT)
                mode = va_arg(ap, mode_t);
        va_end(ap);
        hang(path);
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int stat(const char *restrict path, struct stat *restrict st)
{
        hang(path);
        return fstatat(AT_FDCWD, path, st, 0);
}

#endif
