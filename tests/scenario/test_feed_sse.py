# ctest: asan
"""The feed as server-sent events."""
import json
import os
import signal
import socket

import pytest

import harness

TWO = {"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": 2}]}


class Stream:
    """The bytes as they come, cut into events: dicts of the fields, data parsed."""

    def __init__(self, daemon, path="/api/v1/events", headers=(), version="1.1"):
        host, port = daemon.address.removeprefix("http://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=harness.PATIENCE)
        lines = ["GET %s HTTP/%s" % (path, version), "Host: localhost", *headers]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, value = line.decode().split(":", 1)
            self.headers[name.lower()] = value.strip()
        self.text = b""

    def more(self):
        if self.headers.get("transfer-encoding") != "chunked":
            data = self.file.readline()
            if not data:
                raise EOFError
            self.text += data
            return
        size = int(self.file.readline().split(b";")[0], 16)
        self.text += self.file.read(size)
        assert self.file.read(2) == b"\r\n"
        if not size:
            raise EOFError

    def event(self):
        while b"\n\n" not in self.text:
            self.more()
        block, self.text = self.text.split(b"\n\n", 1)
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
        if "data" in fields:
            fields["data"] = json.loads(fields["data"])
        return fields

    def until(self, question):
        while True:
            event = self.event()
            if "data" in event and question(event["data"]):
                return event

    def close(self):
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture
def daemon(make_daemon):
    daemon = make_daemon(TWO)
    for name in ("qwen-0", "qwen-1"):
        daemon.wait_state(name, "ready")
    return daemon


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_the_stream(daemon, version):
    with Stream(daemon, version=version) as s:
        assert s.status == 200 and s.headers["content-type"] == "text/event-stream"
        assert s.headers["cache-control"] == "no-store"
        assert s.event() == {"retry": "2000"}
        events = [s.event(), s.event()]
        assert [e["event"] for e in events] == ["llama_status", "llama_status"]
        assert sorted(e["data"]["instance"] for e in events) == ["qwen-0", "qwen-1"]
        for e in events:
            assert e["id"] == "%s:%d" % (e["data"]["instance"], e["data"]["seq"])
        os.kill(daemon.instance("qwen-0")["pid"], signal.SIGKILL)
        s.until(lambda m: m["instance"] == "qwen-0" and m["data"]["status"] == "crashed")
        s.until(lambda m: m["instance"] == "qwen-0" and m["data"]["status"] == "ready")


def test_it_begins_anew_whatever_was_seen(daemon):
    for last in ("qwen-0:1", "nonsense", "99999999999999999999", ""):
        with Stream(daemon, headers=["Last-Event-ID: " + last]) as s:
            assert s.event() == {"retry": "2000"}
            assert {s.event()["data"]["instance"], s.event()["data"]["instance"]} == {"qwen-0", "qwen-1"}


def test_one_instance(daemon):
    with Stream(daemon, "/api/v1/events?instance=qwen-1") as s:
        s.event()
        assert s.event()["data"]["instance"] == "qwen-1"
        os.kill(daemon.instance("qwen-0")["pid"], signal.SIGKILL)
        daemon.wait("qwen-0", lambda now: now["restarts"] > 0)
        os.kill(daemon.instance("qwen-1")["pid"], signal.SIGKILL)
        assert s.event()["data"]["instance"] == "qwen-1"
    answer = daemon.get("/api/v1/events?instance=qwen-7")
    assert answer.status == 404 and "did you mean" in answer.json["error"]["message"]
    assert daemon.get("/api/v1/events?instance=a&instance=b").status == 400


def test_reload_adds_and_removes(daemon):
    with Stream(daemon) as s:
        daemon.write_config({"instances": [TWO["instances"][0], {"name": "new", "model": "tiny.gguf"}]})
        daemon.signal(signal.SIGHUP)
        s.until(lambda m: m["instance"] == "new" and m["data"]["status"] == "ready")
        daemon.write_config(TWO)
        daemon.signal(signal.SIGHUP)
        assert s.until(lambda m: m["type"] != "llama_status")["event"] == "llama_status_removed"


def test_the_daemon_ends(daemon):
    with Stream(daemon) as s:
        s.event()
        daemon.signal(signal.SIGTERM)
        with pytest.raises(EOFError):
            while True:
                s.event()
        daemon.wait_exit()


def test_head_and_strangers(daemon):
    head = daemon.api("HEAD", "/api/v1/events")
    assert head.status == 200 and head.headers["Content-Type"] == "text/event-stream"
    assert daemon.get("/api/v1/events", headers={"Origin": "https://evil.example"}).status == 403
    with Stream(daemon, headers=["Origin: http://localhost:3000"]) as s:
        assert s.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_they_leave_no_trace(daemon):
    streams = [Stream(daemon) for _ in range(30)]
    for s in streams:
        s.event()
    assert 'feed_subscribers{carrier="sse"} 30' in daemon.get("/metrics").text
    for s in streams:
        s.close()
    harness.wait_for(lambda: 'feed_subscribers{carrier="sse"} 0' in daemon.get("/metrics").text, what="all are gone")
