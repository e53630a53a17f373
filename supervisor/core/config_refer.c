/* config_refer.c: keys that name entries (the default model, what is preloaded, groups), and whether what they ask for can be
 * had. An entry is named by its name; only requests know aliases, so only the default model may be one. */
#include "core/config_internal.h"

#include <errno.h>
#include <stdio.h>

#include "base/text.h"

/* What is gathered about one entry. */
struct use {
        const struct config_group *group; /* NULL: in none */
        struct config_spot grouped;       /* where */
        bool preload;
};

static const char *shown(const char *s, char buf[80])
{
        (void)snprintf(buf, 80, "%s", s);
        (void)text_harmless(buf);
        return buf;
}

static size_t entry_named(const struct config *c, const char *name)
{
        for (size_t i = 0; i < c->n_instances; i++)
                if (c->instances[i].name && streq(c->instances[i].name, name))
                        return i;
        return SIZE_MAX;
}

static size_t entry_with_alias(const struct config *c, const char *alias)
{
        for (size_t i = 0; i < c->n_instances; i++)
                for (char *const *p = c->instances[i].aliases; p && *p; p++)
                        if (streq(*p, alias))
                                return i;
        return SIZE_MAX;
}

/* "no entry is called …", with the nearest name of those that would do. */
static void unknown_entry(struct config_load *l, struct config_spot at, const char *name, bool aliases)
{
        const struct config *c = l->config;
        const char **names, *near;
        size_t n = 0;
        char buf[80];

        for (size_t i = 0; i < c->n_instances; i++)
                n += 1 + (aliases ? text_list_count(c->instances[i].aliases) : 0);
        names = calloc(n + 1, sizeof *names);
        if (!names) {
                l->failed_memory = true;
                return;
        }
        n = 0;
        for (size_t i = 0; i < c->n_instances; i++) {
                if (c->instances[i].name && (aliases || c->instances[i].on_demand))
                        names[n++] = c->instances[i].name;
                for (char *const *p = aliases ? c->instances[i].aliases : NULL; p && *p; p++)
                        names[n++] = *p;
        }
        near = text_nearest(name, names);
        if (near)
                config_error(l, at, "no entry is called \"%s\", did you mean \"%s\"?", shown(name, buf),
                             near);
        else
                config_error(l, at, "no entry of \"instances\" is called \"%s\"", shown(name, buf));
        free(names);
}

static void check_default_model(struct config_load *l)
{
        const char *name = l->config->gateway.default_model, *key = "gateway.default_model";
        size_t back;

        if (!name || entry_named(l->config, name) != SIZE_MAX ||
            entry_with_alias(l->config, name) != SIZE_MAX)
                return;
        back = config_path_add(l, "%s", key);
        unknown_entry(l, config_seen_spot(l->top, PLACE_TOP, key), name, true);
        config_path_back(l, back);
}

/* The on-demand entry called so, SIZE_MAX when a problem was reported. */
static size_t demand_entry(struct config_load *l, struct config_spot at, const char *name)
{
        const struct config *c = l->config;
        size_t i = entry_named(c, name), alias = entry_with_alias(c, name);
        char buf[80];

        if (i != SIZE_MAX && c->instances[i].on_demand)
                return i;
        if (i != SIZE_MAX)
                config_error(l, at, "\"%s\" is no on-demand entry: it has no \"on_demand\"",
                             shown(name, buf));
        else if (alias != SIZE_MAX && c->instances[alias].name)
                config_error(l, at, "\"%s\" is an alias, write the entry's name \"%s\"", shown(name, buf),
                             c->instances[alias].name);
        else
                unknown_entry(l, at, name, false);
        return SIZE_MAX;
}

/* The token of element 0 of an array that was read without a problem. */
static struct config_spot first_element(const struct config_seen *seen, enum config_place place,
                                        const char *key)
{
        struct config_spot at = config_seen_spot(seen, place, key);

        at.token++;
        return at;
}

