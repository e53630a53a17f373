/* cgroup.c: what systemd delegated to us: found, entered, and kept tidy. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#include "base/file.h"
#include "base/macros.h"
#include "base/text.h"
#include "host/cgroup_private.h"

#define CTL "ctl"

/* How long a group that was told to end may take: a process in an uninterruptible driver call outlives SIGKILL. */
#define GOING_PATIENCE (60 * USEC_PER_SEC)
#define GOING_INTERVAL (20 * USEC_PER_MSEC)
#define GOING_SLOWEST  (2 * USEC_PER_SEC)

enum { MOUNTS_BYTES_MAX = 4 * 1024 * 1024, GROUPS_MAX = 8192 };

struct cgroups {
        struct loop *loop;
        char *root, *unit; /* where the hierarchy is mounted, and ours in it */
        int fd, lock;      /* of UNIT, and of UNIT/lock: as long as it is open, no other daemon comes in */
        unsigned wanted, enabled;
        int errors[3];     /* why a wanted one is not enabled: -errno */
        struct list going; /* retired groups that are not empty yet */
        struct timer *timer;
        usec_t until, interval;
};

static const struct {
        unsigned bit;
        const char *name;
} controllers[] = {{CGROUP_MEMORY, "memory"}, {CGROUP_CPU, "cpu"}, {CGROUP_PIDS, "pids"}};

/* --- finding it ------------------------------------------------------------------------------------------------------- */

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape_octal(char *s)
{
        char *to = s;

        for (; *s; s++) {
                unsigned c;

                if (s[0] == '\\' && strnlen(s, 4) == 4 && sscanf(s + 1, "%3o", &c) == 1) {
                        *to++ = (char)c;
                        s += 3;
                } else {
                        *to++ = *s;
                }
        }
        *to = '\0';
}

/* "36 35 98:0 ROOT POINT options … - cgroup2 …" (proc(5)). A mount of a part of the tree (ROOT is not "/") is of no use: paths in
 * /proc/PID/cgroup begin at the root of our cgroup namespace, which is what "/" means there, too. */
static bool is_cgroup2(char *line, char **ret_point)
{
        char *field = line, *root = NULL, *point = NULL, *dash = strstr(line, " - ");

        if (!dash || !starts_with(dash + 3, "cgroup2 "))
                return false;
        for (unsigned i = 1; i <= 5 && field; i++) {
                char *next = strchr(field, ' ');

                if (i == 4)
                        root = field;
                if (i == 5)
                        point = field;
                if (next && i >= 4)
                        *next = '\0';
                field = next ? next + 1 : NULL;
        }
        if (!root || !point || !streq(root, "/"))
                return false;
        unescape_octal(point);
        *ret_point = point;
        return true;
}

int cgroup_find_root(char **ret)
{
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r;

        r = file_read("/proc/self/mountinfo", MOUNTS_BYTES_MAX, &text, &len);
        if (r < 0)
                return r;
        for (char *line = text, *end, *point; line && *line; line = end) {
                end = strchr(line, '\n');
                if (end)
                        *end++ = '\0';
                if (is_cgroup2(line, &point)) {
                        *ret = strdup(point);
                        return *ret ? 0 : -ENOMEM;
                }
        }
        return -ENODEV;
}

static bool has_mark(int fd, const char *name)
{
        char value[4];

        return fgetxattr(fd, name, value, sizeof value) == 1 && value[0] == '1';
}

static bool is_writable(int fd)
{
        return faccessat(fd, ".", W_OK, AT_EACCESS) == 0 &&
               faccessat(fd, "cgroup.procs", W_OK, AT_EACCESS) == 0 &&
               faccessat(fd, "cgroup.subtree_control", W_OK, AT_EACCESS) == 0;
}

static bool is_delegated(int fd)
{
        if (has_mark(fd, "trusted.delegate") || has_mark(fd, "user.delegate"))
                return true;
        /* root may write everywhere, which says nothing. */
        return geteuid() != 0 && getenv("INVOCATION_ID") && is_writable(fd);
}

