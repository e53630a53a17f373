/* test_conformance.c: the job folder does what every hub does. Drivers that need a server run the same table in tests of their own. */
#include "conformance.h"

#include <dirent.h>
#include <ftw.h>
#include <sys/stat.h>

#include "base/file.h"

struct folder {
        char dir[64], spool[96], state[96];
};

static void put(void *owner, const char *id)
{
        const struct folder *f = owner;
        _cleanup_free_ char *tmp = text_format("%s/jobs/%s", f->spool, id);
        _cleanup_free_ char *path = text_format("%s/jobs/%s.json", f->spool, id);
        FILE *file = fopen(tmp, "w");

        assert_non_null(file);
        (void)fputs("{\"model\":\"q\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", file);
        (void)fclose(file);
        assert_int_equal(rename(tmp, path), 0);
}

static unsigned results(void *owner, const char *id)
{
        const struct folder *f = owner;
        _cleanup_free_ char *dir = text_format("%s/results", f->spool);
        _cleanup_free_ char *ending = text_format("_%s.json", id);
        char **names = NULL;
        unsigned n = 0;

        if (file_list(dir, ending, 100, &names) == 0)
                n = (unsigned)text_list_count(names);
        (void)text_list_free(names);
        return n;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

static void check(size_t i)
{
        struct folder f;
        struct config config = {0};
        struct conformance *c = calloc(1, sizeof(*c));

        (void)snprintf(f.dir, sizeof(f.dir), "/tmp/lsv-conform-XXXXXX");
        assert_non_null(mkdtemp(f.dir));
        (void)snprintf(f.spool, sizeof(f.spool), "%s/spool", f.dir);
        (void)snprintf(f.state, sizeof(f.state), "%s/state", f.dir);
        assert_int_equal(mkdir(f.state, 0700), 0);
        config.spool.dir = f.spool;
        config.spool.tries = 3;
        config.spool.timeout = config.spool.command_timeout = USEC_PER_MIN;
        config.spool.backoff = USEC_PER_MSEC;
        c->driver = &hub_driver_spool;
        c->put = put;
        c->results = results;
        c->owner = &f;
        c->open = (struct hub_open){.config = &config, .name = "spool", .worker = "w", .dir = f.state};
        assert_int_equal(loop_new(&c->open.loop), 0);
        assert_true(conformance_run(c, i)); /* it promises everything that there is a case for */
        c->open.loop = loop_free(c->open.loop);
        free(c);
        (void)nftw(f.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void spool_conforms(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(conformance_cases); i++) {
                print_message("%s\n", conformance_cases[i].name);
                check(i);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(spool_conforms)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
