# ctest: asan real
"""Requests on their way to an instance and back, through the real gateway: clients that leave, instances that die, deadlines, slow
readers, and that no request is answered twice or lost. The fakes keep a journal of what they took and of whose client left."""
import collections
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import struct
import time
import urllib.parse

import pytest

import harness
from harness import PATIENCE, wait_for

CHAT = "/v1/chat/completions"
# The aim is 10 ms (tests/bench); what polled, or waited for a timeout, would take seconds.
AT_ONCE = 0.5
# An instance that died stays down for the length of a test, so that it can be looked at.
STANDSTILL = {"backoff_initial": "5m", "backoff_max": "5m", "jitter": 0, "max_retries": 5}
# The fake with the faults of this replica and a journal of its own; which replica it is shows in the name of its socket.
WRAPPER = """#!/bin/sh
for a in "$@"; do case "$a" in *.sock) n=$(basename "$a" .sock);; esac; done
FAKE_LLAMA_ARGS="--journal %(folder)s/$n.journal $(cat %(folder)s/$n.faults 2>/dev/null)"
export FAKE_LLAMA_ARGS
exec %(fake)s "$@"
"""


class World:
    """A daemon with one model "q" of as many replicas as there are texts of faults."""

    def __init__(self, make_daemon, folder, *faults, slots=1, **over):
        self.folder = folder
        self.names = ["q"] if len(faults) == 1 else ["q-%d" % i for i in range(len(faults))]
        for name, fault in zip(self.names, faults):
            with open(os.path.join(folder, name + ".faults"), "w") as f:
                f.write(fault)
        wrapper = os.path.join(folder, "llama-server")
        with open(wrapper, "w") as f:
            f.write(WRAPPER % {"folder": folder, "fake": harness.FAKE})
        os.chmod(wrapper, 0o755)
        config = {"restart": STANDSTILL, "instances": [{"name": "q", "model": "tiny.gguf", "replicas": len(faults),
                                                        "args": ["-np", str(slots), "-c", "2048"]}]}
        self.daemon = make_daemon(harness.merged(config, over), server=wrapper)
        for name in self.names:
            self.daemon.wait_state(name, "ready")

    # -- what the instances saw

    def journal(self, name=None):
        """(word, time, id, whole line) of all instances, or of one."""
        rows = []
        for one in [name] if name else self.names:
            try:
                with open(os.path.join(self.folder, one + ".journal")) as f:
                    for line in f:
                        words = line.split()
                        rows.append((words[0], int(words[1]) / 1e6, words[3 if words[0] == "POST" else 2], line))
            except FileNotFoundError:
                pass
        return rows

    def times(self, word, unique, name=None):
        return [row[1] for row in self.journal(name) if row[0] == word and row[2] == unique]

    def wait_taken(self, unique, name=None):
        wait_for(lambda: self.times("POST", unique, name), what=lambda: "%s is taken: %s" % (unique, self.journal()))

    def who_took(self, unique):
        return [name for name in self.names if self.times("POST", unique, name)]

    # -- what we say of it

    def requests(self):
        answer = self.daemon.get("/api/v1/requests?recent=500")
        assert answer.status == 200, answer
        return answer.json

    def recent(self):
        return self.requests()["recent"]

    def wait_outcome(self, *outcomes):
        """The newest that ended, once it has one of these outcomes."""
        return wait_for(lambda: next((r for r in self.recent()[:1] if r["outcome"] in outcomes), None),
                        what=lambda: "outcome %s: %s" % (outcomes, json.dumps(self.requests(), indent=1)))

    def metric(self, name):
        for line in self.daemon.get("/metrics").text.splitlines():
            if line.rsplit(" ", 1)[0] == "llama_supervisor_" + name:
                return float(line.rsplit(" ", 1)[1])
        return None

    def client(self, unique, headers=None, patience=PATIENCE, **body):
        return Client(self.daemon.address, unique, headers, patience, **body)

    def ask(self, unique, headers=None, **body):
        """A whole request on a connection of its own."""
        client = self.client(unique, headers, **body)
        try:
            return client.answer()
        finally:
            client.close()

    def reload(self, **over):
        self.daemon.write_config(harness.merged(self.daemon.config, over))
        answer = self.daemon.api("POST", "/api/v1/reload")
        assert answer.status == 200 and answer.json["applied"], answer


