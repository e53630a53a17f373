/* convex_journal.c: the session's file. */
#include "hub/convex_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/text.h"

enum {
        FILE_BYTES_MAX = 256 << 20,
        STALE_AFTER = 256 << 10, /* bytes of lines that were appended since it was written whole */
        BOOT_STEP = 1000000,
        ID_SIZE = 37,
        LINE_MAX_BYTES = 64 << 20,
};

struct convex_journal {
        int fd;
        char *path, *path_new;
        char boot[64];
        size_t appended;
};

static int write_all(int fd, const char *p, size_t n)
{
        while (n) {
                ssize_t w = write(fd, p, n);

                if (w < 0 && errno == EINTR)
                        continue;
                if (w <= 0)
                        return w < 0 ? -errno : -EIO;
                p += w;
                n -= (size_t)w;
        }
        return 0;
}

/* A line that went in half (a full disk) is ended by the next one's newline, and left out by who reads. */
static int append(struct convex_journal *j, struct buffer *line)
{
        int r;

        if (buffer_putc(line, '\n') < 0)
                return -ENOMEM;
        r = write_all(j->fd, line->data, line->len);
        if (r < 0)
                (void)write_all(j->fd, "\n", 1);
        j->appended += line->len;
        return r;
}

static void begin_line(struct buffer *line, struct json_writer *w)
{
        buffer_init(line, LINE_MAX_BYTES);
        json_begin(w, line);
        json_open_object(w);
}

int convex_journal_mutation(struct convex_journal *j, const struct convex_journal_note *note)
{
        _cleanup_buffer_ struct buffer line;
        struct json_writer w;

        begin_line(&line, &w);
        json_uint(&w, "m", note->id);
        json_int(&w, "kind", note->kind);
        json_string(&w, "path", note->path);
        json_string(&w, "args", note->args);
        if (note->job) {
                json_string(&w, "job", note->job);
                json_uint(&w, "sent", note->sent);
        }
        json_close_object(&w);
        return append(j, &line);
}

int convex_journal_answer(struct convex_journal *j, uint32_t id, const char *job)
{
        _cleanup_buffer_ struct buffer line;
        struct json_writer w;

        begin_line(&line, &w);
        json_uint(&w, "a", id);
        if (job)
                json_string(&w, "job", job);
        json_close_object(&w);
        return append(j, &line);
}

int convex_journal_gone(struct convex_journal *j, const char *job)
{
        _cleanup_buffer_ struct buffer line;
        struct json_writer w;

        begin_line(&line, &w);
        json_string(&w, "gone", job);
        json_close_object(&w);
        return append(j, &line);
}

int convex_journal_job(struct convex_journal *j, const char *job, uint64_t sent)
{
        _cleanup_buffer_ struct buffer line;
        struct json_writer w;

        begin_line(&line, &w);
        json_string(&w, "job", job);
        json_uint(&w, "sent", sent);
        json_close_object(&w);
        return append(j, &line);
}

/* --- writing it again ------------------------------------------------------------------------------------------- */

bool convex_journal_is_stale(const struct convex_journal *j)
{
        return j->appended > STALE_AFTER;
}

