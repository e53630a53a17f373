# ctest: asan
"""API keys: made and revoked by the CLI, shown in every way that clients know, bounded by scope; taken over by a daemon that runs;
what a revoked key has open ends; and the key itself is nowhere but in the hands of who made it."""
import base64
import concurrent.futures
import glob
import json
import os
import signal
import socket
import stat
import time

import pytest

import harness
from peer import STREAM_END, STREAM_HEAD, Peer, chunk, reply

ONE = {"instances": [{"name": "one", "model": "tiny.gguf"}]}
KEYED = {**ONE, "auth": {"keys_file": "keys.json", "anonymous": ["read"]}}
REACHABLE = {**KEYED, "listen": [{"address": "0.0.0.0:0"}]}
NOW = 60  # "within seconds", with ten times slack


def add(daemon, name, *options):
    answer = daemon.cli("key", "add", name, *options, "--config", daemon.config_file, socket_option=False)
    assert answer.returncode == 0, answer
    key = answer.stdout.strip()
    assert len(key) == 47 and key.startswith("lsv_") and key not in answer.stderr
    return key


def revoke(daemon, name):
    answer = daemon.cli("key", "revoke", name, "--config", daemon.config_file, socket_option=False)
    assert answer.returncode == 0, answer


def bearer(key):
    return {"Authorization": "Bearer " + key}


def subprotocol(key):
    return "key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def get(daemon, key=None, path="/api/v1/instances"):
    return daemon.get(path, headers=bearer(key) if key else None)


def metric(daemon, name):
    for line in daemon.control_api("GET", "/metrics").text.splitlines():
        if line.startswith("llama_supervisor_" + name + " "):
            return float(line.split()[-1])
    raise AssertionError(name + " is not there")


def refused(daemon, reason):
    return metric(daemon, 'http_refused_total{reason="%s"}' % reason)


def wait_status(daemon, key, status):
    harness.wait_for(lambda: get(daemon, key).status == status, NOW, lambda: "%d for the key; the daemon said:\n%s" % (
        status, daemon.output()))


# ---- ways ------------------------------------------------------------------------------------------------------------------

