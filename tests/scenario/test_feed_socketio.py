# ctest: asan
"""The feed over Socket.IO: the real npm client in its default options, and what a client that errs is told."""
import json
import os
import signal
import socket
import threading
import time
import urllib.parse

import pytest

import feeds
import harness

ONE = {"instances": [{"name": "qwen", "model": "tiny.gguf"}]}
TWO = {"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": 2}]}


@pytest.fixture
def client(make_daemon):
    """client(daemon, options…) starts a socket.io-client."""
    made = []

    def make(daemon, options=None, namespace=""):
        made.append(feeds.Node("socketio.mjs", daemon.address, json.dumps(options or {}), namespace))
        return made[-1]
    yield make
    for node in made:
        node.close()


def is_status(status):
    return lambda message: message["data"]["status"] == status


def kill_child(daemon, name):
    os.kill(daemon.instance(name)["pid"], signal.SIGKILL)


# ---- the real client ---------------------------------------------------------------------------------------------------

def test_default_options(make_daemon, client):
    """A front end that knows one server: it gets the aggregate, by polling first, then by WebSocket."""
    daemon = make_daemon(ONE)
    node = client(daemon)
    assert node.wait("open") == "polling"
    first = node.wait("llamaStatus")
    assert first["type"] == "llama_status" and first["instance"] == "*"
    ready = node.wait("llamaStatus", is_status("ready"))
    assert ready["data"]["models"] and ready["data"]["lastError"] is None
    assert node.wait("upgrade") == "websocket"
    mark = node.mark()
    kill_child(daemon, "qwen")
    node.wait("llamaStatus", lambda m: m["data"]["status"] != "ready", mark)
    node.wait("llamaStatus", is_status("ready"), mark)
    mark = node.mark()
    node.send({"emit": ["requestLlamaStatus"]})
    assert node.wait("llamaStatus", start=mark)["instance"] == "*"
    assert not node.count("connect_error") and not node.count("disconnect")


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_one_transport_only(make_daemon, client, transport):
    daemon = make_daemon(ONE)
    node = client(daemon, {"transports": [transport]})
    assert node.wait("open") == transport
    node.wait("llamaStatus", is_status("ready"))
    mark = node.mark()
    kill_child(daemon, "qwen")
    node.wait("llamaStatus", lambda m: m["data"]["status"] != "ready", mark)
    node.wait("llamaStatus", is_status("ready"), mark)
    assert not node.count("upgrade") and not node.count("connect_error")


def test_one_instance(make_daemon, client):
    daemon = make_daemon(TWO)
    node = client(daemon, {"query": {"instance": "qwen-1"}})
    assert node.wait("llamaStatus", is_status("ready"))["instance"] == "qwen-1"
    daemon.wait_state("qwen-0", "ready")
    node.wait("upgrade")
    kill_child(daemon, "qwen-0")
    daemon.wait("qwen-0", lambda now: now["restarts"] > 0)
    mark = node.mark()
    kill_child(daemon, "qwen-1")
    node.wait("llamaStatus", lambda m: m["data"]["status"] != "ready", mark)
    assert all(one["data"]["instance"] == "qwen-1" for one in node.said if one["what"] == "llamaStatus")


def add_key(daemon, name, scope):
    answer = daemon.cli("key", "add", name, "--scope", scope, "--config", daemon.config_file, socket_option=False)
    assert answer.returncode == 0, answer
    return answer.stdout.strip()


def test_a_key_as_the_client_knows_it(make_daemon, client):
    """`auth: {token}` travels in the CONNECT packet: judged like a key in a header, and told as the client's connect_error."""
    daemon = make_daemon({**ONE, "listen": [{"address": "0.0.0.0:0"}], "auth": {"keys_file": "keys.json"}}, start=False)
    key, other = add_key(daemon, "page", "read"), add_key(daemon, "worker", "infer")
    daemon.start()
    for options in ({}, {"transports": ["polling"]}, {"transports": ["websocket"]}):
        node = client(daemon, {**options, "auth": {"token": key}})
        node.wait("llamaStatus", is_status("ready"))
        assert not node.count("connect_error")
        for auth, words in ((None, "a key is needed here"), ({"token": ""}, "a key is needed here"), ({"token": 1}, "a key is needed here"),
                            ({"token": key[:-1] + "!"}, "nobody"), ({"token": other}, "read")):
            wrong = client(daemon, {**options, **({"auth": auth} if auth else {})})
            error = wrong.wait("connect_error")
            assert words in error["message"] or words == "nobody" and "key" in error["message"], error
            assert key not in json.dumps(error) and not wrong.count("connect") and not wrong.count("llamaStatus")
    page = client(daemon, {"auth": {"token": key}})
    page.wait("llamaStatus", is_status("ready"))
    assert daemon.cli("key", "revoke", "page", "--config", daemon.config_file, socket_option=False).returncode == 0
    page.wait("disconnect")
    page.wait("connect_error", lambda error: "revoked" in error["message"])


