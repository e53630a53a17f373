/* fake_answers.h: what the fake llama-server says about itself and about its work, in the shapes of the real one. Part of
 * fake_llama_server.c, which alone includes it. */
#ifndef FAKE_ANSWERS_H
#define FAKE_ANSWERS_H

#include "fake_conn.h"

/* --- what it says about itself --------------------------------------------------------------------------------- */

static const char *alias(void)
{
        static char name[256];

        if (!opt.alias)
                return opt.model ? opt.model : "llama-server";
        (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(opt.alias, ","), opt.alias);
        return name;
}

static int slots_busy(void)
{
        int i, n = 0;

        for (i = 0; i < n_slots; i++)
                n += slots[i].owner != NULL;
        return n;
}

static void add_meta(struct text *t)
{
        text_add(t,
                 "\"meta\":{\"vocab_type\":1,\"n_vocab\":%lu,\"n_ctx\":%d,\"n_ctx_train\":%lu,\"n_embd\":%lu,"
                 "\"n_params\":%lu,"
                 "\"size\":%lu,\"ftype\":\"F16\"}",
                 model.n_vocab, n_ctx_slot, model.n_ctx_train, model.n_embd, model.n_params, model.size);
}

static void answer_models(struct conn *c)
{
        struct text t = {0};
        const char *p = opt.alias ? opt.alias : alias();

        if (router) {
                answer(c, 200, "{\"data\":[],\"object\":\"list\"}");
                return;
        }
        text_add(&t,
                 "{\"models\":[{\"name\":\"%s\",\"model\":\"%s\",\"modified_at\":\"\",\"size\":\"\","
                 "\"digest\":\"\",\"type\":\"model\","
                 "\"description\":\"\",\"tags\":[\"\"],\"capabilities\":[\"completion\"%s],\"parameters\":"
                 "\"\","
                 "\"details\":{"
                 "\"parent_model\":\"\",\"format\":\"gguf\",\"family\":\"\",\"families\":[\"\"],\"parameter_"
                 "size\":\"\","
                 "\"quantization_level\":\"\"}}],\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"aliases\":[",
                 escaped(alias()), escaped(alias()), opt.mmproj ? ",\"multimodal\"" : "", escaped(alias()));
        while (*p) {
                size_t n = strcspn(p, ",");
                char one[256];

                (void)snprintf(one, sizeof(one), "%.*s", (int)n, p);
                text_add(&t, "\"%s\"%s", escaped(one), p[n] ? "," : "");
                p += n + (p[n] == ',');
        }
        text_add(&t,
                 "],\"tags\":[],\"object\":\"model\",\"architecture\":{\"input_modalities\":[\"text\"%s],"
                 "\"output_modalities\":[\"text\"]},"
                 "\"created\":%ld,\"owned_by\":\"llamacpp\",",
                 opt.mmproj ? ",\"image\"" : "", (long)time(NULL));
        add_meta(&t);
        text_add(&t, "}]}");
        answer(c, 200, t.s);
        free(t.s);
}

static void add_settings(struct text *t, bool whole, long max_tokens, bool ignore_eos, bool stream, bool chat)
{
        text_add(t,
                 "{" SETTINGS_HEAD "%s" SETTINGS_MID
                 "%s\"max_tokens\":%ld,\"n_predict\":%ld,\"n_keep\":0,\"n_discard\":0,"
                 "\"ignore_eos\":%s,\"stream\":%s,%s\"n_probs\":0,\"min_keep\":0,%s\"chat_format\":\"%s\","
                 "\"reasoning_format\":\"deepseek\",\"reasoning_in_content\":false,\"generation_prompt\":\"%"
                 "s\"," SETTINGS_TAIL "}",
                 whole ? SETTINGS_BREAKERS : "", whole ? "\"stop\":[]," : "", max_tokens, max_tokens,
                 ignore_eos ? "true" : "false", stream ? "true" : "false", whole ? "\"logit_bias\":[]," : "",
                 whole ? "\"grammar\":\"\",\"grammar_lazy\":false,\"grammar_triggers\":[],\"preserved_"
                         "tokens\":[],"
                       : "",
                 chat ? "peg-native" : "Content-only", chat ? "<|assistant|>" : "");
}

