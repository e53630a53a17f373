/* groups.c: the control groups of the instances: made and limited before a start, looked at after a death; and what is told when
 * limits cannot be kept. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/private.h"
#include "host/cgroup.h"
#include "host/oom.h"

/* Figures are read at most once a second for each instance, and of so many in one turn: the others wait for the
 * next turns. */
enum { USAGE_A_TURN = 48, NAMES_MAX = 20 };
#define USAGE_AGE USEC_PER_SEC

static const struct {
        unsigned bit;
        const char *key, *controller;
} kinds[] = {{CGROUP_MEMORY, "limits.memory", "memory"},
             {CGROUP_CPU, "limits.cpus", "cpu"},
             {CGROUP_PIDS, "limits.pids", "pids"}};

static unsigned wanted_by(const struct config_instance *e)
{
        return (e->limit_memory ? CGROUP_MEMORY : 0U) | (e->limit_cpus > 0 ? CGROUP_CPU : 0U) |
               (e->limit_pids ? CGROUP_PIDS : 0U);
}

/* --- what cannot be kept ---------------------------------------------------------------------------------------------- */

static void put_names(const struct fleet *f, unsigned bits, struct buffer *out)
{
        unsigned n = 0;

        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];

                if (member_is_foreign_only(m) || m->removed || !(wanted_by(m->entry) & bits))
                        continue;
                if (n < NAMES_MAX)
                        (void)buffer_printf(out, "%s%s", n ? ", " : "", m->name);
                n++;
        }
        if (n > NAMES_MAX)
                (void)buffer_printf(out, " and %u more", n - NAMES_MAX);
}

static unsigned wanted_by_all(const struct fleet *f)
{
        unsigned bits = 0;

        for (size_t i = 0; i < f->n_members; i++)
                if (!member_is_foreign_only(f->members[i]) && !f->members[i]->removed)
                        bits |= wanted_by(f->members[i]->entry);
        return bits;
}

static void put_reason(const struct fleet *f, size_t kind, struct buffer *out)
{
        int error = cgroups_error(f->cgroups, kinds[kind].bit);

        if (error == -ENOENT)
                (void)buffer_printf(out,
                                    "the %s controller is not delegated to us (Delegate=cpu memory pids in "
                                    "the unit), or this "
                                    "machine has it not in control groups of version 2",
                                    kinds[kind].controller);
        else
                (void)buffer_printf(out, "the kernel does not let us use the %s controller: %s",
                                    kinds[kind].controller, strerror(error ? -error : EINVAL));
}

/* One line a cause: which instances' limits are not kept, and why. */
static void list_problems(struct fleet *f, struct buffer *out)
{
        unsigned wanted = wanted_by_all(f), enabled;

        if (!wanted)
                return;
        if (!f->cgroups) {
                (void)buffer_puts(out, "limits are not kept for ");
                put_names(f, wanted, out);
                (void)buffer_printf(out, ": %s", f->cgroups_why ? f->cgroups_why : "no control groups");
                return;
        }
        enabled = cgroups_enable(f->cgroups, wanted);
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                if (!(wanted & ~enabled & kinds[i].bit))
                        continue;
                (void)buffer_printf(out, "%s%s is not kept for ", out->len ? "\n" : "", kinds[i].key);
                put_names(f, kinds[i].bit, out);
                (void)buffer_puts(out, ": ");
                put_reason(f, i, out);
        }
}

/* What its own limits lack, for its own report. Whether its group could be written is for limit() to say. */
static void note_problem(struct member *m)
{
        struct fleet *f = m->fleet;
        unsigned wanted = member_is_foreign_only(m) ? 0 : wanted_by(m->entry), missing = wanted;
        _cleanup_buffer_ struct buffer text = {0};

        if (f->cgroups)
                missing = wanted & ~cgroups_enable(f->cgroups, wanted);
        if (!missing)
                return;
        buffer_init(&text, 2048);
        for (size_t i = 0; f->cgroups && i < ARRAY_SIZE(kinds); i++)
                if (missing & kinds[i].bit) {
                        (void)buffer_printf(&text, "%s%s is not kept: ", text.len ? "; " : "", kinds[i].key);
                        put_reason(f, i, &text);
                }
        if (!f->cgroups)
                (void)buffer_printf(&text, "limits are not kept: %s",
                                    f->cgroups_why ? f->cgroups_why : "no control groups");
        if (text.len)
                (void)text_set(&m->limits_problem, text.data);
}

