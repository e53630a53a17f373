/* cgroup_group.c: one instance's group: its limits, its figures, its end. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/macros.h"
#include "base/text.h"
#include "host/cgroup_private.h"

enum { DEPTH_MAX = 8, PIDS_BYTES_MAX = 1024 * 1024, KILL_ROUNDS = 4 };

/* cpu.max: the period that the kernel's own default has, in µs, and the shortest quota that it takes. */
enum { CPU_PERIOD = 100000, CPU_QUOTA_MIN = 1000 };

/* --- files ------------------------------------------------------------------------------------------------------- */

int cgroup_read_file(int dir, const char *file, char *buf, size_t size)
{
        _cleanup_close_ int fd = openat(dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n;

        if (fd < 0)
                return -errno;
        do
                n = read(fd, buf, size - 1);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        buf[n] = '\0';
        return 0;
}

int cgroup_write_file(int dir, const char *file, const char *text)
{
        _cleanup_close_ int fd = openat(dir, file, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n;

        if (fd < 0)
                return -errno;
        do
                n = write(fd, text, strlen(text));
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : 0;
}

int cgroup_open_dir(int at, const char *path)
{
        _cleanup_close_ int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        int up;

        if (fd < 0)
                return -errno;
        if (fd > STDERR_FILENO)
                return steal_fd(&fd);
        up = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        return up < 0 ? -errno : up;
}

/* "memory.events" and "cpu.stat" are lines of "key value". */
static bool find_value(const char *text, const char *key, uint64_t *ret)
{
        size_t n = strlen(key);

        for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
                if (strncmp(p, key, n) == 0 && p[n] == ' ')
                        return sscanf(p + n, " %" SCNu64, ret) == 1;
        return false;
}

static bool read_number(int dir, const char *file, uint64_t *ret)
{
        char text[64];

        return cgroup_read_file(dir, file, text, sizeof text) == 0 && sscanf(text, "%" SCNu64, ret) == 1;
}

/* --- who is in it -------------------------------------------------------------------------------------------------- */

bool cgroup_of_text(char *text, const char **ret)
{
        char *line = starts_with(text, "0::") ? text : strstr(text, "\n0::");

        if (!line)
                return false;
        line += *line == '\n';
        line[strcspn(line, "\n")] = '\0';
        *ret = line + strlen("0::");
        return **ret == '/';
}

char *cgroup_of_pid(pid_t pid)
{
        char file[48], text[2 * PATH_MAX] = "";
        const char *path;

        if (pid > 0)
                (void)snprintf(file, sizeof file, "/proc/%d/cgroup", (int)pid);
        else
                (void)snprintf(file, sizeof file, "/proc/self/cgroup");
        if (cgroup_read_file(AT_FDCWD, file, text, sizeof text) < 0 || !cgroup_of_text(text, &path))
                return NULL;
        return strdup(path);
}

static bool is_below(const char *path, const char *top)
{
        size_t n = strlen(top);

        return strncmp(path, top, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

bool cgroup_has(const struct cgroup *g, pid_t pid)
{
        _cleanup_free_ char *path = pid > 0 ? cgroup_of_pid(pid) : NULL;

        return path && is_below(path, g->path);
}

static void read_pids(int dir, struct buffer *out)
{
        _cleanup_close_ int fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        char piece[4096];
        ssize_t n;

        while (fd >= 0 && (n = read(fd, piece, sizeof piece)) > 0)
                if (buffer_append(out, piece, (size_t)n) < 0)
                        return;
}

/* Those of the groups below it, too: what runs in an instance may have made some. */
static void read_pids_below(int dir, unsigned depth, struct buffer *out)
{
        const struct dirent *e;
        DIR *d;
        int fd;

        read_pids(dir, out);
        fd = depth < DEPTH_MAX ? cgroup_open_dir(dir, ".") : -1;
        d = fd >= 0 ? fdopendir(fd) : NULL;
        if (!d) {
                close_fd(&fd);
                return;
        }
        while ((e = readdir(d))) {
                if (e->d_type != DT_DIR || e->d_name[0] == '.')
                        continue;
                _cleanup_close_ int below = cgroup_open_dir(dir, e->d_name);
                if (below >= 0)
                        read_pids_below(below, depth + 1, out);
        }
        (void)closedir(d);
}

unsigned cgroup_each(const struct cgroup *g, cgroup_pid_fn *fn, void *arg)
{
        _cleanup_buffer_ struct buffer text;
        unsigned n = 0;
        char *end;

        buffer_init(&text, PIDS_BYTES_MAX);
        read_pids_below(g->fd, 0, &text);
        if (text.len == 0 || buffer_putc(&text, '\0') < 0)
                return 0;
        for (char *p = text.data; *p; p = end) {
                long pid = strtol(p, &end, 10);

                if (end == p)
                        break;
                while (*end == '\n')
                        end++;
                if (pid > 0) /* 0: of another pid namespace */
                        n += fn(arg, (pid_t)pid);
        }
        return n;
}

static bool count_one(void *arg, pid_t pid)
{
        (void)arg;
        (void)pid;
        return true;
}

unsigned cgroup_count(const struct cgroup *g)
{
        return cgroup_each(g, count_one, NULL);
}

struct order {
        const struct cgroup *g;
        int signo;
        pid_t session;
};

static bool signal_one(void *arg, pid_t pid)
{
        const struct order *o = arg;
        _cleanup_close_ int fd = pid == getpid() ? -1 : pidfd_open(pid, 0);

        /* Looked at after the pidfd was opened: what it stands for is what was looked at, or is dead. */
        return fd >= 0 && cgroup_has(o->g, pid) &&
               (o->session <= 0 || (pid != o->session && getsid(pid) != o->session)) &&
               pidfd_send_signal(fd, o->signo, NULL, 0) == 0;
}

int cgroup_signal(struct cgroup *g, int signo, pid_t session)
{
        struct order o = {g, signo, session};

        return (int)cgroup_each(g, signal_one, &o);
}

int cgroup_kill(struct cgroup *g)
{
        int r = cgroup_write_file(g->fd, "cgroup.kill", "1");

        if (r != -ENOENT && r != -EOPNOTSUPP)
                return r;
        /* Who forks meanwhile is met in the next round. */
        for (unsigned i = 0; i < KILL_ROUNDS; i++)
                if (cgroup_signal(g, SIGKILL, 0) == 0)
                        break;
        return 0;
}

void cgroup_thaw(struct cgroup *g)
{
        uint64_t frozen;

        if (read_number(g->fd, "cgroup.freeze", &frozen) && frozen)
                (void)cgroup_write_file(g->fd, "cgroup.freeze", "0");
}

int cgroup_add(struct cgroup *g, pid_t pid)
{
        char text[24];

        (void)snprintf(text, sizeof text, "%d", (int)pid);
        return cgroup_write_file(g->fd, "cgroup.procs", text);
}

/* --- limits and figures ---------------------------------------------------------------------------------------------- */

static int put_number(int dir, const char *file, uint64_t value)
{
        char text[32];

        if (value)
                (void)snprintf(text, sizeof text, "%" PRIu64, value);
        else
                (void)snprintf(text, sizeof text, "max");
        return cgroup_write_file(dir, file, text);
}

struct squeeze {
        int fd;
        uint64_t memory;
};

static void squeeze_work(void *job)
{
        const struct squeeze *s = job;

        (void)put_number(s->fd, "memory.max", s->memory);
}

static void squeeze_done(void *job)
{
        struct squeeze *s = job;

        (void)close(s->fd);
        free(s);
}

/* Less than it uses. */
static int squeeze(const struct cgroup *g, uint64_t memory)
{
        struct squeeze *s = malloc(sizeof *s);
        int r;

        if (!s)
                return -ENOMEM;
        s->memory = memory;
        s->fd = fcntl(g->fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        r = s->fd < 0 ? -errno : loop_work(g->loop, squeeze_work, squeeze_done, s);
        if (r < 0) {
                close_fd(&s->fd);
                free(s);
        }
        return r;
}

static int limit_memory(const struct cgroup *g, uint64_t memory)
{
        uint64_t used;

        if (memory && g->loop && read_number(g->fd, "memory.current", &used) && used > memory)
                return squeeze(g, memory);
        return put_number(g->fd, "memory.max", memory);
}

/* Who wants no limit is content where the controller is not there. */
static int no_limit_is_fine(int r, bool wanted)
{
        return r == -ENOENT && !wanted ? 0 : r;
}

static int limit_cpus(struct cgroup *g, const struct cgroup_limits *l)
{
        char text[48];
        double quota = l->cpus * CPU_PERIOD;
        int r;

        if (l->cpus > 0)
                (void)snprintf(text, sizeof text, "%.0f %d", MAX(quota, (double)CPU_QUOTA_MIN), CPU_PERIOD);
        else
                (void)snprintf(text, sizeof text, "max %d", CPU_PERIOD);
        r = no_limit_is_fine(cgroup_write_file(g->fd, "cpu.max", text), l->cpus > 0);
        /* Best effort, as nice is everywhere. */
        (void)snprintf(text, sizeof text, "%d", MIN(MAX(l->nice, -20), 19));
        (void)cgroup_write_file(g->fd, "cpu.weight.nice", text);
        return r;
}

unsigned cgroup_limit(struct cgroup *g, const struct cgroup_limits *l, int errors[3])
{
        errors[0] = no_limit_is_fine(limit_memory(g, l->memory), l->memory > 0);
        /* A server without one of its helpers is of no use: all of the group or nobody. */
        (void)cgroup_write_file(g->fd, "memory.oom.group", l->memory ? "1" : "0");
        errors[1] = limit_cpus(g, l);
        errors[2] = no_limit_is_fine(put_number(g->fd, "pids.max", l->pids), l->pids > 0);
        return (errors[0] < 0 ? CGROUP_MEMORY : 0U) | (errors[1] < 0 ? CGROUP_CPU : 0U) |
               (errors[2] < 0 ? CGROUP_PIDS : 0U);
}

bool cgroup_read_oom(const struct cgroup *g, uint64_t *ret_oom, uint64_t *ret_kills)
{
        char text[CGROUP_SMALL_BYTES];

        return cgroup_read_file(g->fd, "memory.events", text, sizeof text) == 0 &&
               find_value(text, "oom", ret_oom) && find_value(text, "oom_kill", ret_kills);
}

void cgroup_read_usage(const struct cgroup *g, struct cgroup_usage *ret)
{
        struct cgroup_usage u = {0};
        char text[CGROUP_SMALL_BYTES];

        if (read_number(g->fd, "memory.current", &u.memory)) {
                u.known |= CGROUP_MEMORY;
                (void)read_number(g->fd, "memory.max", &u.memory_max); /* "max" is no number: 0 */
                (void)cgroup_read_oom(g, &u.oom, &u.oom_kills);
        }
        if (cgroup_read_file(g->fd, "cpu.stat", text, sizeof text) == 0 &&
            find_value(text, "usage_usec", &u.cpu_usec))
                u.known |= CGROUP_CPU;
        if (read_number(g->fd, "pids.current", &u.pids))
                u.known |= CGROUP_PIDS;
        *ret = u;
}

/* --- life -------------------------------------------------------------------------------------------------------------- */

int cgroup_escape(const char *name, char *buf, size_t size)
{
        static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
        size_t n = strlen(CGROUP_PREFIX);

        if (size <= n)
                return -ENAMETOOLONG;
        memcpy(buf, CGROUP_PREFIX, n);
        for (; *name; name++) {
                bool is_plain = strchr(plain, *name) != NULL;
                size_t need = is_plain ? 1 : 3;

                if (n + need >= MIN(size, (size_t)NAME_MAX))
                        return -ENAMETOOLONG;
                if (is_plain)
                        buf[n] = *name;
                else
                        (void)snprintf(buf + n, 4, "%%%02X", (unsigned)(unsigned char)*name);
                n += need;
        }
        buf[n] = '\0';
        return 0;
}

int cgroup_unescape(const char *file, char *buf, size_t size)
{
        char again[CGROUP_NAME_BYTES];
        size_t n = 0;

        if (!starts_with(file, CGROUP_PREFIX))
                return -EINVAL;
        for (const char *p = file + strlen(CGROUP_PREFIX); *p; p++) {
                unsigned c = (unsigned char)*p;

                if (*p == '%') {
                        if (sscanf(p, "%%%2X", &c) != 1 || strlen(p) < 3)
                                return -EINVAL;
                        p += 2;
                }
                if (n + 1 >= size)
                        return -ENAMETOOLONG;
                buf[n++] = (char)c;
        }
        buf[n] = '\0';
        /* One name, one group: what we would not write so is not ours. */
        return n > 0 && cgroup_escape(buf, again, sizeof again) == 0 && streq(again, file) ? 0 : -EINVAL;
}

int cgroup_open_at(int parent, const char *file, const char *path, struct cgroup **ret)
{
        struct cgroup *g = calloc(1, sizeof *g);
        int r = -ENOMEM;

        if (!g)
                return -ENOMEM;
        g->fd = g->parent = -1;
        list_init(&g->node);
        (void)snprintf(g->file, sizeof g->file, "%s", file);
        g->path = strdup(path);
        if (g->path)
                r = g->parent = fcntl(parent, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        if (r < 0)
                r = g->path ? -errno : -ENOMEM;
        else
                r = g->fd = cgroup_open_dir(parent, file);
        if (r < 0) {
                (void)cgroup_free(g);
                return r;
        }
        *ret = g;
        return 0;
}

static char *parent_of(const char *root, const char *path)
{
        const char *slash = strrchr(path, '/');

        return text_format("%s%.*s", root, (int)(slash - path), path);
}

int cgroup_find(struct loop *loop, const char *root, const char *path, const char *name, pid_t pid,
                struct cgroup **ret)
{
        _cleanup_free_ char *found = NULL, *folder = NULL, *lives = NULL;
        char file[CGROUP_NAME_BYTES];
        const char *slash = strrchr(path, '/');
        int r;

        if (!slash || path[0] != '/' || strstr(path, "/../") || cgroup_escape(name, file, sizeof file) < 0 ||
            !streq(slash + 1, file))
                return -EINVAL;
        if (pid > 0) {
                lives = cgroup_of_pid(pid);
                if (!lives || !is_below(lives, path))
                        return -ESRCH;
        }
        if (!root) {
                r = cgroup_find_root(&found);
                if (r < 0)
                        return r;
                root = found;
        }
        folder = parent_of(root, path);
        if (!folder)
                return -ENOMEM;
        _cleanup_close_ int parent = cgroup_open_dir(AT_FDCWD, folder);
        if (parent < 0)
                return parent;
        r = cgroup_open_at(parent, file, path, ret);
        if (r == 0)
                (*ret)->loop = loop;
        return r;
}

struct cgroup *cgroup_free(struct cgroup *g)
{
        if (!g)
                return NULL;
        list_remove(&g->node);
        close_fd(&g->fd);
        close_fd(&g->parent);
        free(g->path);
        free(g);
        return NULL;
}

static void remove_below(int dir, unsigned depth)
{
        const struct dirent *e;
        int fd = depth < DEPTH_MAX ? cgroup_open_dir(dir, ".") : -1;
        DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

        if (!d) {
                close_fd(&fd);
                return;
        }
        while ((e = readdir(d))) {
                if (e->d_type != DT_DIR || e->d_name[0] == '.')
                        continue;
                _cleanup_close_ int below = cgroup_open_dir(dir, e->d_name);
                if (below >= 0)
                        remove_below(below, depth + 1);
                (void)unlinkat(dir, e->d_name, AT_REMOVEDIR);
        }
        (void)closedir(d);
}

int cgroup_remove(int parent, const char *file)
{
        _cleanup_close_ int fd = -1;

        if (unlinkat(parent, file, AT_REMOVEDIR) == 0 || errno == ENOENT)
                return 0;
        fd = cgroup_open_dir(parent, file);
        if (fd >= 0)
                remove_below(fd, 0);
        if (unlinkat(parent, file, AT_REMOVEDIR) == 0 || errno == ENOENT)
                return 0;
        return -errno;
}

const char *cgroup_path(const struct cgroup *g)
{
        return g->path;
}

bool cgroup_is_watched(const struct cgroup *g)
{
        _cleanup_close_ int fd = cgroup_open_dir(g->parent, CGROUP_LOCK);

        if (fd < 0)
                return fd != -ENOENT;            /* not ours to open: not ours to judge */
        return flock(fd, LOCK_EX | LOCK_NB) < 0; /* closing lets go of it */
}

bool cgroup_is_used(const struct cgroup *g)
{
        return g->used;
}

int cgroup_fd(const struct cgroup *g)
{
        return g->fd;
}
