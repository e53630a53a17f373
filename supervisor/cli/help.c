/* help.c: the table of verbs for people, for programs (help --json). */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/verb.h"

enum { OPTION_COLUMN = 24 };

/* What is too long for its column has the words below it. */
static void print_row(const char *left, const char *doc)
{
        if (strlen(left) > OPTION_COLUMN)
                (void)printf("  %s\n  %*s  %s\n", left, OPTION_COLUMN, "", doc);
        else
                (void)printf("  %-*s  %s\n", OPTION_COLUMN, left, doc);
}

static void print_options(const struct option_spec *options)
{
        for (const struct option_spec *s = options; s && s->name; s++) {
                char left[64];

                (void)snprintf(left, sizeof(left), "%s%c%s--%s%s%s", s->letter ? "-" : " ",
                               s->letter ? s->letter : ' ', s->letter ? ", " : "  ", s->name,
                               s->value ? " " : "", s->value ? s->value : "");
                print_row(left, s->doc);
        }
}

static void print_program(void)
{
        (void)printf(
                "usage: llama-supervisor [OPTION...] VERB [ARGUMENT...]\n\n"
                "Supervises llama-server processes. \"run\" is the daemon, every other verb asks it.\n\n");
        for (const struct verb *v = cli_verbs; v->name; v++) {
                char left[128];

                (void)snprintf(left, sizeof(left), "%s%s%s", v->name, v->arguments ? " " : "",
                               v->arguments ? v->arguments : "");
                print_row(left, v->doc);
        }
        (void)printf("\nOptions of every verb:\n");
        print_options(cli_common_options);
        (void)printf("      --version             print the version of this program, and stop\n\n"
                     "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the daemon does not run.\n"
                     "\"llama-supervisor help VERB\" tells more; the manual is llama-supervisor(8).\n");
}

void help_print(const struct verb *v)
{
        if (!v) {
                print_program();
                return;
        }
        (void)printf("usage: llama-supervisor %s%s%s%s\n\n%c%s.\n", v->name, v->options ? " [OPTION...]" : "",
                     v->arguments ? " " : "", v->arguments ? v->arguments : "",
                     toupper((unsigned char)v->doc[0]), v->doc + 1);
        if (v->details)
                (void)printf("%s\n", v->details);
        if (v->options) {
                (void)printf("\nOptions:\n");
                print_options(v->options);
        }
        if (v->run || !streq(v->name, "run")) {
                (void)printf("\nOptions of every verb:\n");
                print_options(cli_common_options);
        }
}

/* --- help --json ------------------------------------------------------------------------------------------------------ */

static void put_options(struct json_writer *w, const char *key, const struct option_spec *options)
{
        json_key(w, key);
        json_open_array(w);
        for (const struct option_spec *s = options; s && s->name; s++) {
                char letter[2] = {s->letter, '\0'};

                json_open_object(w);
                json_string(w, "name", s->name);
                json_string(w, "letter", s->letter ? letter : NULL);
                json_string(w, "value", s->value);
                json_string(w, "doc", s->doc);
                json_close_object(w);
        }
        json_close_array(w);
}

static int print_json(struct cli *cli)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "verbs");
        json_open_array(&w);
        for (const struct verb *v = cli_verbs; v->name; v++) {
                json_open_object(&w);
                json_string(&w, "name", v->name);
                json_string(&w, "arguments", v->arguments);
                json_string(&w, "doc", v->doc);
                put_options(&w, "options", v->options);
                json_close_object(&w);
        }
        json_close_array(&w);
        put_options(&w, "options", cli_common_options);
        json_close_object(&w);
        (void)buffer_putc(&b, '\n');
        return cli_print(cli, &b);
}

int help_main(struct cli *cli)
{
        const char *name = cli->options.n_plain ? cli->options.plain[0] : NULL;
        const struct verb *v = name ? cli_find_verb(name) : NULL;

        if (name && !v)
                return cli_usage(cli, "there is no verb \"%s\"", name);
        if (cli->json)
                return print_json(cli);
        help_print(v);
        return cli_flush(cli);
}