/* The first process in it that is not ours, 0: nobody. Two programs that share a group cannot both have it delegated: a shell and
 * what was started from it, for one. */
static long find_other(int fd)
{
        char text[CGROUP_SMALL_BYTES], *end;

        if (cgroup_read_file(fd, "cgroup.procs", text, sizeof text) < 0)
                return 0;
        for (char *p = text; *p; p = end) {
                long pid = strtol(p, &end, 10);

                if (end == p)
                        break;
                if (pid != getpid())
                        return pid;
                while (*end == '\n')
                        end++;
        }
        return 0;
}

/* systemd sweeps empty groups away when a unit has ended: then this is a lock on nothing. */
static bool is_there(int at, int fd)
{
        struct stat ours, there;

        return fstat(fd, &ours) == 0 && fstatat(at, CGROUP_LOCK, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
               ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

/* Who has it open and locked is another daemon of our kind; a child of our predecessor's has it for the milliseconds before its exec. */
static int take_lock(int at, int *ret)
{
        const struct timespec pause = {.tv_nsec = 10000000};

        for (unsigned i = 0; i < 20; i++) {
                _cleanup_close_ int fd = -1;

                if (mkdirat(at, CGROUP_LOCK, 0700) < 0 && errno != EEXIST)
                        return -errno;
                fd = cgroup_open_dir(at, CGROUP_LOCK);
                if (fd < 0 && fd != -ENOENT)
                        return fd;
                if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && is_there(at, fd)) {
                        *ret = steal_fd(&fd);
                        return 0;
                }
                (void)nanosleep(&pause, NULL);
        }
        return -EBUSY;
}

static int claim(struct cgroups *c, const char *path, char *why, size_t size)
{
        long pid = find_other(c->fd);
        int r;

        if (pid) {
                (void)snprintf(why, size,
                               "other processes than ours live in our control group %.400s (pid %ld)", path,
                               pid);
                return -EBUSY;
        }
        r = take_lock(c->fd, &c->lock);
        if (r == -EBUSY)
                (void)snprintf(why, size, "another llama-supervisor uses the control group %.400s", path);
        else if (r < 0)
                (void)snprintf(why, size, "%.400s/" CGROUP_LOCK " cannot be made or locked: %s", path,
                               strerror(-r));
        return r;
}

static int open_unit(const char *root, const char *path)
{
        _cleanup_free_ char *folder = text_format("%s%s", root, path);

        return folder ? cgroup_open_dir(AT_FDCWD, folder) : -ENOMEM;
}

/* We may be in the unit's group itself, or in ctl/ below it already. */
static int find_unit(struct cgroups *c, const struct cgroups_spec *spec, const char *own, char *why,
                     size_t size)
{
        size_t n = strlen(own);
        int fd;

        if (ends_with(own, "/" CTL)) {
                c->unit = strndup(own, n - strlen("/" CTL));
                if (!c->unit)
                        return -ENOMEM;
                fd = open_unit(c->root, c->unit);
                if (fd >= 0 && (spec->is_delegated || is_delegated(fd))) {
                        c->fd = fd;
                        return claim(c, c->unit, why, size);
                }
                close_fd(&fd);
        }
        if (text_set(&c->unit, n > 1 ? own : "") < 0)
                return -ENOMEM;
        fd = open_unit(c->root, c->unit);
        if (fd < 0) {
                (void)snprintf(why, size, "our control group %.200s%.400s cannot be opened: %s", c->root, own,
                               strerror(-fd));
                return fd;
        }
        if (!spec->is_delegated && !is_delegated(fd)) {
                (void)close(fd);
                (void)snprintf(why, size,
                               "our control group %.400s is not delegated to us (Delegate= in the unit)",
                               own);
                return -ENODEV;
        }
        c->fd = fd;
        return claim(c, own, why, size);
}

/* --- entering it ------------------------------------------------------------------------------------------------------- */

static int enter_ctl(struct cgroups *c, const char *own)
{
        _cleanup_close_ int fd = -1;

        if (ends_with(own, "/" CTL) && strlen(own) == strlen(c->unit) + strlen("/" CTL))
                return 0;
        if (mkdirat(c->fd, CTL, 0755) < 0 && errno != EEXIST)
                return -errno;
        fd = cgroup_open_dir(c->fd, CTL);
        return fd < 0 ? fd : cgroup_write_file(fd, "cgroup.procs", "0");
}

static bool has_word(const char *text, const char *word)
{
        size_t n = strlen(word);

        for (const char *p = text; (p = strstr(p, word)); p += n)
                if ((p == text || !isalpha((unsigned char)p[-1])) && !isalpha((unsigned char)p[n]))
                        return true;
        return false;
}

static void order_controllers(struct cgroups *c, unsigned bits)
{
        char order[64] = "";
        size_t n = 0;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(controllers); i++)
                if (bits & controllers[i].bit)
                        n += (size_t)snprintf(order + n, sizeof order - n, "%s+%s", n ? " " : "",
                                              controllers[i].name);
        r = cgroup_write_file(c->fd, "cgroup.subtree_control", order);
        for (size_t i = 0; i < ARRAY_SIZE(controllers); i++)
                if (bits & controllers[i].bit)
                        c->errors[i] = r;
}

