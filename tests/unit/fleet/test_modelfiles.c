/* test_modelfiles.c: what model files are, asked in the pool, also on a file system that does not answer. */
#include "fleet/modelfiles.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/text.h"
#include "fleet/hanging.h"

#define WAIT (60 * USEC_PER_SEC)

struct world {
        char dir[64];
        struct loop *loop;
        struct timer *tick;
        struct modelfiles *mf;
        unsigned told;
        char last[256];
};

static void on_known(void *owner, const char *path)
{
        struct world *w = owner;

        w->told++;
        (void)snprintf(w->last, sizeof w->last, "%s", path);
}

static void on_tick(void *owner, usec_t now)
{
        struct world *w = owner;

        (void)now;
        loop_stop(w->loop);
}

static void turn(struct world *w)
{
        timer_set(w->tick, time_monotonic() + 2 * USEC_PER_MSEC);
        loop_run(w->loop);
}

static char *path_of(const struct world *w, const char *name)
{
        static char paths[8][256];
        static unsigned i;
        char *path = paths[i++ % 8];

        (void)snprintf(path, 256, "%s/%s", w->dir, name);
        return path;
}

/* Of any size, without a header: it takes no room. */
static char *make(const struct world *w, const char *name, off_t size)
{
        char *path = path_of(w, name);
        int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, size), 0);
        (void)close(fd);
        return path;
}

static const struct modelfile *wait_for(struct world *w, const char *path)
{
        usec_t until = time_monotonic() + WAIT;
        const struct modelfile *file = modelfiles_look(w->mf, path, WAIT);
        unsigned before = w->told;

        while (!file) {
                assert_true(time_monotonic() < until);
                turn(w);
                if (w->told > before)
                        file = modelfiles_look(w->mf, path, WAIT);
        }
        return file;
}

