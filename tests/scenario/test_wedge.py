"""Servers whose /health is fine and whose work stands still are found and restarted; those in a long prompt are left alone.

SOAK=1: 20 of each at once, SOAK=10: ten such batches, 200 of each. Both figures are printed (pytest -s shows them, and so does a failure)."""
# ctest: busy
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import gpus
import harness

SOAK, MANY = int(os.environ.get("SOAK", "1")), 20
LIMIT = 3                       # seconds of standstill; the default is 20
HEALTH = {"health": {"standstill": "%ds" % LIMIT, "interval": "250ms", "timeout": "2s"}}
PATIENCE = harness.PATIENCE * 5
CHAT = {"messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 8}


def deaths(daemon):
    """(instance, cause, moment) of each."""
    return [(e["instance"], e["cause"], e.get("timestamp")) for e in daemon.get("/api/v1/history").json["events"] if e["kind"] == "died"]


class Client(threading.Thread):
    """One request to one model, and what became of it."""

    def __init__(self, daemon, model):
        super().__init__(daemon=True)
        self.server, self.model, self.answer, self.began, self.took = daemon, model, None, time.monotonic(), None
        self.start()

    def run(self):
        try:
            self.answer = harness.request(self.server.address, "POST", "/v1/chat/completions", dict(CHAT, model=self.model), timeout=PATIENCE)
        except (OSError, http.client.HTTPException) as error:
            self.answer = error
        self.took = time.monotonic() - self.began


def batch(make_daemon):
    """MANY at once: fakes that answer /health and never decode, fakes that are stopped as a whole in the middle of their work, and as many
    whose prompts take four times the limit. How many of the wedges were found, and how many of the slow ones killed."""
    wedged, stopped = MANY - MANY // 4, MANY // 4
    entries = [{"name": "wedged-%d" % i, "model": "tiny.gguf", "args": ["--wedge-after", "0"]} for i in range(wedged)]
    entries += [{"name": "stopped-%d" % i, "model": "tiny.gguf", "args": ["--prompt-ms", "60000", "--prompt-work"]}
                for i in range(stopped)]
    slow = [{"name": "slow-%d" % i, "model": "tiny.gguf",
             "args": ["--prompt-ms", str(4000 * LIMIT), "--prompt-work"]} for i in range(MANY)]
    daemon = make_daemon(dict({"instances": entries + slow, "gateway": {"retries": 1, "timeouts": {"first_byte": "10m"}},
                               "restart": {"max_retries": "forever"}}, **HEALTH))
    for entry in entries + slow:
        daemon.wait_state(entry["name"], "ready", timeout=PATIENCE)
    clients = [Client(daemon, entry["name"]) for entry in entries + slow]
    harness.wait_for(lambda: len(daemon.get("/api/v1/requests").json["running"]) == len(clients), PATIENCE, "all requests are under way")
    for entry in entries:
        if entry["name"].startswith("stopped"):
            os.kill(daemon.instance(entry["name"])["pid"], signal.SIGSTOP)
    names = {entry["name"] for entry in entries}
    harness.wait_for(lambda: names <= {name for name, _, _ in deaths(daemon)}, PATIENCE,
                     lambda: "found: %s" % sorted(names - {name for name, _, _ in deaths(daemon)}), step=0.2)
    for client in clients:
        client.join(PATIENCE)
    told = deaths(daemon)
    first = {}
    for name, cause, at in told:
        first.setdefault(name, (cause, at))
    killed = {n for n in first if n.startswith("slow")}
    if killed:
        return len(names & set(first)), len(killed)
    for entry in entries:
        assert first[entry["name"]][0] == ("wedged" if entry["name"].startswith("wedged") else "unresponsive"), entry
    for client in clients:
        if client.model.startswith("slow"):
            assert getattr(client.answer, "status", None) == 200 and b"[DONE]" in client.answer.body, client.answer
            assert client.took > 4 * LIMIT * 0.9
        else:
            assert getattr(client.answer, "status", 500) != 200 or b"[DONE]" not in client.answer.body
    # What is said of it.
    why = daemon.get("/api/v1/instances/wedged-0/why").json
    assert why["cause"] == "wedged" and "stood still" in daemon.output(1 << 20) and why["hint"]
    counted = [line for line in daemon.get("/metrics").text.splitlines() if "_deaths_total{" in line and 'cause="wedged"' in line]
    assert len(counted) == wedged, counted
    daemon.stop()
    return len(names & set(first)), 0


def test_wedges_are_found_and_slow_prompts_are_not(make_daemon):
    """All of the one, none of the other; SOAK batches one after the other, since so many at once would be a test of this machine."""
    found = killed = 0
    for _ in range(SOAK):
        figures = batch(make_daemon)
        found, killed = found + figures[0], killed + figures[1]
    print("\nwedges: %d of %d found; slow prompts: %d of %d killed" % (found, SOAK * MANY, killed, SOAK * MANY))
    assert (found, killed) == (SOAK * MANY, 0)


def test_with_what_is_the_default_it_takes_no_longer_than_promised(make_daemon):
    """20 s of standstill, looked at every second: found within 30 s, and restarted."""
    daemon = make_daemon({"instances": [{"name": "one", "model": "tiny.gguf", "args": ["--wedge-after", "0"]}],
                          "health": {"interval": "1s", "timeout": "5s"}})
    daemon.wait_state("one", "ready")
    before = daemon.instance("one")["pid"]
    client = Client(daemon, "one")
    daemon.wait("one", lambda now: now["pid"] not in (None, before) and now["status"] == "ready", PATIENCE, "it was restarted")
    client.join(PATIENCE)
    cause, at = [(cause, at) for _, cause, at in deaths(daemon)][0]
    assert cause == "wedged"
    print("\nwedge found %.1f s after its request" % client.took)
    assert client.took < 30 * harness.PATIENCE / 6      # the promise is 30 s; a machine under load is given ten times that


def test_the_thread_that_answers_a_probe_does_not_acquit_it(make_daemon):
    """It runs still when the answer is read, each time; a thread that waits for a core would, too. They are told apart by when one looks."""
    daemon = make_daemon({"instances": [{"name": "one", "model": "tiny.gguf", "args": ["--wedge-after", "0", "--health-burn", "5"]}],
                          "health": {"standstill": "%ds" % LIMIT, "interval": "1s", "timeout": "5s"}})
    daemon.wait_state("one", "ready")
    client = Client(daemon, "one")
    harness.wait_for(lambda: [cause for _, cause, _ in deaths(daemon)] == ["wedged"], PATIENCE, "it is found")
    client.join(PATIENCE)


def test_behind_a_wrapper(make_daemon, fake_llama_server, folder):
    """A script that starts llama-server and waits for it does nothing itself: what its child does counts, and what it does not."""
    wrapper = os.path.join(folder, "wrapper")
    with open(wrapper, "w") as f:
        f.write('#!/bin/sh\n"%s" "$@"\nexit $?\n' % fake_llama_server)
    os.chmod(wrapper, 0o700)
    daemon = make_daemon(dict({"llama_server": {"binary": wrapper}, "gateway": {"retries": 1, "timeouts": {"first_byte": "10m"}},
                               "instances": [
        {"name": "slow", "model": "tiny.gguf", "args": ["--prompt-ms", str(4000 * LIMIT), "--prompt-work", "-np", "1"]},
        {"name": "wedged", "model": "tiny.gguf", "args": ["--wedge-after", "0"]}]}, **HEALTH))
    for name in ("slow", "wedged"):
        daemon.wait_state(name, "ready", timeout=PATIENCE)
    clients = [Client(daemon, name) for name in ("slow", "wedged")]
    for client in clients:
        client.join(PATIENCE)
    assert {(name, cause) for name, cause, _ in deaths(daemon)} == {("wedged", "wedged")}
    assert clients[0].answer.status == 200 and b"[DONE]" in clients[0].answer.body, clients[0].answer


def test_a_slow_reader_is_no_wedge(make_daemon):
    """Its client takes nothing: the instance is done with it, or waits for it, and lives."""
    daemon = make_daemon(dict({"instances": [{"name": "one", "model": "tiny.gguf", "args": ["--tokens", "200000", "--tok-s", "100000"]}]}, **HEALTH))
    daemon.wait_state("one", "ready")
    import socket
    host, port = daemon.address.removeprefix("http://").split(":")
    body = json.dumps(dict(CHAT, model="one", max_tokens=200000)).encode()
    with socket.create_connection((host, int(port)), harness.PATIENCE) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                  % (host.encode(), len(body)) + body)
        assert s.recv(1024).startswith(b"HTTP/1.1 200")
        time.sleep(3 * LIMIT)   # takes nothing meanwhile: what is asked is that nothing happens
        assert deaths(daemon) == [] and daemon.status("one") == "ready"


