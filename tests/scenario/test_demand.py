# ctest: real asan
"""Models on demand, through the gateway: the first request waits and is served, models make room for each other without losing one,
nobody is unloaded while busy, and replicas come and go with the work."""
import concurrent.futures
import http.client
import json
import signal
import threading
import time
from urllib.parse import urlsplit

import pytest

import harness
from harness import wait_for


def model(name, *args, **more):
    """An on-demand entry over the fake; what is None is left out."""
    entry = {"name": name, "model": "tiny.gguf", "args": list(args), "slots": 2, "on_demand": {}}
    return {key: value for key, value in dict(entry, **more).items() if value is not None}


def ask(daemon, name, timeout=harness.PATIENCE, **body):
    return daemon.api("POST", "/v1/chat/completions",
                      dict({"model": name, "max_tokens": 2, "messages": [{"role": "user", "content": "hello"}]}, **body),
                      timeout=timeout)


def served(answer):
    assert answer.status == 200, answer
    assert answer.json["choices"], answer
    return answer


def stream(daemon, name, **body):
    """The lines of a streamed chat, as they come."""
    url = urlsplit(daemon.address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=harness.PATIENCE)
    connection.request("POST", "/v1/chat/completions",
                       json.dumps(dict({"model": name, "stream": True, "messages": [{"role": "user", "content": "hi"}]}, **body)),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    try:
        assert answer.status == 200, answer.read()
        for line in answer:
            yield line.decode().rstrip("\n")
    finally:
        connection.close()


def started(daemon, name):
    """How often its server was started."""
    return sum(1 for event in daemon.get("/api/v1/history").json["events"]
               if event["kind"] == "started" and event["instance"] == name)


def told(daemon, kind, name=None):
    return [event["text"] for event in daemon.get("/api/v1/history").json["events"]
            if event["kind"] == kind and (name is None or event["instance"] == name)]


def metric(daemon, name):
    """{labels: value} of one family, labels as they are written."""
    found = {}
    for line in daemon.get("/metrics").text.splitlines():
        if line.startswith(name + "{"):
            labels, value = line[len(name) + 1:].rsplit("} ", 1)
            found[labels] = float(value)
    return found


# ---- coming and going ------------------------------------------------------------------------------------------------------

@pytest.mark.real
def test_the_real_one_comes_when_it_is_asked_for(make_daemon, real_llama_server):
    daemon = make_daemon({"instances": [model("a", "-c", "512", on_demand={"idle_timeout": "1s"})]}, server=real_llama_server)
    daemon.wait_state("a", "idle")
    assert daemon.get("/ready").status == 200
    assert not daemon.children()
    answer = served(ask(daemon, "a"))
    assert int(answer.headers["X-Queue-Wait"]) > 0
    assert daemon.instance("a")["until"] and daemon.instance("a")["onDemand"]
    [listed] = daemon.get("/api/v1/models").json["models"]
    assert listed["state"] == "ready" and listed["until"], listed
    assert "UNTIL" in daemon.cli("ps").stdout and "unloaded" in daemon.cli("status", "a").stdout
    daemon.wait_state("a", "idle")
    assert told(daemon, "load", "a") == ["loading: a request asked for it"]
    assert told(daemon, "unload", "a")[0].startswith("unloaded: not used for 1")
    [listed] = daemon.get("/api/v1/models").json["models"]
    assert listed["state"] == "idle" and listed["until"] is None
    served(ask(daemon, "a"))
    assert started(daemon, "a") == 2


def test_a_stream_is_told_of_the_progress(make_daemon):
    daemon = make_daemon({"instances": [model("a", "--load-ms", "9000")]})
    daemon.wait_state("a", "idle")
    lines = list(stream(daemon, "a", max_tokens=3))
    comments = [line for line in lines if line.startswith(": queued")]
    assert comments and "position=1" in comments[0] and "status=starting" in comments[0], lines[:5]
    assert lines[-2:] == ["data: [DONE]", ""] or "data: [DONE]" in lines[-3:], lines[-4:]
    assert sum(1 for line in lines if line.startswith("data: {")) >= 3


def test_keep_alive_of_a_request(make_daemon):
    daemon = make_daemon({"instances": [model("a", on_demand={"idle_timeout": "1s"})]})
    served(ask(daemon, "a", keep_alive=0))
    daemon.wait_state("a", "idle", timeout=5)
    served(ask(daemon, "a", keep_alive=-1))
    time.sleep(2)
    assert daemon.status("a") == "ready" and daemon.instance("a")["until"] is None
    served(ask(daemon, "a", keep_alive="100ms"))
    daemon.wait_state("a", "idle")
    assert started(daemon, "a") == 2
    refused = ask(daemon, "a", keep_alive="soon")
    assert refused.status == 400 and refused.json["error"]["param"] == "keep_alive", refused
    assert daemon.status("a") == "idle", "a wrong request wakes nobody"


def test_looking_neither_wakes_nor_keeps(make_daemon):
    daemon = make_daemon({"instances": [model("a", on_demand={"idle_timeout": "1500ms"})]})
    daemon.wait_state("a", "idle")

    def look():
        for path in ("/metrics", "/v1/models", "/v1/models/a", "/api/v1/models", "/api/v1/instances", "/api/v1/instances/a", "/ready",
                     "/api/v1/status", "/stats", "/", "/api/v1/requests"):
            assert daemon.get(path).status == 200, path
        for path in ("/props?model=a", "/slots?model=a"):
            daemon.get(path)

    for _ in range(5):
        look()
    assert daemon.status("a") == "idle" and started(daemon, "a") == 0
    served(ask(daemon, "a"))
    until = time.monotonic() + 15
    while daemon.status("a") == "ready":
        assert time.monotonic() < until, "looked at for ever, it stays for ever"
        look()
    daemon.wait_state("a", "idle")


# ---- room ------------------------------------------------------------------------------------------------------------------

def test_a_hundred_requests_swap_two_models(make_daemon):
    daemon = make_daemon({"instances": [model("a"), model("b")], "on_demand": {"max_loaded": 1}})
    loaded = []
    for i in range(100):
        name = "ab"[i % 2]
        answer = served(ask(daemon, name))
        assert answer.headers["X-Llama-Instance"] == name
        loaded.append(sum(1 for one in daemon.instances().values() if one["pid"]))
    assert max(loaded) == 1
    assert started(daemon, "a") == 50 and started(daemon, "b") == 50
    assert metric(daemon, "llama_supervisor_model_unloads_total")['model="a",reason="evicted"'] == 50
    assert metric(daemon, "llama_supervisor_model_loads_total")['model="b"'] == 50
    assert metric(daemon, "llama_supervisor_model_load_wait_seconds_count")['model="b"'] == 50


def test_a_crowd_for_three_models_in_the_room_of_one(make_daemon):
    """At once and in any order: each is served by its own model, once; loads are few, since what waits for one model is served in
    one go."""
    daemon = make_daemon({"instances": [model(name) for name in "abc"], "on_demand": {"max_loaded": 1}})
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda i: ("abc"[i % 3], ask(daemon, "abc"[i % 3])), range(90)))
    for name, answer in answers:
        assert served(answer).headers["X-Llama-Instance"] == name
    assert sum(started(daemon, name) for name in "abc") < 45


