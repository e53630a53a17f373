/* completion.c: the scripts that complete command lines in bash, zsh and fish, written from the table of verbs. */
#include <stdio.h>

#include "base/text.h"
#include "cli/verb.h"

static void put_option_words(struct buffer *out, const struct option_spec *options)
{
        for (const struct option_spec *s = options; s && s->name; s++)
                (void)buffer_printf(out, " --%s", s->name);
}

/* The words of every shell's script: what may follow a verb. */
static const char *completed_words(const struct verb *v)
{
        switch (v->completes) {
        case COMPLETES_SHELL:
                return "bash zsh fish";
        case COMPLETES_KEY:
                return "add list revoke";
        case COMPLETES_JOBS:
                return "submit list wait show retry";
        case COMPLETES_INSTANCE:
        case COMPLETES_FILE:
        case COMPLETES_VERB:
        case COMPLETES_NOTHING:
                break;
        }
        return "";
}

static void put_verb_names(struct buffer *out)
{
        for (const struct verb *v = cli_verbs; v->name; v++)
                (void)buffer_printf(out, "%s%s", v == cli_verbs ? "" : " ", v->name);
}

static bool is_order(const struct verb *v)
{
        return v->run == start_main || v->run == stop_main || v->run == restart_main || v->run == drain_main;
}

/* --- bash */

static void put_bash_case(struct buffer *out, const struct verb *v)
{
        (void)buffer_printf(out, "        %s)\n                options=\"", v->name);
        put_option_words(out, v->options);
        if (v->run)
                put_option_words(out, cli_common_options);
        (void)buffer_puts(out, "\"\n");
        switch (v->completes) {
        case COMPLETES_INSTANCE:
                (void)buffer_printf(
                        out,
                        "                words=\"$(llama-supervisor ls \"${where[@]}\" 2>/dev/null)%s\"\n",
                        is_order(v) ? " all" : "");
                break;
        case COMPLETES_FILE:
                (void)buffer_puts(out, "                files=yes\n");
                break;
        case COMPLETES_VERB:
                (void)buffer_puts(out, "                words=$verbs\n");
                break;
        case COMPLETES_SHELL:
        case COMPLETES_KEY:
        case COMPLETES_JOBS:
        case COMPLETES_NOTHING:
                (void)buffer_printf(out, "                words=\"%s\"\n", completed_words(v));
                break;
        }
        (void)buffer_puts(out, "                ;;\n");
}

static void put_bash(struct buffer *out)
{
        (void)buffer_puts(
                out, "# bash completion for llama-supervisor, made by: llama-supervisor completion bash\n"
                     "_llama_supervisor()\n"
                     "{\n"
                     "        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                     "        local verb= words= options= files= i where=() verbs=\"");
        put_verb_names(out);
        (void)buffer_puts(out,
                          "\"\n"
                          "        COMPREPLY=()\n"
                          "        case $prev in\n"
                          "        --config|--socket)\n"
                          "                compopt -o filenames 2>/dev/null\n"
                          "                COMPREPLY=($(compgen -f -- \"$cur\"))\n"
                          "                return\n"
                          "                ;;\n"
                          "        --timeout|--lines|--since|-n|--rate|--concurrency|--prompt) return ;;\n"
                          "        esac\n"
                          "        for ((i = 1; i < COMP_CWORD; i++)); do\n"
                          "                case ${COMP_WORDS[i]} in\n"
                          "                --config|--socket)\n"
                          "                        where+=(\"${COMP_WORDS[i]}\" \"${COMP_WORDS[i+1]}\")\n"
                          "                        ((i++))\n"
                          "                        ;;\n"
                          "                -*) ;;\n"
                          "                *) verb=${verb:-${COMP_WORDS[i]}} ;;\n"
                          "                esac\n"
                          "        done\n"
                          "        case $verb in\n"
                          "        '')\n"
                          "                words=$verbs\n"
                          "                options=\"--version");
        put_option_words(out, cli_common_options);
        (void)buffer_puts(out, "\"\n                ;;\n");
        for (const struct verb *v = cli_verbs; v->name; v++)
                put_bash_case(out, v);
        (void)buffer_puts(out, "        esac\n"
                               "        if [[ $cur == -* ]]; then\n"
                               "                COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n"
                               "        elif [[ $files ]]; then\n"
                               "                compopt -o filenames 2>/dev/null\n"
                               "                COMPREPLY=($(compgen -f -- \"$cur\"))\n"
                               "        else\n"
                               "                COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                               "        fi\n"
                               "}\n"
                               "complete -F _llama_supervisor llama-supervisor\n");
}