void groups_check(struct fleet *f)
{
        _cleanup_buffer_ struct buffer text;

        buffer_init(&text, 16 * 1024);
        list_problems(f, &text);
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (!m->group) /* else it was told when they were written */
                        (void)text_set(&m->limits_problem, NULL);
                note_problem(m);
        }
        if (streq_ptr(f->limits_problem, text.len ? text.data : NULL))
                return;
        (void)text_set(&f->limits_problem, text.len ? text.data : NULL);
        if (!text.len) {
                log_info(NULL, "limits are kept again, or nobody has any");
                return;
        }
        fleet_tell(f, LOG_WARNING, "limits", text.data);
}

const char *fleet_limits_problem(const struct fleet *f)
{
        return f->limits_problem;
}

/* --- limits of one instance ---------------------------------------------------------------------------------------------- */

static struct cgroup_limits limits_of(const struct member *m)
{
        const struct config_instance *e = m->entry;

        return (struct cgroup_limits){
                .memory = e->limit_memory, .cpus = e->limit_cpus, .pids = e->limit_pids, .nice = e->nice};
}

static void limit(struct member *m)
{
        const struct config_instance *e = m->entry;
        struct cgroup_limits limits = limits_of(m);
        _cleanup_buffer_ struct buffer text;
        unsigned failed, known;
        int errors[3];

        m->limits = limits;
        known = m->fleet->cgroups ? cgroups_enable(m->fleet->cgroups, wanted_by(e)) : CGROUP_ALL;
        failed = cgroup_limit(m->group, &limits, errors);
        buffer_init(&text, 1024);
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                /* What the whole fleet cannot have is told once, for all (groups_check). */
                if (failed & known & kinds[i].bit)
                        (void)buffer_printf(&text, "%s%s is not kept: %s", text.len ? "; " : "", kinds[i].key,
                                            strerror(-errors[i]));
        }
        if (text.len && !streq_ptr(m->limits_problem, text.data))
                member_tell(m, LOG_WARNING, "limits", text.data);
        (void)text_set(&m->limits_problem, text.len ? text.data : NULL);
        if (!text.len)
                note_problem(m);
}

void member_limits_changed(struct member *m)
{
        struct cgroup_limits limits = limits_of(m);

        if (m->group && (limits.memory != m->limits.memory || limits.cpus != m->limits.cpus ||
                         limits.pids != m->limits.pids || limits.nice != m->limits.nice))
                limit(m);
}

static void mark_oom(struct member *m)
{
        if (!m->group || !cgroup_read_oom(m->group, &m->oom_limit_before, &m->oom_kills_before))
                m->oom_limit_before = m->oom_kills_before = 0;
}

int member_enter_group(struct member *m)
{
        struct fleet *f = m->fleet;
        int r;

        if (!f->cgroups) {
                note_problem(m);
                return 0;
        }
        r = cgroup_make(f->cgroups, m->name, &m->group);
        if (r < 0) {
                /* It serves without it, as it would without systemd. */
                if (!m->limits_problem || !wanted_by(m->entry))
                        log_warn(m->name,
                                 "its control group in %s could not be made: %s; it runs without, and "
                                 "without limits",
                                 cgroups_unit(f->cgroups), strerror(-r));
                (void)text_set(&m->limits_problem,
                               "limits are not kept: its control group could not be made");
                return 0;
        }
        limit(m);
        mark_oom(m);
        return cgroup_fd(m->group);
}

void member_on_outside(void *owner, int error, usec_t now)
{
        struct member *m = owner;

        (void)now;
        log_warn(m->name,
                 "the kernel did not let it into its control group: %s; it runs without, and without limits",
                 strerror(error));
        (void)text_set(&m->limits_problem,
                       "limits are not kept: the kernel did not let it into its control group");
        cgroup_retire(m->fleet->cgroups, steal_ptr(m->group));
}