def test_a_busy_one_is_never_unloaded(make_daemon):
    daemon = make_daemon({"instances": [model("a", "--tok-s", "20", "--tokens", "60", on_demand={"idle_timeout": "200ms"}), model("b")],
                          "on_demand": {"max_loaded": 1}})
    lines, ended = stream(daemon, "a", max_tokens=60), []
    while not next(lines).startswith("data: {"):
        pass

    def ask_other():
        answer = ask(daemon, "b")
        ended.append((time.monotonic(), answer))

    other = threading.Thread(target=ask_other)
    other.start()
    rest = list(lines)
    last = time.monotonic()
    other.join(harness.PATIENCE)
    assert "data: [DONE]" in rest and sum(1 for line in rest if line.startswith("data: {")) >= 55
    assert ended and served(ended[0][1]) and ended[0][0] >= last - 0.5, "it waited for the end of the stream"
    assert told(daemon, "unload", "a") == ["unloaded: evicted for b"]
    refused = daemon.api("POST", "/api/v1/models/a/unload")
    assert refused.status == 202, refused


def test_pinned_and_impossible(make_daemon):
    daemon = make_daemon({"instances": [model("a", on_demand={"pinned": True}), model("b")], "on_demand": {"max_loaded": 1}})
    served(ask(daemon, "a"))
    refused = ask(daemon, "b")
    assert refused.status == 503 and refused.json["error"]["code"] == "no_room", refused
    assert "a is pinned" in refused.json["error"]["message"] and int(refused.headers["Retry-After"]) > 0
    assert daemon.api("POST", "/api/v1/models/b/load").status == 409
    assert daemon.status("a") == "ready"
    result = daemon.cli("unload", "a", "--wait")
    assert result.returncode == 0 and "unload: a" in result.stdout, result
    served(ask(daemon, "b"))


def test_groups_and_preload(make_daemon):
    daemon = make_daemon({"instances": [model(name) for name in "abcd"],
                          "on_demand": {"preload": ["a", "c"]},
                          "groups": [{"name": "one", "members": ["a", "b"]},
                                     {"name": "pair", "mode": "together", "members": ["c", "d"]}]})
    for name in "acd":
        daemon.wait_state(name, "ready")
    assert daemon.status("b") == "idle"
    served(ask(daemon, "b"))
    assert daemon.status("a") == "idle" and daemon.status("c") == "ready"
    assert daemon.api("POST", "/api/v1/models/d/unload").status == 202
    daemon.wait_state("c", "idle")
    daemon.wait_state("d", "idle")
    served(ask(daemon, "c"))
    daemon.wait_state("d", "ready")