/* --- zsh */

/* One entry of _arguments or _describe: quotes and colons are escaped for both. */
static void put_zsh_quoted(struct buffer *out, const char *s)
{
        for (; *s; s++) {
                if (*s == '\'')
                        (void)buffer_puts(out, "'\\''");
                else if (*s == ':' || *s == '[' || *s == ']')
                        (void)buffer_printf(out, "\\%c", *s);
                else
                        (void)buffer_putc(out, *s);
        }
}

static void put_zsh_options(struct buffer *out, const struct option_spec *options)
{
        for (const struct option_spec *s = options; s && s->name; s++)
                for (int form = 0; form < (s->letter ? 2 : 1); form++) {
                        if (form)
                                (void)buffer_printf(out, " \\\n                        '-%c[", s->letter);
                        else
                                (void)buffer_printf(out, " \\\n                        '--%s[", s->name);
                        put_zsh_quoted(out, s->doc);
                        (void)buffer_putc(out, ']');
                        if (s->value)
                                (void)buffer_printf(out, ":%s:%s", s->value,
                                                    streq(s->name, "config") || streq(s->name, "socket")
                                                            ? "_files"
                                                            : " ");
                        (void)buffer_putc(out, '\'');
                }
}

static void put_zsh_case(struct buffer *out, const struct verb *v)
{
        (void)buffer_printf(out, "        %s)\n                _arguments", v->name);
        put_zsh_options(out, v->options);
        if (v->run)
                put_zsh_options(out, cli_common_options);
        switch (v->completes) {
        case COMPLETES_INSTANCE:
                (void)buffer_printf(out, " \\\n                        '*:instance:($names%s)'",
                                    is_order(v) ? " all" : "");
                break;
        case COMPLETES_FILE:
                (void)buffer_puts(out, " \\\n                        ':file:_files'");
                break;
        case COMPLETES_VERB:
                (void)buffer_puts(out, " \\\n                        ':verb:(");
                put_verb_names(out);
                (void)buffer_puts(out, ")'");
                break;
        case COMPLETES_SHELL:
                (void)buffer_printf(out, " \\\n                        ':shell:(%s)'", completed_words(v));
                break;
        case COMPLETES_KEY:
                (void)buffer_printf(out, " \\\n                        ':what:(%s)' ':name: '",
                                    completed_words(v));
                break;
        case COMPLETES_JOBS:
                (void)buffer_printf(out, " \\\n                        ':what:(%s)' '*:file:_files'",
                                    completed_words(v));
                break;
        case COMPLETES_NOTHING:
                break;
        }
        (void)buffer_puts(out, "\n                ;;\n");
}

static void put_zsh(struct buffer *out)
{
        (void)buffer_puts(out,
                          "#compdef llama-supervisor\n"
                          "# zsh completion for llama-supervisor, made by: llama-supervisor completion zsh\n"
                          "_llama_supervisor()\n"
                          "{\n"
                          "        local -a verbs where names\n"
                          "        local i curcontext=$curcontext state line\n"
                          "        verbs=(\n");
        for (const struct verb *v = cli_verbs; v->name; v++) {
                (void)buffer_printf(out, "                '%s:", v->name);
                put_zsh_quoted(out, v->doc);
                (void)buffer_puts(out, "'\n");
        }
        (void)buffer_puts(
                out,
                "        )\n"
                "        for ((i = 2; i < CURRENT; i++)); do\n"
                "                [[ $words[i] == (--config|--socket) ]] && where+=($words[i] $words[i+1])\n"
                "        done\n"
                "        _arguments -C '--version[print the version of this program, and stop]'");
        put_zsh_options(out, cli_common_options);
        (void)buffer_puts(out, " \\\n                        '1:verb:->verb' '*::argument:->arguments'\n"
                               "        if [[ $state == verb ]]; then\n"
                               "                _describe verb verbs\n"
                               "                return\n"
                               "        fi\n"
                               "        [[ $state == arguments ]] || return\n"
                               "        names=(${(f)\"$(llama-supervisor ls $where 2>/dev/null)\"})\n"
                               "        case $line[1] in\n");
        for (const struct verb *v = cli_verbs; v->name; v++)
                put_zsh_case(out, v);
        (void)buffer_puts(out, "        esac\n"
                               "}\n"
                               "if [[ $funcstack[1] == _llama_supervisor ]]; then\n"
                               "        _llama_supervisor \"$@\"\n"
                               "else\n"
                               "        compdef _llama_supervisor llama-supervisor\n"
                               "fi\n");
}

