/* explain.c: deaths in plain words with their evidence, and the answer to "why". */
#include <signal.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/gpu_care.h"

enum { EVIDENCE_LOG_BYTES = 2048 };

static void put_log(struct json_writer *w, const char *log)
{
        size_t len = strlen(log);
        const char *p = log;

        if (len > EVIDENCE_LOG_BYTES) {
                p = memchr(log + len - EVIDENCE_LOG_BYTES, '\n', EVIDENCE_LOG_BYTES);
                p = p ? p + 1 : log + len - EVIDENCE_LOG_BYTES;
        }
        json_key(w, "log");
        json_open_array(w);
        while (*p) {
                size_t n = strcspn(p, "\n");

                if (n)
                        json_put_string_n(w, p, n);
                p += n + (p[n] == '\n');
        }
        json_close_array(w);
}

static char *evidence_json(const struct death *death, const char *line, size_t line_len)
{
        char how[256];
        struct json_writer w;
        struct buffer b;

        buffer_init(&b, 64 * 1024);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "exit", death_text(death, how, sizeof how));
        if (death->kind == DEATH_EXIT)
                json_int(&w, "exitCode", death->value);
        if (death->kind == DEATH_SIGNAL)
                json_int(&w, "signal", death->value);
        json_bool(&w, "oomKilled", death->oom_killed);
        json_bool(&w, "whileLoading", death->while_loading);
        json_uint(&w, "livedMs", death->lived / USEC_PER_MSEC);
        if (death->detail)
                json_string(&w, "detail", death->detail);
        if (line) {
                json_key(&w, "line");
                json_put_string_n(&w, line, line_len);
        }
        put_log(&w, death->log ? death->log : "");
        json_close_object(&w);
        if (b.failed) {
                buffer_finish(&b);
                return NULL;
        }
        return buffer_steal(&b);
}

void member_explain_death(struct member *m, const struct death *death, usec_t now)
{
        char text[CAUSE_TEXT_MAX];
        const char *line = NULL;
        size_t line_len = 0, i;

        m->cause = cause_find(death, &line, &line_len);
        i = cause_index(m->cause);
        m->deaths++;
        if (i < MEMBER_CAUSES_MAX)
                m->deaths_by_cause[i]++;
        m->died_of = i;
        m->last_death_at = loop_realtime(m->fleet->loop);
        free(m->evidence);
        m->evidence = evidence_json(death, line, line_len);
        (void)cause_text(death, m->cause, text, sizeof text);
        member_set_error(m, text);
        member_tell(m, LOG_WARNING, "died", text);
        gpu_care_death(m, now);
        if (line)
                log_warn(m->name, "its log says: %.*s", (int)MIN(line_len, (size_t)400), line);
}

static void put_command(struct json_writer *w, const struct command *c, const char *cwd)
{
        _cleanup_buffer_ struct buffer shell;

        buffer_init(&shell, 256 * 1024);
        json_key(w, "command");
        json_open_object(w);
        json_key(w, "argv");
        json_open_array(w);
        for (char *const *a = c->argv; a && *a; a++)
                json_put_string(w, a > c->argv && command_flag_hides(a[-1]) ? "***" : *a);
        json_close_array(w);
        json_key(w, "env");
        json_open_object(w);
        for (char *const *e = c->env; e && *e; e++) {
                _cleanup_free_ char *name = strndup(*e, strcspn(*e, "="));

                if (name)
                        json_string(w, name, command_is_secret(name) ? "***" : *e + strlen(name) + 1);
        }
        json_close_object(w);
        json_string(w, "cwd", cwd ? cwd : "/");
        if (command_shell(c, cwd, &shell) == 0)
                json_string(w, "shell", shell.data);
        json_close_object(w);
}

static const char *hint_of(const struct member *m)
{
        if (member_is_foreign_only(m))
                return "it is somebody else's server: start it where it runs; it is looked for all the time";
        return m->cause ? m->cause->hint : NULL;
}

void member_put_why(struct member *m, struct json_writer *w)
{
        struct report r;
        struct loop *loop = m->fleet->loop;

        member_fill_report(m, &r, loop_now(loop));
        json_open_object(w);
        json_string(w, "instance", m->name);
        json_string(w, "status", r.status);
        json_string(w, "lastError", r.last_error);
        json_string(w, "cause", m->cause ? m->cause->name : NULL);
        json_string(w, "words", m->cause ? m->cause->words : NULL);
        json_string(w, "hint", m->cause || r.last_error ? hint_of(m) : NULL);
        json_string(w, "gpuVerified", r.gpu_verified);
        json_uint(w, "retries", r.retries);
        if (r.max_retries < 0)
                json_null(w, "maxRetries");
        else
                json_int(w, "maxRetries", r.max_retries);
        report_put_moment(w, "nextRetryAt", r.next_retry_at);
        report_put_moment(w, "lastDeathAt", m->last_death_at);
        json_uint(w, "deaths", m->deaths);
        json_uint(w, "restarts", m->restarts);
        json_string(w, "limitsProblem", r.limits.problem);
        json_string(w, "logPath", r.log_path);
        json_key(w, "evidence");
        if (m->evidence)
                json_put_raw(w, m->evidence, strlen(m->evidence));
        else
                json_put_null(w);
        if (m->command.argv)
                put_command(w, &m->command, m->entry->cwd);
        else
                json_null(w, "command");
        json_close_object(w);
}