def chat(**more):
    return {"model": "q", "messages": [{"role": "user", "content": "hi"}], **more}


class Client:
    """One chat request on a connection of its own, sent at once; its answer is read as slowly as the test likes."""

    def __init__(self, address, unique, headers=None, patience=PATIENCE, **body):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=patience)
        self.connection.request("POST", CHAT, json.dumps(chat(**body)),
                                {"Content-Type": "application/json", "X-Unique": unique, **(headers or {})})
        self.response = None

    def head(self):
        self.response = self.response or self.connection.getresponse()
        return self.response

    def answer(self):
        response = self.head()
        return harness.Answer(response.status, dict(response.getheaders()), response.read())

    def event(self):
        """The next data of the stream, parsed ("[DONE]" as text); None at its end."""
        while True:
            line = self.head().readline()
            if not line:
                return None
            if line.startswith(b"data: "):
                return json.loads(line[6:]) if line[6:7] == b"{" else line[6:].decode().strip()

    def rest(self):
        """All that still comes of the stream, whether it ends as it should or is cut."""
        try:
            return self.head().read()
        except http.client.IncompleteRead as cut:
            return cut.partial

    def token(self):
        """Reads until the first token."""
        while True:
            event = self.event()
            assert event and event != "[DONE]" and "error" not in event, event
            if event["choices"][0]["delta"].get("content"):
                return event

    def vanish(self, reset=False):
        """Closes; returns when. reset: by RST, not FIN."""
        sock = self.connection.sock
        if self.response:           # http.client gives its socket to the response
            sock = sock or self.response.fp.raw._sock
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        now = time.monotonic()
        self.close()
        return now

    def close(self):
        if self.response:
            self.response.close()
        self.connection.close()


# ---- clients that leave ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_leaves_before_the_answer_begins(make_daemon, folder, stream, reset):
    world = World(make_daemon, folder, "--prompt-ms 20000")
    client = world.client("gone", stream=stream)
    world.wait_taken("gone")
    left = client.vanish(reset)
    wait_for(lambda: world.times("GONE", "gone"), what=world.journal)
    assert world.times("GONE", "gone")[0] - left < AT_ONCE
    told = world.wait_outcome("client_gone")
    assert told["status"] is None and told["tokensOut"] is None and told["instance"] == "q", told
    # Its slot is free for the next one.
    wait_for(lambda: world.requests()["total"] == 0)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_client_leaves_in_the_middle(make_daemon, folder, reset):
    world = World(make_daemon, folder, "--tok-s 20 --tokens 1000")
    client = world.client("gone", stream=True, max_tokens=1000)
    client.token()
    left = client.vanish(reset)
    wait_for(lambda: world.times("GONE", "gone"), what=world.journal)
    assert world.times("GONE", "gone")[0] - left < AT_ONCE
    assert world.wait_outcome("client_gone")["status"] == 200


def test_a_client_leaves_while_it_waits(make_daemon, folder):
    world = World(make_daemon, folder, "--tok-s 20 --tokens 1000")
    busy = world.client("busy", stream=True, max_tokens=1000)
    busy.token()
    waiting = world.client("waiting", stream=True)
    wait_for(lambda: any(r["state"] == "waiting" for r in world.requests()["running"]), what=world.requests)
    assert world.requests()["total"] == 2
    waiting.vanish()
    told = world.wait_outcome("client_gone")
    assert told["instance"] is None and told["tries"] == 0 and told["wait"] > 0, told
    busy.vanish()
    wait_for(lambda: world.times("GONE", "busy"), what=world.journal)
    # Nobody took it up afterwards.
    assert world.ask("next", max_tokens=3).status == 200
    assert not world.times("POST", "waiting")