/* --- fish */

static void put_fish_quoted(struct buffer *out, const char *s)
{
        (void)buffer_putc(out, '\'');
        for (; *s; s++)
                (void)buffer_printf(out, *s == '\'' || *s == '\\' ? "\\%c" : "%c", *s);
        (void)buffer_putc(out, '\'');
}

static void put_fish_options(struct buffer *out, const char *condition, const struct option_spec *options)
{
        for (const struct option_spec *s = options; s && s->name; s++) {
                (void)buffer_puts(out, "complete -c llama-supervisor");
                if (condition)
                        (void)buffer_printf(out, " -n '%s'", condition);
                if (s->letter)
                        (void)buffer_printf(out, " -s %c", s->letter);
                (void)buffer_printf(out, " -l %s%s -d ", s->name,
                                    !s->value                                              ? ""
                                    : streq(s->name, "config") || streq(s->name, "socket") ? " -r -F"
                                                                                           : " -x");
                put_fish_quoted(out, s->doc);
                (void)buffer_putc(out, '\n');
        }
}

static void put_fish_verb(struct buffer *out, const struct verb *v)
{
        char condition[96];

        (void)snprintf(condition, sizeof(condition), "__fish_seen_subcommand_from %s", v->name);
        (void)buffer_printf(out, "complete -c llama-supervisor -n __fish_use_subcommand -a %s -d ", v->name);
        put_fish_quoted(out, v->doc);
        (void)buffer_putc(out, '\n');
        put_fish_options(out, condition, v->options);
        if (v->completes == COMPLETES_FILE)
                (void)buffer_printf(out, "complete -c llama-supervisor -n '%s' -F\n", condition);
        else if (v->completes == COMPLETES_INSTANCE)
                (void)buffer_printf(
                        out, "complete -c llama-supervisor -n '%s' -a '(__llama_supervisor_names)%s'\n",
                        condition, is_order(v) ? " all" : "");
        else if (v->completes == COMPLETES_SHELL || v->completes == COMPLETES_KEY ||
                 v->completes == COMPLETES_JOBS)
                (void)buffer_printf(out, "complete -c llama-supervisor -n '%s' -a '%s'\n", condition,
                                    completed_words(v));
        else if (v->completes == COMPLETES_VERB) {
                (void)buffer_printf(out, "complete -c llama-supervisor -n '%s' -a '", condition);
                put_verb_names(out);
                (void)buffer_puts(out, "'\n");
        }
}

static void put_fish(struct buffer *out)
{
        (void)buffer_puts(
                out, "# fish completion for llama-supervisor, made by: llama-supervisor completion fish\n"
                     "function __llama_supervisor_names\n"
                     "        set -l words (commandline -opc)\n"
                     "        set -l where\n"
                     "        for i in (seq 2 (count $words))\n"
                     "                if contains -- $words[$i] --config --socket; and test $i -lt (count "
                     "$words)\n"
                     "                        set -a where $words[$i] $words[(math $i + 1)]\n"
                     "                end\n"
                     "        end\n"
                     "        llama-supervisor ls $where 2>/dev/null\n"
                     "end\n"
                     "complete -c llama-supervisor -f\n");
        put_fish_options(out, NULL, cli_common_options);
        (void)buffer_puts(out, "complete -c llama-supervisor -n __fish_use_subcommand -l version -d 'print "
                               "the version of this "
                               "program, and stop'\n");
        for (const struct verb *v = cli_verbs; v->name; v++)
                put_fish_verb(out, v);
}

int completion_main(struct cli *cli)
{
        static const struct {
                const char *shell;
                void (*put)(struct buffer *out);
        } shells[] = {{"bash", put_bash}, {"zsh", put_zsh}, {"fish", put_fish}};
        const char *shell = cli->options.plain[0];
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        buffer_init(&b, 0);
        for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
                _cleanup_buffer_ struct buffer quoted = {0};

                if (!streq(shells[i].shell, shell))
                        continue;
                shells[i].put(&b);
                if (!cli->json || b.failed)
                        return cli_print(cli, &b);
                buffer_init(&quoted, 0);
                json_begin(&w, &quoted);
                json_open_object(&w);
                json_string(&w, "shell", shell);
                json_string(&w, "script", b.data);
                json_close_object(&w);
                (void)buffer_putc(&quoted, '\n');
                return cli_print(cli, &quoted);
        }
        return cli_usage(cli, "there is no completion for \"%s\": bash, zsh or fish", shell);
}