int convex_journal_begin(struct convex_journal *j, const char *session, uint32_t next)
{
        _cleanup_buffer_ struct buffer line = {0};
        struct json_writer w;
        int fd = open(j->path_new, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return -errno;
        if (j->fd >= 0)
                (void)close(j->fd);
        j->fd = fd;
        begin_line(&line, &w);
        json_string(&w, "session", session);
        json_uint(&w, "next", next);
        json_string(&w, "boot", j->boot);
        json_close_object(&w);
        return append(j, &line);
}

int convex_journal_commit(struct convex_journal *j)
{
        if (rename(j->path_new, j->path) < 0)
                return -errno;
        j->appended = 0;
        return 0;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

struct old_mutation {
        struct list node;
        uint32_t id;
        int kind;
        char *path, *args, *job;
        uint64_t sent;
};

struct old_job {
        struct list node;
        char *id;
        uint64_t sent;
};

struct reading {
        struct list mutations, jobs;
        char session[ID_SIZE];
        char boot[64];
        uint64_t next;
        unsigned unread;
};

static void free_old_mutation(struct old_mutation *m)
{
        if (!m)
                return;
        list_remove(&m->node);
        free(m->path);
        free(m->args);
        free(m->job);
        free(m);
}

static void free_old_job(struct old_job *o)
{
        list_remove(&o->node);
        free(o->id);
        free(o);
}

static struct old_job *find_job(struct reading *r, const char *id)
{
        LIST_FOREACH(&r->jobs, it)
        if (streq(LIST_ENTRY(it, struct old_job, node)->id, id))
                return LIST_ENTRY(it, struct old_job, node);
        return NULL;
}

static int note_job(struct reading *r, const char *id, uint64_t sent)
{
        struct old_job *o = find_job(r, id);

        if (!o) {
                o = calloc(1, sizeof *o);
                if (!o)
                        return -ENOMEM;
                o->id = text_dup(id);
                if (!o->id) {
                        free(o);
                        return -ENOMEM;
                }
                list_append(&r->jobs, &o->node);
        }
        o->sent = MAX(o->sent, sent);
        return 0;
}

static int read_mutation(struct reading *r, const struct json_value *v)
{
        const char *path = json_get_string(v, "path"), *args = json_get_string(v, "args"),
                   *job = json_get_string(v, "job");
        int64_t id = json_get_int(v, "m", -1);
        struct old_mutation *m;

        if (id < 0 || id > UINT32_MAX || !path || !args)
                return -EBADMSG;
        m = calloc(1, sizeof *m);
        if (!m)
                return -ENOMEM;
        list_init(&m->node);
        m->id = (uint32_t)id;
        m->kind = (int)json_get_int(v, "kind", -1);
        m->path = text_dup(path);
        m->args = text_dup(args);
        m->job = text_dup(job);
        m->sent = (uint64_t)MAX(json_get_int(v, "sent", 0), 0);
        if (!m->path || !m->args || (job && (!m->job || note_job(r, job, m->sent) < 0))) {
                free_old_mutation(m);
                return -ENOMEM;
        }
        list_append(&r->mutations, &m->node);
        r->next = MAX(r->next, (uint64_t)id + 1);
        return 0;
}

static void read_answer(struct reading *r, int64_t id)
{
        LIST_FOREACH(&r->mutations, it)
        {
                struct old_mutation *m = LIST_ENTRY(it, struct old_mutation, node);

                if ((int64_t)m->id == id) {
                        free_old_mutation(m);
                        return;
                }
        }
}

static int read_line(struct reading *r, const struct json_value *v)
{
        const char *session = json_get_string(v, "session"), *gone = json_get_string(v, "gone"),
                   *job = json_get_string(v, "job");

        if (session) {
                (void)text_copy(r->session, sizeof r->session, session);
                (void)text_copy(r->boot, sizeof r->boot, json_get_string(v, "boot"));
                r->next = (uint64_t)MAX(json_get_int(v, "next", 0), 0);
                return 0;
        }
        if (json_get(v, "m"))
                return read_mutation(r, v);
        if (gone) {
                struct old_job *o = find_job(r, gone);

                if (o)
                        free_old_job(o);
                return 0;
        }
        if (json_get(v, "a"))
                read_answer(r, json_get_int(v, "a", -1));
        return job ? note_job(r, job, (uint64_t)MAX(json_get_int(v, "sent", 0), 0)) : 0;
}

static int read_file(struct reading *r, const char *path)
{
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        int rc = file_read(path, FILE_BYTES_MAX, &text, &len);

        if (rc < 0)
                return rc == -ENOENT ? 0 : rc;
        for (size_t at = 0; at < len;) {
                const char *end = memchr(text + at, '\n', len - at);
                size_t n = end ? (size_t)(end - text) - at : len - at;
                struct json_value *v = NULL;

                if (n && json_parse(text + at, n, &v, NULL) == 0) {
                        rc = read_line(r, v);
                        v = json_free(v);
                        if (rc == -ENOMEM)
                                return rc;
                        r->unread += rc < 0;
                } else if (n) {
                        r->unread++;
                }
                at += n + 1;
        }
        return 0;
}

static void tell(struct reading *r, const char *boot, const struct convex_journal_events *on, void *owner)
{
        bool other_boot = *r->session && !streq(r->boot, boot);

        if (other_boot)
                r->next += BOOT_STEP;
        /* The numbers are used up: another session, and what the old one had is the hub's to time out. */
        if (r->next > UINT32_MAX - BOOT_STEP) {
                r->session[0] = '\0';
                r->next = 0;
                while (!list_is_empty(&r->mutations))
                        free_old_mutation(LIST_ENTRY(r->mutations.next, struct old_mutation, node));
        }
        on->on_session(owner, *r->session ? r->session : NULL, (uint32_t)r->next);
        /* Jobs before what belongs to them. */
        LIST_FOREACH(&r->jobs, it)
        on->on_job(owner, LIST_ENTRY(it, struct old_job, node)->id,
                   LIST_ENTRY(it, struct old_job, node)->sent);
        LIST_FOREACH(&r->mutations, it2)
        {
                const struct old_mutation *m = LIST_ENTRY(it2, struct old_mutation, node);
                struct convex_journal_note note = {m->id, m->kind, m->path, m->args, m->job, m->sent};

                on->on_mutation(owner, &note);
        }
}

static void read_boot(char *buf, size_t size)
{
        _cleanup_free_ char *text = NULL;
        size_t len;

        if (file_read("/proc/sys/kernel/random/boot_id", 128, &text, &len) == 0)
                (void)text_copy(buf, MIN(size, strcspn(text, "\n") + 1), text);
}

int convex_journal_open(const char *dir, const struct convex_journal_events *on, void *owner,
                        struct convex_journal **ret)
{
        struct convex_journal *j = calloc(1, sizeof *j);
        struct reading r = {0};
        int rc;

        if (!j)
                return -ENOMEM;
        list_init(&r.mutations);
        list_init(&r.jobs);
        j->fd = -1;
        read_boot(j->boot, sizeof j->boot);
        j->path = text_format("%s/session.jsonl", dir);
        j->path_new = text_format("%s/session.jsonl.new", dir);
        rc = j->path && j->path_new ? read_file(&r, j->path) : -ENOMEM;
        if (rc == 0) {
                if (r.unread)
                        log_warn(NULL, "%s: %u lines could not be read, and are left out", j->path, r.unread);
                tell(&r, j->boot, on, owner);
        }
        while (!list_is_empty(&r.mutations))
                free_old_mutation(LIST_ENTRY(r.mutations.next, struct old_mutation, node));
        while (!list_is_empty(&r.jobs))
                free_old_job(LIST_ENTRY(r.jobs.next, struct old_job, node));
        if (rc < 0) {
                (void)convex_journal_close(j);
                return rc;
        }
        *ret = j;
        return 0;
}

struct convex_journal *convex_journal_close(struct convex_journal *j)
{
        if (!j)
                return NULL;
        if (j->fd >= 0)
                (void)close(j->fd);
        free(j->path);
        free(j->path_new);
        free(j);
        return NULL;
}