unsigned cgroups_enable(struct cgroups *c, unsigned more)
{
        char text[CGROUP_SMALL_BYTES];
        unsigned missing;

        c->wanted |= more;
        missing = c->wanted & ~c->enabled;
        if (!missing)
                return c->enabled;
        order_controllers(c, missing);
        /* The kernel takes all or none, and one that is not there must not keep the others away. */
        for (size_t i = 0; i < ARRAY_SIZE(controllers); i++)
                if (c->errors[i] < 0 && (missing & controllers[i].bit) && missing != controllers[i].bit)
                        order_controllers(c, controllers[i].bit);
        if (cgroup_read_file(c->fd, "cgroup.subtree_control", text, sizeof text) < 0)
                return c->enabled;
        for (size_t i = 0; i < ARRAY_SIZE(controllers); i++)
                if (has_word(text, controllers[i].name))
                        c->enabled |= controllers[i].bit;
        return c->enabled;
}

int cgroups_error(const struct cgroups *c, unsigned controller)
{
        for (size_t i = 0; i < ARRAY_SIZE(controllers); i++)
                if (controllers[i].bit == controller)
                        return c->enabled & controller ? 0 : c->errors[i];
        return -EINVAL;
}

int cgroups_open(struct loop *loop, const struct cgroups_spec *spec, char *why, size_t size,
                 struct cgroups **ret)
{
        _cleanup_free_ char *root = NULL, *own = NULL;
        struct cgroups *c;
        int r;

        if (spec->root)
                root = strdup(spec->root);
        else if (cgroup_find_root(&root) < 0) {
                (void)snprintf(why, size, "no control groups of version 2 are mounted on this machine");
                return -ENODEV;
        }
        own = spec->own ? strdup(spec->own) : cgroup_of_pid(0);
        if (!own || !root) {
                (void)snprintf(why, size, "we live in no control group of version 2");
                return -ENODEV;
        }
        c = calloc(1, sizeof *c);
        if (!c)
                return -ENOMEM;
        c->loop = loop;
        c->root = steal_ptr(root);
        c->fd = c->lock = -1;
        list_init(&c->going);
        r = find_unit(c, spec, own, why, size);
        if (r == 0) {
                r = enter_ctl(c, own);
                if (r < 0)
                        (void)snprintf(why, size, "%.400s/" CTL " cannot be made or entered: %s", own,
                                       strerror(-r));
        }
        if (r < 0) {
                (void)cgroups_free(c);
                return r;
        }
        (void)cgroups_enable(c, CGROUP_MEMORY | CGROUP_PIDS);
        *ret = c;
        return 0;
}