static void answer_props(struct conn *c)
{
        struct text t = {0};

        if (router) {
                answer(c, 200,
                       "{\"role\":\"router\",\"max_instances\":4,\"models_autoload\":true,\"model_alias\":"
                       "\"llama-server\","
                       "\"model_path\":\"none\",\"default_generation_settings\":{\"params\":null,\"n_ctx\":0}"
                       ",\"ui_settings\":{},"
                       "\"build_info\":\"" BUILD_INFO "\",\"cors_proxy_enabled\":false}");
                return;
        }
        text_add(&t, "{\"default_generation_settings\":{\"params\":");
        add_settings(&t, false, -1, false, false, false);
        text_add(&t,
                 ",\"n_ctx\":%d},\"total_slots\":%d,\"model_alias\":\"%s\",\"model_ftype\":\"F16\",\"model_"
                 "path\":\"%s\",\"modalities\":{"
                 "\"vision\":%s,\"video\":false,\"audio\":false},\"media_marker\":\"<__media_fake__>\","
                 "\"endpoint_slots\":%s,"
                 "\"endpoint_props\":%s,\"endpoint_metrics\":%s,\"ui\":true,\"ui_settings\":{},\"chat_"
                 "template\":\"%s\","
                 "\"chat_template_caps\":" CHAT_TEMPLATE_CAPS
                 ",\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"build_info\":\"" BUILD_INFO
                 "\",\"is_sleeping\":false,\"cors_proxy_enabled\":false}",
                 n_ctx_slot, n_slots, escaped(alias()), escaped(opt.model), opt.mmproj ? "true" : "false",
                 opt.no_slots ? "false" : "true", opt.props ? "true" : "false",
                 opt.metrics ? "true" : "false", CHAT_TEMPLATE);
        answer(c, 200, t.s);
        free(t.s);
}

static void answer_slots(struct conn *c, const char *query)
{
        struct text t = {0};
        int i;

        if (opt.no_slots) {
                answer_error(c, 501, "not_supported_error",
                             "This server does not support slots endpoint. Start it with `--slots`");
                return;
        }
        if (strstr(query, "fail_on_no_slot") && slots_busy() == n_slots) {
                answer(c, 503,
                       "{\"error\":{\"code\":503,\"message\":\"no slot "
                       "available\",\"type\":\"unavailable_error\"}}");
                return;
        }
        text_add(&t, "[");
        for (i = 0; i < n_slots; i++) {
                const struct slot *s = &slots[i];

                text_add(&t, "%s{\"id\":%d,\"n_ctx\":%d,\"speculative\":false,\"is_processing\":%s",
                         i ? "," : "", i, n_ctx_slot, s->owner ? "true" : "false");
                if (s->used) {
                        bool next = s->owner != NULL;

                        text_add(&t,
                                 ",\"id_task\":%ld,\"n_prompt_tokens\":%ld,\"n_prompt_tokens_processed\":%ld,"
                                 "\"n_prompt_tokens_cache\":0,"
                                 "\"params\":",
                                 s->id_task, s->n_prompt + s->n_decoded, next ? s->n_prompt : 0);
                        add_settings(&t, false, s->max_tokens, s->ignore_eos, s->stream, true);
                        text_add(&t,
                                 ",\"next_token\":[{\"has_next_token\":%s,\"has_new_line\":false,\"n_"
                                 "remain\":%ld,\"n_decoded\":%ld}]",
                                 next ? "true" : "false",
                                 next && s->max_tokens > 0 ? s->max_tokens - s->n_decoded : -1,
                                 next ? s->n_decoded : 0);
                }
                text_add(&t, "}");
        }
        text_add(&t, "]");
        answer(c, 200, t.s);
        free(t.s);
}

