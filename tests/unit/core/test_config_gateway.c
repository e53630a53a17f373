/* test_config_gateway.c: what the configuration says about requests, and about models that come and go with them. */
#include "core/config_internal.h"
#include "config_world.h"

static void the_gateway_has_its_settings(void **state)
{
        struct config *c = good(
                "{\"gateway\": {\"default_model\": \"gpt-4o\", \"balance\": \"prefix-affinity\",\n"
                "  \"queue\": {\"max\": 7, \"timeout\": \"20s\", \"shed_target\": \"0\", \"shed_interval\": "
                "\"1s\"},\n"
                "  \"retries\": 2, \"body_max\": \"64K\", \"slow_start\": \"0s\",\n"
                "  \"timeouts\": {\"connect\": \"1s\", \"first_byte\": \"2s\", \"idle\": \"3s\", \"total\": "
                "\"4s\"},\n"
                "  \"eject\": {\"failures\": 0, \"initial\": \"1s\", \"max\": \"1s\"}},\n"
                " \"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\", \"aliases\": [\"gpt-4o\"]}]}");
        const struct config_gateway *g = &c->gateway;

        (void)state;
        assert_string_equal(g->default_model, "gpt-4o");
        assert_string_equal(config_balance_name(g->balance), "prefix-affinity");
        assert_int_equal(g->queue_max, 7);
        assert_int_equal(g->queue_timeout, 20 * USEC_PER_SEC);
        assert_int_equal(g->shed_target, 0);
        assert_int_equal(g->shed_interval, USEC_PER_SEC);
        assert_int_equal(g->retries, 2);
        assert_int_equal(g->body_max, 64U << 10);
        assert_int_equal(g->slow_start, 0);
        assert_int_equal(g->timeouts.connect, USEC_PER_SEC);
        assert_int_equal(g->timeouts.first_byte, 2 * USEC_PER_SEC);
        assert_int_equal(g->timeouts.idle, 3 * USEC_PER_SEC);
        assert_int_equal(g->timeouts.total, 4 * USEC_PER_SEC);
        assert_int_equal(g->eject_failures, 0);
        assert_int_equal(g->eject_initial, USEC_PER_SEC);
        assert_int_equal(g->eject_max, USEC_PER_SEC);
        config_free(c);
        /* A default that cannot be reached is nobody's fault, a written one is. */
        config_free(good("{\"gateway\": {\"queue\": {\"timeout\": \"5s\"}}}"));
        config_free(good_with(usual_world(),
                              "{\"gateway\": {\"queue\": {\"timeout\": \"5s\", \"shed_target\": \"5s\"}}}",
                              1));
}

static void requests_are_changed_as_written(void **state)
{
        struct config *c = good(
                "{\"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\", \"slots\": 4, \"request\": "
                "{\"strip\": "
                "[\"seed\", \"user\"],\n"
                "  \"set\": { // a comment\n"
                "    \"temperature\" : 0.20, \"model\": \"${NAME}\", \"\\u0061\": [ 1, -2e3 , true, null, {} "
                "],\n"
                "    \"kwargs\": {\"x\\\"y\": \"\\u00e9\\n$${NAME}\" /* another */}, \"stop\": [{\"stream\": "
                "1}]}}},\n"
                " {\"name\": \"b\", \"adopt\": \"127.0.0.1:1\", \"slots\": 0, \"request\": {\"set\": {}}}]}");
        _cleanup_free_ char *text = config_print(c);
        struct json_value *v, *request;

        (void)state;
        assert_int_equal(c->instances[0].slots, 4);
        assert_string_equal(c->instances[0].request_set,
                            "{\"temperature\":0.20,\"model\":\"value\",\"a\":[1,-2e3,true,null,{}],"
                            "\"kwargs\":{\"x\\\"y\":\"\xc3\xa9\\n${NAME}\"},\"stop\":[{\"stream\":1}]}");
        assert_int_equal(text_list_count(c->instances[0].request_strip), 2);
        assert_null(c->instances[1].request_set);
        assert_null(c->instances[1].request_strip);
        assert_int_equal(json_parse(text, strlen(text), &v, NULL), 0);
        request = json_get(json_at(json_get(v, "instances"), 0), "request");
        assert_string_equal(json_get_string(json_get(request, "set"), "model"), "value");
        assert_int_equal(json_count(json_get(request, "strip")), 2);
        request = json_get(json_at(json_get(v, "instances"), 1), "request");
        assert_null(json_get(request, "set"));
        json_free(v);
        config_free(c);
}