def test_the_id_of_a_conversation_does_not_keep_an_answer_alive(make_daemon, folder):
    world = World(make_daemon, folder, "--tok-s 20 --tokens 1000")
    client = world.client("gone", headers={"X-Conversation-Id": "c1"}, stream=True, max_tokens=1000)
    client.token()
    client.vanish()
    wait_for(lambda: world.times("GONE", "gone"), what=world.journal)
    assert not [row for row in world.journal() if "conversation" in row[3]]
    assert world.ask("next", max_tokens=3).status == 200


# ---- slow readers ------------------------------------------------------------------------------------------------------

def rss(pid):
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_slow_reader_of_a_fast_stream(make_daemon, folder):
    """The instance is not read any more; what waits for the client is bounded, and nothing is lost."""
    tokens = 100000         # some 20 MB
    world = World(make_daemon, folder, "", slots=2)
    assert world.ask("warm", stream=True, max_tokens=100, ignore_eos=True).status == 200
    before = rss(world.daemon.pid)
    client = world.client("slow", stream=True, max_tokens=tokens, ignore_eos=True)
    client.token()
    time.sleep(2)
    assert world.requests()["running"][0]["state"] == "running"
    grown = rss(world.daemon.pid) - before
    assert grown < (8 << 20) * (3 if "asan" in harness.BUILD else 1), "it grew by %d bytes" % grown
    # Others are served meanwhile.
    assert world.ask("other", max_tokens=3).status == 200
    seen, last = 1, None
    while True:
        event = client.event()
        if event is None:
            break
        if event != "[DONE]" and event["choices"] and event["choices"][0]["delta"].get("content"):
            seen += 1
        last = event
    client.close()
    assert last == "[DONE]" and seen == tokens, (last, seen)
    assert world.wait_outcome("ok")["tokensOut"] == tokens


# ---- instances that fail -----------------------------------------------------------------------------------------------

def kill(world, name, signo=signal.SIGKILL):
    os.kill(world.daemon.instance(name)["pid"], signo)


def test_an_instance_dies_before_the_first_byte(make_daemon, folder):
    world = World(make_daemon, folder, "--prompt-ms 2000", "--prompt-ms 2000")
    client = world.client("once")
    world.wait_taken("once")
    first = world.who_took("once")[0]
    kill(world, first)
    answer = client.answer()
    client.close()
    assert answer.status == 200 and answer.json["choices"][0]["message"]["content"], answer
    second = [name for name in world.names if name != first][0]
    assert len(world.times("POST", "once", first)) == 1 and len(world.times("POST", "once", second)) == 1
    told = world.wait_outcome("ok")
    assert told["tries"] == 2 and told["instance"] == second, told
    assert world.metric('upstream_failures_total{reason="reset"}') + world.metric('upstream_failures_total{reason="gone"}') == 1


def test_an_instance_dies_in_the_middle(make_daemon, folder):
    world = World(make_daemon, folder, "--tok-s 20 --tokens 1000", "--tok-s 20 --tokens 1000")
    client = world.client("once", stream=True, max_tokens=1000)
    client.token()
    (first,) = world.who_took("once")
    kill(world, first)
    text = client.rest()
    client.close()
    assert b'"error"' in text and b"[DONE]" not in text, text[-1000:]
    told = world.wait_outcome("upstream_broken", "instance_gone")
    assert told["tries"] == 1 and told["status"] == 200, told
    assert world.who_took("once") == [first], "after the first byte never"


