/* reexec.c: execve of the installed program in our own process, and what came with our start. */
#include "host/reexec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "host/journal.h"
#include "net/inherited.h"

#define VARIABLE "LSV_HANDOVER"
#define DELETED  " (deleted)"

static char **own_argv;
static char *own_binary;

/* --- what we are ------------------------------------------------------------------------------------------------- */

static bool is_same_file(const char *a, const char *b)
{
        struct stat one, two;

        return stat(a, &one) == 0 && stat(b, &two) == 0 && one.st_dev == two.st_dev &&
               one.st_ino == two.st_ino;
}

static char *absolute(const char *path)
{
        _cleanup_free_ char *cwd = path[0] == '/' ? NULL : getcwd(NULL, 0);

        return path[0] == '/' ? text_dup(path) : cwd ? text_format("%s/%s", cwd, path) : NULL;
}

/* Not its real path: a link that is pointed at the next version is how some upgrade. */
static char *find_binary(const char *called)
{
        char self[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        size_t len, tail = strlen(DELETED);
        char *path;

        if (called && strchr(called, '/') && (path = absolute(called)) != NULL) {
                if (is_same_file(path, "/proc/self/exe"))
                        return path;
                free(path);
        }
        if (n <= 0)
                return NULL;
        self[n] = '\0';
        len = (size_t)n;
        if (len > tail && streq(self + len - tail, DELETED))
                self[len - tail] = '\0';
        return text_dup(self);
}

static void daemon_signals(sigset_t *set)
{
        (void)sigemptyset(set);
        (void)sigaddset(set, SIGTERM);
        (void)sigaddset(set, SIGINT);
        (void)sigaddset(set, SIGHUP);
        (void)sigaddset(set, SIGUSR2);
}

int reexec_init(int argc, char **argv)
{
        sigset_t set;

        daemon_signals(&set);
        (void)sigprocmask(SIG_BLOCK, &set, NULL);
        own_argv = argv;
        own_binary = find_binary(argc > 0 ? argv[0] : NULL);
        return own_binary ? 0 : -ENOENT;
}

void reexec_listen(void)
{
        sigset_t set;

        daemon_signals(&set);
        (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
}

const char *reexec_binary(void)
{
        return own_binary;
}

/* --- what came with our start --------------------------------------------------------------------------------------- */

static int number_of(const char *text, int *ret)
{
        char *end;
        long n;

        errno = 0;
        n = strtol(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || errno || n > INT_MAX)
                return -EINVAL;
        *ret = (int)n;
        return 0;
}

/* Only our own memfd is believed: a descriptor of that number, sealed, whose first line is our own pid. */
static int read_text(int fd, char **ret, size_t *ret_len)
{
        _cleanup_free_ char *text = NULL;
        size_t len = 0, skip;
        struct stat st;
        char pid[24];

        if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &st) < 0 || st.st_size < 0 ||
            st.st_size > REEXEC_TEXT_MAX)
                return -EINVAL;
        text = malloc((size_t)st.st_size + 1);
        if (!text)
                return -ENOMEM;
        while (len < (size_t)st.st_size) {
                ssize_t n = pread(fd, text + len, (size_t)st.st_size - len, (off_t)len);

                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                len += (size_t)n;
        }
        text[len] = '\0';
        skip = (size_t)snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
        if (len < skip || memcmp(text, pid, skip) != 0)
                return -EINVAL;
        memmove(text, text + skip, len - skip + 1);
        *ret_len = len - skip;
        *ret = steal_ptr(text);
        return 0;
}

static int receive_text(char **ret, size_t *ret_len)
{
        const char *variable = getenv(VARIABLE);
        int fd = -1, r;

        *ret = NULL;
        *ret_len = 0;
        if (!variable)
                return 0;
        r = number_of(variable, &fd);
        (void)unsetenv(VARIABLE);
        if (r == 0 && fd > STDERR_FILENO)
                r = read_text(fd, ret, ret_len);
        if (r == 0)
                (void)close(fd);
        return r == -ENOMEM ? r : 0;
}

static void free_names(char ***names)
{
        for (char **n = *names; n && *n; n++)
                free(*n);
        free(*names);
}

static void receive_sockets(struct inherited *in)
{
        __attribute__((cleanup(free_names))) char **names = NULL;
        int n = sd_listen_fds_with_names(true, &names);

        for (int i = 0; i < n; i++) {
                const char *name = names && names[i] ? names[i] : "";
                bool stored = starts_with(name, INHERITED_OURS);
                int r = inherited_add(in, SD_LISTEN_FDS_START + i, stored ? INHERITED_STORE : INHERITED_UNIT,
                                      name);

                if (r < 0)
                        log_warn(NULL, "descriptor \"%s\" of systemd is not used: %s", name,
                                 r == -EINVAL ? "it is not a listening stream socket of IPv4, IPv6 or a path"
                                              : strerror(-r));
        }
}

int reexec_receive(struct inherited *in, char **ret_text, size_t *ret_len)
{
        int r = receive_text(ret_text, ret_len);

        if (r == 0)
                receive_sockets(in);
        return r;
}

/* --- becoming another program ----------------------------------------------------------------------------------------- */

static int write_text(int fd, const char *text, size_t len)
{
        char pid[24];
        size_t n = (size_t)snprintf(pid, sizeof(pid), "%d\n", (int)getpid()), done = 0;

        if (write(fd, pid, n) != (ssize_t)n)
                return -EIO;
        while (done < len) {
                ssize_t w = write(fd, text + done, len - done);

                if (w <= 0)
                        return w < 0 ? -errno : -EIO;
                done += (size_t)w;
        }
        return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) < 0 ? -errno : 0;
}

static void keep_all(const int *fds, size_t n, bool keep)
{
        for (size_t i = 0; i < n; i++)
                (void)fcntl(fds[i], F_SETFD, keep ? 0 : FD_CLOEXEC);
}

int reexec_now(const char *text, size_t len, const int *fds, size_t n_fds)
{
        _cleanup_close_ int memory = memfd_create("lsv-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        sigset_t set, before;
        char number[16];
        int r;

        if (memory < 0)
                return -errno;
        if (!own_binary)
                return -ENOENT;
        r = write_text(memory, text, len);
        if (r < 0)
                return r;
        (void)snprintf(number, sizeof(number), "%d", memory);
        if (setenv(VARIABLE, number, 1) < 0)
                return -ENOMEM;
        journal_flush();
        daemon_signals(&set);
        (void)sigprocmask(SIG_BLOCK, &set, &before);
        keep_all(&memory, 1, true);
        keep_all(fds, n_fds, true);
        (void)execv(own_binary, own_argv);
        r = -errno;
        keep_all(fds, n_fds, false);
        (void)unsetenv(VARIABLE);
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
        return r;
}