static void answer_metrics(struct conn *c)
{
        double values[ARRAY_SIZE(METRICS)] = {
                [0] = (double)total.prompt,    [1] = (double)total.cached,  [2] = total.prompt_s,
                [3] = (double)total.predicted, [4] = total.predicted_s,     [5] = (double)total.decodes,
                [6] = (double)max_seq,         [12] = (double)slots_busy(), [14] = (double)slots_busy(),
        };
        struct text t = {0};
        char started[64];
        struct conn *o;
        size_t i;

        if (!opt.metrics) {
                answer_error(c, 501, "not_supported_error",
                             "This server does not support metrics endpoint. Start it with `--metrics`");
                return;
        }
        for (o = conns; o; o = o->next)
                values[13] += o->job == JOB_QUEUED;
        for (i = 0; i < ARRAY_SIZE(METRICS); i++)
                text_add(&t, "# HELP llamacpp:%s %s\n# TYPE llamacpp:%s %s\nllamacpp:%s %.6g\n",
                         METRICS[i].name, METRICS[i].help, METRICS[i].name, METRICS[i].type, METRICS[i].name,
                         values[i]);
        (void)snprintf(started, sizeof(started), "Process-Start-Time-Unix: %u\r\n", (unsigned)started_at);
        answer_with(c, 200, started, "text/plain; version=0.0.4", t.s, t.len, false, t.len);
        free(t.s);
}

/* --- work ------------------------------------------------------------------------------------------------------ */

static bool wedged(int64_t now)
{
        return fault.wedge_after != OFF && now >= since + fault.wedge_after;
}

static void burn(int64_t usec)
{
        int64_t until = now_usec() + usec;

        while (now_usec() < until)
                ;
}

static volatile int64_t works_until;

static void *work(void *arg)
{
        const struct timespec rest = {.tv_nsec = 38000000};

        (void)arg;
        for (;;) {
                if (now_usec() < works_until)
                        burn(2000);
                (void)nanosleep(&rest, NULL);
        }
        return NULL;
}

/* A prompt begins. */
static void work_for(int64_t usec)
{
        static bool has_thread;
        pthread_t thread;

        works_until = now_usec() + usec;
        if (!has_thread && pthread_create(&thread, NULL, work, NULL) == 0)
                has_thread = true;
}

static const char *word(long i)
{
        return WORDS[(unsigned long)i % ARRAY_SIZE(WORDS)];
}

static void add_timings(struct text *t, const struct conn *c)
{
        double prompt = (double)(c->decode_from - c->started) / 1000 + 0.001;
        double eval = (double)(now_usec() - c->decode_from) / 1000 + 0.001;
        long fresh = c->n_prompt - c->cached;

        text_add(t,
                 "\"timings\":{\"cache_n\":%ld,\"prompt_n\":%ld,\"prompt_ms\":%.3f,\"prompt_per_token_ms\":%."
                 "6f,"
                 "\"prompt_per_second\":%.6f,\"predicted_n\":%ld,\"predicted_ms\":%.3f,\"predicted_per_token_"
                 "ms\":%.6f,"
                 "\"predicted_per_second\":%.6f}",
                 c->cached, fresh, prompt, prompt / (double)fresh, (double)fresh * 1000 / prompt, c->done,
                 eval, eval / (double)MAX(c->done, 1), (double)c->done * 1000 / eval);
}

static void add_usage(struct text *t, const struct conn *c)
{
        text_add(t,
                 "\"usage\":{\"completion_tokens\":%ld,\"prompt_tokens\":%ld,\"total_tokens\":%ld,"
                 "\"prompt_tokens_details\":{\"cached_tokens\":%ld}}",
                 c->done, c->n_prompt, c->n_prompt + c->done, c->cached);
}

