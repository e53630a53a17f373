/* usage.h: what an answer of llama-server tells about itself while it passes by: its first token, its numbers of tokens, its pace.
 *
 * The answer is not parsed. Of a stream the lines until the first token are looked at, and then nothing but where comment lines
 * begin; of every answer the first and the last USAGE_KEPT bytes are kept, and the numbers are read out of them at its end:
 *
 *     "usage"    prompt_tokens, completion_tokens (OpenAI); input_tokens, output_tokens (responses, messages), to which
 *                cache_read_input_tokens of messages is added, since there the cached ones are not in input_tokens
 *     "timings"  cache_n + prompt_n, predicted_n, predicted_per_second (llama-server's own); used where usage tells nothing
 *
 * They stand in the last events of a stream and near the end of a whole answer; of embeddings and rerankings, and the input of a
 * stream of messages, near its beginning. A key is one only where an unescaped quote follows '{', ',' or white space, so that no
 * text of an answer can pass for it. The last one told wins; what is not told, or was cut off, is unknown.
 *
 * The first token of a stream is the end of the first line that is neither a comment (": ping") nor one of the known empty ones
 * (the role alone, progress of the prompt, a message or an item that begins); of anything else it is the first byte.
 * A sign of life is every byte of the payload but those of comment lines: llama-server's pings come from its HTTP thread, also
 * when its inference stands still.
 * Source: captured answers of llama-server b11669. Pure. */
#ifndef LSV_CORE_USAGE_H
#define LSV_CORE_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { USAGE_KEPT = 2048 };

struct usage {
        bool stream;   /* text/event-stream */
        bool token;    /* the first token came */
        bool in_line;  /* bytes of the current line were seen */
        bool comment;  /* which is a comment */
        bool whole;    /* the tail holds all that came */
        size_t n_head; /* a stream: the line begun, until the first token; else the first bytes */
        size_t n_tail;
        int64_t early_in, early_out; /* of the lines before the first token, -1: not told */
        char head[USAGE_KEPT + 1], tail[2 * USAGE_KEPT + 1];
};

void usage_init(struct usage *u, bool stream);
/* The next bytes of the payload, cut anywhere. Returns how many of them are signs of life. */
size_t usage_feed(struct usage *u, const char *data, size_t len);

struct usage_figures {
        int64_t tokens_in, tokens_out; /* -1 unknown */
        double tokens_per_second;      /* 0 unknown */
};
void usage_end(struct usage *u,
               struct usage_figures *ret); /* changes nothing that matters: may be called at any time */

#endif
