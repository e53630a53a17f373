/* assemble_private.h: what assemble.c (events, OpenAI's older forms, /completion) and assemble_typed.c (events that say their type) share. */
#ifndef LSV_CORE_ASSEMBLE_PRIVATE_H
#define LSV_CORE_ASSEMBLE_PRIVATE_H

#include "base/json.h"
#include "core/assemble.h"

/* One call of a tool, which comes in pieces: the name first, then its arguments. */
struct call {
        char *id, *type, *name;
        struct buffer arguments;
};

struct choice {
        int64_t index;
        bool has_content, has_reasoning, has_logprobs;
        struct buffer content, reasoning; /* content: also `text`, and that of /completion */
        struct buffer logprobs;           /* elements with commas between */
        struct buffer tokens;             /* of /completion, likewise */
        char *role, *finish;              /* finish: JSON; of /completion: the last event whole */
        struct call *calls;
        size_t n_calls;
};

/* A piece of an Anthropic message's content. */
struct block {
        int64_t index;
        char *start; /* JSON, as it began */
        struct buffer text, thinking, signature, input;
};

struct assemble {
        enum assemble_form form;
        enum assemble_tell tell;
        size_t max, kept; /* kept: of all choices together */
        int error;        /* sticks */
        bool ended, keeps_tokens;
        struct buffer line;  /* the one under way */
        struct buffer data;  /* of the event under way */
        struct buffer event; /* as it came, where events are told */
        bool has_data, after_cr, is_error;
        struct choice *choices;
        size_t n_choices;
        char *id, *model, *fingerprint;
        char *created, *usage, *timings; /* JSON */
        char *refusal;                   /* an error that was told, JSON */
        int refusal_status;
        uint64_t prompt_tokens, tokens;

        /* Of /v1/messages and /v1/responses. */
        struct block *blocks;
        size_t n_blocks;
        char *head, *end; /* JSON: the message as it began and how it ended; head: the response as it ended */
        struct buffer text;
};

/* --- assemble.c: 0, -EFBIG over the bound of all that is kept, -ENOMEM */
int assemble_keep(struct assemble *a, struct buffer *b, const char *s);
/* The value as JSON text in place of the one before; nothing for null and absence. */
int assemble_keep_value(struct assemble *a, char **at, const struct json_value *v);
int assemble_add_error(struct assemble *a, const struct json_value *v);

/* --- assemble_typed.c */
int typed_add(struct assemble *a, const struct json_value *v, struct buffer *told);
bool typed_is_whole(const struct assemble *a);
int typed_put(struct json_writer *w, const struct assemble *a);
/* The text of a whole answer, appended, and its numbers; false: it is none of these forms. */
bool typed_read(const struct json_value *v, struct buffer *text, uint64_t *prompt, uint64_t *tokens);
void typed_finish(struct assemble *a);

#endif
