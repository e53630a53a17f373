# ctest: asan
"""The feed over WebSocket: real clients (npm ws, python3-websockets), and RFC 6455 frame by frame, kept and broken."""
import asyncio
import json
import os
import signal
import socket
import time

import pytest
import websockets

import feeds
import harness
from feeds import BINARY, CLOSE, PING, PONG, TEXT, RawWebSocket

TWO = {"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": 2}]}


@pytest.fixture
def daemon(make_daemon):
    daemon = make_daemon(TWO)
    for name in ("qwen-0", "qwen-1"):
        # Ready is told before the slots are known: a message about those would come between.
        daemon.wait(name, lambda now: now["status"] == "ready" and now["slots"] > 0, what="ready, with its slots")
    return daemon


@pytest.fixture
def ws(daemon):
    """An open connection that has been told everything."""
    with RawWebSocket(daemon.address) as ws:
        told = {ws.message()["instance"], ws.message()["instance"]}
        assert told == {"qwen-0", "qwen-1"}
        yield ws


def ask(ws):
    """It is alive: it answers with the whole set."""
    ws.send("requestLlamaStatus")
    return [ws.message(lambda m: m["type"] == "llama_status") for _ in range(2)]


def kill_child(daemon, name):
    os.kill(daemon.instance(name)["pid"], signal.SIGKILL)


# ---- what is told ---------------------------------------------------------------------------------------------------------

def test_the_message(daemon, ws):
    before = time.time() * 1000
    message = ask(ws)[0]
    assert list(message) == ["type", "instance", "seq", "timestamp", "data"]
    assert before - 2000 < message["timestamp"] < time.time() * 1000 + 1000
    data = message["data"]
    assert list(data) == ["status", "models", "lastError", "retries", "uptime", "startedAt", "pid", "gpu", "nextRetryAt",
                          "inFlight", "slots", "queue", "tokensPerSecond"]
    assert data["status"] == "ready" and data["pid"] == daemon.instance(message["instance"])["pid"]
    assert list(data["models"][0]) == ["id", "name", "size", "type", "modified_at"]


def test_changes(daemon, ws):
    kill_child(daemon, "qwen-1")
    seqs = []
    dead = ws.message(lambda m: seqs.append(m["seq"]) or m["data"]["status"] == "crashed")
    assert dead["instance"] == "qwen-1" and dead["data"]["pid"] is None and dead["data"]["nextRetryAt"]
    assert "killed" in dead["data"]["lastError"].lower() or "SIGKILL" in dead["data"]["lastError"], dead
    ws.message(lambda m: seqs.append(m["seq"]) or m["data"]["status"] == "ready")
    assert seqs == sorted(seqs)


def test_one_instance(daemon):
    with RawWebSocket(daemon.address, "/ws?instance=qwen-1") as ws:
        assert ws.message()["instance"] == "qwen-1"
        kill_child(daemon, "qwen-0")
        daemon.wait("qwen-0", lambda now: now["restarts"] > 0)
        kill_child(daemon, "qwen-1")
        assert ws.message()["instance"] == "qwen-1"
    with RawWebSocket(daemon.address, "/ws?instance=qwen-7", expect=404) as ws:
        while b"did you mean" not in ws.buffer:
            ws.more()


def test_reload_adds_and_removes(daemon, ws):
    daemon.write_config({"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": 2}, {"name": "new", "model": "tiny.gguf"}]})
    daemon.signal(signal.SIGHUP)
    ws.message(lambda m: m["instance"] == "new" and m["data"]["status"] == "ready")
    daemon.write_config(TWO)
    daemon.signal(signal.SIGHUP)
    gone = ws.message(lambda m: m["type"] != "llama_status")
    assert gone.pop("timestamp") and gone == {"type": "llama_status_removed", "instance": "new"}
    ask(ws)


def test_logs(daemon, ws):
    ws.send(json.dumps({"type": "subscribe", "topics": ["log:qwen-0"]}))
    assert ws.message() == {"type": "subscribed", "topics": ["status", "log:qwen-0"]}
    daemon.api("POST", "/api/v1/instances/qwen-0/restart")
    lines = []
    while not any("listening on" in line for line in lines):
        message = ws.message(lambda m: m["type"] == "log")
        assert message["instance"] == "qwen-0" and message["skipped"] == 0
        lines += message["lines"]
    ws.send(json.dumps({"type": "unsubscribe", "topics": ["log:qwen-0"]}))
    assert ws.message(lambda m: m["type"] == "subscribed") == {"type": "subscribed", "topics": ["status"]}


