/* main_plan.c: the plan of a configuration, on the GPUs as they are now, without a daemon: it reads files, and asks the
 * driver and, on GPUs of two vendors, the programs itself, so it is no verb of the client. */
#include "main_plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/json.h"
#include "base/text.h"
#include "cli/plan.h"
#include "cli/where.h"
#include "core/config.h"
#include "fleet/place_private.h"
#include "host/gpu_nvml.h"
#include "host/process.h"
#include "host/record.h"

enum { STORE_MAX = 64 * 1024 };

struct plan_run {
        struct cli cli;
        struct config *config;
        struct gpu_snapshot *gpus;
        uint64_t cordoned; /* bit by place in it */
        struct learned *learned;
        struct modelfile files[4]; /* of the instance that is being looked at: model, projector, draft */
        size_t n_files;
        struct loop *loop; /* both NULL until a program is asked */
        struct binaries *programs;
        struct place_line *lines;
        char (*names)[CONFIG_NAME_MAX], (*details)[128];
        size_t n;
};

static bool parse(int argc, char **argv, struct options *o, struct buffer *error)
{
        const struct verb *verb = cli_find_verb("plan");

        o->tables[0] = verb->options;
        o->tables[1] = cli_common_options;
        return options_parse(o, argv + 1, (size_t)argc - 1, false, error) >= 0;
}

static bool answers(const char *path)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0 || strlen(path) >= sizeof at.sun_path)
                return false;
        memcpy(at.sun_path, path, strlen(path) + 1);
        /* No permission, or a full queue: somebody is there. */
        return connect(fd, (struct sockaddr *)&at, sizeof at) == 0 ||
               (errno != ENOENT && errno != ECONNREFUSED);
}

bool plan_is_offline(int argc, char **argv)
{
        _cleanup_buffer_ struct buffer error = {0};
        _cleanup_free_ char *socket = NULL, *note = NULL;
        struct options o = {0};
        const char *config;

        buffer_init(&error, 0);
        if (!parse(argc, argv, &o, &error) || options_get(&o, "help"))
                return false; /* the verb of the client tells what is wrong */
        if (options_get(&o, "offline"))
                return true;
        config = options_get(&o, "config");
        return config && !options_get(&o, "socket") && where_is_socket(config, &socket, &note) == 0 &&
               !answers(socket);
}

static const char *get_env(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

static int load(struct plan_run *x, const char *file)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0);
        struct config_env env = {
                .files = &file_ops_real, .get = get_env, .is_root = geteuid() == 0, .cwd = cwd};
        struct config_problems problems;
        int r = config_load(file, &env, &x->config, &problems);

        for (size_t i = 0; r < 0 && i < problems.count; i++) {
                _cleanup_free_ char *text = config_problem_text(&problems.list[i]);

                if (text)
                        (void)fprintf(stderr, "%s\n", text);
        }
        config_problems_finish(&problems);
        return r;
}

/* The driver is asked here and now: no daemon waits for it. */
static int read_gpus(struct plan_run *x)
{
        struct nvml *nvml = NULL;
        atomic_int at = -1;
        char why[192];
        int n = gpu_scan(x->config->gpus_root, x->gpus->gpus, GPUS_MAX);

        if (n < 0)
                return n;
        x->gpus->n = (size_t)n;
        if (!gpu_has_nvidia(x->config->gpus_root) || !x->config->gpus_nvml || !*x->config->gpus_nvml)
                return 0;
        if (nvml_open(x->config->gpus_nvml, why, sizeof why, &nvml) == 0)
                (void)nvml_sample(nvml, x->gpus, &at);
        else
                (void)fprintf(stderr, "llama-supervisor plan: figures of NVIDIA's GPUs are not known: %s\n",
                              why);
        (void)nvml_close(nvml);
        return 0;
}

/* --- what is out of use: as fleet/gpu_care.c keeps it ------------------------------------------------------------------ */