def test_a_token_without_keys_means_nothing(make_daemon, client):
    daemon = make_daemon(ONE)
    client(daemon, {"auth": {"token": "whatever"}}).wait("llamaStatus", is_status("ready"))


def test_acknowledgement(make_daemon, client):
    node = client(make_daemon(ONE))
    node.wait("llamaStatus", is_status("ready"))
    node.send({"ask": ["requestLlamaStatus"]})
    answer = node.wait("ack")
    assert answer["type"] == "llama_status" and answer["instance"] == "*" and answer["data"]["status"] == "ready"


def test_unknown_instance_and_namespace(make_daemon, client):
    daemon = make_daemon(TWO)
    error = client(daemon, {"query": {"instance": "qwen-7"}}).wait("connect_error")
    assert error["message"] == 'there is no instance "qwen-7": did you mean "qwen-0"?'
    assert client(daemon, namespace="/admin").wait("connect_error")["message"] == "Invalid namespace"


def test_it_comes_back_with_the_daemon(make_daemon, client):
    daemon = make_daemon({**ONE, "listen": [{"address": "127.0.0.1:0"}]})
    port = urllib.parse.urlsplit(daemon.address).port
    node = client(daemon)
    node.wait("llamaStatus", is_status("ready"))
    node.wait("upgrade")
    daemon.stop()
    assert node.wait("disconnect") in ("transport close", "io server disconnect")
    mark = node.mark()
    daemon.write_config({**ONE, "listen": [{"address": "127.0.0.1:%d" % port}]})
    daemon.start()
    node.wait("connect", start=mark)
    node.wait("llamaStatus", is_status("ready"), mark)


def test_the_client_closes(make_daemon, client):
    daemon = make_daemon(ONE)
    for options in ({}, {"transports": ["polling"]}, {"transports": ["websocket"]}):
        node = client(daemon, options)
        node.wait("llamaStatus", is_status("ready"))
        node.send({"close": True})
        assert node.wait("disconnect") == "io client disconnect"
    harness.wait_for(lambda: 'feed_subscribers{carrier="socketio"} 0' in daemon.get("/metrics").text,
                     what="all sessions are gone")


def test_an_unknown_event_harms_nobody(make_daemon, client):
    node = client(make_daemon(ONE), {"transports": ["websocket"]})
    node.wait("llamaStatus", is_status("ready"))
    node.send({"emit": ["somethingElse", {"a": [1, 2, 3]}]})
    mark = node.mark()
    node.send({"emit": ["requestLlamaStatus"]})
    node.wait("llamaStatus", start=mark)
    assert not node.count("disconnect")


# ---- by hand: what the reference server answers ----------------------------------------------------------------------------

POLL = "/socket.io/?EIO=4&transport=polling"


def handshake(daemon, query=""):
    answer = daemon.get(POLL + query)
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/plain; charset=UTF-8", answer
    first = answer.text.split("\x1e")[0]
    assert first[0] == "0"
    return json.loads(first[1:])


def post(daemon, sid, body, **headers):
    return daemon.api("POST", POLL + "&sid=" + sid, body.encode() if isinstance(body, str) else body,
                      {"Content-Type": "text/plain;charset=UTF-8", **headers})


def poll(daemon, sid):
    answer = daemon.get(POLL + "&sid=" + sid)
    assert answer.status == 200, answer
    return answer.text.split("\x1e")


def assert_gone(daemon, sid):
    answer = daemon.get(POLL + "&sid=" + sid)
    assert (answer.status, answer.json) == (400, {"code": 1, "message": "Session ID unknown"})


