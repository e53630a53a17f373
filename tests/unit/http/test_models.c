/* test_models.c: lists of many models cost what there is, not its square. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_fleet.h"

/* The lists are made by functions of this file alone. */
#include "http/models.c"

static unsigned long compared;

/* The program's own definition wins over libc's. */
int strcmp(const char *a, const char *b)
{
        compared++;
        while (*a && *a == *b) {
                a++;
                b++;
        }
        return (unsigned char)*a - (unsigned char)*b;
}

static struct config_instance entries[FAKE_MAX];
static char names[FAKE_MAX][24];

int dispatch_resolve(struct fleet *f, const char *model, const struct config_instance **ret)
{
        size_t i = (size_t)atoi(model + 1);

        (void)f;
        assert_true(i < FAKE_MAX);
        *ret = entries + i;
        return 0;
}

usec_t demand_until(struct fleet *f, const struct config_instance *entry)
{
        (void)f;
        (void)entry;
        return 0;
}

int dispatch_seat(struct fleet *f, const char *instance, struct dispatch_seat *ret)
{
        (void)instance;
        *ret = f->seat;
        return 0;
}

static unsigned long cost(size_t n, unsigned *ret_asked)
{
        static struct fleet f;
        _cleanup_(lineup_finish) struct lineup l = {0};
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        const char *name;
        struct model m;
        size_t told = 0;

        f = (struct fleet){0};
        for (size_t i = 0; i < n; i++) {
                (void)snprintf(names[i], sizeof names[i], "m%zu", i);
                fake_fleet_add(&f, names[i], "ready");
                f.reports[i].model = names[i];
                entries[i] = (struct config_instance){.name = names[i]};
        }
        f.n_models = n;
        compared = 0;
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_array(&w);
        assert_true(lineup_take(&f, &l));
        for (size_t i = 0; (name = dispatch_model_name(&f, i)); i++, told++) {
                assert_true(model_look(&f, &l, name, &m));
                assert_int_equal(m.instances, 1);
                assert_ptr_equal(m.best, f.reports + i);
                put_own(&w, &f, &l, &m);
        }
        json_close_array(&w);
        assert_int_equal(told, n);
        *ret_asked = f.asked;
        return compared;
}

static void a_list_grows_with_the_models(void **state)
{
        unsigned asked_few, asked_more;
        unsigned long few = cost(100, &asked_few), more = cost(400, &asked_more);

        (void)state;
        assert_int_equal(asked_few, 100); /* each instance is asked once */
        assert_int_equal(asked_more, 400);
        if (more > few * 8)
                fail_msg("%lu comparisons for 100 models, %lu for 400", few, more);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_list_grows_with_the_models),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
