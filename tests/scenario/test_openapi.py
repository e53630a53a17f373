"""openapi.json and asyncapi.json are true: each documented route is called and its answer checked against the schema, each route
of the router is documented and none besides, each example is valid, and what the feed tells is what asyncapi.json promises."""
import http.client
import json
import os
import re
import urllib.parse

import jsonschema
import pytest

import harness

METHODS = ("get", "post", "put", "delete", "patch")
INSTANCE = "one"


def load(name):
    with open(os.path.join(harness.SOURCE, "docs", "api", name), encoding="utf-8") as f:
        return json.load(f)


OPENAPI, ASYNCAPI = load("openapi.json"), load("asyncapi.json")


def resolve(document, ref):
    assert ref.startswith("#/"), ref
    at = document
    for part in ref[2:].split("/"):
        part = urllib.parse.unquote(part).replace("~1", "/").replace("~0", "~")
        assert part in at, "%s leads nowhere" % ref
        at = at[part]
    return at


def inlined(document, node, seen=()):
    """The same without any $ref."""
    if isinstance(node, list):
        return [inlined(document, one, seen) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        assert node["$ref"] not in seen, "circle at " + node["$ref"]
        return inlined(document, resolve(document, node["$ref"]), seen + (node["$ref"],))
    return {key: inlined(document, value, seen) for key, value in node.items()}


def validate(value, schema, what):
    jsonschema.Draft202012Validator.check_schema(schema)
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(value), key=str)
    assert not errors, "%s: %s at %s\n%s" % (what, errors[0].message, list(errors[0].absolute_path), json.dumps(value)[:2000])


def operations():
    for path, item in OPENAPI["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, inlined(OPENAPI, item[method])


def route_table():
    """pattern: {method: scope} of the const table in supervisor/http/routes.c."""
    with open(os.path.join(harness.SOURCE, "supervisor", "http", "routes.c"), encoding="utf-8") as f:
        source = f.read()
    table = source[source.index("doors_routes[] = {"):]
    table = table[:table.index("{0}")]
    routes = {}
    for row in table.split("{.pattern = ")[1:]:
        methods = {name.lower() for name in re.search(r"\.methods = ([^,]+),", row).group(1).replace("ROUTE_", "").split(" | ")}
        scope = re.search(r"\.scope = ROUTE_(\w+)", row).group(1).lower().replace("open", "none")
        order = re.search(r"\.order_scope = ROUTE_(\w+)", row)
        order = order.group(1).lower() if order else scope
        routes[row.split('"')[1]] = {method: scope if method == "get" else order for method in methods}
    assert len(routes) > 10
    return routes


# ---- the documents by themselves -----------------------------------------------------------------------------------------

def test_the_documents_and_the_router_know_the_same_routes():
    routes, documented = route_table(), {}
    for method, path, operation in operations():
        documented.setdefault(path, {})[method] = operation["x-scope"]
    assert routes == documented
    assert {c["address"] for c in ASYNCAPI["channels"].values()} <= set(routes)


def test_each_operation_is_whole():
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    for method, path, operation in operations():
        where = "%s %s" % (method, path)
        assert operation["summary"] and operation["tags"] and operation["responses"], where
        in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path)), where
        for status, response in operation["responses"].items():
            assert response["description"], where
            for kind, content in response.get("content", {}).items():
                assert "example" in content, "%s %s has no example" % (where, status)
                if kind == "application/json":
                    validate(content["example"], content["schema"], "example of %s %s" % (where, status))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            validate(content["example"], content["schema"], "body of %s" % where)


def test_each_component_is_used():
    for document in (OPENAPI, ASYNCAPI):
        text = json.dumps(document)
        for kind, parts in document["components"].items():
            for name in parts:
                if kind == "securitySchemes":  # named, not referred to
                    assert {name: []} in document["security"], name
                    continue
                assert '"#/components/%s/%s' % (kind, name) in text, "%s %s is used by nobody" % (kind, name)


def test_each_message_of_the_feed_is_whole():
    assert ASYNCAPI["asyncapi"] == "3.0.0" and OPENAPI["openapi"] == "3.1.0"
    for name, message in inlined(ASYNCAPI, ASYNCAPI["components"]["messages"]).items():
        for example in message["examples"]:
            validate(example["payload"], message["payload"], name)
    for name, operation in ASYNCAPI["operations"].items():
        channel = resolve(ASYNCAPI, operation["channel"]["$ref"])
        for message in operation["messages"]:
            assert resolve(ASYNCAPI, message["$ref"]) in channel["messages"].values(), name


# ---- against the daemon ------------------------------------------------------------------------------------------------

