/* command.h: the exact argv and environment of one llama-server, out of its configuration and a few facts. Pure.
 *
 * Flags of ours are added only where the binary's --help knows them and the user's args do not give them. The environment
 * is an allow-list of the daemon's own (never LLAMA_*, AIP_*, nor a secret of ours), then what we set, then the GPU
 * variables, then the user's env, later ones winning. */
#ifndef LSV_CORE_COMMAND_H
#define LSV_CORE_COMMAND_H

#include "base/buffer.h"
#include "core/config.h"
#include "core/help.h"

struct command_facts {
        const char *name;                /* "qwen-0" */
        const char *mark;                /* the value of COMMAND_MARK; NULL: none */
        const char *binary;              /* absolute path */
        const struct endpoint *endpoint; /* where it shall listen */
        const struct help *help;
        char *const *gpu_env;            /* "NAME=value", NULL-ended, may be NULL */
        char *const *own_env;            /* the daemon's environ */
        const char *hf_cache, *hf_token; /* for hf: models; token may be NULL */
        unsigned threads;                /* fair share of the machine's, 0: leave the default */
        unsigned cache_ram_mib;          /* fair share, 0: leave the default */
};

struct command {
        char **argv, **env;
};

/* In the environment of each child, and of what it starts: whose it is (host/process.h, process_signal_strays). */
#define COMMAND_MARK "LSV_INSTANCE"

enum { COMMAND_THREADS_HTTP = 64, COMMAND_SSE_PING = 5 };

/* 0, -ENOMEM; -EINVAL for an empty model path (llama-server would become a router). */
int command_build(const struct config_instance *in, const struct command_facts *facts, struct command *ret);
void command_finish(struct command *c);

/* NAME of secrets whose values no door may show: *KEY*, *TOKEN*, *SECRET*, *PASSWORD*, *CREDENTIAL*. */
bool command_is_secret(const char *name);
/* The argument after this flag is a secret ("--api-key", "-hft" …). */
bool command_flag_hides(const char *flag);
/* One line to paste into a shell: env -i NAME=value … binary args, quoted, secrets as ***. */
int command_shell(const struct command *c, const char *cwd, struct buffer *out);

#endif