def test_all_instances_die_before_the_first_byte(make_daemon, folder):
    world = World(make_daemon, folder, "--prompt-ms 20000", "--prompt-ms 20000", gateway={"queue": {"timeout": "1s"}})
    client = world.client("once")
    for _ in world.names:
        wait_for(lambda: any(r["instance"] for r in world.requests()["running"]), what=world.requests)
        name = world.requests()["running"][0]["instance"]
        world.wait_taken("once", name)
        kill(world, name)
        wait_for(lambda name=name: not any(r["instance"] == name for r in world.requests()["running"]), what=world.requests)
    answer = client.answer()
    client.close()
    # It waited for one of them to come back, as long as a request may.
    assert answer.status == 503 and answer.json["error"]["code"] == "queue_timeout", answer
    assert [len(world.times("POST", "once", name)) for name in world.names] == [1, 1], world.journal()
    assert world.wait_outcome("queue_timeout")["tries"] == 2


def test_an_error_of_one_is_tried_elsewhere(make_daemon, folder):
    world = World(make_daemon, folder, "--status 500 --only /v1/", "")
    for i in range(6):
        answer = world.ask("r%d" % i)
        assert answer.status == 200, answer
    assert world.metric('upstream_failures_total{reason="status"}') >= 1
    assert all(len(world.times("POST", "r%d" % i, "q-1")) == 1 for i in range(6))


def test_an_error_of_all_is_passed_on(make_daemon, folder):
    world = World(make_daemon, folder, "--status 500 --only /v1/", "--status 500 --only /v1/", gateway={"eject": {"failures": 0}})
    answer = world.ask("once")
    assert answer.status == 500 and answer.json["error"]["message"] == "Compute error.", answer
    assert [len(world.times("POST", "once", name)) for name in world.names] == [1, 1]
    assert world.wait_outcome("upstream_error")["tries"] == 2


def test_a_wedged_instance_with_requests_on_it(make_daemon, folder):
    """SIGSTOP: it is found dead; who had a part of an answer is told, who had none is served by the next process."""
    world = World(make_daemon, folder, "--tok-s 20 --tokens 100000", slots=2,
                  restart={"backoff_initial": "20ms"}, health={"timeout": "300ms", "interval": "100ms", "failures": 3})
    streaming = world.client("streaming", stream=True, max_tokens=100000)
    streaming.token()
    whole = world.client("whole", max_tokens=40)        # two seconds
    world.wait_taken("whole")
    kill(world, "q", signal.SIGSTOP)
    answer = whole.answer()
    assert answer.status == 200 and len(world.times("POST", "whole")) == 2, answer
    assert b"[DONE]" not in streaming.rest()
    for client in (streaming, whole):
        client.close()
    world.daemon.wait_state("q", "ready")
    assert world.ask("after", max_tokens=3).status == 200
    assert world.requests()["total"] == 0


def test_an_instance_is_stopped_with_requests_on_it(make_daemon, folder):
    """Who had nothing of an answer is served elsewhere; who had a part may finish it within stop.drain, then is told."""
    world = World(make_daemon, folder, "--tok-s 20 --tokens 100000", "--tok-s 20 --tokens 100000", slots=2,
                  stop={"drain": "1s"})
    streaming = world.client("streaming", stream=True, max_tokens=100000)
    streaming.token()
    (first,) = world.who_took("streaming")
    other = next(name for name in world.names if name != first)
    # Balanced over free slots: the next one goes to the other, the one after to either; at the end the first has one of them.
    whole = []
    for i in range(3):
        whole.append(world.client("w%d" % i, max_tokens=60))            # three seconds
        world.wait_taken("w%d" % i)
    moved = [i for i in range(3) if world.who_took("w%d" % i) == [first]]
    assert moved, world.journal()
    assert world.daemon.api("POST", "/api/v1/instances/%s/stop" % first).status == 202
    text = streaming.rest()
    streaming.close()
    assert b'"error"' in text and first.encode() in text and b"[DONE]" not in text, text[-500:]
    for i, client in enumerate(whole):
        answer = client.answer()
        client.close()
        assert answer.status == 200, answer
        assert world.times("POST", "w%d" % i, other), "the other one answered it"
    outcomes = {r["outcome"] for r in world.recent()}
    assert outcomes == {"ok", "instance_gone"}, world.recent()
    assert world.metric('upstream_failures_total{reason="gone"}') == 1 + len(moved)


