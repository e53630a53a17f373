"""The driver for GoLlama hubs, under our hand (hub_tool), against a double of the hub that was written from captures."""
# ctest: asan
import concurrent.futures
import json
import os
import socket
import threading
import time

import pytest

from gollama_double import GollamaDouble
from harness import free_port, request, wait_for
from pipes import Tool, conform

ZERO_WIDTH = "\u200b"


@pytest.fixture
def hub(nothing_left):
    double = GollamaDouble()
    yield double
    double.close()


@pytest.fixture
def worker(hub, folder):
    tools = []

    def make(credentials="admin:password", allow="127.0.0.1", **options):
        path = os.path.join(folder, "creds")
        with open(path, "w") as f:
            f.write(credentials + "\n")
        port = free_port()
        tool = Tool("hub_tool", "gollama", "url=" + hub.url, "dir=" + folder, "credentials=" + path, "worker=w-1",
                    "listen=127.0.0.1:%d" % port, "allow=" + allow, *("%s=%s" % item for item in options.items()))
        tool.url = "http://127.0.0.1:%d" % port
        tools.append(tool)
        tool.expect("ready")
        return tool
    yield make
    for tool in tools:
        tool.close()


def execute(tool, text="hi", **body):
    return request(tool.url, "POST", "/execute", {"endpoint": "/v1/chat/completions",
                                                  "body": {"messages": [{"role": "user", "content": text}], **body}})


def test_it_registers_and_answers_a_hundred_chats(hub, worker):
    tool = worker()
    tool.say("credits 4")
    tool.until("state up")
    assert hub.registered == [tool.url]
    sent = json.loads(next(r[3] for r in hub.requests if r[1] == "/auth/token"))
    assert sent == {"worker_id": "w-1", "url": tool.url, "username": "admin", "password": "password"}
    assert request(hub.url, "GET", "/stats").json["workers"][tool.url]["jobs_completed"] == 0

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(request, hub.url, "POST", "/chat", {"message": "hello %d" % i}) for i in range(100)]
        done = 0
        while done < 100:
            line = tool.next()
            words = line.split(" ", 6)
            if words[0] == "job":
                body = json.loads(line[line.index("{"):])
                assert body["max_tokens"] == 100 and "path=/v1/chat/completions" in line
                tool.say("complete", words[1], "echo: " + body["messages"][0]["content"])
            elif words[0] == "settled":
                assert words[2] == "stored"
                done += 1
                tool.say("credits 4")
        assert [r.result().json for r in replies] == [{"reply": "echo: hello %d" % i} for i in range(100)]
    assert hub.workers[tool.url]["jobs_completed"] == 100 and hub.registered == [tool.url]