void member_leave_group(struct member *m)
{
        struct cgroup_usage last;

        if (!m->group)
                return;
        cgroup_read_usage(m->group, &last);
        m->usage_of_earlier.cpu_usec += last.cpu_usec;
        m->usage_of_earlier.oom_kills += last.oom_kills;
        m->usage_of_earlier.oom += last.oom;
        m->usage = (struct cgroup_usage){0};
        m->usage_at = 0;
        cgroup_retire(m->fleet->cgroups, steal_ptr(m->group));
}

/* --- ends ------------------------------------------------------------------------------------------------------------------ */

int member_kill_remnants(struct member *m)
{
        int left;

        if (m->group) {
                left = (int)cgroup_count(m->group);
                if (left == 0 || cgroup_kill(m->group) == 0)
                        return left;
        }
        left = process_group_count(m->process);
        if (left > 0)
                (void)process_signal_group(m->process, SIGKILL);
        return left +
               member_signal_strays(m, process_pid(m->process), process_start_time(m->process), SIGKILL);
}

void member_signal(struct member *m, int signo)
{
        pid_t leader = process_pid(m->process);

        /* A fork may not have come to its group yet, so the process is signalled in any case. */
        if (signo == SIGKILL && m->group)
                (void)cgroup_kill(m->group);
        (void)process_signal_group(m->process, signo);
        if (!m->group)
                (void)member_signal_strays(m, leader, process_start_time(m->process), signo);
        else if (signo != SIGKILL)
                (void)cgroup_signal(m->group, signo, leader);
}

bool member_was_oom_killed(struct member *m, char *detail, size_t size)
{
        uint64_t oom, kills;
        char limit[24];

        if (!m->group || !cgroup_read_oom(m->group, &oom, &kills))
                return oom_has_killed(process_pid(m->process), m->oom_before);
        if (kills <= m->oom_kills_before)
                return false;
        if (oom > m->oom_limit_before && m->entry->limit_memory)
                (void)snprintf(detail, size, "it reached its limit of %s (limits.memory)",
                               text_size(m->entry->limit_memory, limit, sizeof limit));
        else
                (void)snprintf(detail, size, "the machine, or a group above it, was out of memory");
        return true;
}

/* --- what an earlier daemon left ------------------------------------------------------------------------------------------- */

static int find_recorded(struct member *m, const struct json_value *record, pid_t pid, struct cgroup **ret)
{
        const char *path = json_get_string(record, "cgroup");
        const struct cgroups *c = m->fleet->cgroups;

        return path ? cgroup_find(m->fleet->loop, c ? cgroups_root(c) : NULL, path, m->name, pid, ret)
                    : -ENOENT;
}

void member_adopt_group(struct member *m, const struct json_value *record)
{
        int r = find_recorded(m, record, (pid_t)json_get_int(record, "pid", 0), &m->group);

        if (r < 0) {
                if (json_get_string(record, "cgroup"))
                        log_warn(
                                m->name,
                                "is not in the control group of its record any more: it runs without limits");
                if (wanted_by(m->entry))
                        (void)text_set(&m->limits_problem, "limits are not kept: it was started without a "
                                                           "control group; a restart gives it one");
                return;
        }
        limit(m); /* switched off and on again meanwhile (systemd 252), or changed */
        mark_oom(m);
}

/* Without its leader it is known by its name alone, which a daemon with another runtime_dir may use by now. */
static bool is_anothers(const struct fleet *f, const struct cgroup *g)
{
        const char *unit = f->cgroups ? cgroups_unit(f->cgroups) : NULL;

        return !(unit && starts_with(cgroup_path(g), unit) && cgroup_path(g)[strlen(unit)] == '/') &&
               cgroup_is_watched(g);
}

bool member_end_recorded_group(struct member *m, const struct json_value *record, int *ret_left)
{
        struct cgroup *g = NULL;
        uint64_t oom, kills;
        bool oom_killed = false;

        *ret_left = 0;
        if (find_recorded(m, record, 0, &g) < 0)
                return false;
        if (is_anothers(m->fleet, g)) {
                (void)cgroup_free(g);
                return false;
        }
        if (cgroup_read_oom(g, &oom, &kills))
                oom_killed = kills > (uint64_t)json_get_int(record, "oomKills", 0);
        *ret_left = (int)cgroup_count(g);
        if (*ret_left > 0)
                (void)cgroup_kill(g);
        cgroup_retire(m->fleet->cgroups, g);
        return oom_killed;
}

