/* spool_take.c: one job is taken: its file is read, it is claimed, its request is built. Runs in the pool.
 *
 * A claim appears locked: the file is locked before it has its name. Who makes claim N+1 holds the lock of claim N while it does, so that
 * a holder of N who comes back (an upgrade) either finds it locked or finds N+1, and never works beside its heir. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>

#include "base/file.h"
#include "base/publish.h"
#include "base/text.h"
#include "hub/spool_private.h"

enum { HOLDER_MAX = 4096 };

/* --- files of users ------------------------------------------------------------------------------------------------------- */

static int open_regular(int dir, const char *path, int *ret)
{
        _cleanup_close_ int fd = openat(dir, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (S_ISDIR(st.st_mode))
                return -EISDIR;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        *ret = steal_fd(&fd);
        return 0;
}

static int read_all(int fd, size_t max, struct buffer *out)
{
        char block[32768];

        for (;;) {
                ssize_t n = read(fd, block, sizeof(block));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return 0;
                if (out->len + (size_t)n > max)
                        return -EFBIG;
                if (buffer_append(out, block, (size_t)n) < 0)
                        return -ENOMEM;
        }
}

/* A path below dir, one folder after the other, and no symbolic link on the way. */
static int open_below(const char *dir, const char *path, int *ret)
{
        _cleanup_close_ int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_free_ char *copy = strdup(path);
        char *rest = copy, *part;

        if (at < 0)
                return -errno;
        if (!copy)
                return -ENOMEM;
        while ((part = strsep(&rest, "/"))) {
                int next;

                if (!*part || streq(part, "."))
                        continue;
                if (streq(part, ".."))
                        return -EXDEV;
                if (!rest)
                        return open_regular(at, part, ret);
                next = openat(at, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (next < 0)
                        return errno == ENOTDIR ? -ELOOP : -errno;
                (void)close(at);
                at = next;
        }
        return -EISDIR;
}

/* What is left of path below dir; NULL: it is elsewhere. */
static const char *below(const char *dir, const char *path)
{
        size_t n = strlen(dir);

        while (n > 1 && dir[n - 1] == '/')
                n--;
        if (strncmp(dir, path, n) != 0 || (path[n] != '/' && n > 1))
                return NULL;
        return path + n + (path[n] == '/');
}

static int give_file(void *owner, const char *path, struct buffer *out, char *words)
{
        const struct spool_folder *f = owner;
        const char *rest = path[0] == '/' ? below(f->root, path) : path, *why = NULL;
        _cleanup_close_ int fd = -1;
        int r = -EPERM;

        if (rest)
                r = open_below(f->root, rest, &fd);
        for (char **dir = f->allowed_dirs; !rest && dir && *dir; dir++) {
                rest = below(*dir, path);
                if (rest)
                        r = open_below(*dir, rest, &fd);
        }
        if (r == 0)
                r = read_all(fd, PROMPT_PART_MAX, out);
        if (r == -EPERM)
                why = "lies neither in the spool folder nor in one of spool.allowed_dirs";
        else if (r == -EXDEV)
                why = "has \"..\" in it, which is not followed";
        else if (r == -ELOOP)
                why = "is, or lies behind, a symbolic link, which is not followed";
        else if (r == -EFBIG)
                why = "is larger than 4 MB";
        else if (r == -EINVAL)
                why = "is no regular file";
        if (r < 0)
                (void)snprintf(words, PROMPT_WORDS_SIZE, "needs the file %.300s, which %s%s", path,
                               why ? why : "cannot be read: ", why ? "" : strerror(-r));
        return r < 0 && r != -ENOMEM ? -EBADMSG : r;
}

static int give_command(void *owner, const char *name, struct buffer *out, char *words)
{
        return spool_command_run(owner, name, out, words);
}

/* --- the job file ---------------------------------------------------------------------------------------------------------- */

/* 0; -ENOENT: it went; -EBADMSG with words: what is there is no job; other errors are the folder's. */
static int read_job(const struct spool_folder *f, const char *name, struct prompt **ret,
                    struct timespec *ret_mtime, char *words)
{
        _cleanup_close_ int dir = open(f->dirs[DIR_JOBS], O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
        _cleanup_buffer_ struct buffer text = {0};
        char file[SPOOL_FILE_SIZE];
        const char *why;
        struct stat st;
        int r;

        *ret_mtime = (struct timespec){0};
        if (dir < 0)
                return -errno;
        buffer_init(&text, 0);
        r = open_regular(dir, spool_job_file(name, file), &fd);
        if (r == 0 && fstat(fd, &st) == 0) {
                *ret_mtime = st.st_mtim;
                r = (uint64_t)st.st_size > PROMPT_JOB_MAX ? -EFBIG : read_all(fd, PROMPT_JOB_MAX, &text);
        }
        if (r == 0)
                return prompt_read(text.data ? text.data : "", text.len, ret, words);
        why = r == -ELOOP    ? "is a symbolic link, which is not followed"
              : r == -EISDIR ? "is a directory"
              : r == -EINVAL ? "is no regular file"
              : r == -EFBIG  ? "is larger than 8 MB"
              : r == -EACCES ? "may not be read by the daemon: chmod g+r it"
                             : NULL;
        if (!why)
                return r;
        (void)snprintf(words, PROMPT_WORDS_SIZE, "%s", why);
        return -EBADMSG;
}

char *spool_read_model(const struct spool_folder *f, const char *name)
{
        char words[PROMPT_WORDS_SIZE], *model;
        struct prompt *p = NULL;
        struct timespec mtime;

        if (read_job(f, name, &p, &mtime, words) < 0)
                return NULL;
        model = strdup(prompt_model(p));
        prompt_free(p);
        return model;
}

/* --- claims ------------------------------------------------------------------------------------------------------------------ */

struct holder {
        char boot[40];
        int pid;
};

static int read_holder(int fd, struct holder *ret)
{
        char text[HOLDER_MAX];
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        struct json_value *v = NULL;
        char *end;

        if (n < 0)
                return -errno;
        text[n] = '\0';
        end = strchr(text, '\n');
        *ret = (struct holder){0};
        if (end && json_parse(text, (size_t)(end - text), &v, NULL) == 0) {
                (void)text_copy(ret->boot, sizeof(ret->boot),
                                json_get_string(v, "boot") ? json_get_string(v, "boot") : "");
                ret->pid = (int)json_get_int(v, "pid", 0);
        }
        json_free(v);
        return 0;
}

/* The claim `attempt` is there, and we have its lock now. May the job be taken from whoever made it? */
static int judge_dead(const struct spool_folder *f, struct spool_take *t, unsigned attempt, int fd, bool *ret)
{
        char file[SPOOL_FILE_SIZE];
        struct holder holder = {0};
        struct stat st;
        bool yes = false;
        int r;

        *ret = true;
        if (attempt <= t->attempt ||
            spool_exists(f, DIR_CLAIMS, spool_claim_file(t->name, attempt, SPOOL_GIVEN_BACK, file)) ||
            spool_exists(f, DIR_CLAIMS, spool_claim_file(t->name, attempt, SPOOL_DIED, file)))
                return 0;
        *ret = false;
        r = read_holder(fd, &holder);
        if (r < 0 || fstat(fd, &st) < 0)
                return r < 0 ? r : -errno;
        t->is_free = true;
        t->is_elsewhere = !streq(holder.boot, f->boot);
        t->claim_mtime = st.st_mtim;
        if (t->is_elsewhere ||
            (holder.pid != f->pid && holder.pid > 0 && (kill(holder.pid, 0) == 0 || errno == EPERM)))
                if (!t->free_for_long || t->free_attempt != attempt) {
                        t->free_attempt = attempt;
                        t->took = TOOK_HELD;
                        return 0;
                }
        /* It is dead. That it may have ended its work before, and we have not heard of it, is asked of the names. */
        r = spool_has_result(f, t->name, &yes);
        if (r == 0 && yes) {
                t->took = TOOK_DONE;
                return 0;
        }
        if (r == 0)
                r = spool_has_failure(f, t->name, attempt, &yes);
        if (r == 0 && yes)
                t->took = TOOK_STALE;
        *ret = r == 0 && !yes;
        return r;
}

static int put_claim(const struct spool_folder *f, struct spool_take *t, unsigned attempt)
{
        _cleanup_publish_ struct publish p = {.fd = -1};
        _cleanup_buffer_ struct buffer text = {0};
        char iso[TIME_ISO_MAX], file[SPOOL_FILE_SIZE];
        struct json_writer w;
        int r;

        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "worker", f->worker);
        json_string(&w, "boot", f->boot);
        json_int(&w, "pid", f->pid);
        json_string(&w, "at", time_iso((usec_t)t->now * USEC_PER_SEC, iso, sizeof(iso)));
        json_close_object(&w);
        (void)buffer_putc(&text, '\n');
        if (text.failed)
                return -ENOMEM;
        r = publish_begin(f->dirs[DIR_CLAIMS], 0660, &p);
        if (r == 0 && flock(p.fd, LOCK_EX | LOCK_NB) < 0)
                r = -errno;
        if (r == 0)
                r = publish_write(&p, text.data, text.len);
        if (r == 0)
                r = publish_link(&p, spool_claim_file(t->name, attempt, SPOOL_CLAIMED, file), false);
        if (r < 0)
                return r;
        t->fd = steal_fd(&p.fd);
        return 0;
}

/* TOOK_IT with t->attempt and t->fd, or why not. */
static int claim(const struct spool_folder *f, struct spool_take *t)
{
        _cleanup_close_ int last = -1;
        char file[SPOOL_FILE_SIZE], path[PATH_MAX];
        unsigned n = t->attempt;
        bool may = true;
        int r = 0;

        while (n < SPOOL_ATTEMPTS_MAX &&
               spool_exists(f, DIR_CLAIMS, spool_claim_file(t->name, n + 1, SPOOL_CLAIMED, file)))
                n++;
        if (n >= SPOOL_ATTEMPTS_MAX) {
                t->took = TOOK_HELD;
                return 0;
        }
        if (n > 0) {
                if (snprintf(path, sizeof(path), "%s/%s", f->dirs[DIR_CLAIMS],
                             spool_claim_file(t->name, n, SPOOL_CLAIMED, file)) >= (int)sizeof(path))
                        return -ENAMETOOLONG;
                last = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC /* for its lock */);
                /* That of a refused name, or of a claim that somebody took away. */
                if (last < 0 && errno != ENOENT)
                        return -errno;
                if (last >= 0 && flock(last, LOCK_EX | LOCK_NB) < 0) {
                        t->took = TOOK_HELD;
                        return errno == EWOULDBLOCK ? 0 : -errno;
                }
                if (last >= 0)
                        r = judge_dead(f, t, n, last, &may);
                if (r < 0 || !may)
                        return r;
        }
        r = put_claim(f, t, n + 1);
        if (r == -EEXIST) {
                t->took = TOOK_HELD;
                return 0;
        }
        if (r == 0) {
                t->attempt = n + 1;
                t->took = TOOK_IT;
        }
        return r;
}

/* --- all --------------------------------------------------------------------------------------------------------------------- */

static int fail_at_once(const struct spool_folder *f, struct spool_take *t, bool final, const char *kind,
                        const char *words)
{
        char text[PROMPT_WORDS_SIZE * 2];
        struct spool_failure x = {
                .name = t->name, .attempt = t->attempt, .kind = kind, .words = text, .now = t->now};

        t->failures++;
        t->final = x.final = final || t->failures >= f->policy.tries;
        x.next = t->now + (int64_t)spool_backoff(&f->policy, t->failures);
        (void)snprintf(text, sizeof(text), "%s", words);
        t->took = TOOK_FAILED;
        t->r = spool_put_failure(f, &x, &t->failed_at);
        if (t->r < 0)
                t->took = TOOK_TROUBLE;
        close_fd(&t->fd); /* after the failure has its name: whoever finds the claim free finds that, too */
        t->fd = -1;
        return t->r;
}

static int put_request(struct spool_take *t)
{
        struct publish p = {.fd = t->fd};
        int r = publish_write(&p, t->body.data, t->body.len);

        return r == 0 ? publish_write(&p, "\n", 1) : r;
}

static void build(const struct spool_folder *f, struct spool_take *t, const struct prompt *p)
{
        const struct prompt_source source = {
                .file = give_file, .command = give_command, .owner = (void *)(uintptr_t)f};
        char words[PROMPT_WORDS_SIZE] = "", text[PROMPT_WORDS_SIZE * 2];
        int r = prompt_build(p, &source, &t->body, words);

        if (r == 0)
                r = put_request(t);
        if (r == 0 && (!(t->model = strdup(prompt_model(p))) || !(t->path = strdup(prompt_path(p)))))
                r = -ENOMEM;
        t->timeout = prompt_timeout(p) ? prompt_timeout(p) : f->timeout;
        if (r == 0)
                return;
        if (r != -EBADMSG && r != -EAGAIN)
                (void)snprintf(words, sizeof(words), "could not be prepared: %s", strerror(-r));
        (void)snprintf(text, sizeof(text), "The job %s", words);
        (void)fail_at_once(f, t, r == -EBADMSG, "prompt", text);
}

/* Claims before ours, since the last failure, that nobody gave back: who had them died over them. Those that were given back, however many,
 * say nothing against the job. */
static unsigned count_died(const struct spool_folder *f, const struct spool_take *t, unsigned failed)
{
        char file[SPOOL_FILE_SIZE];
        unsigned n = 0;

        if (t->attempt - failed <= SPOOL_BEGUN_MAX)
                return 0;
        for (unsigned i = t->attempt - 1; i > failed && n < SPOOL_BEGUN_MAX; i--)
                n += !spool_exists(f, DIR_CLAIMS, spool_claim_file(t->name, i, SPOOL_GIVEN_BACK, file));
        return n;
}

void spool_take_run(const struct spool_folder *f, struct spool_take *t)
{
        char words[PROMPT_WORDS_SIZE] = "", text[PROMPT_WORDS_SIZE * 2];
        struct prompt *p = NULL;
        unsigned attempt = t->attempt, died;
        struct timespec mtime;
        int read = read_job(f, t->name, &p, &mtime, words), r;

        t->fd = -1;
        t->took = TOOK_TROUBLE;
        buffer_init(&t->body, HUB_JOB_BODY_MAX);
        if (read == -ENOENT) {
                t->took = TOOK_GONE;
                return;
        }
        if (read < 0 && read != -EBADMSG) {
                t->r = read;
                return;
        }
        if (read == -EBADMSG && !t->closed &&
            mtime.tv_sec + (time_t)(SPOOL_SETTLED / USEC_PER_SEC) > t->now) {
                t->took = TOOK_UNSETTLED;
                return;
        }
        r = claim(f, t);
        if (r < 0) {
                t->r = r;
                t->took = TOOK_TROUBLE;
        }
        if (r == 0 && t->took == TOOK_IT) {
                if (read == -EBADMSG) {
                        (void)snprintf(text, sizeof(text), "The job file %s", words);
                        (void)fail_at_once(f, t, true, "job", text);
                } else if ((died = count_died(f, t, attempt)) >= SPOOL_BEGUN_MAX) {
                        (void)snprintf(
                                text, sizeof(text),
                                "The job was begun %u times and never ended: whoever worked on it was killed",
                                died);
                        (void)fail_at_once(f, t, true, "begun", text);
                } else if (t->unknown_model) {
                        (void)snprintf(text, sizeof(text), "The model \"%s\" is not known here (known: %s)",
                                       prompt_model(p), t->known && *t->known ? t->known : "none");
                        (void)text_harmless(text);
                        (void)fail_at_once(f, t, true, "no_model", text);
                } else {
                        build(f, t, p);
                }
        }
        prompt_free(p);
}

void spool_take_finish(struct spool_take *t)
{
        close_fd(&t->fd);
        t->fd = -1;
        buffer_finish(&t->body);
        free(t->known);
        free(t->model);
        free(t->path);
        t->known = t->model = t->path = NULL;
}