# ---- trouble ---------------------------------------------------------------------------------------------------------------

def test_a_load_that_fails_while_fifty_wait(make_daemon):
    daemon = make_daemon({"instances": [model("a", "--die-loading", "bad-gguf", "--load-ms", "1500",
                                              restart={"backoff_initial": "3s", "backoff_max": "3s", "max_retries": 1})]})
    daemon.wait_state("a", "idle")
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: ask(daemon, "a"), range(50)))
        took = time.monotonic() - began
    for answer in answers:
        assert answer.status == 503 and answer.json["error"]["code"] == "load_failed", answer
        assert "a could not be loaded" in answer.json["error"]["message"], answer
        assert 1 <= int(answer.headers["Retry-After"]) <= 3
    assert took < 20
    assert started(daemon, "a") == 1, "one load for all of them"
    # The next one waits for the end of the back-off, is told of the next failure, and that was the last try.
    assert ask(daemon, "a").json["error"]["code"] == "load_failed"
    daemon.wait_state("a", "error")
    assert started(daemon, "a") == 2
    for _ in range(5):
        assert ask(daemon, "a").json["error"]["code"] == "load_failed"
    assert started(daemon, "a") == 2, "nobody hammers"
    assert daemon.api("POST", "/api/v1/models/a/load").status == 202
    wait_for(lambda: started(daemon, "a") == 3, what="a person tries again")


def test_killed_in_the_middle_of_a_request(make_daemon):
    daemon = make_daemon({"instances": [model("a", "--prompt-ms", "3000")]})
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(daemon, "a")))
    asking.start()
    daemon.wait_state("a", "ready")
    wait_for(lambda: daemon.instance("a")["inFlight"], what="it works")
    harness.os.kill(daemon.instance("a")["pid"], signal.SIGKILL)
    asking.join(harness.PATIENCE)
    assert answers, "it is told or served"
    assert answers[0].status in (200, 502, 503), answers
    served(ask(daemon, "a"))


def test_the_next_daemon_finds_it_loaded(make_daemon):
    daemon = make_daemon({"instances": [model("a", on_demand={"idle_timeout": "4s"}), model("b")]})
    served(ask(daemon, "a"))
    pid = daemon.instance("a")["pid"]
    daemon.kill9()
    daemon.start()
    daemon.wait_state("a", "ready")
    assert daemon.instance("a")["pid"] == pid and daemon.status("b") == "idle"
    assert daemon.instance("a")["until"]
    daemon.wait_state("a", "idle")
    assert started(daemon, "a") == 1


def test_stopped_is_stopped(make_daemon):
    daemon = make_daemon({"instances": [model("a")]})
    served(ask(daemon, "a"))
    assert daemon.cli("stop", "a", "--wait").returncode == 0
    assert daemon.status("a") == "initial"
    refused = ask(daemon, "a")
    assert refused.status == 503 and refused.json["error"]["code"] == "model_down", refused
    assert daemon.cli("load", "a", "--wait").returncode == 0
    served(ask(daemon, "a"))
    assert daemon.cli("load", "nobody").returncode == 1
    assert "there is no model" in daemon.cli("unload", "nobody").stderr


# ---- ranges ----------------------------------------------------------------------------------------------------------------

def test_replicas_come_and_go(make_daemon):
    daemon = make_daemon({"instances": [{"name": "q", "model": "tiny.gguf", "args": ["--tok-s", "10"], "slots": 1,
                                         "replicas": {"min": 1, "max": 3},
                                         "scale": {"wait": "200ms", "idle": "2s", "cooldown": "200ms"}}]})
    daemon.wait_state("q-0", "ready")
    assert list(daemon.instances()) == ["q-0"]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(daemon, "q", max_tokens=8), range(40)))
    assert {served(answer).headers["X-Llama-Instance"] for answer in answers} == {"q-0", "q-1", "q-2"}
    assert len(told(daemon, "scale_out")) == 2
    wait_for(lambda: list(daemon.instances()) == ["q-0"], what="the others go")
    assert len(told(daemon, "scale_in")) == 2
    assert metric(daemon, "llama_supervisor_model_replicas")['model="q"'] == 1
    assert metric(daemon, "llama_supervisor_model_scalings_total") == {'model="q",direction="out"': 2, 'model="q",direction="in"': 2}
    served(ask(daemon, "q"))
    plan = daemon.api("POST", "/api/v1/reload?dry_run=1").json
    assert plan["keep"] == ["q-0"] and not plan["start"] and not plan["stop"], plan