static void check_group(struct config_load *l, size_t g, struct use *uses)
{
        const struct config_group *group = l->config->groups + g;
        struct config_spot at = first_element(l->groups + g, PLACE_GROUP, "members");
        char spot[CONFIG_SPOT_MAX];

        for (size_t j = 0; j < g; j++)
                if (group->name && l->config->groups[j].name && streq(group->name, l->config->groups[j].name))
                        KEY_PROBLEM(config_error, l, l->groups + g, PLACE_GROUP, "name",
                                    "\"%s\" is taken already at %s", group->name,
                                    config_spot_text(&l->groups[j].self, spot, sizeof spot));
        for (size_t i = 0; group->members && group->members[i];
             i++, at.token = at.doc->scan.tokens[at.token].next) {
                size_t back = config_path_add(l, ".members[%zu]", i);
                size_t entry = demand_entry(l, at, group->members[i]);

                if (entry != SIZE_MAX && uses[entry].group) {
                        config_error(
                                l, at,
                                uses[entry].group == group ? "\"%s\" is listed already at %s"
                                                           : "\"%s\" is in another group already, see %s",
                                group->members[i], config_spot_text(&uses[entry].grouped, spot, sizeof spot));
                } else if (entry != SIZE_MAX) {
                        uses[entry].group = group;
                        uses[entry].grouped = at;
                }
                config_path_back(l, back);
        }
}

static void check_preload(struct config_load *l, struct use *uses)
{
        const struct config *c = l->config;
        struct config_spot at = first_element(l->top, PLACE_TOP, "on_demand.preload");

        for (size_t i = 0; c->demand.preload && c->demand.preload[i];
             i++, at.token = at.doc->scan.tokens[at.token].next) {
                const char *name = c->demand.preload[i];
                size_t back = config_path_add(l, "on_demand.preload[%zu]", i);
                size_t entry = demand_entry(l, at, name);

                if (entry != SIZE_MAX && uses[entry].preload)
                        config_error(l, at, "\"%s\" is listed already", name);
                for (size_t j = 0; entry != SIZE_MAX && j < c->n_instances; j++)
                        if (j != entry && uses[j].preload && uses[j].group && uses[j].group->exclusive &&
                            uses[j].group == uses[entry].group) {
                                config_error(l, at,
                                             "\"%s\" cannot be loaded beside \"%s\": they are in one "
                                             "exclusive group",
                                             name, c->instances[j].name);
                                break;
                        }
                if (entry != SIZE_MAX)
                        uses[entry].preload = true;
                config_path_back(l, back);
        }
}

/* Instances that an entry comes with; how many GPUs there are is not known here. */
static unsigned instances_of(const struct config_instance *in)
{
        return in->replicas_per_gpu ? 1 : in->replicas;
}

/* What could never be loaded at a time. */
static void check_room(struct config_load *l, struct use *uses)
{
        const struct config *c = l->config;
        unsigned max = c->demand.max_loaded, n, preloaded = 0;

        for (size_t i = 0; i < c->n_instances; i++) {
                size_t back = config_path_add(l, "instances[%u]", l->instances[i].index);

                n = c->instances[i].on_demand ? instances_of(c->instances + i) : 0;
                if (n > max)
                        KEY_PROBLEM(config_error, l, l->instances + i, PLACE_INSTANCE, "replicas",
                                    "can never be loaded: it is %u instances, and on_demand.max_loaded "
                                    "is %u",
                                    n, max);
                config_path_back(l, back);
        }
        for (size_t g = 0; g < c->n_groups; g++) {
                size_t back = config_path_add(l, "groups[%u]", l->groups[g].index);
                bool preload = false;

                n = 0;
                for (size_t i = 0; i < c->n_instances; i++)
                        if (uses[i].group == c->groups + g) {
                                n += instances_of(c->instances + i);
                                preload |= uses[i].preload;
                        }
                if (!c->groups[g].exclusive && n > max)
                        KEY_PROBLEM(config_error, l, l->groups + g, PLACE_GROUP, "members",
                                    "can never be loaded together: they are %u instances, and "
                                    "on_demand.max_loaded is %u",
                                    n, max);
                /* One that is preloaded brings the others of its group. */
                for (size_t i = 0; !c->groups[g].exclusive && preload && i < c->n_instances; i++)
                        uses[i].preload |= uses[i].group == c->groups + g;
                config_path_back(l, back);
        }
        for (size_t i = 0; i < c->n_instances; i++)
                if (uses[i].preload)
                        preloaded += instances_of(c->instances + i);
        if (preloaded > max)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "on_demand.preload",
                            "is %u instances with those of their groups, and max_loaded is %u", preloaded,
                            max);
}

void config_check_references(struct config_load *l)
{
        _cleanup_free_ struct use *uses = calloc(l->config->n_instances + 1, sizeof *uses);

        if (!uses) {
                l->failed_memory = true;
                return;
        }
        check_default_model(l);
        for (size_t g = 0; g < l->config->n_groups; g++) {
                size_t back = config_path_add(l, "groups[%u]", l->groups[g].index);

                check_group(l, g, uses);
                config_path_back(l, back);
        }
        check_preload(l, uses);
        if (l->config->demand.max_loaded)
                check_room(l, uses);
}
