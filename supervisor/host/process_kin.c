/* process_kin.c: two sorted tables, of leaders and of control groups, and the way up from a process to one of them. */
#include "host/process_kin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/macros.h"
#include "host/cgroup_private.h"
#include "host/process_proc.h"

enum { ANCESTORS_MAX = 64 };

struct leader {
        pid_t pid;
        size_t whose;
};

struct place {
        const char *cgroup;
        size_t whose;
};

struct process_kin {
        struct leader *leaders;
        struct place *places;
        size_t n, n_places, cap;
        bool is_sorted;
};

int process_kin_new(struct process_kin **ret)
{
        struct process_kin *k = calloc(1, sizeof *k);

        if (!k)
                return -ENOMEM;
        *ret = k;
        return 0;
}

struct process_kin *process_kin_free(struct process_kin *k)
{
        if (!k)
                return NULL;
        free(k->leaders);
        free(k->places);
        free(k);
        return NULL;
}

int process_kin_add(struct process_kin *k, pid_t leader, const char *cgroup, size_t whose)
{
        if (k->n == k->cap) {
                size_t cap = k->cap ? 2 * k->cap : 16;
                struct leader *leaders = reallocarray(k->leaders, cap, sizeof *leaders);
                struct place *places;

                if (!leaders)
                        return -ENOMEM;
                k->leaders = leaders;
                places = reallocarray(k->places, cap, sizeof *places);
                if (!places)
                        return -ENOMEM;
                k->places = places;
                k->cap = cap;
        }
        k->leaders[k->n++] = (struct leader){leader, whose};
        if (cgroup)
                k->places[k->n_places++] = (struct place){cgroup, whose};
        k->is_sorted = false;
        return 0;
}

static int compare_leaders(const void *a, const void *b)
{
        pid_t x = ((const struct leader *)a)->pid, y = ((const struct leader *)b)->pid;

        return x < y ? -1 : x > y;
}

static int compare_places(const void *a, const void *b)
{
        return strcmp(((const struct place *)a)->cgroup, ((const struct place *)b)->cgroup);
}

static void sort(struct process_kin *k)
{
        if (k->is_sorted)
                return;
        if (k->n)
                qsort(k->leaders, k->n, sizeof *k->leaders, compare_leaders);
        if (k->n_places)
                qsort(k->places, k->n_places, sizeof *k->places, compare_places);
        k->is_sorted = true;
}

static size_t find_leader(const struct process_kin *k, pid_t pid)
{
        const struct leader key = {.pid = pid}, *x = NULL;

        if (pid > 0 && k->n)
                x = bsearch(&key, k->leaders, k->n, sizeof key, compare_leaders);
        return x ? x->whose : PROCESS_KIN_NOBODY;
}

static size_t find_any(const struct process_kin *k, pid_t pid, pid_t group, pid_t session)
{
        size_t whose = find_leader(k, pid);

        if (whose == PROCESS_KIN_NOBODY)
                whose = find_leader(k, group);
        return whose == PROCESS_KIN_NOBODY ? find_leader(k, session) : whose;
}

/* In it, or in one that was made below it. */
static size_t find_place(const struct process_kin *k, pid_t pid)
{
        _cleanup_free_ char *path = k->n_places ? cgroup_of_pid(pid) : NULL;

        while (path && *path) {
                const struct place key = {.cgroup = path},
                                   *x = bsearch(&key, k->places, k->n_places, sizeof key, compare_places);
                char *end = strrchr(path, '/');

                if (x)
                        return x->whose;
                if (!end)
                        break;
                *end = '\0';
        }
        return PROCESS_KIN_NOBODY;
}

size_t process_kin_of(struct process_kin *k, pid_t pid)
{
        struct proc_stat st;
        size_t whose;
        pid_t at = pid;

        sort(k);
        if (pid <= 0)
                return PROCESS_KIN_NOBODY;
        whose = find_any(k, pid, getpgid(pid), getsid(pid));
        for (unsigned i = 0; whose == PROCESS_KIN_NOBODY && i < ANCESTORS_MAX; i++) {
                if (proc_read_stat(at, &st) < 0 || st.parent <= 1)
                        break;
                at = st.parent;
                whose = find_any(k, at, getpgid(at), getsid(at));
        }
        return whose == PROCESS_KIN_NOBODY ? find_place(k, pid) : whose;
}