def test_the_daemon_stops_with_requests(make_daemon, folder):
    world = World(make_daemon, folder, "--tok-s 20 --tokens 100000", stop={"drain": "500ms"})
    streaming = world.client("streaming", stream=True, max_tokens=100000)
    streaming.token()
    waiting = world.client("waiting")
    wait_for(lambda: world.requests()["total"] == 2)
    world.daemon.signal(signal.SIGTERM)
    answer = waiting.answer()
    assert answer.status == 503 and answer.json["error"]["code"] == "stopping", answer
    assert b"[DONE]" not in streaming.rest()
    for client in (streaming, waiting):
        client.close()
    assert world.daemon.wait_exit() == 0
    world.daemon.check_sanitizers()
    assert not world.times("POST", "waiting")


# ---- deadlines ---------------------------------------------------------------------------------------------------------

def test_the_deadline_of_the_first_byte(make_daemon, folder):
    world = World(make_daemon, folder, "--prompt-ms 60000", gateway={"timeouts": {"first_byte": "300ms"}})
    answer = world.ask("once")
    assert answer.status == 504 and "did not begin to answer within 300 ms" in answer.json["error"]["message"], answer
    assert world.metric('upstream_failures_total{reason="timeout_first_byte"}') == 1
    assert world.metric('requests_total{model="q",outcome="upstream_timeout_first_byte"}') == 1
    wait_for(lambda: world.times("GONE", "once"), what=world.journal)
    assert len(world.times("POST", "once")) == 1


def test_pings_are_no_first_byte(make_daemon, folder):
    """Its HTTP thread sends a head and pings; its inference stands still."""
    world = World(make_daemon, folder, "--prompt-ms 60000", gateway={"timeouts": {"first_byte": "2500ms"}})
    client = world.client("once", stream=True, sse_ping_interval=1)
    assert client.head().status == 200
    text = client.rest()
    client.close()
    assert text.count(b":\n\n") >= 1, text
    assert b"did not begin to answer within 2.5 s" in text and b"[DONE]" not in text, text
    assert world.wait_outcome("upstream_timeout_first_byte")["timeToFirstToken"] is None


def test_the_deadline_of_silence(make_daemon, folder):
    """Pings go on; tokens do not."""
    control = os.path.join(folder, "control")
    world = World(make_daemon, folder, "--tok-s 20 --tokens 100000 --control " + control,
                  gateway={"timeouts": {"idle": "1500ms"}})
    client = world.client("once", stream=True, max_tokens=100000, sse_ping_interval=1)
    client.token()
    with open(control, "w") as f:
        f.write("--wedge-after 0")
    text = client.rest()
    client.close()
    assert b"fell silent in its answer for 1.5 s" in text and text.count(b":\n\n") >= 1, text[-2000:]
    assert world.wait_outcome("upstream_timeout_idle")["status"] == 200
    assert world.metric('upstream_failures_total{reason="timeout_idle"}') == 1


def test_the_deadline_of_the_whole(make_daemon, folder):
    world = World(make_daemon, folder, "--tok-s 20 --tokens 100000", gateway={"timeouts": {"total": "1s"}})
    client = world.client("once", stream=True, max_tokens=100000)
    text = client.rest()
    client.close()
    assert b"did not end its answer within 1 s" in text, text[-2000:]
    world.wait_outcome("upstream_timeout_total")


# ---- exactly once ------------------------------------------------------------------------------------------------------

