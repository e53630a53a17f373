/* keyfile.c: the keys file, read and written whole. */
#include "cli/keyfile.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/text.h"
#include "cli/wholefile.h"

#define GROUP "llama-supervisor"

static int complain(char **ret_error, int r, const char *path, const char *why)
{
        *ret_error = text_format("%s: %s", path, why);
        return r;
}

static int read_keys(struct keyfile *f, char **ret_error)
{
        _cleanup_free_ char *text = NULL;
        struct keys_problem problem;
        size_t len = 0;
        int r = file_read(f->path, KEYS_FILE_MAX, &text, &len);

        if (r == -ENOENT) {
                f->is_new = true;
                return keys_new(&f->keys);
        }
        if (r < 0)
                return complain(ret_error, r, f->path, strerror(-r));
        r = keys_load(text, len, &f->keys, &problem);
        if (r == -EBADMSG)
                *ret_error =
                        text_format("%s:%u:%u: %s", f->path, problem.line, problem.column, problem.message);
        return r;
}

int keyfile_open(const char *path, bool for_writing, struct keyfile *ret, char **ret_error)
{
        struct keyfile f = {.lock = -1};
        int r = 0;

        *ret_error = NULL;
        f.path = realpath(path, NULL);
        if (!f.path)
                f.path = text_dup(path);
        if (!f.path)
                r = -ENOMEM;
        if (r == 0 && for_writing)
                r = wholefile_lock(f.path, &f.lock, ret_error);
        if (r == 0)
                r = read_keys(&f, ret_error);
        if (r < 0) {
                keyfile_finish(&f);
                return r;
        }
        *ret = f;
        return 0;
}

int keyfile_save(struct keyfile *f, char **ret_error)
{
        static const struct wholefile_mode as = {.mode = 0600, .group_mode = 0640, .group = GROUP};
        _cleanup_buffer_ struct buffer text = {0};

        *ret_error = NULL;
        buffer_init(&text, KEYS_FILE_MAX);
        keys_put(f->keys, &text);
        if (text.failed)
                return -ENOMEM;
        return wholefile_write(f->path, f->lock, text.data, text.len, &as, ret_error);
}

void keyfile_finish(struct keyfile *f)
{
        if (f->path && f->lock >= 0)
                (void)close(f->lock);
        free(f->path);
        f->path = NULL;
        f->keys = keys_free(f->keys);
}