@pytest.fixture
def daemon(make_daemon):
    daemon = make_daemon(ONE)
    daemon.wait_state("qwen", "ready")
    return daemon


def test_handshake(daemon):
    told = handshake(daemon)
    sids = {told.pop("sid")} | {handshake(daemon)["sid"] for _ in range(5)}
    assert told == {"upgrades": ["websocket"], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 16384}
    assert len(sids) == 6 and all(len(sid) == 22 for sid in sids)


@pytest.mark.parametrize("method, query, code, message", [
    ("GET", "", 0, "Transport unknown"),
    ("GET", "?EIO=4", 0, "Transport unknown"),
    ("GET", "?EIO=4&transport=webtransport", 0, "Transport unknown"),
    ("GET", "?EIO=4&transport=polling&transport=polling", 0, "Transport unknown"),
    ("GET", "?EIO=4&transport=polling&sid=nobody", 1, "Session ID unknown"),
    ("GET", "?EIO=4&transport=polling&sid=" + 200 * "x", 1, "Session ID unknown"),
    ("POST", "?EIO=4&transport=polling&sid=nobody", 1, "Session ID unknown"),
    ("POST", "?EIO=4&transport=polling", 2, "Bad handshake method"),
    ("GET", "?EIO=4&transport=websocket", 3, "Bad request"),
    ("GET", "?transport=polling", 5, "Unsupported protocol version"),
    ("GET", "?EIO=3&transport=polling", 5, "Unsupported protocol version"),
    ("GET", "?EIO=5&transport=polling", 5, "Unsupported protocol version"),
])
def test_refusals(daemon, method, query, code, message):
    answer = daemon.api(method, "/socket.io/" + query, b"" if method == "POST" else None)
    assert (answer.status, answer.headers["Content-Type"], answer.text) == (
        400, "application/json", '{"code":%d,"message":"%s"}' % (code, message))


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
def test_only_get_polls(daemon, method):
    """Whatever else comes for a session takes no packet away from it."""
    sid = handshake(daemon)["sid"]
    assert post(daemon, sid, "40").text == "ok"
    assert daemon.api(method, POLL + "&sid=" + sid).status in (400, 405)
    assert poll(daemon, sid)[0].startswith('40{"sid":"')


def own_address():
    """An address of this machine that is not loopback (which is not capped); no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return s.getsockname()[0]


def test_sessions_of_one_address_are_capped(make_daemon):
    """A session outlives its connection by 45 s: it has a place of its own at the address, of 256."""
    daemon = make_daemon(harness.merged(ONE, {"listen": [{"address": own_address() + ":0"}], "insecure": True}))
    sids = [handshake(daemon)["sid"] for _ in range(256)]
    answer = daemon.get(POLL)
    assert answer.status == 503 and "too many Socket.IO sessions of one address" in answer.text, answer
    assert daemon.get("/health").status == 200
    assert post(daemon, sids[0], "1").text == "ok"
    assert handshake(daemon)["sid"] not in sids
    assert daemon.get(POLL).status == 503


def test_a_session_by_hand(daemon):
    sid = handshake(daemon)["sid"]
    assert post(daemon, sid, "40").text == "ok"
    packets = poll(daemon, sid)
    assert packets[0].startswith('40{"sid":"') and sid not in packets[0]
    status = json.loads((packets[1:] or poll(daemon, sid))[0][2:])
    assert status[0] == "llamaStatus" and status[1]["instance"] == "*"
    assert post(daemon, sid, '42["requestLlamaStatus"]\x1e4217["requestLlamaStatus"]').text == "ok"
    packets = poll(daemon, sid)
    if len(packets) == 1:
        packets += poll(daemon, sid)
    assert sorted(p[:3] for p in packets) == ["42[", "431"]
    assert json.loads([p for p in packets if p.startswith("4317")][0][4:])[0]["instance"] == "*"
    assert post(daemon, sid, "41").text == "ok"
    assert post(daemon, sid, "1").text == "ok"
    assert_gone(daemon, sid)


def test_a_poll_that_waits(daemon):
    """It is answered by the next change; a second one beside it ends the session; so does the client's close."""
    sid = handshake(daemon)["sid"]
    post(daemon, sid, "40")
    while not any(p.startswith("42") for p in poll(daemon, sid)):
        pass
    got = []
    waiter = threading.Thread(target=lambda: got.append(poll(daemon, sid)))
    waiter.start()
    waiter.join(0.3)
    assert waiter.is_alive()
    kill_child(daemon, "qwen")
    waiter.join(harness.PATIENCE)
    assert json.loads(got[0][0][2:])[1]["data"]["status"] != "ready"
    daemon.wait_state("qwen", "ready")

    for first_word, end in (("6", lambda: post(daemon, sid, "1")), ("1", lambda: daemon.get(POLL + "&sid=" + sid))):
        sid = handshake(daemon)["sid"]
        got.clear()
        waiter = threading.Thread(target=lambda: got.append(poll(daemon, sid)))
        waiter.start()
        waiter.join(0.3)
        answer = end()
        assert (answer.status, answer.text) == ((200, "ok") if first_word == "6" else (400, ""))
        waiter.join(harness.PATIENCE)
        assert got == [[first_word]]
        assert_gone(daemon, sid)