@pytest.fixture
def daemon(make_daemon):
    made = make_daemon({"instances": [{"name": INSTANCE, "model": "tiny.gguf"},
                                      {"name": "bad", "model": "missing.gguf", "autostart": False}],
                        "gateway": {"default_model": INSTANCE}})
    made.wait_state(INSTANCE, "ready")
    return made


def check(operation, answer, what):
    """The answer is one of those documented, and of the form that is promised for it."""
    response = operation["responses"].get(str(answer.status))
    assert response, "%s: %r is not documented" % (what, answer)
    contents = response.get("content", {})
    if not contents:
        return
    kind = answer.headers.get("Content-Type", "").split(";")[0]
    assert kind in contents, "%s: %s is not documented" % (what, kind)
    if kind == "application/json":
        validate(answer.json, contents[kind]["schema"], what)


def filled(path, name=INSTANCE):
    rest = {"upstream": "health", "web": "feed.js"}.get(path.split("/")[1], INSTANCE)
    return path.replace("{name}", "spool" if name == INSTANCE and path.startswith("/api/v1/hubs/") else name).replace("{path}", rest)


def call(daemon, method, path, query="", **kwargs):
    """Calls a documented path and checks the answer."""
    operation = inlined(OPENAPI, OPENAPI["paths"][path][method])
    answer = daemon.api(method.upper(), filled(path, kwargs.pop("name", INSTANCE)) + query, **kwargs)
    check(operation, answer, "%s %s%s" % (method, path, query))
    return answer


def test_each_get_answers_as_documented(daemon):
    special = {"/ws", "/socket.io/", "/api/v1/events"}
    called = 0
    for method, path, operation in operations():
        if method != "get" or path in special:
            continue
        answer = call(daemon, method, path)
        assert answer.status == 200, "%s: %r" % (path, answer)
        called += 1
        if "model" in json.dumps(operation.get("parameters", [])) or path.startswith("/upstream/"):
            continue            # the instance's answer; of the paths here the fake knows HEAD on /health alone
        head = daemon.api("HEAD", filled(path))
        assert head.status == 200 and head.body == b"", path
        assert head.headers.get("Content-Type") == answer.headers.get("Content-Type"), path
    assert called > 8
    assert call(daemon, "get", "/openapi.json").json == OPENAPI
    assert call(daemon, "get", "/asyncapi.json").json == ASYNCAPI


def test_work_for_models_answers_as_documented(daemon):
    called = 0
    for method, path, operation in operations():
        if method != "post" or operation["tags"] != ["models"] or "{" in path:
            continue
        (kind, content), = operation["requestBody"]["content"].items()
        if kind != "application/json":
            continue
        answer = call(daemon, method, path, body=dict(content["example"], model=INSTANCE))
        assert answer.status in (200, 400, 404, 501), "%s: %r" % (path, answer)
        answer = call(daemon, method, path, body=dict(content["example"], model="nobody"))
        assert answer.status == 404 and answer.json["error"]["code"] == "model_not_found", path
        assert call(daemon, method, path, body=b"{").status == 400, path
        called += 1
    assert called > 20
    assert call(daemon, "post", "/v1/chat/completions", body=dict(messages=[], model="bad")).status == 503
    assert call(daemon, "get", "/props", "?model=bad").status == 503
    assert call(daemon, "get", "/slots", "?model=nobody").status == 404
    assert call(daemon, "get", "/upstream/{name}/{path}", name="nobody").status == 404


def test_the_same_routes_on_the_control_socket(daemon):
    for path in ("/api/v1/status", "/api/v1/instances", "/health", "/metrics"):
        check(inlined(OPENAPI, OPENAPI["paths"][path]["get"]), daemon.control_api("GET", path), "control " + path)
    assert daemon.control_api("GET", "/api/v1/status", headers={"Host": "whatever.example"}).status == 200


def test_orders_answer_as_documented(daemon):
    for verb in ("stop", "start", "restart"):
        answer = call(daemon, "post", "/api/v1/instances/{name}/" + verb)
        assert answer.status == 202 and answer.json["message"], verb
        answer = call(daemon, "post", "/api/v1/instances/{name}/" + verb, body={})
        assert answer.status == 202, verb
    assert call(daemon, "post", "/api/v1/instances/{name}/start", name="all").status == 202
    for name, verb in (("nobody", "stop"), ("onee", "start")):
        answer = call(daemon, "post", "/api/v1/instances/{name}/" + verb, name=name)
        assert answer.status == 404
    assert '"one"' in answer.json["error"]["message"], "it says what was meant"
    answer = call(daemon, "post", "/api/v1/reload", "?dry_run=1")
    assert answer.status == 200 and answer.json["applied"] is False and INSTANCE in answer.json["keep"]
    assert call(daemon, "post", "/api/v1/reload").json["applied"] is True
    daemon.write_config({"instances": [{"name": INSTANCE, "modle": "tiny.gguf"}]})
    answer = call(daemon, "post", "/api/v1/reload")
    assert answer.status == 422 and "modle" in " ".join(answer.json["errors"])
    assert "modle" in call(daemon, "get", "/api/v1/status").json["reloadError"]


