/* process_strays.c: finds and signals what left the session of a child of ours, where no cgroup holds them together. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/text.h"
#include "host/process.h"
#include "host/process_proc.h"

enum { ENVIRONMENT_MAX = 256 * 1024 };

/* True when one line of its environment, as it was at its exec, is `mark`. */
static bool has_mark(pid_t pid, const char *mark)
{
        _cleanup_buffer_ struct buffer text = {0};
        _cleanup_close_ int fd = -1;
        size_t len = strlen(mark) + 1;
        char path[40], piece[4096];
        ssize_t n;

        buffer_init(&text, ENVIRONMENT_MAX);
        (void)snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        while (fd >= 0 && (n = read(fd, piece, sizeof piece)) > 0)
                if (buffer_append(&text, piece, (size_t)n) < 0)
                        return false;
        for (size_t at = 0; at + len <= text.len;) {
                const char *end = memchr(text.data + at, '\0', text.len - at);

                if (memcmp(text.data + at, mark, len) == 0)
                        return true;
                at = end ? (size_t)(end - text.data) + 1 : text.len;
        }
        return false;
}

static bool writes_to(pid_t pid, const struct stat *output)
{
        char path[48];
        struct stat st;

        for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
                (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
                if (stat(path, &st) == 0 && st.st_dev == output->st_dev && st.st_ino == output->st_ino)
                        return true;
        }
        return false;
}

static bool is_stray(const struct proc_stat *seen, const struct stat *output, const char *mark)
{
        struct proc_stat st;
        uid_t uid;

        return proc_read_uid(seen->pid, &uid) == 0 && uid == geteuid() && writes_to(seen->pid, output) &&
               has_mark(seen->pid, mark) && proc_read_stat(seen->pid, &st) == 0 &&
               st.start_time == seen->start_time && st.state != 'Z' && st.state != 'X';
}

static bool signal_stray(const struct proc_stat *seen, const struct stat *output, const char *mark, int signo)
{
        _cleanup_close_ int fd = pidfd_open(seen->pid, 0);

        /* Looked at after the pidfd was opened: what it stands for is what was looked at, or is dead. */
        return fd >= 0 && is_stray(seen, output, mark) && pidfd_send_signal(fd, signo, NULL, 0) == 0;
}

bool process_is_of_this_boot(const char *boot_id, pid_t pid, uint64_t start_time, const char *mark)
{
        uint64_t begun;

        if (streq_ptr(boot_id, process_boot_id()))
                return true;
        return pid > 1 && mark && process_read_start_time(pid, &begun) == 0 && begun == start_time &&
               has_mark(pid, mark);
}

int process_signal_strays(struct loop *loop, pid_t leader, uint64_t start_time, const char *output,
                          const char *mark, int signo)
{
        const struct proc_stat *all;
        struct stat st;
        size_t count;
        int n = 0;

        if (stat(output, &st) < 0 || proc_snapshot(loop_now(loop), 0, &all, &count) < 0)
                return 0;
        for (size_t i = 0; i < count; i++) {
                if (all[i].pid == leader || all[i].session == leader || all[i].start_time < start_time ||
                    all[i].pid == getpid())
                        continue;
                /* The look at all of them is this turn's, and told once where they write to; the rest is told anew. */
                if (proc_snapshot_writes_to(all + i, st.st_dev, st.st_ino) &&
                    signal_stray(all + i, &st, mark, signo))
                        n++;
        }
        return n;
}