const char *cgroups_unit(const struct cgroups *c)
{
        return c->unit;
}

const char *cgroups_root(const struct cgroups *c)
{
        return c->root;
}

/* --- the instances' groups --------------------------------------------------------------------------------------------- */

int cgroup_make(struct cgroups *c, const char *name, struct cgroup **ret)
{
        _cleanup_free_ char *path = NULL;
        char file[CGROUP_NAME_BYTES];
        bool used;
        int r;

        (void)cgroups_enable(c, 0); /* who sat in UNIT may have left it by now */
        r = cgroup_escape(name, file, sizeof file);
        if (r < 0)
                return r;
        path = text_format("%s/%s", c->unit, file);
        if (!path)
                return -ENOMEM;
        /* Used again, so nobody takes it away when it is empty for a moment. */
        LIST_FOREACH(&c->going, it)
        {
                if (streq(LIST_ENTRY(it, struct cgroup, node)->file, file))
                        (void)cgroup_free(LIST_ENTRY(it, struct cgroup, node));
        }
        (void)unlinkat(c->fd, file, AT_REMOVEDIR);
        used = mkdirat(c->fd, file, 0755) < 0;
        if (used && errno != EEXIST)
                return -errno;
        r = cgroup_open_at(c->fd, file, path, ret);
        if (r < 0)
                return r;
        (*ret)->loop = c->loop;
        (*ret)->used = used;
        if (used)
                cgroup_thaw(*ret);
        return 0;
}

int cgroups_list(struct cgroups *c, char ***ret)
{
        char name[CGROUP_NAME_BYTES], **names = NULL;
        const struct dirent *e;
        size_t n = 0;
        int r = 0, fd = cgroup_open_dir(c->fd, ".");
        DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

        if (!d) {
                r = fd < 0 ? fd : -errno;
                close_fd(&fd);
                return r;
        }
        while (r == 0 && n < GROUPS_MAX && (e = readdir(d)))
                if (e->d_type == DT_DIR && cgroup_unescape(e->d_name, name, sizeof name) == 0) {
                        r = text_list_add(&names, name);
                        n++;
                }
        (void)closedir(d);
        if (r < 0) {
                text_list_free(names);
                return r;
        }
        *ret = names;
        return 0;
}

static void on_timer(void *owner, usec_t now)
{
        struct cgroups *c = owner;

        LIST_FOREACH(&c->going, it)
        {
                struct cgroup *g = LIST_ENTRY(it, struct cgroup, node);

                if (cgroup_remove(g->parent, g->file) == 0 || now >= c->until)
                        (void)cgroup_free(g);
        }
        c->interval = MIN(c->interval * 2, GOING_SLOWEST);
        if (!list_is_empty(&c->going))
                timer_set(c->timer, usec_add(now, c->interval));
}

void cgroup_retire(struct cgroups *c, struct cgroup *g)
{
        if (!g)
                return;
        if (cgroup_remove(g->parent, g->file) == 0 || !c || !c->loop ||
            (!c->timer && timer_new(c->loop, on_timer, c, &c->timer) < 0)) {
                (void)cgroup_free(g);
                return;
        }
        list_append(&c->going, &g->node);
        c->until = usec_add(loop_now(c->loop), GOING_PATIENCE);
        c->interval = GOING_INTERVAL;
        timer_set(c->timer, usec_add(loop_now(c->loop), c->interval));
}

struct cgroups *cgroups_free(struct cgroups *c)
{
        if (!c)
                return NULL;
        LIST_FOREACH(&c->going, it)
        {
                struct cgroup *g = LIST_ENTRY(it, struct cgroup, node);

                (void)cgroup_remove(g->parent, g->file);
                (void)cgroup_free(g);
        }
        c->timer = timer_free(c->timer);
        close_fd(&c->lock);
        close_fd(&c->fd);
        free(c->unit);
        free(c->root);
        free(c);
        return NULL;
}