/* One SSE event of a chat stream. */
static void chat_event(struct text *t, const struct conn *c, const char *finish, const char *delta,
                       bool timings, bool progress)
{
        text_add(t, "data: {\"choices\":[");
        if (delta)
                text_add(t, "{\"finish_reason\":%s,\"index\":0,\"delta\":{%s}}", finish, delta);
        text_add(t,
                 "],\"created\":%ld,\"id\":\"chatcmpl-%s\",\"model\":\"%s\",\"system_fingerprint\":"
                 "\"" BUILD_INFO "\",\"object\":\"chat.completion.chunk\"",
                 (long)time(NULL), c->name, escaped(alias()));
        if (!delta) {
                text_add(t, ",");
                add_usage(t, c);
        }
        if (timings) {
                text_add(t, ",");
                add_timings(t, c);
        }
        if (progress)
                text_add(t,
                         ",\"prompt_progress\":{\"total\":%ld,\"cache\":%ld,\"processed\":%ld,\"time_ms\":%"
                         "ld}",
                         c->n_prompt, c->cached, c->n_prompt, (long)((c->decode_from - c->started) / 1000));
        text_add(t, "}\n\n");
}

static void completions_event(struct text *t, const struct conn *c, const char *text, const char *finish,
                              bool last)
{
        text_add(t,
                 "{\"choices\":[{\"text\":\"%s\",\"index\":0,\"logprobs\":null,\"finish_reason\":%s}],"
                 "\"created\":%ld,\"model\":\"%s\","
                 "\"system_fingerprint\":\"" BUILD_INFO "\",\"object\":\"text_completion\",",
                 text, finish, (long)time(NULL), escaped(alias()));
        if (last) {
                add_usage(t, c);
                text_add(t, ",");
        }
        text_add(t, "\"id\":\"chatcmpl-%s\"", c->name);
        if (last) {
                text_add(t, ",");
                add_timings(t, c);
        }
        text_add(t, "}");
}

static void native_last(struct text *t, const struct conn *c, const char *text, bool stop)
{
        text_add(
                t,
                "{\"index\":0,\"content\":\"%s\",\"tokens\":[],\"id_slot\":%d,\"stop\":true,\"model\":\"%s\","
                "\"tokens_predicted\":%ld,\"tokens_evaluated\":%ld,\"generation_settings\":",
                text, c->slot, escaped(alias()), c->done, c->n_prompt);
        add_settings(t, true, c->wanted, c->ignore_eos, c->stream, false);
        text_add(t,
                 ",\"prompt\":\"<s>\",\"has_new_line\":false,\"truncated\":false,\"stop_type\":\"%s\","
                 "\"stopping_word\":\"\","
                 "\"tokens_cached\":%ld,",
                 stop ? "eos" : "limit", c->n_prompt + c->done - 1);
        add_timings(t, c);
        text_add(t, "}");
}

/* The token just made goes out as its kind of stream wants it. */
static void stream_token(struct conn *c, const char *w)
{
        struct text t = {0};
        char delta[64];

        stream_head(c);
        if (c->kind == CHAT) {
                if (c->done == 1) {
                        if (c->progress)
                                chat_event(&t, c, "null", "\"role\":\"assistant\",\"content\":null", true,
                                           true);
                        chat_event(&t, c, "null", "\"role\":\"assistant\",\"content\":null", false, false);
                }
                (void)snprintf(delta, sizeof(delta), "\"content\":\"%s\"", w);
                chat_event(&t, c, "null", delta, c->per_token, false);
        } else if (c->kind == COMPLETIONS) {
                text_add(&t, "data: ");
                completions_event(&t, c, w, "null", false);
                text_add(&t, "\n\n");
        } else if (c->kind == NATIVE) {
                text_add(&t,
                         "data: "
                         "{\"index\":0,\"content\":\"%s\",\"tokens\":[%ld],\"stop\":false,\"id_slot\":-1,"
                         "\"tokens_predicted\":%ld,"
                         "\"tokens_evaluated\":%ld}\n\n",
                         w, 365 + c->done, c->done, c->n_prompt);
        } else {
                if (c->done == 1)
                        text_add(&t,
                                 "event: message_start\ndata: "
                                 "{\"type\":\"message_start\",\"message\":{\"id\":\"chatcmpl-%s\",\"type\":"
                                 "\"message\","
                                 "\"role\":\"assistant\",\"content\":[],\"model\":\"%s\",\"stop_reason\":"
                                 "null,\"stop_sequence\":null,\"usage\":{"
                                 "\"cache_read_input_tokens\":%ld,\"input_tokens\":%ld,\"output_tokens\":0}}}"
                                 "\n\n"
                                 "event: content_block_start\ndata: "
                                 "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{"
                                 "\"type\":\"text\",\"text\":\"\"}}\n\n",
                                 c->name, escaped(alias()), c->cached, c->n_prompt - c->cached);
                text_add(&t,
                         "event: content_block_delta\ndata: "
                         "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\","
                         "\"text\":\"%s\"}}\n\n",
                         w);
        }
        chunk(c, t.s, t.len);
        free(t.s);
}