def test_none_twice_and_none_lost(make_daemon, folder):
    """2,000 requests (LSV_POSTS) with ids of their own over three instances that close idle connections, some of them just as the next request
    comes on them."""
    total, workers = int(os.environ.get("LSV_POSTS", "2000")), 12
    world = World(make_daemon, folder, *["--idle-ms 5 --close-reused 9"] * 3, slots=4)

    def run(worker):
        wrong = []
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(world.daemon.address).netloc, timeout=PATIENCE)
        for i in range(worker, total, workers):
            connection.request("POST", CHAT, json.dumps(chat(max_tokens=2, stream=i % 3 == 0)),
                               {"Content-Type": "application/json", "X-Unique": "u%d" % i})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or not (b'"content"' in body and (i % 3 or b"[DONE]" in body)):
                wrong.append((i, response.status, body[:300]))
            if i % 50 == worker:
                time.sleep(0.01)        # lets connections grow idle
        connection.close()
        return wrong

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        wrong = [one for many in pool.map(run, range(workers)) for one in many]
    assert not wrong, wrong[:5]
    taken = collections.Counter(row[2] for row in world.journal() if row[0] == "POST")
    assert len(taken) == total and set(taken.values()) == {1}, [u for u, n in taken.items() if n > 1][:5]
    assert all(len([r for r in world.journal(name) if r[0] == "POST"]) > total / 10 for name in world.names)
    assert world.metric('upstream_failures_total{reason="stale"}') > 10, "the race was met"
    assert world.metric('requests_total{model="q",outcome="ok"}') == total
    assert world.requests()["total"] == 0


# ---- what is told of them ----------------------------------------------------------------------------------------------

def test_the_list_and_the_order_to_cancel(make_daemon, folder):
    canary = "canary-7f3a9"
    world = World(make_daemon, folder, "--tok-s 20 --tokens 100000", log_level="debug")
    daemon = world.daemon
    client = world.client("one", stream=True, max_tokens=100000, messages=[{"role": "user", "content": canary}])
    client.token()
    waiting = world.client("two", messages=[{"role": "user", "content": canary}])
    wait_for(lambda: world.requests()["total"] == 2)
    running, second = world.requests()["running"]
    assert (running["state"], second["state"]) == ("running", "waiting")
    assert running["model"] == "q" and running["instance"] == "q" and running["path"] == CHAT and running["stream"] is True
    assert running["peer"] == "127.0.0.1" and running["source"] == "http" and running["outcome"] is None
    assert running["timeToFirstToken"] > 0 and running["id"] == client.head().getheader("X-Request-Id")
    assert second["instance"] is None and second["wait"] > 0 and second["stream"] is False
    assert world.metric('requests_running{model="q"}') == 2

    lines = daemon.cli("requests").stdout.splitlines()
    assert lines[0].split()[:3] == ["ID", "MODEL", "INSTANCE"] and lines[1].split()[0] == running["id"], lines
    assert " running " in lines[1] and " waiting " in lines[2], lines
    assert json.loads(daemon.cli("requests", "--json").stdout)["total"] == 2

    result = daemon.cli("requests", "--cancel", running["id"])
    assert (result.returncode, result.stdout) == (0, running["id"] + " is cancelled\n"), result
    wait_for(lambda: world.times("GONE", "one"), what=world.journal)
    text = client.rest()
    assert b"cancelled" in text and b"[DONE]" not in text, text[-500:]
    client.close()
    # The next one has the slot now.
    world.wait_taken("two")
    assert daemon.api("DELETE", "/api/v1/requests/" + second["id"]).status == 200
    answer = waiting.answer()
    waiting.close()
    assert answer.status == 499 and "cancelled" in answer.json["error"]["message"], answer
    assert [r["outcome"] for r in world.recent()[:2]] == ["cancelled", "cancelled"]
    assert daemon.api("DELETE", "/api/v1/requests/" + second["id"]).status == 404
    result = daemon.cli("requests", "--cancel", "nobody")
    assert result.returncode == 1 and 'no request "nobody" is running' in result.stderr, result
    assert daemon.cli("requests", "--cancel", "x", "-n", "3").returncode == 2
    assert daemon.cli("requests", "-n", "501").returncode == 2
    assert len(daemon.cli("requests", "-n", "1").stdout.splitlines()) == 2

    assert world.ask("three", max_tokens=2, messages=[{"role": "user", "content": canary}]).status == 200
    told = world.wait_outcome("ok")
    assert told["tokensOut"] == 2 and told["tokensIn"] > 0 and told["tokensPerSecond"] > 0 and told["status"] == 200
    assert world.metric('request_tokens_total{model="q",direction="out"}') >= 2
    # Names and numbers, never a word of it.
    log = daemon.output(1 << 20)
    assert told["id"] in log and running["id"] in log, "the debug log tells of requests"
    for text in (log, json.dumps(world.requests()), daemon.get("/metrics").text, daemon.cli("requests").stdout):
        assert canary not in text


