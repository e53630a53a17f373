/* config_hubs.c: what must be true of the entries of `hubs` beyond each key for itself. Each driver's rules are a function of its own. */
#include "base/text.h"
#include "core/config_internal.h"

/* Folders of the state and labels of metrics are named after it. */
static void check_hub_name(struct config_load *l, size_t i)
{
        struct config_hub *h = l->config->hubs + i;
        bool given = h->name != NULL;

        if (!given && text_set(&h->name, config_hub_driver_name(h->driver)) < 0) {
                l->failed_memory = true;
                return;
        }
        if (streq(h->name, "spool")) {
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, "name",
                            "\"spool\" is the job folder's own name");
                return;
        }
        for (size_t k = 0; k < i; k++) {
                const struct config_hub *other = l->config->hubs + k;

                if (!other->name || !streq(other->name, h->name))
                        continue;
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, given ? "name" : "driver",
                            "the name \"%s\" is taken already by the hub at %s:%u%s", h->name,
                            other->where.file, other->where.line, given ? "" : "; give this one a \"name\"");
                return;
        }
}

static bool has_scheme(const struct config_hub *h, const char *scheme)
{
        return h->url && starts_with(h->url, scheme);
}

static void check_http_url(struct config_load *l, size_t i, const char *kind, const char *example)
{
        const struct config_hub *h = l->config->hubs + i;

        if (!h->url || has_scheme(h, "https://") || has_scheme(h, "http://"))
                return;
        KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, "url",
                    "is not of the form %s, as that of a %s hub is", example, kind);
}

static void check_convex(struct config_load *l, size_t i)
{
        check_http_url(l, i, "Convex", "https://NAME.convex.cloud");
        if (!config_seen_has(l->hubs + i, PLACE_HUB, "credentials_file"))
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, "driver",
                            "\"convex\" has no meaning without \"credentials_file\": a file with the "
                            "worker's API "
                            "key");
}

static void check_gollama(struct config_load *l, size_t i)
{
        const struct config_hub *h = l->config->hubs + i;

        check_http_url(l, i, "GoLlama", "http://HOST:9000");
        if (!config_seen_has(l->hubs + i, PLACE_HUB, "credentials_file"))
                KEY_PROBLEM(
                        config_error, l, l->hubs + i, PLACE_HUB, "driver",
                        "\"gollama\" has no meaning without \"credentials_file\": a file with USER:PASSWORD");
        if (!config_seen_has(l->hubs + i, PLACE_HUB, "listen"))
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, "driver",
                            "\"gollama\" has no meaning without \"listen\": such a hub dials its workers");
        if (!config_seen_has(l->hubs + i, PLACE_HUB, "allow") || (h->allow && !h->allow[0]))
                KEY_PROBLEM(
                        config_error, l, l->hubs + i, PLACE_HUB, "driver",
                        "\"gollama\" has no meaning without \"allow\": the hub's own address, since whoever "
                        "reaches the worker may use it");
}

static bool is_tls(const char *url)
{
        return starts_with(url, "tls://");
}

static void check_nats_url(struct config_load *l, size_t i, const char *key, const char *url)
{
        const struct config_hub *h = l->config->hubs + i;

        if (!starts_with(url, "nats://") && !is_tls(url))
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, key,
                            "\"%s\" is no URL of a NATS server: \"nats://host:4222\" or \"tls://host:4222\"",
                            url);
        else if (is_tls(url) != is_tls(h->url))
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, key,
                            "\"%s\" and \"%s\": either all of a hub's URLs are tls:// or none", h->url, url);
}

static void check_nats(struct config_load *l, size_t i)
{
        const struct config_hub *h = l->config->hubs + i;
        bool has[] = {h->ca_file != NULL, h->cert_file != NULL, h->key_file != NULL};
        static const char *const names[] = {"ca_file", "cert_file", "key_file"};

        if (!h->url)
                return;
        check_nats_url(l, i, "url", h->url);
        for (char **u = h->more_urls; u && *u; u++)
                check_nats_url(l, i, "more_urls", *u);
        if (h->user && !h->credentials_file)
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, "user",
                            "needs \"credentials_file\", a file with the user's password");
        for (size_t k = 0; k < ARRAY_SIZE(has); k++)
                if (has[k] && !is_tls(h->url))
                        KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, names[k],
                                    "has no meaning beside \"%s\": the URL must begin with tls://", h->url);
        if (has[1] != has[2])
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, has[1] ? "cert_file" : "key_file",
                            "needs \"%s\" as well", has[1] ? "key_file" : "cert_file");
}

/* Keys of one driver alone, given for another. */
static void check_foreign_keys(struct config_load *l, size_t i)
{
        static const char *const gollama_keys[] = {"listen", "allow", "advertise"};
        static const char *const nats_keys[] = {"more_urls", "user", "cert_file", "key_file"};
        const struct config_hub *h = l->config->hubs + i;
        const char *driver = config_hub_driver_name(h->driver);

        for (size_t k = 0; h->driver != CONFIG_HUB_NATS && k < ARRAY_SIZE(nats_keys); k++)
                if (config_seen_has(l->hubs + i, PLACE_HUB, nats_keys[k]))
                        KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, nats_keys[k],
                                    "has no meaning beside the driver \"%s\"; it is for \"nats\"", driver);
        for (size_t k = 0; h->driver != CONFIG_HUB_GOLLAMA && k < ARRAY_SIZE(gollama_keys); k++)
                if (config_seen_has(l->hubs + i, PLACE_HUB, gollama_keys[k]))
                        KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, gollama_keys[k],
                                    "has no meaning beside the driver \"%s\", which opens no port; it is for "
                                    "\"gollama\"",
                                    driver);
        if (h->driver != CONFIG_HUB_NATS && h->submit)
                KEY_PROBLEM(
                        config_error, l, l->hubs + i, PLACE_HUB, "submit",
                        "has no meaning beside the driver \"%s\": only \"nats\" hubs take requests of ours",
                        driver);
        if (!h->work && !h->submit)
                KEY_PROBLEM(config_error, l, l->hubs + i, PLACE_HUB, "work",
                            "has no meaning without \"submit\": such a hub would do nothing; take it out");
}

static void check_driver(struct config_load *l, size_t i)
{
        check_foreign_keys(l, i);
        if (l->config->hubs[i].driver == CONFIG_HUB_CONVEX)
                check_convex(l, i);
        else if (l->config->hubs[i].driver == CONFIG_HUB_GOLLAMA)
                check_gollama(l, i);
        else
                check_nats(l, i);
}

void config_check_hubs(struct config_load *l)
{
        for (size_t i = 0; i < l->config->n_hubs; i++) {
                size_t back = config_path_add(l, "hubs[%u]", l->hubs[i].index);

                check_hub_name(l, i);
                check_driver(l, i);
                config_path_back(l, back);
        }
}