/* Groups of ours that nobody of the records lives in: a daemon was killed between a start and its record. */
void groups_sweep(struct fleet *f)
{
        char **names = NULL;

        if (!f->cgroups || cgroups_list(f->cgroups, &names) < 0)
                return;
        for (char **n = names; n && *n; n++) {
                const struct member *m = fleet_member(f, *n);
                struct cgroup *g;
                unsigned left;

                if ((m && (m->group || m->left_alone || member_is_foreign_only(m))) ||
                    cgroup_make(f->cgroups, *n, &g) < 0)
                        continue;
                left = cgroup_count(g);
                if (left > 0) {
                        log_warn(*n, "%u processes of an earlier supervisor have no record: killed", left);
                        (void)cgroup_kill(g);
                }
                cgroup_retire(f->cgroups, g);
        }
        text_list_free(names);
}

void groups_open(struct fleet *f)
{
        char why[768] = "";
        int r = cgroups_open(f->loop, &(struct cgroups_spec){0}, why, sizeof why, &f->cgroups);

        if (r == 0) {
                log_info(NULL, "control groups: we live in %s/ctl, each instance in a group beside it",
                         cgroups_unit(f->cgroups));
                return;
        }
        (void)text_set(&f->cgroups_why, why[0] ? why : strerror(-r));
        if (r != -ENODEV)
                log_warn(NULL, "no control groups for the instances: %s", f->cgroups_why);
}

/* --- figures ----------------------------------------------------------------------------------------------------------------- */

static void read_usage(struct member *m, usec_t now)
{
        cgroup_read_usage(m->group, &m->usage);
        m->usage_at = now;
}

static bool is_stale(const struct member *m, usec_t now)
{
        return m->group && (!m->usage_at || now >= usec_add(m->usage_at, USAGE_AGE));
}

static void on_usage_timer(void *owner, usec_t now)
{
        struct fleet *f = owner;
        unsigned n = 0;

        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (!m->usage_asked)
                        continue;
                if (n++ >= USAGE_A_TURN) {
                        timer_set(f->usage_timer, now);
                        return;
                }
                m->usage_asked = false;
                if (m->group)
                        read_usage(m, now);
        }
}

static void look(struct member *m, usec_t now)
{
        struct fleet *f = m->fleet;

        if (!is_stale(m, now))
                return;
        if (f->usage_turn != now) {
                f->usage_turn = now;
                f->usage_count = 0;
        }
        if (f->usage_count < USAGE_A_TURN) {
                f->usage_count++;
                read_usage(m, now);
        } else if (!m->usage_asked &&
                   (f->usage_timer || timer_new(f->loop, on_usage_timer, f, &f->usage_timer) == 0)) {
                m->usage_asked = true;
                timer_set(f->usage_timer, now);
        }
}

void fleet_look(struct fleet *f, const char *name)
{
        usec_t now = loop_now(f->loop);

        for (size_t i = 0; f->cgroups && i < f->n_members; i++)
                if (!name || streq(f->members[i]->name, name))
                        look(f->members[i], now);
}

void member_report_group(const struct member *m, struct report *ret)
{
        const struct cgroup_usage *now = &m->usage, *before = &m->usage_of_earlier;

        ret->limits = (struct report_limits){.memory = m->entry->limit_memory,
                                             .cpus = m->entry->limit_cpus,
                                             .pids = m->entry->limit_pids,
                                             .problem = m->limits_problem};
        if (!m->group || !m->usage_at)
                return;
        ret->usage = (struct report_usage){
                .has_memory = now->known & CGROUP_MEMORY,
                .has_cpu = now->known & CGROUP_CPU,
                .has_tasks = now->known & CGROUP_PIDS,
                .memory = now->memory,
                .memory_max = now->memory_max,
                .oom_kills = before->oom_kills + now->oom_kills,
                .tasks = now->pids,
                .cpu_seconds = (double)(before->cpu_usec + now->cpu_usec) / (double)USEC_PER_SEC,
        };
}