def test_a_gpu_that_computes_acquits_it(make_daemon, folder):
    """Without a token, an answer or CPU time: as long as its GPU works it may be deep in a prompt; when that rests, too, it is a wedge. What the
    GPU did before is no evidence."""
    machine = gpus.Machine(folder)
    machine.add("GPU-aa", 0x01, total=80 * gpus.GIB, used=gpus.GIB, use=60)
    daemon = make_daemon(dict({"instances": [{"name": "one", "model": "tiny.gguf", "gpu": [0], "args": ["--wedge-after", "0"]}]},
                              **HEALTH, **machine.config), env=machine.env)
    pid = daemon.wait_state("one", "ready")["pid"]
    client = Client(daemon, "one")
    harness.wait_for(lambda: daemon.get("/api/v1/requests").json["running"], what="it is under way")
    time.sleep(3 * LIMIT)       # what is asked is that nothing happens
    assert deaths(daemon) == [] and daemon.instance("one")["pid"] == pid
    machine.gpus[0]["use"] = 0
    machine.write()
    harness.wait_for(lambda: [cause for _, cause, _ in deaths(daemon)] == ["wedged"], PATIENCE, "it is found")
    client.join(PATIENCE)


def stop_thread(tid):
    """A process that holds one thread of another still (ptrace), until its stdin is closed; None where that is forbidden."""
    helper = harness.spawn([sys.executable, "-c", """
import ctypes, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
tid = int(sys.argv[1])
ok = ptrace(0x4206, tid, None, None) == 0 and ptrace(0x4207, tid, None, None) == 0    # SEIZE, INTERRUPT
print("stopped" if ok else "forbidden", flush=True)
sys.stdin.read()
""", str(tid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if helper.stdout.readline().strip() == b"stopped":
        return helper
    helper.communicate()
    return None


@pytest.mark.real
def test_the_real_one_whose_inference_thread_stands(make_daemon, real_llama_server, slow_model):
    """Its HTTP threads live and answer /health; the thread that decodes is held. And one beside it, in a long answer, goes on."""
    daemon = make_daemon(dict({"instances": [
        {"name": name, "model": slow_model, "args": ["-t", "1", "-np", "2", "-c", "4096"]} for name in ("held", "works")],
        "gateway": {"retries": 1}}, health=dict(HEALTH["health"], interval="250ms")), server=real_llama_server)
    for name in ("held", "works"):
        daemon.wait_state(name, "ready", timeout=PATIENCE)
    pid = daemon.instance("held")["pid"]
    helper = stop_thread(pid)       # the first thread runs the queue, and the decoding
    if not helper:
        pytest.skip("ptrace is not allowed here")
    try:
        assert harness.request("unix:" + os.path.join(daemon.runtime, "held.sock"), "GET", "/health").status == 200
        other = Client(daemon, "works")
        client = Client(daemon, "held")
        harness.wait_for(lambda: "held: counts as dead" in daemon.output(1 << 20), PATIENCE, "it is found")
        helper.communicate()        # a process whose thread is held does not die
        daemon.wait("held", lambda now: now["pid"] not in (None, pid), PATIENCE, "it was killed and started again")
        client.join(PATIENCE)
        other.join(PATIENCE)
    finally:
        if helper.poll() is None:
            helper.communicate()
    assert [(name, cause) for name, cause, _ in deaths(daemon)] == [("held", "wedged")]
    assert other.answer.status == 200
    print("\nreal: found after %.1f s" % client.took)
    daemon.wait_state("held", "ready", timeout=PATIENCE)