def test_tokens_of_each_kind_of_answer(make_daemon, server):
    daemon = make_daemon({"instances": [{"name": "q", "model": "tiny.gguf", "args": ["-np", "2", "-c", "2048", "-t", "1"]}]},
                         server=server)
    daemon.wait_state("q", "ready")
    messages = {"model": "q", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
    asked = [(CHAT, messages), (CHAT, {**messages, "stream": True}),
             (CHAT, {**messages, "stream": True, "stream_options": {"include_usage": True}}),
             (CHAT, {**messages, "stream": True, "timings_per_token": True, "return_progress": True}),
             ("/v1/completions", {"model": "q", "prompt": "hi", "max_tokens": 3}),
             ("/v1/completions", {"model": "q", "prompt": "hi", "max_tokens": 3, "stream": True}),
             ("/completion", {"model": "q", "prompt": "hi", "n_predict": 3}),
             ("/completion", {"model": "q", "prompt": "hi", "n_predict": 3, "stream": True}),
             ("/v1/messages", messages), ("/v1/messages", {**messages, "stream": True})]
    if server != harness.FAKE:          # which has no such route
        responses = {"model": "q", "max_output_tokens": 3, "input": "hi"}
        asked += [("/v1/responses", responses), ("/v1/responses", {**responses, "stream": True})]
    for path, body in asked:
        answer = daemon.api("POST", path, body)
        assert answer.status == 200, (path, answer)
        told = daemon.get("/api/v1/requests?recent=1").json["recent"][0]
        assert told["path"] == path and told["tokensOut"] == 3 and told["tokensIn"] > 0, (path, body, told, answer)
        assert told["timeToFirstToken"] is not None and told["timeToFirstToken"] <= told["duration"], told
    text = daemon.get("/metrics").text
    assert 'llama_supervisor_request_tokens_total{model="q",direction="out"} %d\n' % (3 * len(asked)) in text
    assert 'llama_supervisor_request_first_token_seconds_count{model="q"} %d\n' % len(asked) in text


@pytest.mark.real
def test_a_real_server_stops_when_its_client_leaves(make_daemon, real_llama_server, slow_model):
    daemon = make_daemon({"instances": [{"name": "q", "model": slow_model, "args": ["-np", "1", "-c", "4096", "-t", "1"]}]},
                         server=real_llama_server)
    daemon.wait_state("q", "ready")

    def busy():
        answer = daemon.get("/slots?model=q")
        assert answer.status == 200, answer
        return any(slot["is_processing"] for slot in answer.json)

    for headers in ({}, {"X-Conversation-Id": "c1"}):
        client = Client(daemon.address, "gone", headers, stream=True, max_tokens=3000, ignore_eos=True)
        client.token()
        assert busy()
        client.vanish()
        wait_for(lambda: not busy(), timeout=10, what="its slot is free")
        told = next(r for r in daemon.get("/api/v1/requests").json["recent"] if r["path"] == CHAT)
        assert told["outcome"] == "client_gone", told
    # Those questions took no slot: they are listed, but how long they took says nothing about answers.
    text = daemon.get("/metrics").text
    assert 'llama_supervisor_request_first_token_seconds_count{model="q"} 2\n' in text


# ---- instances that die --------------------------------------------------------------------------------------------------

def kill_when_ready(world, name):
    """kill -9 when it is ready; what is told of it may be older than its last death."""
    def killed():
        one = world.daemon.instance(name)
        try:
            if one["status"] == "ready":
                os.kill(one["pid"], signal.SIGKILL)
                return True
        except ProcessLookupError:
            pass
        return False

    wait_for(killed)


def test_no_try_is_lost_on_a_dying_instance(make_daemon, folder):
    """kill -9 of one of two under 200 requests that may be tried once: all are answered but those that the dead one had read,
    which are sent to nobody else; and none of it is held against the instance when it is back."""
    total, workers = 200, 8
    world = World(make_daemon, folder, "", "", slots=4, restart={**STANDSTILL, "backoff_initial": "10ms", "backoff_max": "10ms", "max_retries": "forever"},
                  gateway={"retries": 1, "slow_start": "0s", "eject": {"failures": 1}})
    done = []

    def run(worker):
        wrong = []
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(world.daemon.address).netloc, timeout=PATIENCE)
        for i in range(worker, total, workers):
            connection.request("POST", CHAT, json.dumps(chat(max_tokens=2)), {"Content-Type": "application/json", "X-Unique": "u%d" % i})
            response = connection.getresponse()
            body = response.read()
            done.append(i)
            if response.status != 200:
                wrong.append(("u%d" % i, response.status, body))
        connection.close()
        return wrong

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(run, worker) for worker in range(workers)]
        for kills in range(1, 6):
            wait_for(lambda: len(done) >= kills * total / 8)
            kill_when_ready(world, "q-0")
        wrong = [one for future in running for one in future.result()]
    taken = collections.Counter(row[2] for row in world.journal() if row[0] == "POST")
    assert set(taken.values()) == {1}, [u for u, n in taken.items() if n > 1]
    for unique, status, body in wrong:
        assert status == 502 and world.who_took(unique) in (["q-0"], []), (unique, status, body)
    # A kill may meet the fake between reading a request and writing it down.
    assert total - len(taken) <= kills, wrong
    for name in world.names:
        world.daemon.wait_state(name, "ready")
        assert world.metric('instance_ejections_total{instance="%s",model="q"}' % name) == 0


