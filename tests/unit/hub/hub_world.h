/* hub_world.h: the hubs over a real fleet of fake llama-servers, with a scripted hub. */
#ifndef LSV_TESTS_HUB_WORLD_H
#define LSV_TESTS_HUB_WORLD_H

#include "hub/folder_lock.h"
#include "scripted.h"

struct scene {
        struct world *world;
        struct script script;
        struct hubs *hubs;
        bool drained;
};

#define ONE_MODEL                                                                                            \
        "{\"name\": \"q\", \"model\": \"m.gguf\", \"args\": [\"-np\", \"2\", \"-c\", \"16384\"], "           \
        "\"aliases\": [\"gpt\"]}"

static inline void open_hubs(struct scene *s, bool again)
{
        struct connector_spec spec = {.name = "lab", .driver = &s->script.driver, .url = "tls://hub:4222"};

        assert_int_equal(hubs_new(s->world->loop, s->world->fleet, &s->hubs), 0);
        assert_int_equal(hubs_add(s->hubs, &spec), 0);
        hubs_start(s->hubs, again);
}

/* Turns the loop until `what` is true. */
#define WAIT(s, what)                                                                                        \
        do {                                                                                                 \
                (s)->world->until = time_monotonic() + PATIENCE;                                             \
                while (!(what))                                                                              \
                        if (!turn((s)->world))                                                               \
                                fail_msg("never: %s", #what);                                                \
        } while (0)

/* A model with one fact in its header: how long a context it was made for. */
static inline void write_model(const struct world *w)
{
        static const char header[] = "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"
                                     "\24\0\0\0\0\0\0\0llama.context_length\4\0\0\0\0\0\1\0";
        _cleanup_free_ char *path = text_format("%s/m.gguf", w->dir);
        FILE *f = fopen(path, "w");

        assert_non_null(f);
        assert_int_equal(fwrite(header, 1, sizeof(header) - 1, f), sizeof(header) - 1);
        (void)fclose(f);
}

static inline void begin(struct scene *s, struct world *w, const char *instances)
{
        *s = (struct scene){.world = w};
        write_model(w);
        script_init(&s->script, w);
        if (!w->more)
                w->more = "\"spool\": {\"enabled\": false}, ";
        write_config(w, instances);
        open_fleet(w);
        open_hubs(s, false);
}

/* Every one of these tests has two slots. */
static inline void begin_ready(struct scene *s, struct world *w, const char *instances)
{
        begin(s, w, instances);
        wait_status(w, "q", "ready");
        WAIT(s, s->script.slots_of_first == 2); /* as its server tells */
}

static inline bool journal_is_free(const struct scene *s)
{
        _cleanup_free_ char *dir = text_format("%s/state/hubs/lab", s->world->dir);
        pid_t holder;
        int fd = -1, r = folder_lock_take(dir, -1, &fd, &holder);

        close_fd(&fd);
        return r != -EBUSY;
}

/* As a kill -9 would: nothing is told to anybody; but the last write is waited for, since a process that is gone writes nothing. */
static inline void drop_hubs(struct scene *s)
{
        s->hubs = hubs_free(s->hubs);
        WAIT(s, journal_is_free(s));
}

static inline void finish(struct scene *s)
{
        drop_hubs(s);
        buffer_finish(&s->script.told);
        close_fleet(s->world);
}

static inline unsigned count_records(const struct scene *s, const char *suffix)
{
        _cleanup_free_ char *dir = text_format("%s/state/hubs/lab/claims", s->world->dir);
        char **names = NULL;
        unsigned n = 0;

        if (file_list(dir, suffix, 1000, &names) == 0)
                n = (unsigned)text_list_count(names);
        (void)text_list_free(names);
        return n;
}

/* Some turns in which nothing is expected. */
static inline void rest(struct scene *s)
{
        s->world->until = time_monotonic() + PATIENCE;
        for (unsigned i = 0; i < 20; i++)
                (void)turn(s->world);
}

static inline struct connector *lab(const struct scene *s)
{
        return s->hubs->list[s->hubs->n - 1];
}

/* The last order, once there are n. */
static inline struct script_order *wait_orders(struct scene *s, unsigned n)
{
        WAIT(s, s->script.n_orders >= n);
        assert_int_equal(s->script.n_orders, n);
        return s->script.orders + n - 1;
}

/* Every job is gone and the journal is empty. */
static inline void wait_quiet(struct scene *s)
{
        WAIT(s, lab(s)->n_jobs == 0 && claims_is_quiet(lab(s)->claims));
        assert_int_equal(count_records(s, ""), 0);
        assert_int_equal(lab(s)->working, 0);
        assert_int_equal(lab(s)->outbox, 0);
        assert_int_equal(lab(s)->outbox_bytes, 0);
}

#endif
