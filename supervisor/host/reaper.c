/* reaper.c: what a daemon that is gone has left: found, told to end, killed. */
#include "host/reaper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/list.h"
#include "base/text.h"
#include "core/command.h"
#include "host/cgroup_private.h"
#include "host/process.h"
#include "host/record.h"

#define STOPPING "stopping"
#define STARTED  "started"
#define ENTERS   "enters-unit"
#define CTL      "/ctl"
#define CONTROL  "/.control" /* where systemd runs ExecStopPost= of a unit that delegates */

enum { RECORDS_MAX = 8192, RECORD_MAX = 256 * 1024, SMALL = 4096 };

static const usec_t LOOK = 50 * USEC_PER_MSEC, KILL_PATIENCE = 15 * USEC_PER_SEC;

/* One instance that may live. */
struct prey {
        struct list node;
        char *name;
        struct process *process; /* NULL: its leader is gone, or not known */
        struct cgroup *group;
        pid_t leader;
        uint64_t start_time;
        char *log, *mark; /* NULL: not known */
        bool recorded, over, killed;
        usec_t told_at, kill_at;
};

struct hunt {
        struct loop *loop;
        const struct reaper_spec *spec;
        struct list all;
        struct timer *timer;
        char *instances_dir, *unit; /* unit: path of its group; NULL: not looked at */
        unsigned n_open, n_left;
        usec_t give_up_at;
};

/* --- small files ------------------------------------------------------------------------------------------------------- */

static void make_file(const char *dir, const char *name)
{
        _cleanup_free_ char *path = text_format("%s/%s", dir, name);
        int fd = path ? open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644) : -1;

        close_fd(&fd);
}

static void remove_file(const char *dir, const char *name)
{
        _cleanup_free_ char *path = text_format("%s/%s", dir, name);

        if (path)
                (void)unlink(path);
}