static bool is_of(const struct json_value *cordon, const struct gpu *g)
{
        const char *gpu = json_get_string(cordon, "gpu"), *pci = json_get_string(cordon, "pci"),
                   *by = json_get_string(cordon, "by"), *boot = json_get_string(cordon, "bootId");

        if (!gpu || !by ||
            ((streq(by, "deaths") || streq(by, "lost")) && !streq_ptr(boot, process_boot_id())))
                return false;
        if (g->uuid[0] && streq(gpu, g->uuid))
                return true;
        return !g->is_mig && (streq(gpu, g->pci) || (pci && !g->uuid[0] && streq(pci, g->pci)));
}

/* A GPU, and all its parts. */
static uint64_t with_parts(const struct gpu_snapshot *s, size_t place)
{
        const struct gpu *whole = s->gpus + place;
        uint64_t mask = UINT64_C(1) << place;

        for (size_t i = 0; i < s->n && !whole->is_mig; i++)
                if (s->gpus[i].is_mig && s->gpus[i].vendor == whole->vendor &&
                    streq(s->gpus[i].pci, whole->pci))
                        mask |= UINT64_C(1) << i;
        return mask;
}

static void read_cordons(struct plan_run *x)
{
        _cleanup_value_ struct json_value *v = NULL;
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r = record_load(x->config->state_dir, "gpus.json", STORE_MAX, &text, &len);

        if (r == 0)
                r = json_parse(text, len, &v, NULL);
        if (r < 0 && r != -ENOENT)
                (void)fprintf(
                        stderr,
                        "llama-supervisor plan: which GPUs are cordoned is not known: %s/gpus.json: %s\n",
                        x->config->state_dir, r == -EBADMSG ? "it is not JSON" : strerror(-r));
        for (size_t k = 0; v && k < json_count(json_get(v, "cordons")); k++)
                for (size_t i = 0; i < x->gpus->n; i++)
                        if (is_of(json_at(json_get(v, "cordons"), k), x->gpus->gpus + i))
                                x->cordoned |= with_parts(x->gpus, i);
}

static int look(void *owner, const char *path, const struct modelfile **ret)
{
        struct plan_run *x = owner;
        struct modelfile *file = &x->files[MIN(x->n_files, ARRAY_SIZE(x->files) - 1)];

        x->n_files++;
        modelfile_read(path, file);
        *ret = file;
        return file->error ? file->error : file->size ? 0 : -ENODATA;
}

/* --- what a program can use: as fleet/gpus.c has it -------------------------------------------------------------------- */

static void on_known(void *owner, usec_t now)
{
        (void)now;
        loop_stop(owner);
}

/* Its help first, then its devices, each with a deadline of its own (host/binary.h). n -1: it does not tell. */
static void ask_devices(struct plan_run *x, const char *program, struct devices *ret)
{
        *ret = (struct devices){.n = -1};
        if (!x->loop && loop_new(&x->loop) < 0)
                return;
        if (!x->programs) {
                if (binaries_new(x->loop, environ, &x->programs) < 0)
                        return;
                binaries_on_known(x->programs, on_known, x->loop);
        }
        while (binaries_devices(x->programs, program, ret) == -EINPROGRESS)
                loop_run(x->loop);
}

/* Those that the entry's program can use. A machine with GPUs of two vendors alone asks for that. */
static uint64_t reach(struct plan_run *x, const struct config_instance *e)
{
        struct devices d = {.n = -1};

        if (gpus_are_mixed(x->gpus->gpus, x->gpus->n) && gpus_asks(e))
                ask_devices(x, e->binary, &d);
        return gpus_of_kinds(x->gpus->gpus, x->gpus->n, &d);
}

/* … and are not divided. */
static uint64_t usable(struct plan_run *x, const struct config_instance *e)
{
        uint64_t mask = reach(x, e);

        for (size_t i = 0; i < x->gpus->n; i++)
                if (x->gpus->gpus[i].has_mig)
                        mask &= ~(UINT64_C(1) << i);
        return mask;
}

static uint64_t replica_gpus(struct plan_run *x, const struct config_instance *e)
{
        return gpus_computing(x->gpus->gpus, x->gpus->n, reach(x, e));
}

