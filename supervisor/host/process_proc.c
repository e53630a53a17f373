/* process_proc.c: reads /proc/pid/stat and friends. */
#include "host/process_proc.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/macros.h"

enum { THREADS_MAX = 256 };

/* A short file of /proc whole, NUL-ended. Its length or -errno. */
static ssize_t read_small(const char *path, char *buf, size_t size)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        if (fd < 0)
                return errno == ENOENT ? -ESRCH : -errno;
        do
                n = read(fd, buf, size - 1);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno; /* ESRCH: it went away between open and read */
        buf[n] = '\0';
        return n;
}

static int parse_stat(pid_t pid, const char *text, struct proc_stat *ret)
{
        struct proc_stat st = {.pid = pid};
        /* The name is in parentheses and may hold anything, also ") Z 1 2"; the last parenthesis ends it. */
        const char *p = strrchr(text, ')');
        unsigned long long value;
        char *end;

        if (!p || p[1] != ' ' || !p[2])
                return -EBADMSG;
        st.state = p[2];
        p += 3;
        for (unsigned field = 4; field <= 52; field++) {
                if (*p != ' ') {
                        if (field <= 22)
                                return -EBADMSG;
                        break; /* an older kernel, with fewer fields */
                }
                value = strtoull(p, &end, 10); /* negative fields wrap; none of ours is */
                if (end == p)
                        return -EBADMSG;
                p = end;
                if (field == 4)
                        st.parent = (pid_t)value;
                else if (field == 5)
                        st.group = (pid_t)value;
                else if (field == 6)
                        st.session = (pid_t)value;
                else if (field == 9)
                        st.flags = value;
                else if (field == 14 || field == 15)
                        st.cpu += value;
                else if (field == 22)
                        st.start_time = value;
                else if (field == 52)
                        st.exit_status = (int)value;
        }
        *ret = st;
        return 0;
}

