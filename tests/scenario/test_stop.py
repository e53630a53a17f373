"""A wanted end: drained, told, and when it will not listen killed, all within bounds; nothing is left of it."""
# ctest: real asan
import json
import os
import signal
import threading
import time

import pytest

import harness
from faults import Stream, deaths, events, one, order, socket_of, start_again

GONE = {"status": "initial", "retries": 0, "lastError": None}


def stopped(daemon, name="a"):
    """It is down because somebody wanted that: every door says so, and nobody calls it a death."""
    daemon.wait_state(name, "initial")
    harness.assert_same_truth(daemon, name, **GONE)
    now = daemon.instance(name)
    assert now["pid"] is None and now["uptime"] == 0 and not now["wantUp"], now
    assert deaths(daemon, name) == [] and events(daemon, "stopped", name)
    harness.wait_for(lambda: daemon.children() == [], what="nothing is left of it")
    assert not os.path.exists(socket_of(daemon, name))


def test_stop_and_start(make_daemon, server):
    daemon = make_daemon(one(), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    feed = daemon.ws()
    feed.wait(lambda m: m.get("instance") == "a")
    order(daemon, "stop")
    stopped(daemon)
    assert "exit code 0" in events(daemon, "stopped")[-1]["text"]
    assert "stopping" in feed.states("a"), feed.states("a")
    assert start_again(daemon)["pid"] != pid


def test_refuses_sigterm(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--ignore-term"))
    daemon.wait_state("a", "ready")
    began = time.monotonic()
    order(daemon, "stop")
    stopped(daemon)
    assert time.monotonic() - began >= 0.9, "SIGKILL came before the grace was over"
    assert "SIGKILL" in events(daemon, "stopped")[-1]["text"]


def test_hung_at_stop(make_daemon, server):
    """It cannot be asked whether it still works, it does not hear SIGTERM: drain and grace, then SIGKILL."""
    daemon = make_daemon(one("", {"health": {"interval": "30s", "timeout": "30s"}}), server=server)
    os.kill(daemon.wait_state("a", "ready")["pid"], signal.SIGSTOP)
    began = time.monotonic()
    order(daemon, "stop")
    stopped(daemon)
    assert time.monotonic() - began < 10 * 2, "longer than drain and grace, ten times"
    assert "SIGKILL" in events(daemon, "stopped")[-1]["text"]


def test_it_takes_its_time(make_daemon, fake_llama_server):
    """Within the grace: not killed."""
    daemon = make_daemon(one("--term-ms 500"))
    daemon.wait_state("a", "ready")
    order(daemon, "stop")
    stopped(daemon)
    assert "exit code 0" in events(daemon, "stopped")[-1]["text"]


def test_stop_while_it_loads(make_daemon, real_llama_server, slow_model):
    daemon = make_daemon(one(model=slow_model), server=real_llama_server)
    daemon.wait("a", lambda now: now["status"] == "starting" and now["pid"])
    order(daemon, "stop")
    stopped(daemon)


def test_stop_while_it_waits_for_its_next_try(make_daemon, server):
    daemon = make_daemon(one(model="nothing.gguf"), server=server)
    daemon.wait_state("a", "crashed")
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    told = harness.assert_same_truth(daemon, "a", status="initial")
    assert told["lastError"] is None or "model file is not there" in told["lastError"]
    assert daemon.instance("a")["nextRetryAt"] is None and daemon.children() == []


def test_wanted_again_before_it_was_down(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--term-ms 600"))
    pid = daemon.wait_state("a", "ready")["pid"]
    order(daemon, "stop")
    daemon.wait_state("a", "stopping")
    order(daemon, "start")
    now = daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"] != pid, what="up again")
    assert now["retries"] == 0 and deaths(daemon) == []


# ---- with work under way ---------------------------------------------------------------------------------------------------

def busy(make_daemon, server, slow_model, tokens, **stop):
    """An instance that streams so many tokens, some ten or twenty a second."""
    model = "tiny.gguf" if server == harness.FAKE else slow_model
    daemon = make_daemon(one("--tok-s 20", {"stop": stop}, model=model), server=server)
    daemon.wait_state("a", "ready")
    stream = Stream(socket_of(daemon), tokens)
    assert stream.began.wait(harness.PATIENCE) and not stream.error, stream.error
    harness.wait_for(lambda: b'"content":"' in stream.text, what="the stream runs")
    return daemon, stream


def test_a_stream_is_finished(make_daemon, server, slow_model):
    daemon, stream = busy(make_daemon, server, slow_model, 40, drain="60s")
    order(daemon, "stop")
    daemon.wait_state("a", "draining")
    harness.assert_same_truth(daemon, "a", status="draining")
    assert stream.end().is_whole(), (stream.error, stream.text[-300:])
    stopped(daemon)
    assert "exit code 0" in events(daemon, "stopped")[-1]["text"]


def test_the_slot_is_free_before_the_answer_has_left(make_daemon, fake_llama_server):
    """What came past us shows in /slots alone, and the end of an answer lies in the server a moment longer than its slot is taken."""
    daemon = make_daemon(one("--tok-s 20 --tail-ms 150", {"stop": {"drain": "60s"}}))
    daemon.wait_state("a", "ready")
    stream = Stream(socket_of(daemon), 20)
    assert stream.began.wait(harness.PATIENCE) and not stream.error, stream.error
    order(daemon, "stop")
    assert stream.end().is_whole(), (stream.error, stream.text[-300:])
    stopped(daemon)


def test_a_stream_is_finished_before_a_restart(make_daemon, server, slow_model):
    daemon, stream = busy(make_daemon, server, slow_model, 40, drain="60s")
    pid = daemon.instance("a")["pid"]
    order(daemon, "restart")
    assert stream.end().is_whole(), (stream.error, stream.text[-300:])
    daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"] != pid, what="restarted")
    assert deaths(daemon) == []


def test_a_stream_without_end(make_daemon, server, slow_model):
    """It is waited for as long as was promised, and no longer."""
    daemon, stream = busy(make_daemon, server, slow_model, 1900, drain="1s", grace="500ms")
    began = time.monotonic()
    order(daemon, "stop")
    stopped(daemon)
    took = time.monotonic() - began
    assert 1 <= took < 15, took
    assert not stream.end().is_whole()


def test_a_request_that_holds_it_up(make_daemon, real_llama_server, slow_model):
    """A real llama-server with a running request that is no stream does not end of SIGTERM until its client has gone."""
    daemon = make_daemon(one("", {"stop": {"drain": "500ms", "grace": "500ms"}}, model=slow_model), server=real_llama_server)
    daemon.wait_state("a", "ready")
    body = {"prompt": "hello", "n_predict": 1900, "ignore_eos": True}

    def ask():
        try:
            harness.request("unix:" + socket_of(daemon), "POST", "/completion", body, timeout=10 * harness.PATIENCE)
        except (OSError, harness.http.client.HTTPException):
            pass
    client = threading.Thread(target=ask, daemon=True)
    client.start()
    harness.wait_for(lambda: b"is_processing\":true" in
                     harness.request("unix:" + socket_of(daemon), "GET", "/slots").body, what="it works")
    order(daemon, "stop")
    stopped(daemon)
    assert "SIGKILL" in events(daemon, "stopped")[-1]["text"]
    client.join(harness.PATIENCE)


# ---- the daemon itself -----------------------------------------------------------------------------------------------------

def fleet_of_trouble(server, slow_model):
    """Well, deaf, hung, loading, waiting and with a grandchild."""
    def instance(name, fault, **more):
        return dict(one(fault)["instances"][0], name=name, **more)
    real = server != harness.FAKE
    rows = [instance("well", ""), instance("deaf", "--ignore-term"), instance("hung", ""), instance("heavy", "--grandchild"),
            instance("loads", "--load-503-forever", **({"model": slow_model} if real else {})),
            instance("waits", "", model="nothing.gguf")]
    return harness.merged(one(), {"instances": rows, "health": {"interval": "30s", "timeout": "30s"}})


def test_sigterm_stops_everything(make_daemon, server, slow_model):
    daemon = make_daemon(fleet_of_trouble(server, slow_model), server=server)
    for name in ("well", "deaf", "hung", "heavy"):
        daemon.wait_state(name, "ready")
    daemon.wait_state("waits", "crashed")
    os.kill(daemon.instance("hung")["pid"], signal.SIGSTOP)
    pids = daemon.children()
    assert len(pids) >= 5
    began = time.monotonic()
    daemon.stop()                               # exit code 0
    assert time.monotonic() - began < 20, "longer than drain, grace and kill, ten times"
    assert [pid for pid in pids if harness.is_alive(pid)] == []
    assert [name for name in os.listdir(daemon.runtime) if name.endswith(".sock")] == []
    assert os.listdir(os.path.join(daemon.runtime, "instances")) == []
    # The next daemon has nothing to take over, and a stop is no wish of a person: all come up again.
    daemon.start()
    assert not daemon.wait_state("well", "ready")["adopted"]


def test_a_second_sigterm_hurries(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--ignore-term --tok-s 1", {"stop": {"drain": "10m", "grace": "10m"}}))
    daemon.wait_state("a", "ready")
    stream = Stream(socket_of(daemon), 1000)
    assert stream.began.wait(harness.PATIENCE)
    daemon.wait("a", lambda now: now["inFlight"] == 1, what="work seen")
    daemon.signal(signal.SIGTERM)
    daemon.wait_state("a", "draining")
    daemon.signal(signal.SIGTERM)
    daemon.wait_state("a", "stopping")
    daemon.signal(signal.SIGINT)
    assert daemon.wait_exit() == 0
    stream.end()
    assert daemon.children() == []


def test_sigterm_lets_a_stream_finish(make_daemon, server, slow_model):
    """Every door goes on telling the truth meanwhile."""
    daemon, stream = busy(make_daemon, server, slow_model, 40, drain="60s")
    daemon.signal(signal.SIGTERM)
    daemon.wait_state("a", "draining")
    harness.assert_same_truth(daemon, "a", status="draining")
    answer = daemon.api("POST", "/api/v1/instances/a/start")
    assert answer.status == 503, answer
    assert json.loads(answer.body)["error"]["message"], answer
    assert stream.end().is_whole(), (stream.error, stream.text[-300:])
    assert daemon.wait_exit() == 0
    assert daemon.children() == []
