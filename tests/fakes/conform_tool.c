/* conform_tool.c: one case of tests/unit/hub/conformance.h over a hub that a scenario plays (a double, in Python): what the case wants of the
 * hub is asked on stdout, a line each, and answered on stdin.
 *
 *     conform_tool DRIVER case=N dir=D url=U credentials=F [listen=A] [allow=A]
 *             put ID → ok | results ID → N
 * Its last line is "passed NAME", "left out NAME" (the driver's caps do not promise it) or "no more" (there is no such case). */
#include "hub/conformance.h"

#include <stdlib.h>
#include <unistd.h>

static struct conformance c;
static unsigned long number;
static const char *ended = "failed";

/* The whole words after "NAME=", or NULL. */
static char *option(int argc, char **argv, const char *name)
{
        size_t n = strlen(name);

        for (int i = 2; i < argc; i++)
                if (strncmp(argv[i], name, n) == 0 && argv[i][n] == '=')
                        return argv[i] + n + 1;
        return NULL;
}

static void say(const char *word, const char *what)
{
        (void)printf("%s %s\n", word, what);
        (void)fflush(stdout);
}

static unsigned ask(const char *word, const char *id)
{
        char line[64];

        say(word, id);
        assert_non_null(fgets(line, sizeof(line), stdin));
        return (unsigned)strtoul(line, NULL, 10);
}

static void put(void *owner, const char *id)
{
        (void)owner;
        (void)ask("put", id);
}

static unsigned results(void *owner, const char *id)
{
        (void)owner;
        return ask("results", id);
}

static void conforms(void **state)
{
        (void)state;
        ended = conformance_run(&c, number) ? "passed" : "left out";
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(conforms)};
        struct config config = {0};
        struct config_hub hub = {.url = option(argc, argv, "url"),
                                 .credentials_file = option(argc, argv, "credentials"),
                                 .listen = option(argc, argv, "listen")};
        const char *allow = option(argc, argv, "allow"), *n = option(argc, argv, "case");
        int r;

        if (argc < 2 || !n || !hub.url)
                return 2;
        number = strtoul(n, NULL, 10);
        if (number >= ARRAY_SIZE(conformance_cases)) {
                (void)puts("no more");
                return 0;
        }
        c.driver = streq(argv[1], "gollama") ? &hub_driver_gollama : &hub_driver_convex;
        c.put = put;
        c.results = results;
        if (allow)
                (void)text_list_add(&hub.allow, allow);
        c.open = (struct hub_open){.config = &config,
                                   .hub = &hub,
                                   .name = argv[1],
                                   .worker = "w",
                                   .dir = option(argc, argv, "dir")};
        if (loop_new(&c.open.loop) < 0)
                return 2;
        /* What cmocka has to say goes to stderr. */
        (void)setenv("CMOCKA_MESSAGE_OUTPUT", "STDOUT", 1);
        r = cmocka_run_group_tests(tests, NULL, NULL);
        c.open.loop = loop_free(c.open.loop);
        hub.allow = text_list_free(hub.allow);
        say(ended, conformance_cases[number].name);
        return r;
}