def test_the_log_of_the_daemon_itself(daemon, ws):
    ws.send(json.dumps({"type": "subscribe", "topics": ["log", "log:qwen-1"]}))
    assert ws.message() == {"type": "subscribed", "topics": ["status", "log", "log:qwen-1"]}
    kill_child(daemon, "qwen-0")
    lines = []
    while not any("qwen-0: ready" in line for line in lines):
        message = ws.message(lambda m: m["type"] == "log" and m["instance"] is None)
        assert message["skipped"] == 0
        lines += message["lines"]
    assert any("warning: qwen-0: " in line and "SIGKILL" in line for line in lines), lines
    told = daemon.get("/api/v1/logs?lines=10000").text
    assert "\n".join(lines) + "\n" in told
    ws.send(json.dumps({"type": "unsubscribe", "topics": ["log"]}))
    assert ws.message(lambda m: m["type"] == "subscribed") == {"type": "subscribed", "topics": ["status", "log:qwen-1"]}


def test_what_is_not_understood(ws):
    for message, word in (("hello", "not understood"), ("{}", "type"), ('{"type":"subscribe","topics":["queue"]}', "not served"),
                          ('{"type":"subscribe","topics":["log:nobody"]}', "no instance"),
                          ('{"type":"subscribe","topics":["log:"]}', "no instance"), ('{"type":"subscribe","topics":["logs"]}', "unknown topic")):
        ws.send(message)
        assert word in ws.message(lambda m: m["type"] == "error")["message"]
    ask(ws)


def test_the_daemon_ends(daemon, ws):
    daemon.signal(signal.SIGTERM)
    assert ws.closed() in (1001, 1006)
    daemon.wait_exit()


# ---- real clients ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("offer, got", [([], ""), (["llama-status"], "llama-status"), (["key.c2VjcmV0", "llama-status"], "llama-status")])
def test_npm_ws(daemon, offer, got):
    node = feeds.Node("websocket.mjs", daemon.address.replace("http", "ws") + "/ws", json.dumps(offer))
    try:
        assert node.wait("open") == {"protocol": got, "extensions": ""}
        node.wait("message", lambda m: m["instance"] == "qwen-1")
        mark = node.mark()
        node.send("requestLlamaStatus")
        node.wait("message", lambda m: m["instance"] == "qwen-0", mark)
        node.send("!close")
        assert node.wait("close")["code"] == 1005
    finally:
        node.close()


def test_python_websockets(daemon):
    """Also with its own compression offered, which is not taken up."""
    async def run():
        uri = daemon.address.replace("http", "ws") + "/ws"
        async with websockets.connect(uri, subprotocols=["llama-status"], compression="deflate") as ws:
            assert ws.subprotocol == "llama-status"
            assert json.loads(await ws.recv())["type"] == "llama_status"
            assert json.loads(await ws.recv())["type"] == "llama_status"
            await ws.send(json.dumps({"type": "requestLlamaStatus"}))
            assert json.loads(await ws.recv())["type"] == "llama_status"
            await asyncio.wait_for(await ws.ping(), harness.PATIENCE)
            await ws.close(1000, "enough")
            assert ws.close_code == 1000
    asyncio.run(run())


def test_many_at_once(daemon):
    """Fifty of them, half of them gone without a word: the others are told all the same."""
    all_of_them = [RawWebSocket(daemon.address) for _ in range(50)]
    try:
        for ws in all_of_them:
            ws.message()
            ws.message()
        for ws in all_of_them[::2]:
            ws.close()
        kill_child(daemon, "qwen-0")
        for ws in all_of_them[1::2]:
            ws.message(lambda m: m["instance"] == "qwen-0" and m["data"]["status"] == "crashed")
            ws.message(lambda m: m["instance"] == "qwen-0" and m["data"]["status"] == "ready")
    finally:
        for ws in all_of_them:
            ws.close()
    harness.wait_for(lambda: 'feed_subscribers{carrier="websocket"} 0' in daemon.get("/metrics").text, what="all are gone")


