/* config_keep.c: what a load read, kept so that the same configuration can be made once more without touching a file. */
#include "core/config_internal.h"

#include <errno.h>

#include "base/text.h"

enum kept_kind { KEPT_READ, KEPT_STAT, KEPT_LIST };

/* One question to the files, and its answer. */
struct kept_answer {
        enum kept_kind kind;
        char *path;
        int r;
        char *text; /* KEPT_READ; may be a secret */
        size_t len;
        struct file_facts facts;
        char **names; /* KEPT_LIST */
};

struct config_kept {
        char *file, *cwd;
        const char *(*get)(void *owner, const char *name);
        void *get_owner;
        bool is_root, failed;
        struct kept_answer *answers;
        size_t n, cap;
        size_t next; /* a replay asks in the order of the recording */
        const struct file_ops *real;
        struct file_ops recorder, player;
};

/* --- keeping ---------------------------------------------------------------------------------------------------- */

static void answer_finish(struct kept_answer *a)
{
        free(a->path);
        if (a->text)
                explicit_bzero(a->text, a->len);
        free(a->text);
        text_list_free(a->names);
}

/* NULL without memory: the recording is not whole then. */
static struct kept_answer *keep(struct config_kept *k, enum kept_kind kind, const char *path, int r)
{
        struct kept_answer *a;

        if (k->n == k->cap) {
                size_t cap = k->cap ? k->cap * 2 : 16;
                struct kept_answer *grown = reallocarray(k->answers, cap, sizeof *grown);

                if (!grown)
                        goto fail;
                k->answers = grown;
                k->cap = cap;
        }
        a = k->answers + k->n;
        *a = (struct kept_answer){.kind = kind, .path = strdup(path), .r = r};
        if (!a->path)
                goto fail;
        k->n++;
        return a;
fail:
        k->failed = true;
        return NULL;
}

static char *copy_text(const char *text, size_t len)
{
        char *copy = malloc(len + 1);

        if (!copy)
                return NULL;
        memcpy(copy, text, len);
        copy[len] = '\0';
        return copy;
}

static int copy_names(char *const *names, char ***ret)
{
        char **copy = NULL;
        int r = 0;

        for (; r == 0 && names && *names; names++)
                r = text_list_add(&copy, *names);
        if (r < 0) {
                text_list_free(copy);
                return r;
        }
        *ret = copy;
        return 0;
}

static int record_read(void *owner, const char *path, size_t max, char **ret, size_t *ret_len)
{
        struct config_kept *k = owner;
        int r = k->real->read(k->real->owner, path, max, ret, ret_len);
        struct kept_answer *a = keep(k, KEPT_READ, path, r);

        if (a && r >= 0) {
                a->text = copy_text(*ret, *ret_len);
                a->len = *ret_len;
                k->failed = k->failed || !a->text;
        }
        return r;
}

static int record_stat(void *owner, const char *path, struct file_facts *ret)
{
        struct config_kept *k = owner;
        int r = k->real->stat(k->real->owner, path, ret);
        struct kept_answer *a = keep(k, KEPT_STAT, path, r);

        if (a && r >= 0)
                a->facts = *ret;
        return r;
}

static int record_list(void *owner, const char *dir, const char *suffix, size_t max, char ***ret)
{
        struct config_kept *k = owner;
        int r = k->real->list(k->real->owner, dir, suffix, max, ret);
        struct kept_answer *a = keep(k, KEPT_LIST, dir, r);

        if (a && r >= 0 && copy_names(*ret, &a->names) < 0)
                k->failed = true;
        return r;
}

/* --- answering -------------------------------------------------------------------------------------------------- */

static const struct kept_answer *find(struct config_kept *k, enum kept_kind kind, const char *path)
{
        for (size_t i = 0; i < k->n; i++) {
                size_t at = (k->next + i) % k->n;

                if (k->answers[at].kind == kind && streq(k->answers[at].path, path)) {
                        k->next = at + 1;
                        return k->answers + at;
                }
        }
        return NULL;
}

static int play_read(void *owner, const char *path, size_t max, char **ret, size_t *ret_len)
{
        const struct kept_answer *a = find(owner, KEPT_READ, path);
        char *copy;

        if (!a || a->r < 0)
                return a ? a->r : -ENOENT;
        if (a->len > max)
                return -EFBIG;
        copy = copy_text(a->text, a->len);
        if (!copy)
                return -ENOMEM;
        *ret = copy;
        *ret_len = a->len;
        return a->r;
}

static int play_stat(void *owner, const char *path, struct file_facts *ret)
{
        const struct kept_answer *a = find(owner, KEPT_STAT, path);

        if (!a || a->r < 0)
                return a ? a->r : -ENOENT;
        *ret = a->facts;
        return a->r;
}

static int play_list(void *owner, const char *dir, const char *suffix, size_t max, char ***ret)
{
        const struct kept_answer *a = find(owner, KEPT_LIST, dir);
        int r;

        (void)suffix;
        if (!a || a->r < 0)
                return a ? a->r : -ENOENT;
        if (text_list_count(a->names) > max)
                return -E2BIG;
        r = copy_names(a->names, ret);
        return r < 0 ? r : a->r;
}

/* --- the whole -------------------------------------------------------------------------------------------------- */

struct config_kept *config_kept_new(const char *file, const struct config_env *env)
{
        struct config_kept *k = calloc(1, sizeof *k);

        if (!k)
                return NULL;
        k->file = strdup(file);
        k->cwd = text_dup(env->cwd);
        k->get = env->get;
        k->get_owner = env->owner;
        k->is_root = env->is_root;
        return k->file && (k->cwd || !env->cwd) ? k : config_kept_free(k);
}

struct config_kept *config_kept_free(struct config_kept *k)
{
        if (!k)
                return NULL;
        for (size_t i = 0; i < k->n; i++)
                answer_finish(k->answers + i);
        free(k->answers);
        free(k->file);
        free(k->cwd);
        free(k);
        return NULL;
}

void config_kept_record(struct config_kept *k, const struct file_ops *real, struct config_env *env)
{
        k->real = real;
        k->recorder =
                (struct file_ops){.read = record_read, .stat = record_stat, .list = record_list, .owner = k};
        env->files = &k->recorder;
}

const char *config_kept_file(const struct config_kept *k)
{
        return k->file;
}

void config_kept_replay(struct config_kept *k, struct config_env *env)
{
        k->next = 0;
        k->player = (struct file_ops){.read = play_read, .stat = play_stat, .list = play_list, .owner = k};
        *env = (struct config_env){.files = &k->player,
                                   .get = k->get,
                                   .owner = k->get_owner,
                                   .cwd = k->cwd,
                                   .is_root = k->is_root};
}

bool config_kept_is_whole(const struct config_kept *k)
{
        return !k->failed;
}
