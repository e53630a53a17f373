/* learn.c: what a llama-server says about itself: /v1/models, /props, /slots (captured answers: facts/llama-server §4). */
#include <errno.h>
#include <stdlib.h>

#include "base/macros.h"
#include "base/text.h"
#include "fleet/private.h"
#include "fleet/seat.h"

static const usec_t METRICS_PATIENCE = 10 * USEC_PER_SEC;

void member_forget_learned(struct member *m)
{
        free(m->metrics);
        m->metrics = NULL;
        m->metrics_len = 0;
        for (size_t i = 0; i < m->n_models; i++) {
                free(m->models[i].id);
                free(m->models[i].name);
                free(m->models[i].type);
        }
        m->n_models = 0;
        m->slots = m->busy = m->context = 0;
        m->tokens_per_second = 0;
        m->slots_at = 0;
        free(m->build);
        m->build = NULL;
}

/* "completion" or "embedding" …: the first capability the server names, else "model". */
static const char *model_type(const struct json_value *root, size_t i)
{
        const struct json_value *caps = json_get(json_at(json_get(root, "models"), i), "capabilities");
        const char *cap = json_as_string(json_at(caps, 0));

        return cap && *cap ? cap : "model";
}

/* 0 while it is not known: the look goes on in the pool. */
static int64_t modified_at(const struct member *m)
{
        const struct modelfile *file = NULL;

        if (m->entry->model_kind == CONFIG_MODEL_FILE && m->entry->model_path)
                file = modelfiles_look(m->fleet->modelfiles, m->entry->model_path, USEC_INFINITY);
        return file ? file->mtime : 0;
}

void member_learn_file(struct member *m)
{
        int64_t at = modified_at(m);

        for (size_t i = 0; i < m->n_models; i++) {
                if (m->models[i].modified_at != at)
                        member_changed(m);
                m->models[i].modified_at = at;
        }
        if (m->changed)
                member_touch(m);
}

static void learn_models(struct member *m, const struct json_value *root)
{
        const struct json_value *data = json_get(root, "data");
        int64_t modified = modified_at(m);
        size_t n = MIN(json_count(data), (size_t)MEMBER_MODELS_MAX);

        for (size_t i = 0; i < m->n_models; i++) {
                free(m->models[i].id);
                free(m->models[i].name);
                free(m->models[i].type);
        }
        m->n_models = 0;
        for (size_t i = 0; i < n; i++) {
                const struct json_value *d = json_at(data, i), *meta = json_get(d, "meta");
                const char *id = json_get_string(d, "id"),
                           *name = json_get_string(json_at(json_get(root, "models"), i), "name");
                struct report_model *r = &m->models[m->n_models];

                if (!id)
                        continue;
                *r = (struct report_model){.id = text_dup(id),
                                           .name = text_dup(name && *name ? name : id),
                                           .type = text_dup(model_type(root, i)),
                                           .size = (uint64_t)MAX(json_get_int(meta, "size", 0), 0),
                                           .modified_at = modified};
                if (!r->id || !r->name || !r->type) {
                        free(r->id);
                        free(r->name);
                        free(r->type);
                        break;
                }
                m->n_models++;
        }
        member_changed(m);
}

/* {"vision":true,"video":false,"audio":false}; servers of before mid-2025 tell nothing. */
static void learn_modalities(struct member *m, const struct json_value *told)
{
        m->has_modalities = json_is_object(told);
        m->modalities = (json_get_bool(told, "vision", false) ? REPORT_VISION : 0U) |
                        (json_get_bool(told, "audio", false) ? REPORT_AUDIO : 0U) |
                        (json_get_bool(told, "video", false) ? REPORT_VIDEO : 0U);
}

static void learn_props(struct member *m, const struct json_value *root)
{
        m->slots = (unsigned)MAX(json_get_int(root, "total_slots", m->slots), 0);
        m->context = (unsigned)MAX(
                json_get_int(json_get(root, "default_generation_settings"), "n_ctx", m->context), 0);
        learn_modalities(m, json_get(root, "modalities"));
        (void)text_set(&m->build, json_get_string(root, "build_info"));
        seat_changed(m->seat);
        member_changed(m);
}

/* Room for what is seen of n slots; fewer when there is no memory. */
static size_t see_slots(struct member *m, size_t n)
{
        struct member_slot *more;

        if (n <= m->n_seen)
                return n;
        more = reallocarray(m->seen, n, sizeof(*more));
        if (!more)
                return m->n_seen;
        memset(more + m->n_seen, 0, (n - m->n_seen) * sizeof(*more));
        m->seen = more;
        m->n_seen = n;
        return n;
}

