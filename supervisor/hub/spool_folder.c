/* spool_folder.c: the folder as a whole. Everything here blocks. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/inotify.h>

#include "base/file.h"
#include "base/publish.h"
#include "base/text.h"
#include "hub/spool_private.h"

enum { EPOCH_TRIES = 100000, WALK_BEAT = 64 /* names, far fewer than the kernel gives at a time */ };

const char *const spool_dir_names[SPOOL_DIRS] = {
        [DIR_JOBS] = "jobs",       [DIR_CLAIMS] = "claims",     [DIR_PARTIAL] = "partial",
        [DIR_RESULTS] = "results", [DIR_FAILURES] = "failures", [DIR_RETRY] = "retry",
        [DIR_TEXTS] = "texts",
};

/* Who may put something in: those of the folder's group, each their own (sticky), and what they put there is the group's (setgid).
 * RestrictSUIDSGID= of a unit forbids the latter; packages make the folders before. */
static bool is_for_users(enum spool_dir dir)
{
        return dir == DIR_JOBS || dir == DIR_RETRY || dir == DIR_TEXTS;
}

/* --- lifetime -------------------------------------------------------------------------------------------------------- */

struct spool_folder *spool_folder_ref(struct spool_folder *f)
{
        f->refs++;
        return f;
}

struct spool_folder *spool_folder_unref(struct spool_folder *f)
{
        if (!f || --f->refs)
                return NULL;
        spool_index_free(f->index);
        free((void *)f->moved);
        json_free(f->commands);
        text_list_free(f->allowed_dirs);
        for (size_t i = 0; i < SPOOL_DIRS; i++)
                free(f->dirs[i]);
        free(f->worker);
        free(f->root);
        free(f);
        return NULL;
}

/* --- making it -------------------------------------------------------------------------------------------------------- */

static int make_dir(const char *path, mode_t mode)
{
        if (mkdir(path, mode & 0777) < 0)
                return errno == EEXIST ? 0 : -errno;
        /* Whatever our umask is; and without the bits that a unit may not set, if need be. */
        if (chmod(path, mode) < 0 && chmod(path, mode & 0777) < 0)
                return -errno;
        return 0;
}