def test_wrong_requests_are_refused_as_documented(daemon):
    def refused(status, method, path, query="", param=None, **kwargs):
        answer = call(daemon, method, path, query, **kwargs)
        assert answer.status == status, "%s %s%s: %r" % (method, path, query, answer)
        assert answer.json["error"]["code"] == status and answer.json["error"]["param"] == param, answer

    logs = "/api/v1/instances/{name}/logs"
    refused(400, "get", logs, "?lines=abc", "lines")
    refused(400, "get", logs, "?lines=10001", "lines")
    refused(400, "get", logs, "?lines=-1", "lines")
    refused(400, "get", logs, "?lines=1&lines=2", "lines")
    refused(400, "get", logs, "?follow=maybe", "follow")
    refused(400, "get", logs, "?line=3", "line")
    refused(400, "get", "/api/v1/logs", "?lines=10001", "lines")
    refused(400, "get", "/api/v1/logs", "?instance=one", "instance")
    refused(400, "get", "/api/v1/history", "?since=yesterday", "since")
    refused(400, "get", "/api/v1/status", "?x=1", "x")
    refused(400, "post", "/api/v1/reload", "?dry_run=2", "dry_run")
    refused(404, "get", "/api/v1/instances/{name}", name="nobody")
    refused(404, "get", "/api/v1/instances/{name}/why", name="nobody")
    refused(404, "get", logs, name="nobody")
    stop = "/api/v1/instances/{name}/stop"
    json_type = {"Content-Type": "application/json"}
    refused(400, "post", stop, body=b"{", headers=json_type)
    refused(400, "post", stop, body=b"[]", headers=json_type)
    refused(400, "post", stop, body=b'{"force":true}', headers=json_type)
    refused(413, "post", stop, body=b" " * 5000 + b"{}", headers=json_type)
    refused(415, "post", stop, body=b"{}", headers={"Content-Type": "text/plain"})
    refused(415, "post", stop, body=b"a=1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    refused(403, "post", stop, headers={"Origin": "https://evil.example"})
    refused(403, "get", "/api/v1/status", headers={"Origin": "null"})
    refused(403, "get", "/health", headers={"Host": "evil.example"})
    assert daemon.status(INSTANCE) == "ready", "none of them was obeyed"


def test_what_is_not_documented_is_not_there(daemon):
    for path in ("/api/v1", "/api/v1/instance", "/api/v1/status/", "/index.html", "/api/v2/status", "/API/V1/STATUS"):
        answer = daemon.get(path)
        assert answer.status == 404 and answer.json["error"]["type"] == "not_found_error", path
    assert "/api/v1/status" in daemon.get("/api/v1/statsu").json["error"]["message"]
    for path in ("/api/v1/instances/..%2f..%2fetc", "/%00", "//health", "/health%5c", "/api/../health", "/%zz"):
        assert daemon.get(path).status == 400, path
    for path, item in OPENAPI["paths"].items():
        there = {m.upper() for m in METHODS if m in item}
        there |= {"HEAD"} if "GET" in there else set()
        for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - there:
            answer = daemon.api(method, filled(path))
            assert answer.status == 405, "%s %s: %r" % (method, path, answer)
            allowed = set(answer.headers["Allow"].split(", "))
            assert allowed == there | {"OPTIONS"}, "%s %s" % (method, path)
    assert daemon.api("BREW", "/health").status == 501


def test_pages_of_friends_may_read_and_others_may_not(make_daemon):
    daemon = make_daemon({"instances": [], "gateway": {"allowed_origins": ["https://app.example"]}})
    friend, stranger = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = daemon.get("/api/v1/status", headers=friend)
    assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    answer = daemon.api("OPTIONS", "/api/v1/reload", headers={**friend, **asks})
    assert answer.status == 204 and "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    for headers in ({**stranger, **asks}, {**friend, **asks, "Access-Control-Request-Private-Network": "true"}):
        answer = daemon.api("OPTIONS", "/api/v1/reload", headers=headers)
        assert answer.status == 403, headers
    answer = daemon.get("/api/v1/status", headers=stranger)
    assert answer.status == 403 and "Access-Control-Allow-Origin" not in answer.headers
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    for headers in (stranger, {"Origin": "null"}, {"Host": "evil.example"}):
        assert daemon.get("/ws", headers={**upgrade, **headers}).status == 403, headers
        assert daemon.get("/api/v1/events", headers=headers).status == 403, headers
        assert daemon.get("/socket.io/?EIO=4&transport=polling", headers=headers).status == 403, headers


def test_a_caller_without_the_scope_is_refused(make_daemon):
    daemon = make_daemon({"instances": [{"name": INSTANCE, "model": "tiny.gguf"}], "auth": {"anonymous": []}})
    for method, path, operation in operations():
        if operation["x-scope"] == "none":
            continue
        answer = call(daemon, method, path)
        assert answer.status == 403 and operation["x-scope"] in answer.json["error"]["message"], path
    assert daemon.get("/health").status == 200
    assert daemon.control_api("POST", "/api/v1/instances/one/stop").status == 202


def test_not_ready_is_told_with_numbers(make_daemon):
    daemon = make_daemon({"instances": [{"name": "bad", "model": "tiny.gguf", "autostart": False}], "ready": {"min": 1}})
    answer = call(daemon, "get", "/ready")
    assert answer.status == 503 and answer.json["ready"] == 0


def test_the_feed_tells_what_is_documented(daemon):
    schema = inlined(ASYNCAPI, ASYNCAPI["components"]["schemas"]["LlamaStatus"])
    seen = 0
    for feed in (daemon.ws(), daemon.sse(), daemon.socketio(), daemon.socketio(instance=INSTANCE)):
        feed.wait(lambda m: m["type"] == "llama_status")
        for message in feed.messages:
            validate(message, schema, type(feed).__name__)
            seen += 1
    assert seen >= 4
    websocket = daemon.ws()
    websocket.wait(lambda m: m["instance"] == "bad")
    for name in ("requestText", "request", "subscribe"):
        payload = ASYNCAPI["components"]["messages"][name]["examples"][0]["payload"]
        before = len(websocket.messages)
        websocket.send(payload if isinstance(payload, str) else json.dumps(payload))
        if name != "subscribe":
            websocket.wait(lambda m: m["instance"] == INSTANCE, start=before)


def follow(daemon, name, query=""):
    """A response that is being streamed, and its connection."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(daemon.address).netloc, timeout=harness.PATIENCE)
    connection.request("GET", "/api/v1/instances/%s/logs?follow=1%s" % (name, query))
    response = connection.getresponse()
    assert response.status == 200
    return response, connection


def test_a_log_is_followed(daemon):
    last = daemon.get("/api/v1/instances/%s/logs?lines=1" % INSTANCE).text
    assert last.count("\n") == 1
    response, connection = follow(daemon, INSTANCE, "&lines=1")
    try:
        assert response.readline().decode() == last
        daemon.api("POST", "/api/v1/instances/%s/restart" % INSTANCE)
        lines = []
        while not any("listening on" in line for line in lines):
            lines.append(response.readline().decode())
            assert lines[-1], lines
    finally:
        connection.close()
    harness.wait_for(lambda: "llama_supervisor_log_followers 0\n" in daemon.get("/metrics").text, what="the follower is gone")


def test_the_stream_ends_with_its_instance(daemon):
    response, connection = follow(daemon, INSTANCE, "&lines=0")
    try:
        daemon.write_config({"instances": [{"name": "other", "model": "tiny.gguf"}]})
        assert daemon.api("POST", "/api/v1/reload").status == 200
        assert response.read().decode().endswith("--- this instance is gone\n")
    finally:
        connection.close()


def test_metrics_are_of_this_daemon(daemon):
    text = daemon.get("/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert figures['llama_supervisor_instance_state{instance="one",model="one",state="ready"}'] == "1"
    assert float(figures['llama_supervisor_probes_total{instance="one",model="one"}']) >= 1
    assert int(figures["process_open_fds"]) <= len(os.listdir("/proc/%d/fd" % daemon.pid)) + 3
    with open("/proc/%d/statm" % daemon.pid) as f:
        rss = int(f.read().split()[1]) * 4096
    assert 0.5 * rss < float(figures["process_resident_memory_bytes"]) < 2 * rss
    daemon.api("POST", "/api/v1/reload", headers={"Origin": "null"})
    assert 'llama_supervisor_http_refused_total{reason="origin"} 1' in daemon.get("/metrics").text


def test_listen_json_is_there_as_long_as_the_daemon_listens(daemon):
    path = os.path.join(daemon.runtime, "listen.json")
    with open(path) as f:
        assert json.load(f) == {"listen": daemon.listen, "control": daemon.control}
    assert os.stat(daemon.control).st_mode & 0o777 == 0o660
    daemon.stop()
    assert not os.path.exists(path) and not os.path.exists(daemon.control)
