/* oom.c: the out-of-memory killer's two witnesses. */
#include "host/oom.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/file.h"
#include "base/macros.h"

enum { KMSG_RECORD_MAX = 8192, KMSG_BYTES_MAX = 1024 * 1024 };

uint64_t oom_kills(void)
{
        _cleanup_free_ char *text = NULL;
        unsigned long long n = 0;
        const char *p;
        size_t len;

        if (file_read("/proc/vmstat", 65536, &text, &len) < 0)
                return 0;
        p = strstr(text, "\noom_kill ");
        return p && sscanf(p, "\noom_kill %llu", &n) == 1 ? n : 0;
}

/* 1: it says so. 0: it does not. -1: it may not be read. One record a read(2), newest last. */
static int kernel_log_says(pid_t pid)
{
        _cleanup_close_ int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        char record[KMSG_RECORD_MAX + 1], needle[48];
        size_t total = 0;
        int r = 0;

        if (fd < 0)
                return -1;
        (void)snprintf(needle, sizeof needle, "Killed process %d (", (int)pid);
        while (total < KMSG_BYTES_MAX) {
                ssize_t n = read(fd, record, KMSG_RECORD_MAX);

                if (n < 0 && errno == EPIPE)
                        continue; /* overwritten while we read: the next read goes on behind it */
                if (n <= 0)
                        break;
                record[n] = '\0';
                if (strstr(record, needle))
                        r = 1;
                total += (size_t)n;
        }
        return r;
}

bool oom_has_killed(pid_t pid, uint64_t before)
{
        uint64_t after = oom_kills();
        int says;

        if (after != 0 && after <= before)
                return false;
        /* The counter alone may mean somebody else's process, the log alone an old one with the same number. In a
         * container often neither can be read (0, -1), and then nothing is known. */
        says = kernel_log_says(pid);
        return after != 0 ? says != 0 : says == 1;
}