static bool has_file(const char *dir, const char *name)
{
        _cleanup_free_ char *path = text_format("%s/%s", dir, name);
        struct stat st;

        return path && lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

void reaper_note_start(const char *runtime_dir, bool is_next)
{
        _cleanup_free_ char *own = NULL;

        remove_file(runtime_dir, STOPPING);
        if (is_next)
                return;
        remove_file(runtime_dir, STARTED);
        own = cgroup_of_pid(0);
        if (own && !ends_with(own, CTL))
                make_file(runtime_dir, ENTERS);
        else
                remove_file(runtime_dir, ENTERS);
}

void reaper_note_ready(const char *runtime_dir)
{
        make_file(runtime_dir, STARTED);
}

void reaper_note_stop(const char *runtime_dir)
{
        make_file(runtime_dir, STOPPING);
}

bool reaper_is_started(const char *runtime_dir)
{
        return has_file(runtime_dir, STARTED);
}

void reaper_forget_start(const char *runtime_dir)
{
        remove_file(runtime_dir, STARTED);
}

bool reaper_is_stopping(const char *runtime_dir)
{
        return has_file(runtime_dir, STOPPING);
}

/* --- our unit's group ---------------------------------------------------------------------------------------------------- */

/* Its path; NULL: we are in none that could be a unit's. */
static char *own_unit(void)
{
        char *own = cgroup_of_pid(0);
        size_t n = own ? strlen(own) : 0;

        if (!own)
                return NULL;
        if (ends_with(own, CTL))
                own[n - strlen(CTL)] = '\0';
        else if (ends_with(own, CONTROL))
                own[n - strlen(CONTROL)] = '\0';
        if (own[0] == '/' && own[1])
                return own;
        free(own);
        return NULL;
}

int reaper_open_unit(const char *runtime_dir)
{
        _cleanup_free_ char *root = NULL, *unit = own_unit(), *path = NULL;
        char text[SMALL], order[SMALL];
        size_t n = 0;
        int dir, r;

        if (!unit || !has_file(runtime_dir, ENTERS) || cgroup_find_root(&root) < 0)
                return 0;
        path = text_format("%s%s", root, unit);
        dir = path ? cgroup_open_dir(AT_FDCWD, path) : -ENOMEM;
        if (dir < 0)
                return dir;
        r = cgroup_read_file(dir, "cgroup.subtree_control", text, sizeof(text));
        for (char *word = r == 0 ? strtok(text, " \n") : NULL; word && n < sizeof(order) - 32;
             word = strtok(NULL, " \n"))
                n += (size_t)snprintf(order + n, sizeof(order) - n, "%s-%.24s", n ? " " : "", word);
        if (r == 0 && n)
                r = cgroup_write_file(dir, "cgroup.subtree_control", order);
        (void)close(dir);
        return r < 0 ? r : n > 0;
}

/* --- who there is ---------------------------------------------------------------------------------------------------------- */

static struct prey *prey_free(struct prey *p)
{
        list_remove(&p->node);
        p->process = process_free(p->process);
        p->group = cgroup_free(p->group);
        free(p->name);
        free(p->log);
        free(p->mark);
        free(p);
        return NULL;
}

static struct prey *prey_new(struct hunt *h, const char *name)
{
        struct prey *p = calloc(1, sizeof(*p));

        if (!p)
                return NULL;
        list_init(&p->node);
        list_append(&h->all, &p->node);
        p->name = text_dup(name);
        p->mark = text_format(COMMAND_MARK "=%s/%s", h->instances_dir, name);
        if (h->spec->log_dir)
                p->log = text_format("%s/%s.log", h->spec->log_dir, name);
        return p->name && p->mark ? p : prey_free(p);
}

static struct prey *find_prey(struct hunt *h, const char *name)
{
        LIST_FOREACH(&h->all, it)
        {
                struct prey *p = LIST_ENTRY(it, struct prey, node);

                if (streq(p->name, name))
                        return p;
        }
        return NULL;
}

static void report(const struct hunt *h, const struct prey *p, enum reaper_event event, unsigned others,
                   int error)
{
        const struct reaper_report r = {
                .name = p->name,
                .pid = p->process ? process_pid(p->process) : 0,
                .others = others,
                .after = p->told_at ? usec_sub(loop_now(h->loop), p->told_at) : 0,
                .error = error,
        };

        h->spec->on_event(h->spec->owner, event, &r);
}

static void on_exit_of(void *owner, const struct process_exit *ended, usec_t now)
{
        (void)owner;
        (void)ended;
        (void)now; /* it is looked at by the timer */
}

static struct json_value *load_record(const struct hunt *h, const char *file)
{
        _cleanup_free_ char *text = NULL;
        struct json_value *v = NULL;
        size_t len;

        if (record_load(h->instances_dir, file, RECORD_MAX, &text, &len) < 0 ||
            json_parse(text, len, &v, NULL) < 0)
                return NULL;
        return v;
}

static void take_record(struct hunt *h, const char *file)
{
        _cleanup_free_ char *name = strndup(file, strlen(file) - strlen(".json")), *mark = NULL;
        struct json_value *v = load_record(h, file);
        const char *group = json_get_string(v, "cgroup");
        pid_t pid = (pid_t)json_get_int(v, "pid", 0);
        struct prey *p;
        int r;

        if (name)
                mark = text_format(COMMAND_MARK "=%s/%s", h->instances_dir, name);
        /* The numbers of another boot mean nothing. */
        if (!v || !name || !text_is_name(name) || pid <= 1 ||
            !process_is_of_this_boot(json_get_string(v, "bootId"), pid,
                                     (uint64_t)json_get_int(v, "startTime", 0), mark) ||
            !(p = prey_new(h, name))) {
                json_free(v);
                return;
        }
        p->recorded = true;
        p->leader = pid;
        p->start_time = (uint64_t)json_get_int(v, "startTime", 0);
        r = process_adopt(h->loop, pid, p->start_time, on_exit_of, p, &p->process);
        if (r < 0 && r != -ESRCH)
                report(h, p, REAPER_FAILED, 0, r);
        if (group)
                (void)cgroup_find(h->loop, NULL, group, name, p->process ? pid : 0, &p->group);
        /* Without its leader the group is known by its name alone, which a daemon with another runtime_dir may use by now. */
        if (p->group && !p->process && cgroup_is_watched(p->group))
                p->group = cgroup_free(p->group);
        json_free(v);
}

static void take_records(struct hunt *h)
{
        char **files = NULL;

        if (file_list(h->instances_dir, ".json", RECORDS_MAX, &files) < 0)
                return;
        for (char **f = files; f && *f; f++)
                take_record(h, *f);
        text_list_free(files);
}

/* Groups of our unit that no record tells of. */
static void take_groups(struct hunt *h)
{
        _cleanup_free_ char *root = NULL, *path = NULL;
        char **files = NULL;

        if (!h->unit || cgroup_find_root(&root) < 0)
                return;
        path = text_format("%s%s", root, h->unit);
        if (!path || file_list(path, "", RECORDS_MAX, &files) < 0)
                return;
        for (char **f = files; f && *f; f++) {
                _cleanup_free_ char *own = text_format("%s/%s", h->unit, *f);
                char name[CGROUP_NAME_BYTES];
                struct prey *p;

                if (!starts_with(*f, CGROUP_PREFIX) || !own || cgroup_unescape(*f, name, sizeof(name)) < 0)
                        continue;
                p = find_prey(h, name);
                if (!p)
                        p = prey_new(h, name);
                if (p && !p->group)
                        (void)cgroup_find(h->loop, NULL, own, name, 0, &p->group);
        }
        text_list_free(files);
}

/* Instances of which only a log is left: somebody may still write to it. */
static void take_logs(struct hunt *h)
{
        char **files = NULL;

        if (!h->spec->log_dir || file_list(h->spec->log_dir, ".log", RECORDS_MAX, &files) < 0)
                return;
        for (char **f = files; f && *f; f++) {
                _cleanup_free_ char *name = strndup(*f, strlen(*f) - strlen(".log"));

                if (name && text_is_name(name) && !find_prey(h, name))
                        (void)prey_new(h, name);
        }
        text_list_free(files);
}

/* --- signals --------------------------------------------------------------------------------------------------------------- */

static bool leads(const struct prey *p)
{
        return p->process && !process_has_exited(p->process);
}

/* signo 0: only counts. How many besides the leader; those that are found by two ways are counted once, mostly. */
static unsigned signal_others(struct hunt *h, struct prey *p, int signo)
{
        int in_group = 0, in_session = 0, strays = 0;

        if (p->group)
                in_group = signo ? cgroup_signal(p->group, signo, p->leader)
                                 : (int)cgroup_count(p->group) - leads(p);
        if (p->process)
                in_session = signo && process_has_exited(p->process) ? process_signal_group(p->process, signo)
                                                                     : process_group_count(p->process);
        else if (p->leader && p->log)
                in_session = process_signal_orphans(h->loop, p->leader, p->start_time, p->log, signo);
        if (p->log)
                strays = process_signal_strays(h->loop, p->leader, p->start_time, p->log, p->mark, signo);
        return (unsigned)MAX(in_group, in_session + strays);
}

static void tell(struct hunt *h, struct prey *p, int signo)
{
        unsigned others;

        if (leads(p))
                (void)process_signal_group(p->process, signo);
        others = signal_others(h, p, signo);
        if (signo == SIGKILL && p->group)
                (void)cgroup_kill(p->group);
        report(h, p, signo == SIGKILL ? REAPER_KILL : REAPER_TERM, others, 0);
}

static bool lives(struct hunt *h, struct prey *p, unsigned *ret_others)
{
        *ret_others = signal_others(h, p, 0);
        return leads(p) || *ret_others > 0;
}

/* --- the hunt --------------------------------------------------------------------------------------------------------------- */

static void forget(struct hunt *h, struct prey *p)
{
        _cleanup_free_ char *file = text_format("%s.json", p->name);

        if (p->recorded && file)
                (void)record_remove(h->instances_dir, file);
}

static void look(struct hunt *h, struct prey *p, usec_t now)
{
        unsigned others;

        if (!lives(h, p, &others)) {
                p->over = true;
                h->n_open--;
                report(h, p, REAPER_ENDED, 0, 0);
                forget(h, p);
        } else if (!p->killed && now >= p->kill_at) {
                p->killed = true;
                tell(h, p, SIGKILL);
        } else if (p->killed) {
                (void)signal_others(h, p, SIGKILL); /* who was born meanwhile */
        }
}

static void on_timer(void *owner, usec_t now)
{
        struct hunt *h = owner;

        LIST_FOREACH(&h->all, it)
        {
                struct prey *p = LIST_ENTRY(it, struct prey, node);

                if (!p->over)
                        look(h, p, now);
        }
        if (!h->n_open || now >= h->give_up_at)
                loop_stop(h->loop);
        else
                timer_set(h->timer, usec_add(now, LOOK));
}

static void begin(struct hunt *h)
{
        usec_t now = loop_now(h->loop), grace;

        LIST_FOREACH(&h->all, it)
        {
                struct prey *p = LIST_ENTRY(it, struct prey, node);
                unsigned others;

                if (!lives(h, p, &others)) {
                        p->over = true;
                        if (!h->spec->dry_run)
                                forget(h, p);
                        continue;
                }
                h->n_open++;
                report(h, p, REAPER_FOUND, others, 0);
                if (h->spec->dry_run)
                        continue;
                grace = h->spec->grace(h->spec->owner, p->name);
                p->told_at = now;
                p->kill_at = usec_add(now, grace);
                h->give_up_at = MAX(h->give_up_at, usec_add(p->kill_at, KILL_PATIENCE));
                tell(h, p, SIGTERM);
        }
}

static void end(struct hunt *h)
{
        LIST_FOREACH(&h->all, it)
        {
                struct prey *p = LIST_ENTRY(it, struct prey, node);
                unsigned others;

                if (!p->over && !h->spec->dry_run && lives(h, p, &others)) {
                        report(h, p, REAPER_LEFT, others, 0);
                        h->n_left++;
                }
                (void)prey_free(p);
        }
}

int reaper_run(struct loop *loop, const struct reaper_spec *spec, unsigned *ret_left)
{
        struct hunt h = {.loop = loop, .spec = spec};
        unsigned found;
        int r;

        list_init(&h.all);
        h.instances_dir = text_format("%s/instances", spec->runtime_dir);
        r = h.instances_dir ? timer_new(loop, on_timer, &h, &h.timer) : -ENOMEM;
        if (r < 0) {
                free(h.instances_dir);
                return r;
        }
        h.unit = spec->in_unit ? own_unit() : NULL;
        take_records(&h);
        take_groups(&h);
        take_logs(&h);
        begin(&h);
        found = h.n_open;
        if (found && !spec->dry_run) {
                timer_set(h.timer, usec_add(loop_now(loop), LOOK));
                loop_run(loop);
        }
        end(&h);
        h.timer = timer_free(h.timer);
        free(h.instances_dir);
        free(h.unit);
        *ret_left = h.n_left;
        return (int)found;
}