/* 0; -ENODEV with words. */
static int find_gpu(struct plan_run *x, const struct config_instance *e, const char *id, uint64_t *ret,
                    char *detail, size_t size)
{
        uint64_t can = reach(x, e);
        size_t i = gpus_find(x->gpus->gpus, x->gpus->n, can, id);

        if (i == x->gpus->n)
                (void)snprintf(detail, size, "GPU %.60s is not there", id);
        else if (x->gpus->gpus[i].has_mig)
                (void)snprintf(detail, size, "GPU %.60s is divided (MIG): name one of its parts", id);
        else if (!(can >> i & 1))
                (void)snprintf(detail, size, "GPU %.60s is none that its llama-server can use", id);
        else
                *ret |= UINT64_C(1) << i;
        return *detail ? -ENODEV : 0; /* it was empty */
}

/* The nth bit of mask alone; 0: there are fewer. */
static uint64_t nth(uint64_t mask, unsigned n)
{
        while (mask && n-- > 0)
                mask &= mask - 1;
        return mask & -mask;
}

/* 0; -ENODEV with words. */
static int mask_of(struct plan_run *x, const struct config_instance *e, unsigned replica, uint64_t *ret,
                   char *detail, size_t size)
{
        *ret = usable(x, e);
        if (e->replicas_per_gpu) {
                *ret = nth(replica_gpus(x, e), replica);
        } else if (e->gpu_mode == CONFIG_GPU_LIST) {
                *ret = 0;
                for (char *const *id = e->gpu; id && *id; id++)
                        if (find_gpu(x, e, *id, ret, detail, size) < 0)
                                return -ENODEV;
        }
        if (!*ret)
                (void)snprintf(detail, size, "no GPU is seen on this machine");
        return *ret ? 0 : -ENODEV;
}

static int add(struct plan_run *x, const struct config_instance *e, unsigned replica, unsigned replicas)
{
        struct place_files files = {.look = look, .owner = x};
        struct place_line *line = x->lines + x->n;
        char *detail = x->details[x->n];
        const char *why = NULL;
        bool tells = false;
        uint64_t mask, shared = 0;
        int r;

        x->n_files = 0;
        r = place_find_need(e, &files, x->learned, &line->need);
        if (r < 0)
                return r;
        for (size_t i = 0; i < x->gpus->n; i++) {
                tells = tells || (x->gpus->gpus[i].memory_total && !x->gpus->gpus[i].is_shared);
                shared |= (uint64_t)x->gpus->gpus[i].is_shared << i;
        }
        line->instance = config_replica_name(e, replica, replicas, x->names[x->n], sizeof *x->names);
        line->status = "initial";
        line->wanted = e->autostart && !e->on_demand;
        if (mask_of(x, e, replica, &mask, detail, sizeof *x->details) < 0)
                why = detail;
        else if (!tells)
                why = "no GPU tells figures of memory of its own";
        else if (place_is_left_alone(e, environ))
                why = "its arguments, or variables, say where it goes";
        if (e->gpu_mode == CONFIG_GPU_AUTO && !e->replicas_per_gpu)
                mask &= ~shared;
        else if (!why && mask & shared)
                why = PLACE_SHARES;
        place_line_init(line, e, mask, why);
        x->n++;
        return 0;
}

static unsigned replicas_of(struct plan_run *x, const struct config_instance *e)
{
        if (e->replicas_per_gpu)
                return (unsigned)MAX(__builtin_popcountll(replica_gpus(x, e)), 1);
        return MAX(e->replicas, 1U);
}