static int set_up(void **state)
{
        struct world *w = calloc(1, sizeof *w);
        char sub[96];

        loop_thread = pthread_self();
        (void)snprintf(w->dir, sizeof w->dir, "/tmp/lsv-files-XXXXXX");
        if (!mkdtemp(w->dir))
                return -1;
        (void)snprintf(sub, sizeof sub, "%s/hang", w->dir);
        if (mkdir(sub, 0700) < 0)
                return -1;
        *state = w;
        return loop_new(&w->loop) == 0 && timer_new(w->loop, on_tick, w, &w->tick) == 0 &&
                               modelfiles_new(w->loop, on_known, w, &w->mf) == 0
                       ? 0
                       : -1;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

static int tear_down(void **state)
{
        struct world *w = *state;

        hanging = false;
        w->mf = modelfiles_free(w->mf);
        w->tick = timer_free(w->tick);
        w->loop = loop_free(w->loop);
        (void)nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        free(w);
        return 0;
}

static void sizes_and_times(void **state)
{
        struct world *w = *state;
        const struct modelfile *file;

        file = wait_for(w, make(w, "one.gguf", 1000));
        assert_int_equal(file->error, 0);
        assert_int_equal(file->size, 1000);
        assert_false(file->has_header);
        assert_true(file->mtime > 1500000000);
        assert_int_equal(w->told, 1);
        assert_ptr_equal(modelfiles_look(w->mf, path_of(w, "one.gguf"), WAIT), file);
        assert_int_equal(w->told, 1);

        /* Those that are there of a split one; the second of four is missing. */
        (void)make(w, "s-00003-of-00004.gguf", 300);
        (void)make(w, "s-00004-of-00004.gguf", 4000);
        file = wait_for(w, make(w, "s-00001-of-00004.gguf", 20));
        assert_int_equal(file->size, 4320);

        assert_int_equal(wait_for(w, path_of(w, "none.gguf"))->error, -ENOENT);
        assert_int_equal(wait_for(w, path_of(w, "hang"))->error, -EISDIR);
        assert_int_equal(mkfifo(path_of(w, "pipe"), 0600), 0);
        assert_int_equal(wait_for(w, path_of(w, "pipe"))->error, -EINVAL);
}

static void what_is_too_old_is_looked_at_again(void **state)
{
        struct world *w = *state;
        const char *path = make(w, "one.gguf", 1000);
        usec_t until = time_monotonic() + WAIT;

        assert_int_equal(wait_for(w, path)->size, 1000);
        (void)make(w, "one.gguf", 2000);
        assert_int_equal(modelfiles_look(w->mf, path, WAIT)->size, 1000);
        turn(w);
        assert_null(modelfiles_look(w->mf, path, 0));
        /* Meanwhile the old answer serves who can do with it. */
        assert_int_equal(modelfiles_look(w->mf, path, WAIT)->size, 1000);
        while (w->told < 2 && time_monotonic() < until)
                turn(w);
        assert_int_equal(modelfiles_look(w->mf, path, WAIT)->size, 2000);
}

static void a_file_system_that_hangs(void **state)
{
        struct world *w = *state;
        char *a = make(w, "hang/a.gguf", 1), *b = make(w, "hang/b.gguf", 2), *good = make(w, "good.gguf", 3);
        usec_t until = time_monotonic() + WAIT;
        const struct modelfile *file;
        unsigned before;

        in_loop = 0; /* those were ours */
        hanging = true;
        assert_null(modelfiles_look(w->mf, a, 0));
        assert_null(modelfiles_look(w->mf, b, 0));
        while (!hung && time_monotonic() < until)
                turn(w);
        /* Others are not held up, and one folder has one thread only. */
        assert_int_equal(wait_for(w, good)->size, 3);
        assert_int_equal(hung, 1);
        /* The loop goes on, and after the patience there is an answer. */
        assert_int_equal(wait_for(w, a)->error, -ETIMEDOUT);
        assert_int_equal(wait_for(w, b)->error, -ETIMEDOUT);
        assert_int_equal(hung, 1);
        /* Whoever asks again is not kept waiting by the look under way. */
        turn(w);
        assert_int_equal(modelfiles_look(w->mf, a, 0)->error, -ETIMEDOUT);
        before = w->told;
        hanging = false;
        while (w->told == before && time_monotonic() < until)
                turn(w);
        assert_string_equal(w->last, a);
        assert_int_equal(modelfiles_look(w->mf, a, WAIT)->error, 0);
        assert_int_equal(modelfiles_look(w->mf, a, WAIT)->size, 1);
        do {
                assert_true(time_monotonic() < until);
                (void)modelfiles_look(w->mf, b, 0);
                turn(w);
                file = modelfiles_look(w->mf, b, WAIT);
        } while (!file || file->error);
        assert_int_equal(modelfiles_look(w->mf, b, WAIT)->size, 2);
        assert_int_equal(in_loop, 0);
}

static void gone_before_the_answer(void **state)
{
        struct world *w = *state;
        char *a = make(w, "hang/a.gguf", 1);
        usec_t until = time_monotonic() + WAIT;

        hanging = true;
        assert_null(modelfiles_look(w->mf, a, 0));
        while (!hung && time_monotonic() < until)
                turn(w);
        w->mf = modelfiles_free(w->mf);
        hanging = false;
        turn(w);
        assert_int_equal(w->told, 0);
}

static void the_oldest_is_forgotten(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *kept = strdup(make(w, "kept.gguf", 5));
        char name[32];

        assert_non_null(kept);
        (void)wait_for(w, kept);
        for (unsigned i = 0; i < MODELFILES_MAX + 100; i++) {
                (void)snprintf(name, sizeof name, "none-%u", i);
                (void)modelfiles_look(w->mf, path_of(w, name), WAIT);
                if (i % 100 == 0) {
                        turn(w);
                        assert_non_null(modelfiles_look(w->mf, kept, WAIT));
                }
        }
        assert_non_null(modelfiles_look(w->mf, kept, WAIT));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(sizes_and_times, set_up, tear_down),
                cmocka_unit_test_setup_teardown(what_is_too_old_is_looked_at_again, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_file_system_that_hangs, set_up, tear_down),
                cmocka_unit_test_setup_teardown(gone_before_the_answer, set_up, tear_down),
                cmocka_unit_test_setup_teardown(the_oldest_is_forgotten, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