def test_a_key_is_needed_where_other_machines_can_reach_us(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    read = add(daemon, "reader", "--scope", "read")
    daemon.start()
    answer = get(daemon)
    assert answer.status == 401 and answer.headers["WWW-Authenticate"] == 'Bearer realm="llama-supervisor"'
    error = answer.json["error"]
    assert error["code"] == "invalid_api_key" and error["type"] == "authentication_error" and "Bearer" in error["message"]
    assert daemon.get("/health").status == 200, "liveness needs no key"
    for headers in (bearer(read), {"x-api-key": read}, {"authorization": "bearer  " + read},
                    {"x-api-key": read, "Authorization": "Bearer " + read}):
        assert daemon.get("/api/v1/instances", headers=headers).status == 200, headers
    answer = daemon.api("POST", "/api/v1/instances/one/stop", headers=bearer(read))
    assert answer.status == 403 and '"admin"' in answer.json["error"]["message"] and '"reader"' in answer.json["error"]["message"]
    answer = daemon.get("/api/v1/instances", headers=bearer(read[:-1] + ("A" if read[-1] != "A" else "B")))
    assert answer.status == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert refused(daemon, "no_key") == 1 and refused(daemon, "scope") == 1 and refused(daemon, "wrong_key") == 1


def test_ambiguous_keys_and_keys_in_urls_are_refused(make_daemon):
    daemon = make_daemon(KEYED, start=False)
    one, two = add(daemon, "one"), add(daemon, "two")
    daemon.start()
    assert daemon.get("/api/v1/instances", headers={"Authorization": "Bearer " + one, "x-api-key": two}).status == 400
    host, port = daemon.address.removeprefix("http://").split(":")
    for line in ("x-api-key: %s\r\nX-Api-Key: %s" % (one, one), "Authorization: Bearer %s\r\nAuthorization: Bearer %s" % (one, one)):
        with socket.create_connection((host, int(port)), timeout=harness.PATIENCE) as s:
            s.sendall(("GET /api/v1/instances HTTP/1.1\r\nHost: localhost\r\n%s\r\nConnection: close\r\n\r\n" % line).encode())
            assert s.makefile("rb").readline().split()[1] == b"400", line
    for query in ("?key=" + one, "?token=x", "?api_key=" + one, "?x=" + one):
        answer = daemon.get("/api/v1/instances" + query, headers=bearer(one))
        assert answer.status == 400 and "URL" in answer.json["error"]["message"] and one not in answer.text, answer
    assert refused(daemon, "ambiguous_key") == 3 and refused(daemon, "key_in_url") == 4


def test_loopback_and_the_control_socket(make_daemon):
    daemon = make_daemon(KEYED, start=False)
    ops = add(daemon, "ops", "--scope", "read,admin")
    daemon.start()
    assert get(daemon).status == 200, "auth.anonymous says read"
    assert daemon.api("POST", "/api/v1/instances/one/restart").status == 403
    assert daemon.api("POST", "/api/v1/instances/one/restart", headers=bearer(ops)).status == 202
    assert daemon.control_api("POST", "/api/v1/instances/one/restart").status == 202
    assert daemon.control_api("GET", "/api/v1/instances", headers=bearer("nonsense")).status == 200
    assert get(daemon, "nonsense").status == 401, "a wrong key is wrong, also where none is needed"


def test_without_a_keys_file_keys_mean_nothing(make_daemon):
    daemon = make_daemon(ONE)
    headers = {"Authorization": "Bearer sk-no-key-required", "x-api-key": "another"}
    assert daemon.get("/api/v1/instances", headers=headers).status == 200


@pytest.mark.parametrize("door", ["ws", "sse", "socketio"])
def test_the_feed_takes_keys(make_daemon, door):
    daemon = make_daemon(REACHABLE, start=False)
    key = add(daemon, "page", "--scope", "read")
    daemon.start()
    if door == "ws":
        feed = daemon.ws(subprotocols=["llama-status", subprotocol(key)])
        feed.wait(lambda m: m["instance"] == "one")
        assert feed.socket.subprotocol == "llama-status", "the key does not come back"
        with pytest.raises(AssertionError, match="401"):
            daemon.ws(subprotocols=["llama-status", subprotocol(key[:-1])]).wait(lambda m: True)
        with pytest.raises(AssertionError, match="401"):
            daemon.ws(subprotocols=["llama-status"]).wait(lambda m: True)
        with pytest.raises(AssertionError, match="400"):
            daemon.ws("?key=" + key).wait(lambda m: True)
    else:
        getattr(daemon, door)(headers=bearer(key)).wait(lambda m: m["instance"] in ("one", "*"))
        if door == "sse":
            assert daemon.get("/api/v1/events").status == 401
        else:                           # without one a session may begin, but not connect: test_feed_socketio
            path = "/socket.io/?EIO=4&transport=polling"
            assert daemon.get(path, headers=bearer(key[:-1])).status == 401 and daemon.get(path).status == 200


# ---- while it runs ------------------------------------------------------------------------------------------------------------

def test_keys_come_and_go_while_the_daemon_runs(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    first = add(daemon, "first")
    daemon.start()
    second = add(daemon, "second")
    wait_status(daemon, second, 200)
    revoke(daemon, "first")
    wait_status(daemon, first, 401)
    answer = get(daemon, first)
    assert "revoked" in answer.json["error"]["message"]
    assert get(daemon, second).status == 200
    assert metric(daemon, "keys") == 1 and metric(daemon, 'keys_reloads_total{result="ok"}') == 2
    kinds = [e["kind"] for e in daemon.control_api("GET", "/api/v1/history").json["events"]]
    assert kinds.count("keys") == 2


def test_a_reload_takes_keys_over_at_once(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    first = add(daemon, "first")
    daemon.start()
    second = add(daemon, "second")
    revoke(daemon, "first")
    assert daemon.cli("reload").returncode == 0
    assert get(daemon, second).status == 200 and get(daemon, first).status == 401
    add(daemon, "third")
    daemon.signal(signal.SIGHUP)
    harness.wait_for(lambda: metric(daemon, "keys") == 2, NOW)


def test_what_a_revoked_key_has_open_ends(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    key, other = add(daemon, "leaver", "--scope", "read"), add(daemon, "stayer", "--scope", "read")
    daemon.start()
    ws = daemon.ws(subprotocols=["llama-status", subprotocol(key)])
    stays = daemon.ws(subprotocols=["llama-status", subprotocol(other)])
    sse = daemon.sse(headers=bearer(key))
    for feed in (ws, stays, sse):
        feed.wait(lambda m: m["instance"] == "one")
    host, port = daemon.address.removeprefix("http://").split(":")
    follow = socket.create_connection((host, int(port)), timeout=NOW)
    follow.sendall(("GET /api/v1/instances/one/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\nx-api-key: %s\r\n\r\n" % key).encode())
    assert b"200" in follow.recv(4096)
    polling = daemon.socketio(headers=bearer(key))
    polling.wait(lambda m: True)
    revoke(daemon, "leaver")
    started = time.monotonic()
    while follow.recv(65536):
        assert time.monotonic() - started < NOW
    follow.close()
    for feed in (ws, sse, polling):
        feed.closing = True             # its end is no error
        feed.thread.join(NOW)
        assert not feed.thread.is_alive()
    assert ws.socket.close_code == 1008
    start = len(stays.messages)
    assert daemon.control_api("POST", "/api/v1/instances/one/restart").status == 202
    stays.wait(lambda m: m["data"]["status"] == "ready", start=start)


def test_a_scope_that_is_lost_ends_what_needs_it(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    key = add(daemon, "both", "--scope", "read,admin")
    daemon.start()
    feed = daemon.sse(headers=bearer(key))
    feed.wait(lambda m: True)
    path = daemon.path("keys.json")
    with open(path) as f:
        keys = json.load(f)
    keys["keys"][0]["scopes"] = ["admin"]
    with open(path, "w") as f:
        json.dump(keys, f)
    wait_status(daemon, key, 403)
    feed.closing = True
    feed.thread.join(NOW)
    assert not feed.thread.is_alive()


def test_a_file_that_became_wrong_changes_nothing(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    key = add(daemon, "web")
    daemon.start()
    with open(daemon.path("keys.json"), "a") as f:
        f.write("x")
    harness.wait_for(lambda: metric(daemon, 'keys_reloads_total{result="failed"}') == 1, NOW)
    assert get(daemon, key).status == 200
    assert "keys.json:4:1: " in daemon.output() and "stay in force" in daemon.output()
    assert daemon.control_api("POST", "/api/v1/reload").status == 422, "a reload says so, too"
    assert daemon.cli("check", daemon.config_file, socket_option=False).returncode == 1
    assert daemon.cli("key", "add", "more", "--config", daemon.config_file, socket_option=False).returncode == 1


# ---- through the gateway ----------------------------------------------------------------------------------------------------------

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def peer(nothing_left):
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def gate(make_daemon, peer):
    """A daemon that other machines can reach, in front of one peer; not started."""
    return make_daemon({"instances": [{"name": "m", "adopt": peer.address}], "listen": [{"address": "0.0.0.0:0"}],
                        "auth": {"keys_file": "keys.json"}}, start=False)


def start(gate):
    gate.start()
    harness.wait_for(lambda: gate.control_api("GET", "/api/v1/instances/m").json["status"] == "ready", NOW)


def chat(daemon, key, **more):
    return daemon.api("POST", "/v1/chat/completions", {**CHAT, **more}, headers=bearer(key))


def test_scopes_and_the_key_on_the_way_to_a_model(gate, peer):
    infer, read = add(gate, "infer", "--scope", "infer"), add(gate, "read", "--scope", "read")
    start(gate)
    assert chat(gate, infer).status == 200
    assert chat(gate, read).status == 403 and gate.api("POST", "/v1/chat/completions", CHAT).status == 401
    assert gate.api("POST", "/v1/chat/completions", CHAT, headers={"x-api-key": infer}).status == 200
    assert len(peer.requests) == 2
    for request in peer.requests:
        assert infer not in request.raw_head.decode("latin-1") and not {"authorization", "x-api-key"} & set(request.headers)
    recent = gate.control_api("GET", "/api/v1/requests").text
    assert '"infer"' in recent and infer not in recent, "the name of the key, not the key"


def test_the_rate_of_a_key(gate, peer):
    slow, free = add(gate, "slow", "--scope", "infer", "--rate", "3"), add(gate, "free", "--scope", "infer")
    start(gate)
    assert [chat(gate, slow).status for _ in range(3)] == [200] * 3
    answer = chat(gate, slow)
    assert answer.status == 429 and 1 <= int(answer.headers["Retry-After"]) <= 20, answer
    assert answer.json["error"]["type"] == "rate_limit_error" and '"slow" may send 3 requests a minute' in answer.json["error"]["message"]
    assert chat(gate, free).status == 200, "another key has its own"
    assert len(peer.requests) == 4 and refused(gate, "key_rate") == 1


def test_the_concurrency_of_a_key(gate, peer):
    key = add(gate, "two", "--scope", "infer", "--concurrency", "2")
    start(gate)
    peer.answer = lambda request: None
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [pool.submit(chat, gate, key) for _ in range(2)]
        harness.wait_for(lambda: len(peer.requests) == 2, NOW)
        answer = chat(gate, key)
        assert answer.status == 429 and "Retry-After" in answer.headers and "at once" in answer.json["error"]["message"]
        for request in list(peer.requests):
            request.socket.sendall(reply({"ok": True}, extra="Connection: close\r\n"))
        assert [one.result(NOW).status for one in running] == [200, 200]
    peer.answer = lambda request: reply({"ok": True})
    assert chat(gate, key).status == 200, "they are given back"
    assert refused(gate, "key_concurrency") == 1


def test_a_key_that_is_revoked_while_it_streams(gate, peer):
    key, other = add(gate, "leaver", "--scope", "infer", "--concurrency", "1"), add(gate, "stayer", "--scope", "infer")
    start(gate)
    peer.answer = lambda request: request.socket.sendall(STREAM_HEAD + chunk(b'data: {"n":1}\n\n'))
    streams = []
    for one in (key, other):
        port = int(gate.address.rsplit(":", 1)[1])
        s = socket.create_connection(("127.0.0.1", port), timeout=NOW)
        body = json.dumps({**CHAT, "stream": True})
        s.sendall(("POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: %s\r\nContent-Type: application/json\r\n"
                   "Content-Length: %d\r\n\r\n%s" % (one, len(body), body)).encode())
        got = b""
        while b'{"n":1}' not in got:
            got += s.recv(65536)
        streams.append(s)
    revoke(gate, "leaver")
    assert streams[0].recv(65536) in (b"",), "cut, without the end that a whole answer has"
    peer.requests[0].wait_gone(NOW)
    peer.requests[1].socket.sendall(chunk(b'data: {"n":2}\n\n') + STREAM_END)
    got = b""
    while b"0\r\n\r\n" not in got:
        got += streams[1].recv(65536)
    assert b'{"n":2}' in got
    for s in streams:
        s.close()
    assert chat(gate, key).status == 401


# ---- start ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prepare, words", [
    (None, "no key in force"),
    ("revoked", "no key in force"),
    ("broken", "keys.json:1:1: "),
    ("open", "chmod 640"),
])
def test_a_reachable_address_needs_keys_at_start(make_daemon, prepare, words):
    daemon = make_daemon(REACHABLE, start=False)
    path = daemon.path("keys.json")
    if prepare == "revoked":
        add(daemon, "web")
        revoke(daemon, "web")
    elif prepare == "broken":
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write("nonsense")
    elif prepare == "open":
        add(daemon, "web")
        os.chmod(path, 0o644)
    daemon.launch()
    assert daemon.wait_exit() == 1 and words in daemon.output(), daemon.output()


def test_insecure_needs_none(make_daemon):
    daemon = make_daemon({**REACHABLE, "insecure": True})
    assert get(daemon).status == 200 and daemon.api("POST", "/api/v1/reload").status == 403
    assert get(daemon, "lsv_wrong").status == 401


# ---- the CLI ------------------------------------------------------------------------------------------------------------------

def test_the_file_keeps_its_mode_and_both_of_two_writers(make_daemon):
    daemon = make_daemon(KEYED, start=False)
    path = daemon.path("keys.json")
    add(daemon, "first")
    assert stat.S_IMODE(os.stat(path).st_mode) in (0o600, 0o640)
    os.chmod(path, 0o640)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda i: add(daemon, "k%d" % i), range(8)))
    assert len(set(keys)) == 8 and stat.S_IMODE(os.stat(path).st_mode) == 0o640
    answer = daemon.cli("key", "list", "--json", "--config", daemon.config_file, socket_option=False)
    assert sorted(k["name"] for k in json.loads(answer.stdout)["keys"]) == sorted(["first"] + ["k%d" % i for i in range(8)])
    assert os.listdir(daemon.root).count("keys.json.new") == 0
    assert daemon.cli("key", "add", "first", "--config", daemon.config_file, socket_option=False).returncode == 1


def test_a_link_is_followed(make_daemon):
    daemon = make_daemon(KEYED, start=False)
    os.mkdir(daemon.path("real"))
    os.symlink("real/keys.json", daemon.path("keys.json"))
    answer = daemon.cli("key", "add", "a", "--file", daemon.path("real/keys.json"), socket_option=False)
    assert answer.returncode == 0, answer
    add(daemon, "b")
    assert os.path.islink(daemon.path("keys.json")) and os.listdir(daemon.path("real")) == ["keys.json"]
    with open(daemon.path("real/keys.json")) as f:
        assert [k["name"] for k in json.load(f)["keys"]] == ["a", "b"]


def test_a_full_disk_loses_no_key_silently(make_daemon):
    daemon = make_daemon(KEYED, start=False)
    with open("/dev/full", "w") as full:
        answer = harness.subprocess.run([harness.PROGRAM, "key", "add", "web", "--config", daemon.config_file], stdout=full,
                                        stderr=harness.subprocess.PIPE, text=True, env=daemon.environment(), check=False)
    assert answer.returncode == 1 and "key revoke web" in answer.stderr


def test_the_configuration_must_name_a_file(make_daemon):
    daemon = make_daemon(ONE, start=False)
    answer = daemon.cli("key", "list", "--config", daemon.config_file, socket_option=False)
    assert answer.returncode == 1 and "keys_file" in answer.stderr


# ---- attacks ------------------------------------------------------------------------------------------------------------------

def test_wrong_keys_by_the_thousand_fill_no_log(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    key = add(daemon, "web")
    daemon.start()
    host, port = daemon.address.removeprefix("http://").split(":")
    began = time.monotonic()
    request = b"GET /api/v1/instances HTTP/1.1\r\nHost: localhost\r\nx-api-key: lsv_canary%d\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=harness.PATIENCE) as s:
        got = b""
        for batch in range(20):
            s.sendall(b"".join(request % i for i in range(100)))
            while got.count(b"HTTP/1.1 401") < 100 * (batch + 1):
                got += s.recv(65536)
    took = time.monotonic() - began
    lines = [line for line in daemon.output(1 << 20).splitlines() if "API key" in line]
    assert 1 <= len(lines) <= took + 2, lines
    assert "canary" not in daemon.output(1 << 20)
    assert refused(daemon, "wrong_key") == 2000 and get(daemon, key).status == 200


def test_long_and_odd_keys_are_only_wrong(make_daemon):
    daemon = make_daemon(REACHABLE, start=False)
    add(daemon, "web")
    daemon.start()
    for key in ("x" * 8000, "lsv_", "lsv_" + "A" * 43, "null", "%s%n", "\u00e9\u00ff"):
        answer = daemon.get("/api/v1/instances", headers={"x-api-key": key})
        assert answer.status == 401, (key[:20], answer)
    host, port = daemon.address.removeprefix("http://").split(":")
    for protocols in ("key." + "A" * 5000, "key.", "key.====", "key.AA, key.AA", ",".join(["key.AAAA"] * 500)):
        with socket.create_connection((host, int(port)), timeout=harness.PATIENCE) as s:
            s.sendall(("GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                       "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n\r\n" % protocols).encode())
            assert s.makefile("rb").readline().split()[1] in (b"400", b"401"), protocols[:30]


def test_the_key_is_nowhere(make_daemon):
    daemon = make_daemon({**REACHABLE, "log_level": "debug"}, start=False)
    key, gone = add(daemon, "web", "--scope", "read,infer,admin"), add(daemon, "gone")
    daemon.start()
    harness.wait_for(lambda: get(daemon, key, "/api/v1/instances/one").json["status"] == "ready", NOW)
    feed = daemon.ws(subprotocols=["llama-status", subprotocol(key)])
    feed.wait(lambda m: True)
    daemon.sse(headers={"x-api-key": key}).wait(lambda m: True)
    get(daemon, None, "/api/v1/instances?key=" + key)
    get(daemon, None, "/nothing/" + key)
    daemon.get("/api/v1/instances", headers={"Authorization": "Basic " + key})
    revoke(daemon, "gone")
    wait_status(daemon, gone, 401)
    texts = {path: daemon.control_api("GET", path).text for path in (
        "/metrics", "/api/v1/status", "/api/v1/instances", "/api/v1/history", "/api/v1/instances/one/why", "/")}
    for pid in [daemon.pid, *daemon.children()]:
        for name in ("cmdline", "environ"):
            with open("/proc/%d/%s" % (pid, name), "rb") as f:
                texts["%d/%s" % (pid, name)] = f.read().decode("latin-1")
    for path in glob.glob(daemon.root + "/**", recursive=True):
        if os.path.isfile(path):
            with open(path, "rb") as f:
                texts[path] = f.read().decode("latin-1")
    assert len(texts) > 12 and daemon.output_file in texts and daemon.path("keys.json") in texts
    for what, text in texts.items():
        for canary in (key, gone, subprotocol(key), key.removeprefix("lsv_")):
            assert canary not in text, what
    assert feed.socket.close_code is None