/* 64 KB of text as we write it, not as it stands in the file. */
static void what_is_set_is_bounded(void **state)
{
        (void)state;
        for (size_t size = 65536; size <= 65537; size++) {
                struct config_problems problems;
                struct world w = usual_world();
                struct config *c = NULL;
                struct buffer b;

                buffer_init(&b, 0);
                (void)buffer_puts(&b, "{\"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\",\n"
                                      "\"request\": {\"set\": {   \"a\": \"");
                for (size_t i = strlen("{\"a\":\"\"}"); i < size; i++)
                        (void)buffer_putc(&b, 'x');
                (void)buffer_puts(&b, "\"}}}]}");
                add_file(&w, "/etc/ls/c.json", b.data, b.len, S_IFREG | 0644);
                assert_int_equal(load_world(&w, &c, &problems), size == 65536 ? 0 : -EBADMSG);
                if (size == 65536) {
                        assert_int_equal(strlen(c->instances[0].request_set), size);
                        config_free(c);
                } else {
                        assert_int_equal(problems.count, 1);
                        assert_string_equal(problems.list[0].path, "instances[0].request.set");
                        assert_string_equal(problems.list[0].message, "is longer than 64K");
                }
                config_problems_finish(&problems);
                buffer_finish(&b);
        }
}

static void models_on_demand_share_room(void **state)
{
        struct config *c = good(
                "{\"on_demand\": {\"max_loaded\": 4, \"gpu_memory\": \"22G\", \"preload\": [\"a\", \"c\"]},\n"
                " \"groups\": [{\"name\": \"big\", \"members\": [\"a\", \"b\"]},\n"
                "   {\"name\": \"rag\", \"mode\": \"together\", \"members\": [\"c\", \"d\"]}],\n"
                " \"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\", \"on_demand\": {}},\n"
                "   {\"name\": \"b\", \"model\": \"a.gguf\", \"autostart\": false, \"on_demand\": "
                "{\"idle_timeout\": \"0\", \"pinned\": true, \"memory\": \"9G\"}},\n"
                "   {\"name\": \"c\", \"model\": \"a.gguf\", \"on_demand\": {}, \"replicas\": {\"min\": 2, "
                "\"max\": 3},"
                " \"scale\": {\"wait\": \"1s\", \"idle\": \"1m\"}},\n"
                "   {\"name\": \"d\", \"model\": \"a.gguf\", \"on_demand\": {}},\n"
                "   {\"name\": \"e\", \"model\": \"a.gguf\", \"replicas\": {\"min\": 1, \"max\": 2}}, "
                "{\"name\": \"f\", \"model\": \"a.gguf\"}]}");
        const struct config_instance *in = c->instances;
        _cleanup_free_ char *text = config_print(c);
        struct json_value *v, *list;

        (void)state;
        assert_int_equal(c->demand.max_loaded, 4);
        assert_int_equal(c->demand.gpu_memory, UINT64_C(22) << 30);
        assert_int_equal(text_list_count(c->demand.preload), 2);
        assert_int_equal(c->n_groups, 2);
        assert_string_equal(c->groups[0].name, "big");
        assert_true(c->groups[0].exclusive);
        assert_false(c->groups[1].exclusive);
        assert_string_equal(c->groups[1].members[1], "d");
        assert_int_equal(c->groups[1].where.line, 3);
        assert_true(in[0].on_demand);
        assert_int_equal(in[0].idle_timeout, 10 * USEC_PER_MIN);
        assert_false(in[0].pinned);
        assert_int_equal(in[0].demand_memory, 0);
        assert_int_equal(in[1].idle_timeout, 0);
        assert_true(in[1].pinned);
        assert_int_equal(in[1].demand_memory, UINT64_C(9) << 30);
        assert_int_equal(in[2].replicas, 2);
        assert_int_equal(in[2].replicas_max, 3);
        assert_int_equal(in[2].scale.wait, USEC_PER_SEC);
        assert_int_equal(in[2].scale.idle, USEC_PER_MIN);
        assert_int_equal(in[2].scale.cooldown, 30 * USEC_PER_SEC);
        assert_int_equal(in[4].scale.wait, 2 * USEC_PER_SEC);
        assert_int_equal(in[4].scale.idle, 5 * USEC_PER_MIN);
        assert_false(in[5].on_demand);

        assert_int_equal(json_parse(text, strlen(text), &v, NULL), 0);
        list = json_get(v, "instances");
        assert_string_equal(json_get_string(json_get(v, "on_demand"), "gpu_memory"), "22G");
        assert_string_equal(json_get_string(json_at(json_get(v, "groups"), 0), "mode"), "exclusive");
        assert_string_equal(json_get_string(json_at(json_get(v, "groups"), 1), "mode"), "together");
        assert_true(json_get_bool(json_get(json_at(list, 1), "on_demand"), "pinned", false));
        assert_string_equal(json_get_string(json_get(json_at(list, 4), "scale"), "wait"), "2s");
        assert_null(json_get(json_at(list, 5), "scale"));
        assert_null(json_get(json_at(list, 5), "on_demand"));
        json_free(v);
        config_free(c);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_gateway_has_its_settings),
                cmocka_unit_test(requests_are_changed_as_written),
                cmocka_unit_test(what_is_set_is_bounded),
                cmocka_unit_test(models_on_demand_share_room),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