# ---- the handshake --------------------------------------------------------------------------------------------------------

def refused(daemon, headers, expect, path="/ws"):
    with socket.create_connection(tuple_of(daemon), timeout=harness.PATIENCE) as s:
        s.sendall(("GET %s HTTP/1.1\r\n%s\r\n\r\n" % (path, "\r\n".join(headers))).encode())
        answer = s.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 %d " % expect), answer
    return answer


def tuple_of(daemon):
    host, port = daemon.address.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


GOOD = {"Host": "localhost", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


@pytest.mark.parametrize("change, expect", [
    ({"Upgrade": None, "Connection": None}, 426),
    ({"Sec-WebSocket-Version": None}, 426),
    ({"Sec-WebSocket-Version": "8"}, 426),
    ({"Sec-WebSocket-Key": None}, 400),
    ({"Sec-WebSocket-Key": ""}, 400),
    ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"}, 400),
    ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25j!Q=="}, 400),
    ({"Host": "evil.example"}, 403),
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "null"}, 403),
])
def test_handshakes_that_are_none(daemon, change, expect):
    headers = ["%s: %s" % (k, v) for k, v in {**GOOD, **change}.items() if v is not None]
    answer = refused(daemon, headers, expect)
    if expect == 426:
        assert "\r\nUpgrade: websocket\r\n" in answer