@pytest.mark.parametrize("body", [
    "", "x", "7", "2", "4", "48", "42", "42[", '42["requestLlamaStatus"]',      # the last: before CONNECT
    "40\x1e40", '40\x1e42["connect"]', "40\x1e42{}", "40\x1ebAQID", '40\x1e45["x"]', "40\x1e4511-[]", "40[]", "43[]",
    '40\x1e451-["x",{"_placeholder":true,"num":0}]\x1e42["requestLlamaStatus"]',
    "40/" + 300 * "x" + ",", b"40/a\x01b,", b"42[\"\xff\"]",
])
def test_bad_packets_end_the_session(daemon, body):
    sid = handshake(daemon)["sid"]
    assert post(daemon, sid, body).text == "ok"
    assert_gone(daemon, sid)
    assert daemon.get("/health").status == 200


def test_harmless_packets(daemon):
    sid = handshake(daemon)["sid"]
    body = '40\x1e42["x"]\x1e42[7]\x1e43[]\x1e451-["x",{"_placeholder":true,"num":0}]\x1ebAQID\x1e6\x1e3'
    assert post(daemon, sid, body).text == "ok"
    assert poll(daemon, sid)[0].startswith("40")


def test_bodies_are_bounded(daemon):
    sid = handshake(daemon)["sid"]
    assert post(daemon, sid, "40" + 20000 * " ").status == 413
    sid = handshake(daemon)["sid"]
    assert post(daemon, sid, "40", **{"Content-Type": "application/octet-stream"}).status == 400
    assert_gone(daemon, sid)


def test_a_packet_flood_ends_the_session(daemon):
    sid = handshake(daemon)["sid"]
    assert post(daemon, sid, "\x1e".join(["40"] + 150 * ["3"])).text == "ok"
    assert_gone(daemon, sid)


def test_what_waits_is_bounded(daemon):
    """A client that asks and never polls: its answers are bounded, then it is closed."""
    sid = handshake(daemon)["sid"]
    assert post(daemon, sid, "40").text == "ok"
    asked = 0
    for n in [90] + 15 * [10]:                              # never faster than 100 at once and 20 a second
        answer = post(daemon, sid, "\x1e".join('42%d["requestLlamaStatus"]' % i for i in range(n)))
        if answer.status == 400:
            break
        asked += n
        time.sleep(0.55)
    assert 90 <= asked < 240
    assert answer.json == {"code": 1, "message": "Session ID unknown"}


def upgrade(daemon, query, **kwargs):
    return feeds.RawWebSocket(daemon.address, "/socket.io/?EIO=4&transport=websocket" + query, **kwargs)