static void stream_end(struct conn *c, bool stop)
{
        struct text t = {0};
        const char *finish = stop ? "\"stop\"" : "\"length\"";
        bool done_mark = c->kind == CHAT || c->kind == COMPLETIONS;

        stream_head(c);
        if (c->kind == CHAT) {
                chat_event(&t, c, finish, "", !c->usage, false);
                if (c->usage)
                        chat_event(&t, c, NULL, NULL, true, false);
        } else if (c->kind == COMPLETIONS) {
                text_add(&t, "data: ");
                completions_event(&t, c, "", finish, true);
                text_add(&t, "\n\n");
        } else if (c->kind == NATIVE) {
                text_add(&t, "data: ");
                native_last(&t, c, "", stop);
                text_add(&t, "\n\n");
        } else {
                text_add(&t,
                         "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
                         "event: message_delta\ndata: "
                         "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"%s\",\"stop_sequence\":"
                         "null},"
                         "\"usage\":{\"output_tokens\":%ld}}\n\nevent: message_stop\ndata: "
                         "{\"type\":\"message_stop\"}\n\n",
                         stop ? "end_turn" : "max_tokens", c->done);
        }
        chunk(c, t.s, t.len);
        free(t.s);
        if (done_mark)
                chunk(c, "data: [DONE]\n\n", 14);
        conn_put(c, "0\r\n\r\n", 5);
        c->close_after = true; /* the real one closes after a stream, whatever its Keep-Alive field says */
}

static void whole_answer(struct conn *c, bool stop)
{
        struct text t = {0};
        const char *text = c->text ? c->text : "";

        if (c->kind == CHAT) {
                text_add(&t,
                         "{\"choices\":[{\"finish_reason\":\"%s\",\"index\":0,\"message\":{\"role\":"
                         "\"assistant\",\"content\":\"%s\"}}],"
                         "\"created\":%ld,\"model\":\"%s\",\"system_fingerprint\":\"" BUILD_INFO
                         "\",\"object\":\"chat.completion\",",
                         stop ? "stop" : "length", text, (long)time(NULL), escaped(alias()));
                add_usage(&t, c);
                text_add(&t, ",\"id\":\"chatcmpl-%s\",", c->name);
                add_timings(&t, c);
                text_add(&t, "}");
        } else if (c->kind == COMPLETIONS) {
                completions_event(&t, c, text, stop ? "\"stop\"" : "\"length\"", true);
        } else if (c->kind == NATIVE) {
                native_last(&t, c, text, stop);
        } else {
                text_add(&t,
                         "{\"id\":\"chatcmpl-%s\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[{"
                         "\"type\":\"text\",\"text\":\"%s\"}],"
                         "\"model\":\"%s\",\"stop_reason\":\"%s\",\"stop_sequence\":null,\"usage\":{\"cache_"
                         "read_input_tokens\":%ld,"
                         "\"input_tokens\":%ld,\"output_tokens\":%ld}}",
                         c->name, text, escaped(alias()), stop ? "end_turn" : "max_tokens", c->cached,
                         c->n_prompt - c->cached, c->done);
        }
        answer(c, 200, t.s);
        free(t.s);
}

#endif