def test_what_a_dead_one_never_read_goes_elsewhere(make_daemon, folder):
    """Requests that lie unread in the sockets of an instance when it is killed are answered by the other, though each may be
    tried once only; one that was read and has no answer yet is not sent again."""
    world = World(make_daemon, folder, "--prompt-ms 120000", "", slots=8, health={"timeout": "5m"},
                  gateway={"retries": 1, "slow_start": "0s", "balance": "round-robin"})
    clients = {}

    def ask(unique):
        clients[unique] = world.client(unique)
        return unique

    def on_the_dead_one():
        return [one for one in world.requests()["running"] if one["instance"] == "q-0"]

    ask("read-0")
    ask("read-1")
    read = wait_for(lambda: [u for u in list(clients) if world.who_took(u) == ["q-0"]])[0]
    pid = world.daemon.instance("q-0")["pid"]
    os.kill(pid, signal.SIGSTOP)
    unread = [ask("unread-%d" % i) for i in range(8)]
    wait_for(lambda: len(on_the_dead_one()) == 5, what=world.requests)
    os.kill(pid, signal.SIGKILL)
    for unique in unread:
        answer = clients[unique].answer()
        assert answer.status == 200 and world.who_took(unique) == ["q-1"], (unique, answer)
    answer = clients[read].answer()
    assert answer.status == 502 and answer.json["error"]["code"] == "tries_exhausted", answer
    assert world.who_took(read) == ["q-0"]
    for client in clients.values():
        client.close()