def test_websocket_by_hand(daemon):
    with upgrade(daemon, "") as ws:
        opcode, payload = ws.frame()
        assert opcode == feeds.TEXT and json.loads(payload[1:])["upgrades"] == []
        sid = json.loads(payload[1:])["sid"]
        # It has one transport: no polling beside it.
        answer = daemon.get(POLL + "&sid=" + sid)
        assert (answer.status, answer.json) == (400, {"code": 3, "message": "Bad request"})
        ws.send("40")
        assert ws.frame()[1].startswith(b'40{"sid":"')
        assert ws.frame()[1].startswith(b'42["llamaStatus",{"type":"llama_status","instance":"*"')
        ws.send('451-["x",{"_placeholder":true,"num":0}]')
        ws.send(b"\x01\x02", feeds.BINARY)
        ws.send('42["requestLlamaStatus"]')
        assert ws.frame()[1].startswith(b'42["llamaStatus"')
        ws.send(b"\x01\x02", feeds.BINARY)                  # belongs to nothing
        assert ws.closed() == 1000
    assert_gone(daemon, sid)


def test_upgrade_by_hand(daemon):
    sid = handshake(daemon)["sid"]
    post(daemon, sid, "40")
    while not any(p.startswith("42") for p in poll(daemon, sid)):
        pass

    def let_go():
        """Polls until there is nothing to tell; what changes meanwhile is told first."""
        while (got := poll(daemon, sid)) != ["6"]:
            assert all(p.startswith("42") for p in got), got
        return True

    waited = []
    waiter = threading.Thread(target=lambda: waited.append(let_go()))
    waiter.start()
    waiter.join(0.2)
    with upgrade(daemon, "&sid=" + sid) as ws:
        ws.send("2probe")
        assert ws.frame() == (feeds.TEXT, b"3probe")
        waiter.join(harness.PATIENCE)
        assert waited == [True]
        # A poll that comes in between is let go soon, too.
        assert let_go()
        # Another one may not try at the same time.
        assert upgrade(daemon, "&sid=" + sid, expect=400).buffer == b"Bad request"
        ws.send("5")
        ws.send('42["requestLlamaStatus"]')
        assert ws.frame()[1].startswith(b'42["llamaStatus"')
        answer = daemon.get(POLL + "&sid=" + sid)
        assert (answer.status, answer.json) == (400, {"code": 3, "message": "Bad request"})
    harness.wait_for(lambda: daemon.get(POLL + "&sid=" + sid).json["code"] == 1, what="the session ends with its WebSocket")


def test_a_failed_probe_keeps_polling(daemon):
    sid = handshake(daemon)["sid"]
    with upgrade(daemon, "&sid=" + sid) as ws:
        ws.send("42[\"x\"]")
        assert ws.closed() == 1000
    with upgrade(daemon, "&sid=" + sid) as ws:
        pass                                                # hangs up
    with upgrade(daemon, "&sid=" + sid) as ws:              # once the server knows that it hung up
        ws.send("2probe")
        assert ws.frame() == (feeds.TEXT, b"3probe")
    assert post(daemon, sid, "40").text == "ok"
    assert poll(daemon, sid)[0].startswith("40")


def test_upgrade_refusals(daemon):
    for query, text in (("&sid=nobody", b"Session ID unknown"),):
        ws = upgrade(daemon, query, expect=400)
        assert ws.buffer == text and b"Content-Type: text/html\r\n" in ws.head
        ws.close()
    ws = feeds.RawWebSocket(daemon.address, "/socket.io/?EIO=3&transport=websocket", expect=400)
    assert ws.buffer == b"Unsupported protocol version"
    ws.close()


def test_origins(make_daemon):
    daemon = make_daemon({**ONE, "gateway": {"allowed_origins": ["https://page.example"]}})
    stranger = daemon.get(POLL, headers={"Origin": "https://evil.example"})
    assert stranger.status == 403 and "Access-Control-Allow-Origin" not in stranger.headers
    friend = daemon.get(POLL, headers={"Origin": "https://page.example"})
    assert friend.status == 200 and friend.headers["Access-Control-Allow-Origin"] == "https://page.example"
    sid = json.loads(friend.text[1:])["sid"]
    told = post(daemon, sid, "40", Origin="https://page.example")
    assert told.text == "ok" and told.headers["Access-Control-Allow-Origin"] == "https://page.example"
    flight = daemon.api("OPTIONS", POLL, headers={"Origin": "https://page.example", "Access-Control-Request-Method": "POST"})
    assert flight.status == 204 and "POST" in flight.headers["Access-Control-Allow-Methods"]
    ws = upgrade(daemon, "", headers=["Origin: https://evil.example"], expect=403)
    ws.close()