/* Tokens a second: what each running task decoded since the last look. */
static void learn_slots(struct member *m, const struct json_value *root, usec_t now)
{
        size_t n = see_slots(m, MIN(json_count(root), (size_t)MEMBER_SLOTS_MAX));
        unsigned busy = 0, past_prompt = 0;
        uint64_t tokens = 0, done = 0;
        usec_t span = m->slots_at ? usec_sub(now, m->slots_at) : 0;
        bool worked = m->busy > 0;
        double speed;

        for (size_t i = 0; i < n; i++) {
                const struct json_value *s = json_at(root, i), *next = json_get(s, "next_token");
                int64_t task = json_get_int(s, "id_task", -1);
                struct member_slot *seen = m->seen + i;
                uint64_t decoded;

                if (json_is_array(next))
                        next = json_at(next, 0);
                decoded = (uint64_t)MAX(json_get_int(next, "n_decoded", 0), 0);
                if (json_get_bool(s, "is_processing", false)) {
                        busy++;
                        past_prompt += decoded > 0;
                        done += decoded + (uint64_t)MAX(json_get_int(s, "n_prompt_tokens_processed", 0), 0) +
                                (uint64_t)MAX(task, 0);
                }
                if (task == seen->task)
                        tokens += decoded > seen->decoded ? decoded - seen->decoded : 0;
                else if (m->slots_at)
                        tokens += decoded;
                worked = worked || (m->slots_at && task != seen->task);
                *seen = (struct member_slot){.task = task, .decoded = decoded};
        }
        speed = span ? (double)tokens * USEC_PER_SEC / (double)span : 0;
        if (busy != m->busy || speed != m->tokens_per_second || n != m->slots)
                member_figures_changed(m);
        /* Whatever of it moves is progress; what the figures mean is not asked. */
        m->slot_progress += done != m->slots_done;
        m->slots_done = done;
        m->all_decode = busy > 0 && past_prompt == busy;
        m->says_idle = busy == 0;
        m->busy = busy;
        m->tokens_per_second = speed;
        if (n)
                m->slots = (unsigned)n;
        m->slots_at = now;
        seat_looked(m->seat, busy);
        seat_changed(m->seat);
        /* A slot is free before the last of its answer has left the server's HTTP thread: work that was seen a moment ago is given
         * until the next look (settle_drain asks again). */
        if (busy == 0 && !worked)
                m->facts.drained = true;
}

/* Kept as it is until somebody reads it: http/children. */
static void learn_metrics(struct member *m, int status, const char *body, size_t len, usec_t now)
{
        free(m->metrics);
        m->metrics = status == 200 && len > 0 && len <= FLEET_METRICS_MAX ? malloc(len) : NULL;
        m->metrics_len = m->metrics ? len : 0;
        if (m->metrics)
                memcpy(m->metrics, body, len);
        m->metrics_at = now;
}

/* What hung up meanwhile never answers. */
static bool is_asked(const struct member *m, usec_t now)
{
        return m->probe && m->in.state == INSTANCE_READY && m->metrics_asked > m->metrics_at &&
               usec_sub(now, m->metrics_asked) < METRICS_PATIENCE;
}

/* Asked on the way of the probes: no lease is taken, and a model that sleeps goes on sleeping (facts of llama-server: /metrics is no task
 * that wakes it). */
size_t fleet_ask_metrics(struct fleet *f, usec_t since)
{
        usec_t now = loop_now(f->loop);
        size_t open = 0, missing = 0;

        for (size_t i = 0; i < f->n_members; i++)
                open += is_asked(f->members[i], now);
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (!m->probe || m->in.state != INSTANCE_READY || m->metrics_at >= since)
                        continue;
                missing++;
                if (m->metrics_asked < since && open < FLEET_METRICS_AT_ONCE &&
                    probe_fetch(m->probe, "/metrics") == 0) {
                        m->metrics_asked = now;
                        open++;
                }
        }
        return missing;
}

int fleet_metrics_of(const struct fleet *f, const char *instance, usec_t since, struct slice *ret)
{
        const struct member *m = fleet_member(f, instance);

        if (!m)
                return -ENOENT;
        if (m->in.state != INSTANCE_READY)
                return -ENOTCONN;
        if (m->metrics_at < since || !m->metrics)
                return -ENODATA;
        *ret = (struct slice){m->metrics, m->metrics_len};
        return 0;
}

void member_learn(struct member *m, const char *target, int status, const char *body, size_t len, usec_t now)
{
        struct json_value *root = NULL;
        bool slots = streq(target, "/slots");

        if (streq(target, PROBE_CANARY)) {
                m->canary = status == 200 ? CANARY_ALIVE : status == 0 ? CANARY_SILENT : CANARY_REFUSED;
                return;
        }
        if (streq(target, "/metrics")) {
                learn_metrics(m, status, body, len, now);
                return;
        }

        if (status != 0 && streq(target, "/v1/models"))
                m->facts.met = true;
        if (status != 200 || json_parse(body, len, &root, NULL) < 0) {
                /* A server that does not tell (--no-slots) cannot be asked whether it is busy; one that does not
                 * answer may be deep in a prompt: it is asked again until the drain's deadline. */
                if (slots && status != 0)
                        m->facts.drained = true;
                member_touch(m);
                return;
        }
        if (streq(target, "/v1/models"))
                learn_models(m, root);
        else if (streq(target, "/props"))
                learn_props(m, root);
        else if (slots)
                learn_slots(m, root, now);
        json_free(root);
        member_touch(m);
}
