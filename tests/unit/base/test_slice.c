/* test_slice.c: comparing without case, which goes eight bytes at a time, against one byte at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/slice.h"

enum { LONGEST = 25, PLACES = 3 };

static bool same_slowly(const char *a, const char *b, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (ascii_lower((unsigned char)a[i]) != ascii_lower((unsigned char)b[i]))
                        return false;
        return true;
}

/* Every pair of bytes at every place of every length: only letters of the two cases are the same. */
static void every_pair_of_bytes(void **state)
{
        char a[LONGEST], b[LONGEST];

        (void)state;
        for (size_t n = 1; n <= LONGEST; n++)
                for (size_t place = 0; place < n; place++) {
                        memset(a, 'x', sizeof(a));
                        memset(b, 'X', sizeof(b));
                        for (unsigned pair = 0; pair<0x10000; pair += n> 9 ? 7 : 1) {
                                a[place] = (char)(pair >> 8);
                                b[place] = (char)pair;
                                if (slice_eq_nocase((struct slice){a, n}, (struct slice){b, n}) !=
                                    same_slowly(a, b, n))
                                        fail_msg("%02x and %02x at %zu of %zu", pair >> 8, pair & 0xff, place,
                                                 n);
                        }
                }
}

static void lengths_differ(void **state)
{
        (void)state;
        assert_true(slice_eq_nocase((struct slice){0}, (struct slice){0}));
        assert_true(slice_eq_nocase((struct slice){0}, SLICE("")));
        assert_false(slice_eq_nocase((struct slice){0}, SLICE("a")));
        assert_false(slice_eq_nocase(SLICE("connection"), SLICE("connections")));
        assert_true(slice_eq_nocase(SLICE("Transfer-Encoding"), SLICE("tRANSFER-eNCODING")));
}

/* Nothing beyond the ends is looked at (the sanitizers see it), and nothing there counts. */
static void ends_are_ends(void **state)
{
        (void)state;
        for (size_t n = 0; n < LONGEST; n++)
                for (size_t from = 0; from < PLACES; from++) {
                        char *a = malloc(from + n + 1), *b = malloc(from + n + 1);

                        assert_non_null(a);
                        assert_non_null(b);
                        memset(a, 'q', from + n);
                        memset(b, 'Q', from + n);
                        a = realloc(a, from + n ? from + n : 1);
                        b = realloc(b, from + n ? from + n : 1);
                        assert_true(
                                slice_eq_nocase((struct slice){a + from, n}, (struct slice){b + from, n}));
                        free(a);
                        free(b);
                }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_pair_of_bytes),
                cmocka_unit_test(lengths_differ),
                cmocka_unit_test(ends_are_ends),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