/* Two locks of one file must exclude each other, or no claim means anything. */
static int try_locks(const char *dir)
{
        _cleanup_publish_ struct publish p = {.fd = -1};
        _cleanup_close_ int other = -1;
        char path[sizeof("/proc/self/fd/") + 12];
        int r = publish_begin(dir, 0600, &p);

        if (r < 0)
                return r;
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", p.fd);
        other = open(p.scratch[0] ? p.scratch : path, O_RDWR | O_CLOEXEC /* for its lock */);
        if (other < 0)
                return -errno;
        if (flock(p.fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EIO : -errno;
        if (flock(other, LOCK_SH | LOCK_NB) == 0)
                return -ENOLCK;
        return errno == EWOULDBLOCK ? 0 : -errno;
}

static int watch_dirs(const struct spool_folder *f, int inotify, int wds[SPOOL_DIRS])
{
        static const uint32_t masks[SPOOL_DIRS] = {
                [DIR_JOBS] = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO,
                [DIR_CLAIMS] = IN_CREATE | IN_MOVED_TO,
                /* Of the others it is enough to know that they are there. */
                [DIR_RESULTS] = IN_CREATE | IN_MOVED_TO,
                [DIR_FAILURES] = IN_CREATE | IN_MOVED_TO,
                [DIR_RETRY] = IN_CREATE | IN_MOVED_TO,
        };

        for (size_t i = 0; i < SPOOL_DIRS; i++) {
                wds[i] = -1;
                if (inotify < 0)
                        continue;
                wds[i] = inotify_add_watch(inotify, f->dirs[i],
                                           masks[i] | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
                if (wds[i] < 0)
                        return -errno;
        }
        return 0;
}

static int place_of(const struct spool_folder *f, size_t dir, struct spool_place *ret)
{
        struct stat st;

        if (stat(f->dirs[dir], &st) < 0)
                return -errno;
        *ret = (struct spool_place){.dev = st.st_dev, .ino = st.st_ino};
        return 0;
}

bool spool_folder_is(const struct spool_folder *f, const struct spool_place places[SPOOL_DIRS])
{
        struct spool_place now = {0};

        for (size_t i = 0; i < SPOOL_DIRS; i++) {
                int r = place_of(f, i, &now);

                /* A disk in trouble is not another folder. */
                if (r == -ENOENT || r == -ENOTDIR ||
                    (r == 0 && (now.dev != places[i].dev || now.ino != places[i].ino)))
                        return false;
        }
        return true;
}

int spool_folder_prepare(const struct spool_folder *f, int inotify, int wds[SPOOL_DIRS],
                         struct spool_place places[SPOOL_DIRS], char **ret_words)
{
        const char *at = f->root;
        int r = access(f->root, F_OK) == 0 ? 0 : file_make_dir(f->root, 0750);

        for (size_t i = 0; r == 0 && i < SPOOL_DIRS; i++) {
                bool users = is_for_users((enum spool_dir)i);

                at = f->dirs[i];
                r = make_dir(at, users ? 03770 : 02750);
                if (r == 0 && access(at, R_OK | X_OK | (users ? 0 : W_OK)) < 0)
                        r = -errno;
        }
        if (r < 0) {
                *ret_words = text_format("%s: %s", at, strerror(-r));
                return r;
        }
        r = try_locks(f->dirs[DIR_CLAIMS]);
        if (r < 0) {
                *ret_words = text_format("%s: locks do not work there (%s): the folder must lie on a file "
                                         "system that has flock(2)",
                                         f->dirs[DIR_CLAIMS], strerror(-r));
                return r;
        }
        r = watch_dirs(f, inotify, wds);
        for (size_t i = 0; r == 0 && i < SPOOL_DIRS; i++)
                r = place_of(f, i, places + i);
        if (r < 0)
                *ret_words = text_format("%s cannot be watched: %s%s", f->root, strerror(-r),
                                         r == -ENOSPC ? " (sysctl fs.inotify.max_user_watches)" : "");
        return r;
}

/* --- looking ------------------------------------------------------------------------------------------------------------ */

usec_t spool_walk_delay;

void spool_moved(const struct spool_folder *f)
{
        if (f->moved)
                atomic_store(f->moved, time_monotonic());
}

int spool_walk(const struct spool_folder *f, enum spool_dir dir, int (*fn)(void *owner, const char *file),
               void *owner)
{
        DIR *d = opendir(f->dirs[dir]);
        unsigned n = 0;
        int r = 0;

        if (!d)
                return -errno;
        for (;;) {
                struct dirent *e;

                errno = 0;
                e = readdir(d);
                if (!e) {
                        r = -errno;
                        break;
                }
                if (spool_walk_delay)
                        (void)usleep((useconds_t)spool_walk_delay);
                if (n++ % WALK_BEAT == 0 || spool_walk_delay)
                        spool_moved(f);
                if (e->d_name[0] == '.')
                        continue;
                r = fn(owner, e->d_name);
                if (r)
                        break;
        }
        (void)closedir(d);
        return r;
}

bool spool_exists(const struct spool_folder *f, enum spool_dir dir, const char *file)
{
        char path[PATH_MAX];
        struct stat st;

        return snprintf(path, sizeof(path), "%s/%s", f->dirs[dir], file) < (int)sizeof(path) &&
               lstat(path, &st) == 0;
}

struct search {
        const char *name;
        unsigned attempt;
};

static int match_result(void *owner, const char *file)
{
        const struct search *s = owner;
        char name[SPOOL_NAME_SIZE];
        int64_t epoch;

        return spool_read_result(file, name, &epoch) && streq(name, s->name);
}

static int match_failure(void *owner, const char *file)
{
        const struct search *s = owner;
        char name[SPOOL_NAME_SIZE];
        unsigned attempt;
        int64_t epoch;
        bool final;

        return spool_read_failure(file, name, &epoch, &attempt, &final) && attempt == s->attempt &&
               streq(name, s->name);
}

int spool_has_result(const struct spool_folder *f, const char *name, bool *ret)
{
        struct search s = {.name = name};
        int r = spool_walk(f, DIR_RESULTS, match_result, &s);

        if (r < 0)
                return r;
        *ret = r > 0;
        return 0;
}

int spool_has_failure(const struct spool_folder *f, const char *name, unsigned attempt, bool *ret)
{
        struct search s = {.name = name, .attempt = attempt};
        int r = spool_walk(f, DIR_FAILURES, match_failure, &s);

        if (r < 0)
                return r;
        *ret = r > 0;
        return 0;
}

/* --- putting ------------------------------------------------------------------------------------------------------------ */

int spool_put_result(const struct spool_folder *f, const char *name, int64_t epoch, const struct buffer *text,
                     char ret_file[SPOOL_FILE_SIZE])
{
        _cleanup_publish_ struct publish p = {.fd = -1};
        int r = publish_begin(f->dirs[DIR_RESULTS], 0444, &p);

        if (r == 0)
                r = publish_write(&p, text->data, text->len);
        for (unsigned i = 0; r == 0 && i < EPOCH_TRIES; i++, epoch++) {
                r = publish_link(&p, spool_result_file(name, epoch, ret_file), true);
                if (r != -EEXIST)
                        return r;
                r = 0;
        }
        return r < 0 ? r : -EEXIST;
}

static int put_failure_text(const struct spool_folder *f, const struct spool_failure *x, struct buffer *out)
{
        char iso[TIME_ISO_MAX], file[SPOOL_FILE_SIZE];
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_key(&w, "job");
        (void)snprintf(file, sizeof(file), "jobs/%.*s.json", (int)sizeof(file) - 16, x->name);
        json_put_string(&w, file);
        json_uint(&w, "attempt", x->attempt);
        json_string(&w, "kind", x->kind);
        json_string(&w, "error", x->words);
        json_bool(&w, "final", x->final);
        json_string(&w, "worker", f->worker);
        json_string(&w, "failed_at", time_iso((usec_t)x->now * USEC_PER_SEC, iso, sizeof(iso)));
        if (x->final)
                json_null(&w, "next_try_at");
        else
                json_string(&w, "next_try_at", time_iso((usec_t)x->next * USEC_PER_SEC, iso, sizeof(iso)));
        json_close_object(&w);
        (void)buffer_putc(out, '\n');
        return out->failed ? -ENOMEM : 0;
}

int spool_put_failure(const struct spool_folder *f, const struct spool_failure *x, int64_t *ret_epoch)
{
        _cleanup_publish_ struct publish p = {.fd = -1};
        _cleanup_buffer_ struct buffer text = {0};
        char file[SPOOL_FILE_SIZE], key[SPOOL_NAME_SIZE];
        int64_t epoch = x->now;
        int r;

        buffer_init(&text, 0);
        r = put_failure_text(f, x, &text);
        if (r == 0)
                r = publish_begin(f->dirs[DIR_FAILURES], 0444, &p);
        if (r == 0)
                r = publish_write(&p, text.data, text.len);
        for (unsigned i = 0; r == 0 && i < EPOCH_TRIES; i++, epoch++) {
                r = publish_link(
                        &p, spool_failure_file(spool_key(x->name, key), epoch, x->attempt, x->final, file),
                        true);
                if (r == 0)
                        break;
                if (r == -EEXIST)
                        r = 0;
        }
        if (r < 0)
                return r;
        if (ret_epoch)
                *ret_epoch = epoch;
        return publish_sync(f->dirs[DIR_FAILURES]);
}
