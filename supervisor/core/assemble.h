/* assemble.h: an answer that llama-server streams, put together again: the text as it grows, and at the end the whole answer as it would have
 * been without a stream. Pure.
 *
 * These forms are known: chat completions and completions (OpenAI; events with "choices", "[DONE]" at the end), llama-server's own
 * /completion (events with "content", the last one has "stop": true), Anthropic's messages (events with a "type", "message_stop" at the end),
 * and OpenAI's responses ("response.completed" is the end, and has it all). Lines are read as in the HTML standard's event streams:
 * LF or CRLF, comments (":", the pings) are no part of anything, several data lines are one event.
 *
 * The whole answer: of each choice content, reasoning_content, text and the arguments of tool calls in one piece, logprobs in one list, the
 * last finish_reason; id, model, created, system_fingerprint, usage and timings as told. usage is made of the timings where the
 * stream had none (it has it only on request). Of a message its blocks: text, thinking with its signature, the input of tools. Of /completion it is the last event with the whole content, tokens and probabilities.
 * An event that is no JSON object ends it: who sends half an answer must not be taken for one that ended.
 *
 * Bounds: the texts that are kept are at most max bytes together, and so is each event; 64 choices, 128 calls of tools, 256 blocks.
 * Source: captured answers of llama-server b11669 (facts/llama-server §4). */
#ifndef LSV_CORE_ASSEMBLE_H
#define LSV_CORE_ASSEMBLE_H

#include "base/buffer.h"

enum assemble_form {
        ASSEMBLE_CHAT,       /* /v1/chat/completions */
        ASSEMBLE_COMPLETION, /* /v1/completions */
        ASSEMBLE_NATIVE,     /* /completion, /infill */
        ASSEMBLE_MESSAGES,   /* /v1/messages */
        ASSEMBLE_RESPONSES,  /* /v1/responses */
};
/* That of a path's streams; false: it has none. */
bool assemble_form_of(const char *path, enum assemble_form *ret);

/* What is told while it grows. */
enum assemble_tell {
        ASSEMBLE_TELL_NOTHING,
        ASSEMBLE_TELL_TEXT,   /* the content of the first choice: whole UTF-8 characters */
        ASSEMBLE_TELL_EVENTS, /* whole events as they came, without comments, lines ended by LF */
};

enum { ASSEMBLE_CHOICES_MAX = 64, ASSEMBLE_CALLS_MAX = 128, ASSEMBLE_BLOCKS_MAX = 256 };

struct assemble;
int assemble_new(enum assemble_form form, enum assemble_tell tell, size_t max, struct assemble **ret);
struct assemble *assemble_free(struct assemble *a); /* always NULL */
/* Of /completion the numbers of the tokens, too: a stream has them always, a whole answer when it was asked for them ("return_tokens"). */
void assemble_keep_tokens(struct assemble *a);

/* The next bytes, cut anywhere; what is to be told is appended to `told`, never more than came. 0; -EBADMSG (an event that is none),
 * -EFBIG (over max), -ENOMEM: then and after it stays so. */
int assemble_feed(struct assemble *a, const char *data, size_t len, struct buffer *told);

/* The stream has come to the end that its form has. */
bool assemble_is_whole(const struct assemble *a);

struct assemble_answer {
        const char *text; /* of the first choice; "" where it has none; the assembly's */
        size_t text_len;
        uint64_t prompt_tokens, tokens; /* 0 unknown */
        int error_status; /* the server told an error in its stream: its HTTP status (500 when it tells none), else 0 */
        const char *error; /* that error as JSON, {"error":{…}} */
};
/* The whole answer, appended to `body`. 0; -ENODATA: the stream ended before its end; -EREMOTEIO: an error was told, see ret;
 * what assemble_feed said; -ENOMEM, -ENOBUFS. ret is filled in as far as known in every case. */
int assemble_end(struct assemble *a, struct buffer *body, struct assemble_answer *ret);

/* The same of an answer that was not streamed: its text (appended to `text`, without bound of its own) and numbers. */
void assemble_read(const char *body, size_t len, struct buffer *text, struct assemble_answer *ret);

#endif