int proc_read_stat(pid_t pid, struct proc_stat *ret)
{
        char path[32], text[1024];
        ssize_t n;

        (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        n = read_small(path, text, sizeof text);
        if (n < 0)
                return (int)n;
        return parse_stat(pid, text, ret);
}

bool proc_has_running_thread(pid_t pid)
{
        char path[320], text[512];
        unsigned n = 0;
        bool found = false;
        struct dirent *entry;
        DIR *dir;

        (void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
        dir = opendir(path);
        if (!dir)
                return false;
        while (!found && n < THREADS_MAX && (entry = readdir(dir))) {
                const char *state;

                if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
                        continue;
                n++;
                (void)snprintf(path, sizeof path, "/proc/%d/task/%s/stat", (int)pid, entry->d_name);
                if (read_small(path, text, sizeof text) < 0)
                        continue;
                state = strrchr(text, ')');
                found = state && state[1] == ' ' && (state[2] == 'R' || state[2] == 'D');
        }
        (void)closedir(dir);
        return found;
}

int proc_read_rss(pid_t pid, uint64_t *ret)
{
        char path[32], text[128];
        uint64_t pages;
        ssize_t n;

        (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
        n = read_small(path, text, sizeof text);
        if (n < 0)
                return (int)n;
        if (sscanf(text, "%*u %" SCNu64, &pages) != 1)
                return -EBADMSG;
        *ret = pages * (uint64_t)sysconf(_SC_PAGESIZE);
        return 0;
}

int proc_read_uid(pid_t pid, uid_t *ret)
{
        char path[32];
        struct stat st;

        (void)snprintf(path, sizeof path, "/proc/%d", (int)pid);
        if (stat(path, &st) < 0)
                return errno == ENOENT ? -ESRCH : -errno;
        *ret = st.st_uid;
        return 0;
}

static struct {
        struct proc_stat *all;
        size_t count, cap;
        usec_t taken;
        bool valid;
} snapshot;

static int snapshot_add(const struct proc_stat *st)
{
        size_t cap = snapshot.cap ? snapshot.cap * 2 : 256;
        struct proc_stat *grown;

        if (snapshot.count == snapshot.cap) {
                grown = reallocarray(snapshot.all, cap, sizeof *grown);
                if (!grown)
                        return -ENOMEM;
                snapshot.all = grown;
                snapshot.cap = cap;
        }
        snapshot.all[snapshot.count++] = *st;
        return 0;
}

static int compare_pids(const void *a, const void *b)
{
        pid_t x = ((const struct proc_stat *)a)->pid, y = ((const struct proc_stat *)b)->pid;

        return x < y ? -1 : x > y;
}

size_t proc_find(const struct proc_stat *all, size_t count, pid_t pid)
{
        const struct proc_stat key = {.pid = pid}, *x = NULL;

        if (count)
                x = bsearch(&key, all, count, sizeof key, compare_pids);
        return x ? (size_t)(x - all) : PROC_NOBODY;
}

/* /proc lists them by their number, as a rule that is written nowhere. */
static void snapshot_sort(void)
{
        bool is_sorted = true;

        for (size_t i = 1; i < snapshot.count && is_sorted; i++)
                is_sorted = snapshot.all[i - 1].pid < snapshot.all[i].pid;
        if (!is_sorted)
                qsort(snapshot.all, snapshot.count, sizeof *snapshot.all, compare_pids);
        for (size_t i = 0; i < snapshot.count; i++)
                snapshot.all[i].up = proc_find(snapshot.all, snapshot.count, snapshot.all[i].parent);
}

static int snapshot_take(void)
{
        struct proc_stat st;
        struct dirent *entry;
        DIR *dir;
        long pid;
        int r = 0;

        dir = opendir("/proc");
        if (!dir)
                return -errno;
        snapshot.count = 0;
        while (r == 0 && (entry = readdir(dir))) {
                if (!isdigit((unsigned char)entry->d_name[0]))
                        continue;
                pid = strtol(entry->d_name, NULL, 10);
                if (proc_read_stat((pid_t)pid, &st) == 0) /* else it has just ended */
                        r = snapshot_add(&st);
        }
        (void)closedir(dir);
        if (r == 0)
                snapshot_sort();
        return r;
}

int proc_snapshot(usec_t now, usec_t age, const struct proc_stat **ret, size_t *ret_count)
{
        int r;

        if (!snapshot.valid || snapshot.taken > now || now - snapshot.taken > age) {
                snapshot.valid = false;
                r = snapshot_take();
                if (r < 0)
                        return r;
                snapshot.valid = true;
                snapshot.taken = now;
        }
        *ret = snapshot.all;
        *ret_count = snapshot.count;
        return 0;
}

static void learn_outputs(struct proc_stat *st)
{
        char path[48];
        struct stat file;

        st->outputs_known = true;
        for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
                (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)st->pid, fd);
                if (stat(path, &file) < 0)
                        continue;
                st->outputs[fd - STDOUT_FILENO].dev = file.st_dev;
                st->outputs[fd - STDOUT_FILENO].ino = file.st_ino;
        }
}

bool proc_snapshot_writes_to(const struct proc_stat *st, dev_t dev, ino_t ino)
{
        struct proc_stat *own = snapshot.all + (st - snapshot.all);

        if (!own->outputs_known)
                learn_outputs(own);
        for (size_t i = 0; i < ARRAY_SIZE(own->outputs); i++)
                if (own->outputs[i].dev == dev && own->outputs[i].ino == ino)
                        return true;
        return false;
}

void proc_snapshot_free(void)
{
        free(snapshot.all);
        memset(&snapshot, 0, sizeof snapshot);
}

bool proc_number_is_free(pid_t number)
{
        _cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        /* kill(-number, 0) tells of groups only, and kill(number, 0) of processes only. F_SETOWN looks the number
         * itself up (Linux 4.14 and later), and with a closed descriptor right after nothing is ever sent to it. */
        if (fd < 0)
                return false;
        return fcntl(fd, F_SETOWN, -number) < 0 && errno == ESRCH;
}
