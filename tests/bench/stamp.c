/* stamp.c: writes when it was exec'd (CLOCK_MONOTONIC, ns) to the file named by STAMP_FILE, then becomes the fake llama-server
 * (LSV_FAKE), or, with STAMP_PAUSE set, just waits: a child whose start can be measured under any supervisor. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        const char *file = getenv("STAMP_FILE");
        struct timespec now;
        char line[32];
        int fd, n;

        (void)argc;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        if (file && (fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) >= 0) {
                n = snprintf(line, sizeof line, "%lld\n", (long long)now.tv_sec * 1000000000 + now.tv_nsec);
                if (write(fd, line, (size_t)n) != n)
                        return 1;
                (void)close(fd);
        }
        if (getenv("STAMP_PAUSE"))
                for (;;)
                        (void)pause();
        argv[0] = (char *)LSV_FAKE;
        (void)execv(LSV_FAKE, argv);
        perror(LSV_FAKE);
        return 127;
}
