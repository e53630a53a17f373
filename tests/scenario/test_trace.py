"""The trace that a client's request belongs to: its header goes on to llama-server as it came, also by way of a hub, and its id is in the
list of requests and in every line of the log about that request."""
# ctest: asan
import threading

import pytest

import harness
from recorder import recording

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "baggage": "userId=alice"}
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hello"}]}


def parent(sampled=True, trace=TRACE):
    return "00-%s-%s-%s" % (trace, SPAN, "01" if sampled else "00")


@pytest.fixture
def recorder():
    with recording() as server:
        yield server


@pytest.fixture
def daemon(make_daemon, recorder):
    daemon = make_daemon({"instances": [{"name": "a", "adopt": recorder.url}]})
    daemon.wait_state("a", "ready")
    return daemon


def ask(daemon, traceparent=None, **more):
    headers = dict(more, **({"traceparent": traceparent} if traceparent else {}))
    answer = daemon.api("POST", "/v1/chat/completions", CHAT, headers=headers)
    assert answer.status == 200, answer
    return answer.headers["X-Request-Id"]


def record(daemon, number):
    return next(r for r in daemon.get("/api/v1/requests").json["recent"] if r["id"] == number)


def lines(daemon, number):
    return [line for line in daemon.output(1 << 20).splitlines() if number in line]


def test_it_goes_on_as_it_came(daemon, recorder):
    number = ask(daemon, parent(), **HEADERS)
    there = recorder.asked[-1]
    assert there["traceparent"] == parent() and all(there[key] == value for key, value in HEADERS.items()), there
    assert record(daemon, number)["trace"] == TRACE
    # What we cannot read is not ours to judge: it goes on, too, and is nowhere else.
    number = ask(daemon, "00-nonsense")
    assert recorder.asked[-1]["traceparent"] == "00-nonsense" and record(daemon, number)["trace"] is None
    number = ask(daemon)
    assert "traceparent" not in recorder.asked[-1] and record(daemon, number)["trace"] is None


def test_the_log_tells_of_it(daemon):
    """Once for each that the client records, with its outcome; of the others nothing, unless for debugging."""
    number, silent, plain = ask(daemon, parent()), ask(daemon, parent(sampled=False)), ask(daemon)
    told = harness.wait_for(lambda: lines(daemon, number), what="the line")
    assert len(told) == 1 and "trace " + TRACE in told[0] and ": ok (200)" in told[0], told
    assert lines(daemon, silent) == [] and lines(daemon, plain) == []


def test_all_of_them_for_debugging(make_daemon, recorder):
    daemon = make_daemon({"log_level": "debug", "instances": [{"name": "a", "adopt": recorder.url}]})
    daemon.wait_state("a", "ready")
    silent, plain = ask(daemon, parent(sampled=False)), ask(daemon)
    harness.wait_for(lambda: lines(daemon, plain), what="the line")
    assert ["trace " + TRACE in line for line in lines(daemon, silent)] == [True]
    assert ["trace" in line for line in lines(daemon, plain)] == [False]
    # One that no route is looked up for.
    refused = harness.request(daemon.address, "GET", "/health", headers={"Host": "elsewhere.example", "traceparent": parent()})
    assert refused.status == 403
    harness.wait_for(lambda: [line for line in daemon.output(1 << 20).splitlines() if "refused" in line and TRACE in line], what="told as well")


def test_a_request_that_is_cancelled(make_daemon, fake_llama_server):
    daemon = make_daemon({"instances": [{"name": "a", "model": "tiny.gguf", "args": ["--prompt-ms", "600000"]}]})
    daemon.wait_state("a", "ready")
    thread = threading.Thread(target=lambda: daemon.api("POST", "/v1/chat/completions", CHAT, headers={"traceparent": parent()}))
    thread.start()
    running = harness.wait_for(lambda: daemon.get("/api/v1/requests").json["running"], what="it runs")
    assert running[0]["trace"] == TRACE
    assert daemon.api("DELETE", "/api/v1/requests/" + running[0]["id"]).status == 200
    thread.join(harness.PATIENCE)
    told = harness.wait_for(lambda: len(lines(daemon, running[0]["id"])) == 2 and lines(daemon, running[0]["id"]), what="both lines")
    assert all("trace " + TRACE in line for line in told) and any("cancelled by" in line for line in told), told


def test_no_client_fills_the_log(daemon):
    """Beyond so many a second they are counted instead."""
    def left_out():
        text = daemon.get("/metrics").text
        return float(next(line.split()[1] for line in text.splitlines()
                          if line.startswith("llama_supervisor_request_lines_left_out_total ")))
    asked = 0

    def flood():
        nonlocal asked
        threads = [threading.Thread(target=lambda: [ask(daemon, parent()) for _ in range(10)]) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(harness.PATIENCE)
        asked += 60
        return left_out() > 0
    harness.wait_for(flood, what="some are left out")
    assert len([line for line in daemon.output(1 << 20).splitlines() if TRACE in line]) == asked - left_out()