static int add_all(struct plan_run *x)
{
        const struct config *c = x->config;
        size_t max = 1;

        for (size_t i = 0; i < c->n_instances; i++)
                max += replicas_of(x, &c->instances[i]);
        x->lines = calloc(max, sizeof *x->lines);
        x->names = calloc(max, sizeof *x->names);
        x->details = calloc(max, sizeof *x->details);
        if (!x->lines || !x->names || !x->details)
                return -ENOMEM;
        for (size_t i = 0; i < c->n_instances; i++) {
                const struct config_instance *e = &c->instances[i];
                unsigned n = replicas_of(x, e), shown = e->replicas_max ? e->replicas_max : n;

                for (unsigned k = 0; !e->adopt && k < n && x->n < max; k++) {
                        int r = add(x, e, k, shown);

                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static int solve(struct plan_run *x, struct buffer *out)
{
        struct fit_item *items = calloc(x->n + 1, sizeof *items);
        struct fit_gpu before[FLEET_GPUS], after[FLEET_GPUS];
        char names[FLEET_GPUS][PLACE_NAME_MAX];
        struct json_writer w;

        if (!items)
                return -ENOMEM;
        for (size_t i = 0; i < x->gpus->n; i++) {
                const struct gpu *g = &x->gpus->gpus[i];

                place_name_gpu(g, names[i]);
                before[i] = (struct fit_gpu){.name = names[i],
                                             .vendor = g->vendor,
                                             .total = g->memory_total,
                                             .alone = g->is_mig,
                                             .free = g->memory_total - MIN(g->memory_used, g->memory_total),
                                             .why_not = g->figures.is_lost     ? "lost"
                                                        : x->cordoned >> i & 1 ? "cordoned"
                                                        : g->has_mig           ? "divided"
                                                                               : NULL};
                after[i] = before[i];
        }
        for (size_t i = 0; i < x->n; i++)
                items[i] = x->lines[i].item;
        fit_plan(items, x->n, after, x->gpus->n);
        for (size_t i = 0; i < x->n; i++)
                x->lines[i].item = items[i];
        free(items);
        json_begin(&w, out);
        place_put_plan(true, x->gpus->gpus, before, after, x->gpus->n, x->lines, x->n, &w);
        return out->failed ? -ENOMEM : 0;
}

static int run(struct plan_run *x)
{
        const char *given = options_get(&x->cli.options, "config");
        _cleanup_free_ char *fallback = given ? NULL : cli_default_config();
        const char *file = given ? given : fallback;
        _cleanup_value_ struct json_value *plan = NULL;
        _cleanup_buffer_ struct buffer out = {0};
        int r;

        buffer_init(&out, 0);
        if (!file)
                return cli_fail(&x->cli, "not enough memory");
        r = load(x, file);
        if (r < 0)
                return cli_fail(&x->cli, "%s has errors", file);
        if (!options_get(&x->cli.options, "offline"))
                (void)fprintf(stderr,
                              "llama-supervisor plan: no daemon runs with %s: this is what one would do\n",
                              file);
        x->gpus = calloc(1, sizeof *x->gpus);
        r = x->gpus ? read_gpus(x) : -ENOMEM;
        if (r == 0) {
                read_cordons(x);
                r = learned_new(NULL, x->config->state_dir, &x->learned);
        }
        if (r == 0)
                r = add_all(x);
        if (r == 0)
                r = solve(x, &out);
        if (r == 0)
                r = json_parse(out.data, out.len, &plan, NULL);
        return r < 0 ? cli_fail(&x->cli, "%s", strerror(-r)) : plan_show(&x->cli, plan);
}

int plan_offline(int argc, char **argv)
{
        _cleanup_buffer_ struct buffer error = {0};
        struct plan_run x = {0};
        int r;

        buffer_init(&error, 0);
        x.cli.verb = cli_find_verb("plan");
        if (!parse(argc, argv, &x.cli.options, &error))
                return CLI_USAGE; /* plan_is_offline has parsed it */
        x.cli.json = options_get(&x.cli.options, "json") != NULL;
        screen_init(&x.cli.screen, STDOUT_FILENO, options_get(&x.cli.options, "no-color") != NULL);
        r = run(&x);
        binaries_free(x.programs);
        loop_free(x.loop);
        free(x.lines);
        free(x.names);
        free(x.details);
        free(x.gpus);
        learned_free(x.learned);
        config_free(x.config);
        return r;
}