def test_it_comes_back_when_the_hub_has_dropped_it(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    hub.drop(tool.url)
    wait_for(lambda: tool.url in hub.workers)
    assert hub.registered == [tool.url, tool.url]


def test_an_answer_that_begins_with_a_word_for_errors_is_made_safe(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for text, safe in (("Error handling in Go is explicit.", True), ("errors are values", True), ("Workers of the world", True),
                           ("An Error is told", False)):
            reply = pool.submit(hub.chat, "say it")
            job = tool.until("job ").split()[1]
            tool.say("complete", job, text)
            assert reply.result(60) == (ZERO_WIDTH if safe else "") + text
            tool.say("credits 1")
    assert list(hub.workers) == [tool.url] and len(hub.registered) == 1


def test_requests_are_held_until_there_is_room(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    tool.say("credits 0")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        replies = [pool.submit(execute, tool, "wait %d" % i) for i in range(3)]
        wait_for(lambda: request(tool.url, "GET", "/health").status in (200, 503))
        time.sleep(0.3)                             # none of them is refused meanwhile
        assert not any(r.done() for r in replies)
        for _ in range(3):
            tool.say("credits 1")
            job = tool.until("job ").split()[1]
            tool.say("complete", job, "at last")
            tool.until("settled")
        assert {r.result(60).status for r in replies} == {200}


def test_failures_cost_the_hub_as_few_workers_as_can_be(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for how, status in (("permanent", 200), ("expired", 200), ("retry", 503), ("no_model", 503)):
            reply = pool.submit(execute, tool)
            tool.say("fail", tool.until("job ").split()[1], how)
            assert reply.result(60).status == status
            tool.until("settled")
            tool.say("credits 1")
            if status == 200:
                text = reply.result().json["choices"][0]["message"]["content"]
                assert text == "The request was not answered: as ordered"


def test_who_is_not_on_the_list_is_refused(hub, worker):
    tool = worker(allow="10.0.0.0/8,192.168.1.5")
    tool.say("credits 1")
    tool.until("state up")
    for path in ("/execute", "/health", "/connect"):
        answer = request(tool.url, "POST", path, {"endpoint": "/v1/chat/completions", "body": {}})
        assert answer.status == 403
    tool.say("counts")
    assert "refused=3" in tool.until("counts")
    assert not any(line.startswith("job") for line in tool.seen)


def test_what_is_asked_wrongly(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    for method, path, body, status, words in (
            ("POST", "/execute", b"{}", 400, "Missing endpoint\n"), ("POST", "/execute", b"not json", 400, "Invalid request\n"),
            ("POST", "/execute", b"[]", 400, "Invalid request\n"), ("POST", "/execute", b'{"endpoint":"/v1/x"}', 400, "Missing body\n"),
            ("GET", "/execute", None, 405, "Method not allowed\n"), ("POST", "/health", b"", 405, "Method not allowed\n"),
            ("POST", "/connect", b"{}", 400, "Invalid request\n"), ("GET", "/v1/models", None, 404, "404 page not found\n")):
        answer = request(tool.url, method, path, body, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.text) == (status, words), path
    assert not any(line.startswith("job") for line in tool.seen)


def test_health_and_connect(hub, worker):
    tool = worker()
    assert request(tool.url, "GET", "/health").status == 503
    tool.say("credits 1")
    tool.until("state up")
    wait_for(lambda: request(tool.url, "GET", "/health").json == {"busy": "false"})
    answer = request(tool.url, "POST", "/connect", {"username": "admin", "password": "password"})
    assert answer.status == 200 and answer.json == {"status": "registered", "url": tool.url}
    answer = request(tool.url, "POST", "/connect", {"username": "admin", "password": "WRONG"})
    assert (answer.status, answer.text) == (401, "Invalid credentials\n")


def test_wrong_credentials_are_told_and_not_hammered(hub, worker):
    tool = worker(credentials="admin:WRONG")
    tool.say("credits 1")
    assert "user and password" in tool.until("state revoked")
    time.sleep(1)
    assert [r[1] for r in hub.requests] == ["/auth/token"]
    assert "WRONG" not in " ".join(tool.seen + tool.errors)


def test_a_hub_that_went_away_is_looked_for_again(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    hub.users["admin"] = "changed"
    hub.drop(tool.url)
    tool.until("state revoked")                     # found out by the next look


def test_who_does_not_wait_is_told_lost(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    s = socket.create_connection(tool.url[7:].split(":"))
    body = json.dumps({"endpoint": "/v1/chat/completions", "body": {"messages": []}}).encode()
    s.sendall(b"POST /execute HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    job = tool.until("job ").split()[1]
    s.close()
    tool.until("lost " + job)
    tool.say("release", job)
    assert tool.until("settled") == "settled %s lease_lost" % job


def test_drain_ends_what_runs_and_refuses_the_rest(hub, worker):
    tool = worker()
    tool.say("credits 1")
    tool.until("state up")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = pool.submit(execute, tool, "runs")
        job = tool.until("job ").split()[1]
        held = pool.submit(execute, tool, "held")
        deadline = time.monotonic() + 60
        while True:                                 # it has come when a third one would stand behind it
            tool.say("status").until("state")
            if request(tool.url, "GET", "/health").json == {"busy": "true"} or time.monotonic() > deadline:
                break
        time.sleep(0.3)
        tool.say("drain")
        assert held.result(60).status == 503
        tool.say("complete", job, "done")
        assert runs.result(60).status == 200
        tool.until("state drained")
    with pytest.raises(OSError):
        execute(tool)


def test_what_cannot_be_opened_says_why(hub, folder):
    creds = os.path.join(folder, "creds")
    with open(creds, "w") as f:
        f.write("no colon\n")
    base = ["hub_tool", "gollama", "url=" + hub.url, "dir=" + folder, "credentials=" + creds]
    for extra, words in (([], "USER:PASSWORD"), (["good"], '"listen" says where'), (["listen=127.0.0.1:0"], '"allow"'),
                         (["listen=0.0.0.0:0", "allow=10.0.0.1"], '"advertise"'), (["url=tls://h"], "http://HOST:9000")):
        if extra:
            with open(creds, "w") as f:
                f.write("a:b\n")
        arguments = base + [e for e in extra if "=" in e]
        if extra == ["url=tls://h"]:
            arguments = ["hub_tool", "gollama", "url=tls://h", "dir=" + folder, "credentials=" + creds]
        tool = Tool(*arguments)
        assert words in tool.expect("open: ")
        tool.close()


def test_it_does_what_every_hub_does(nothing_left, folder):
    """The table of tests/unit/hub/conformance.h, as far as a hub goes that dials, and neither keeps nor takes back anything."""
    doubles, askers = [], []

    def begin():
        doubles.append(GollamaDouble())
        state = os.path.join(folder, "g%d" % len(doubles))
        os.mkdir(state)
        with open(os.path.join(state, "creds"), "w") as f:
            f.write("admin:password\n")
        return doubles[-1], ("url=" + doubles[-1].url, "dir=" + state, "credentials=" + os.path.join(state, "creds"),
                             "listen=127.0.0.1:%d" % free_port(), "allow=127.0.0.1")

    def put(double, name):
        """As a client of the hub, who waits for the answer."""
        askers.append(threading.Thread(target=double.chat, args=(name,)))
        askers[-1].start()

    def results(double, name):
        raise AssertionError("nothing is kept there")
    try:
        passed, left_out = conform("gollama", begin, put, results)
    finally:
        for asker in askers:
            asker.join()
        for double in doubles:
            double.close()
    assert passed == ["credits are kept", "who drains claims nothing"]
    assert len(left_out) == 5