def test_two_keys(daemon):
    headers = ["%s: %s" % item for item in GOOD.items()]
    refused(daemon, headers + ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="], 400)


def test_a_long_head_and_what_follows_it(daemon):
    mask = b"\0\0\0\0"
    behind = b"\x81\x92" + mask + b"requestLlamaStatus" + b"\x89\x80" + mask
    with RawWebSocket(daemon.address, headers=["X-Long: " + 9000 * "x", "Cookie: " + 3000 * "y"], behind=behind) as ws:
        kinds = []
        while PONG not in kinds:
            kinds.append(ws.frame()[0])
        assert TEXT in kinds or ws.message()


# ---- frames ---------------------------------------------------------------------------------------------------------------

def test_fragments(ws):
    ws.send("request", fin=False)
    ws.send("ping in between", PING)
    ws.send("Llama", 0, fin=False)
    ws.send("", 0, fin=False)
    ws.send("Status", 0)
    frames = [ws.frame() for _ in range(3)]
    assert (PONG, b"ping in between") in frames
    assert [opcode for opcode, _ in frames].count(TEXT) == 2


def test_byte_by_byte(ws):
    ws.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sent, send = bytearray(), ws.socket.sendall
    payload = b"requestLlamaStatus"
    sent += bytes([0x81, 0x80 | len(payload)]) + b"\x01\x02\x03\x04"
    sent += bytes(b ^ (1, 2, 3, 4)[i % 4] for i, b in enumerate(payload))
    for byte in sent:
        send(bytes([byte]))
        time.sleep(0.002)
    assert ws.message()["type"] == "llama_status"


@pytest.mark.parametrize("name, code, send", [
    ("reserved bit 1", 1002, lambda ws: ws.send("x", rsv=4)),
    ("reserved bit 2", 1002, lambda ws: ws.send("x", rsv=2)),
    ("reserved bit 3", 1002, lambda ws: ws.send("x", rsv=1)),
    ("reserved opcode 3", 1002, lambda ws: ws.send("x", 3)),
    ("reserved opcode 11", 1002, lambda ws: ws.send("x", 11)),
    ("a fragmented ping", 1002, lambda ws: ws.send("x", PING, fin=False)),
    ("a ping of 126 bytes", 1002, lambda ws: ws.send(126 * "x", PING)),
    ("a close of 126 bytes", 1002, lambda ws: ws.send(b"\x03\xe8" + 124 * b"x", CLOSE)),
    ("a continuation of nothing", 1002, lambda ws: ws.send("x", 0)),
    ("a message within a message", 1002, lambda ws: (ws.send("x", fin=False), ws.send("y"))),
    ("text that is not UTF-8", 1007, lambda ws: ws.send(b"\xc3\x28")),
    ("a character that is cut", 1007, lambda ws: ws.send(b"\xe2\x82")),
    ("a surrogate", 1007, lambda ws: ws.send(b"\xed\xa0\x80")),
    ("not UTF-8 over two fragments", 1007, lambda ws: (ws.send(b"\xe2", fin=False), ws.send(b"\x28", 0))),
    ("a length of 2^63", 1002, lambda ws: ws.send("", length=1 << 63)),
    ("a length in too long a form", 1002, lambda ws: ws.socket.sendall(b"\x81\xfe\0\x02\0\0\0\0{}")),
    ("a length of 2^62", 1009, lambda ws: ws.send("xxxxxxxx", length=1 << 62)),
    ("16 KB and one byte", 1009, lambda ws: ws.send(16385 * "x")),
    ("a megabyte in fragments", 1009, lambda ws: [ws.send(8192 * "x", 0 if i else TEXT, fin=False) for i in range(3)]),
])
def test_broken_rules(daemon, ws, name, code, send):
    """The connection ends, with the code of the RFC."""
    try:
        send(ws)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert ws.closed() == code, name
    assert "feed_protocol_errors_total 1" in daemon.get("/metrics").text
    with RawWebSocket(daemon.address) as other:         # and nothing else does
        other.message()


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_frames_without_a_mask(daemon, ws, opcode):
    """RFC 6455 §5.1: "The server MUST close the connection upon receiving a frame that is not masked." Nothing of it is answered."""
    ws.send(b"" if opcode == CLOSE else "requestLlamaStatus", opcode, mask=None)
    assert ws.frame() == (CLOSE, b"\x03\xeaframes of a client must be masked")
    with pytest.raises((EOFError, ConnectionResetError)):
        ws.frame()
    with RawWebSocket(daemon.address) as other:
        other.message()


def test_good_rules(ws):
    ws.send("", PING)
    assert ws.frame() == (PONG, b"")
    ws.send(125 * "x", PING)
    assert ws.frame() == (PONG, 125 * b"x")
    ws.send("nobody asked", PONG)
    ws.send(b"\xe2\x82\xac".decode())                   # a good character, not a good message
    assert ws.message()["type"] == "error"
    ws.send(b"\x00\x01", BINARY)
    assert "binary" in ws.message()["message"]
    ws.send("")
    assert ws.message()["type"] == "error"
    ws.send(16384 * "x")
    assert ws.message()["type"] == "error"
    ask(ws)


@pytest.mark.parametrize("payload, answer", [
    (b"", 1005), (b"\x03\xe8", 1000), (b"\x03\xe8bye", 1000), (b"\x0f\xa0", 4000),
    (b"\x03\xed", 1002), (b"\x03\xee", 1002), (b"\x00\x01", 1002), (b"\x04\x00", 1002),
])
def test_closing_codes(ws, payload, answer):
    ws.send(payload, CLOSE)
    assert ws.closed() == answer


def test_a_ping_flood(daemon, ws):
    def rss():
        with open("/proc/%d/status" % daemon.pid) as f:
            return int([line for line in f if line.startswith("VmRSS")][0].split()[1])
    before = rss()
    frame = b"\x89\x84\0\0\0\0ping"
    ws.socket.setblocking(False)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            ws.socket.send(1000 * frame)
        except BlockingIOError:
            time.sleep(0.001)
        except (BrokenPipeError, ConnectionResetError):
            break
    with RawWebSocket(daemon.address) as other:
        other.message()
    assert daemon.get("/health").status == 200
    assert rss() - before < 4096


def test_a_message_flood(ws):
    try:
        for _ in range(3000):
            ws.send("{}")
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert ws.closed() in (1008, 1006)


def test_behind_unread_answers(daemon):
    """A handshake sent right behind questions whose answers nobody has read has its turn when they have."""
    question = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    handshake = (b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    host, port = daemon.address.split("//")[1].split(":")
    for n in range(1, 13):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(harness.PATIENCE)
            client.connect((host, int(port)))
            client.sendall(n * question + handshake)
            time.sleep(0.05)
            data = b""
            while data.count(b"HTTP/1.1 ") < n + 1:     # recv fails when none comes
                more = client.recv(65536)
                assert more, data[-300:]
                data += more
            assert data.count(b"HTTP/1.1 101 ") == 1, data[-300:]
    assert daemon.get("/health").status == 200
