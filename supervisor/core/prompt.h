/* prompt.h: a job file of the spool, and the request that it becomes. Pure: texts that lie in files or come from commands are asked for.
 *
 *   {"prompt": "…" or {"system": PART, "prepend": [PART…], "base": PART, "append": [PART…], "separator": "\n"},
 *    "configuration": {"model": "qwen", "seed": 7, "temperature": 0.2, … any parameter of the request},
 *    "path": "/v1/chat/completions", "timeout": "5m"}
 *
 * PART is a string, {"text": "…"}, {"file": "texts/intro.txt"} or {"command": "NAME"}; the parts that are not empty are joined by the
 * separator: prepended ones, base, appended ones. A file's or command's last newline is not part of it. On /v1/chat/completions (the default) the
 * prompt becomes the user's message (and "system" the system's), on /v1/completions and /completion the "prompt", on
 * /v1/embeddings the "input".
 *
 * Else the file is a request body as OpenAI's API takes it: with "messages" (/v1/chat/completions), "input" (/v1/embeddings), or
 * "prompt" beside members that are none of the above (/v1/completions). "stream" and "stream_options" are left out of any: the
 * answer is stored whole, and what has come of it lies in partial/. Everything that is not understood is an error, with words for whoever wrote the job. */
#ifndef LSV_CORE_PROMPT_H
#define LSV_CORE_PROMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/time.h"

enum {
        PROMPT_JOB_MAX = 8 << 20,  /* bytes of a job file, and of the request */
        PROMPT_PART_MAX = 4 << 20, /* of one file or one command's output */
        PROMPT_PARTS_MAX = 64,
        PROMPT_WORDS_SIZE = 512,
};

struct prompt; /* a parsed job */

/* 0; -EBADMSG with words (PROMPT_WORDS_SIZE bytes, harmless) that end "The job …"; -ENOMEM. */
int prompt_read(const char *text, size_t len, struct prompt **ret, char *words);
struct prompt *prompt_free(struct prompt *p); /* always NULL */

const char *prompt_model(const struct prompt *p); /* as the job names it, "" when it names none */
const char *prompt_path(const struct prompt *p);
usec_t prompt_timeout(const struct prompt *p);      /* 0: it says none */
bool prompt_asks_for_parts(const struct prompt *p); /* prompt_build will call a source */

struct prompt_source {
        /* Appends the text, at most PROMPT_PART_MAX bytes; 0, or -errno with words that end "FILE …" or "the command NAME …". */
        int (*file)(void *owner, const char *path, struct buffer *out, char *words);
        int (*command)(void *owner, const char *name, struct buffer *out, char *words);
        void *owner;
};
/* The request's body into *out (which was initialised by the caller). 0; -EBADMSG with words: what is wrong will not be better
 * by itself; -EAGAIN with words: it may be another time (a command failed); -ENOMEM. */
int prompt_build(const struct prompt *p, const struct prompt_source *source, struct buffer *out, char *words);

#endif