static size_t walk_up(const struct process_kin *k, const struct proc_stat *all, size_t at)
{
        size_t whose = PROCESS_KIN_NOBODY;

        for (unsigned i = 0; at != PROC_NOBODY && whose == PROCESS_KIN_NOBODY && i < ANCESTORS_MAX; i++) {
                whose = find_any(k, all[at].pid, all[at].group, all[at].session);
                at = all[at].parent > 1 ? all[at].up : PROC_NOBODY;
        }
        return whose;
}

static bool is_dead(const struct proc_stat *st)
{
        return st->state == 'Z' || st->state == 'X';
}

int process_kin_walk(struct process_kin *k, usec_t now, process_kin_fn *fn, void *arg)
{
        const struct proc_stat *all;
        size_t n;
        int r = proc_snapshot(now, 0, &all, &n);

        if (r < 0)
                return r;
        sort(k);
        for (size_t i = 0; i < n; i++) {
                size_t whose;

                if (is_dead(all + i))
                        continue;
                whose = walk_up(k, all, i);
                /* Threads of the kernel have no parent but that of all of them. */
                if (whose == PROCESS_KIN_NOBODY && all[i].pid != 2 && all[i].parent != 2)
                        whose = find_place(k, all[i].pid);
                if (whose != PROCESS_KIN_NOBODY && !fn(arg, all[i].pid, whose))
                        break;
        }
        return 0;
}

struct sum {
        const struct process_kin *kin;
        const struct proc_stat *all;
        size_t n, others;
        pid_t leader;
        usec_t tick, cpu;
        bool asks, wants;
};

static bool add_one(struct sum *s, pid_t pid)
{
        struct proc_stat st;

        if (proc_read_stat(pid, &st) < 0)
                return false;
        s->cpu += st.cpu * s->tick;
        s->others += pid != s->leader;
        s->wants = s->wants || (s->asks && proc_has_running_thread(pid));
        return true;
}

/* Its parent has ended, or it has begun since the look. */
static bool add_housemate(void *arg, pid_t pid)
{
        struct sum *s = arg;
        size_t at = proc_find(s->all, s->n, pid);

        return (at == PROC_NOBODY || walk_up(s->kin, s->all, at) == PROCESS_KIN_NOBODY) && add_one(s, pid);
}

int process_kin_cpu(pid_t leader, const struct cgroup *group, usec_t now, usec_t *ret_cpu,
                    bool *ret_wants_to_run, size_t *ret_others)
{
        struct leader one = {.pid = leader};
        const struct process_kin kin = {.leaders = &one, .n = 1, .is_sorted = true};
        struct sum s = {
                .kin = &kin,
                .leader = leader,
                .tick = USEC_PER_SEC / (usec_t)sysconf(_SC_CLK_TCK),
                .asks = ret_wants_to_run != NULL,
        };
        int r = proc_snapshot(now, PROC_LOOK_KEPT, &s.all, &s.n);

        if (r < 0)
                return r;
        for (size_t i = 0; i < s.n; i++)
                if (!is_dead(s.all + i) && walk_up(&kin, s.all, i) != PROCESS_KIN_NOBODY)
                        (void)add_one(&s, s.all[i].pid);
        /* Not by a look at the group of each process of the machine: there are thousands, and as many members may ask every second. */
        if (group)
                (void)cgroup_each(group, add_housemate, &s);
        *ret_cpu = s.cpu;
        if (ret_wants_to_run)
                *ret_wants_to_run = s.wants;
        *ret_others = s.others;
        return 0;
}

int process_program(pid_t pid, char *ret, size_t size)
{
        static const char gone[] = " (deleted)"; /* replaced by an upgrade while it runs */
        char path[32];
        size_t len = strlen(gone);
        ssize_t n;

        (void)snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
        n = readlink(path, ret, size - 1);
        if (n < 0)
                return -errno;
        ret[n] = '\0';
        if ((size_t)n > len && memcmp(ret + (size_t)n - len, gone, len) == 0)
                ret[(size_t)n - len] = '\0';
        return 0;
}
