# ctest: real asan
"""`upgrade`: the installed program takes over in the same process. No model is loaded again, nobody who asks is refused, what lasts too
long is named, and whatever fails, everything goes on."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest
import websockets.exceptions

import harness
from faults import deaths, one
from test_tls import certificate

CHAT = {"model": "a", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


def start_time(pid):
    return harness.process_table()[pid][2]


def generation(daemon):
    return daemon.get("/api/v1/status").json["generation"]


def counted(daemon):
    """llama_supervisor_upgrades_total: done, postponed, failed."""
    text = daemon.get("/metrics").text
    return tuple(int(re.search(r'^llama_supervisor_upgrades_total\{result="%s"\} (\d+)$' % result, text, re.M).group(1))
                 for result in ("done", "postponed", "failed"))


def upgraded(daemon, *args, **kwargs):
    """Orders it by the CLI; what it told."""
    result = daemon.cli("upgrade", "--json", *args, **kwargs)
    assert result.returncode == 0, (result, daemon.output())
    return json.loads(result.stdout)


def events_of(daemon, kind):
    return [event for event in daemon.get("/api/v1/history").json["events"] if event["kind"] == kind]


def chat(daemon, timeout=harness.PATIENCE, **members):
    return daemon.api("POST", "/v1/chat/completions", {**CHAT, **members}, timeout=timeout)


@pytest.fixture
def own_program(folder, monkeypatch):
    """A daemon made after this runs a copy of the program that the test may replace: own_program(TEXT) puts a script there."""
    path = os.path.join(folder, "llama-supervisor")
    real = os.path.join(folder, "real")
    shutil.copy(harness.PROGRAM, path)
    shutil.copy(harness.PROGRAM, real)
    monkeypatch.setattr(harness, "PROGRAM", path)

    def replace(text, python=False):
        head = "#!/usr/bin/python3\nreal, self = %r, %r\n" if python else "#!/bin/sh\nreal=%s\nself=%s\n"
        with open(path + ".new", "w") as f:
            f.write(head % (real, path) + text)
        os.chmod(path + ".new", 0o755)
        os.rename(path + ".new", path)
    yield replace


class Stream:
    """A streamed chat, read by a thread."""

    def __init__(self, daemon, **members):
        self.text, self.error, self.over = b"", None, threading.Event()
        self.begun = threading.Event()
        self.daemon, self.members = daemon, members
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.thread.start()
        assert self.begun.wait(harness.PATIENCE), self.error

    def main(self):
        try:
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.daemon.address).netloc, timeout=harness.PATIENCE)
            connection.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True, **self.members}),
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            while True:
                piece = response.read1(4096)
                if not piece:
                    break
                self.text += piece
                self.begun.set()
            connection.close()
        except Exception as error:
            self.error = error
        self.begun.set()
        self.over.set()

    def is_whole(self):
        return self.error is None and b"[DONE]" in self.text


# ---- it works -----------------------------------------------------------------------------------------------------------

def test_idle(make_daemon, server):
    """Same pids and start times, on every door; the lock is kept; the new one says what it is."""
    daemon = make_daemon(one(), server=server)
    before = daemon.wait_state("a", "ready")
    began, own = start_time(before["pid"]), start_time(daemon.pid)
    told = upgraded(daemon)
    assert told["pid"] == daemon.pid and told["generation"] == 1 and told["held"] < 60, told
    status = daemon.get("/api/v1/status").json
    assert status["pid"] == daemon.pid and status["upgrade"]["state"] == "done", status
    now = daemon.wait_state("a", "ready")
    assert now["pid"] == before["pid"] and start_time(now["pid"]) == began and now["adopted"], now
    assert now["startedAt"] == before["startedAt"] and now["seq"] > before["seq"] and now["restarts"] == before["restarts"]
    assert start_time(daemon.pid) == own
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    assert len(events_of(daemon, "upgraded")) == 1 and len(events_of(daemon, "daemon_started")) == 1
    assert chat(daemon).status == 200
    # Nobody else gets in meanwhile, and the listener is the same.
    second = subprocess.run([harness.PROGRAM, "run", "--config", daemon.config_file], capture_output=True, text=True,
                            timeout=harness.PATIENCE, env=daemon.environment(), check=False)
    assert second.returncode == 1 and "held by another" in second.stderr, second
    text = daemon.cli("upgrade")
    assert text.returncode == 0 and "upgraded from" in text.stdout and "pid %d" % daemon.pid in text.stdout, text
    assert generation(daemon) == 2


def test_by_signal(make_daemon):
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    daemon.signal(signal.SIGUSR2)
    harness.wait_for(lambda: generation(daemon) == 1, what=daemon.output)
    assert daemon.wait_state("a", "ready")["pid"] == pid


def test_without_instances(make_daemon):
    daemon = make_daemon({"instances": []})
    assert upgraded(daemon)["generation"] == 1


def load_client(daemon, over, wrong, done, keeps):
    """Asks one short question after the other: over one connection as long as it may, or over a new one each time."""
    connection = None
    body = json.dumps(CHAT)
    while not over.is_set():
        try:
            if connection is None:
                connection = http.client.HTTPConnection(urllib.parse.urlsplit(daemon.address).netloc, timeout=harness.PATIENCE)
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                wrong.append((response.status, text))
            done.append(response.getheader("Connection") == "close")
            if not keeps:
                connection.close()
                connection = None
        except Exception as error:
            wrong.append(repr(error))
            connection = None
        time.sleep(0.005)
    if connection:
        connection.close()


def test_under_load(make_daemon, server):
    """Not one request is refused or reset, on kept connections nor on new ones, over several upgrades."""
    config = one("", {"stop": {"drain": "20s"}})
    config["instances"][0].update(replicas=2, args=["-c", "2048", "-np", "2", "-t", "1"])
    daemon = make_daemon(config, server=server)
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in ("a-0", "a-1")}
    over, wrong, done = threading.Event(), [], []
    threads = [threading.Thread(target=load_client, args=(daemon, over, wrong, done, i % 2 == 0)) for i in range(6)]
    for thread in threads:
        thread.start()
    try:
        for i in range(3):
            asked = len(done)
            harness.wait_for(lambda: len(done) > asked + 20, what="load")
            upgraded(daemon, timeout=2 * harness.PATIENCE)
            assert generation(daemon) == i + 1
        asked = len(done)
        harness.wait_for(lambda: len(done) > asked + 20, what="load afterwards")
    finally:
        over.set()
        for thread in threads:
            thread.join(harness.PATIENCE)
    assert not wrong, (len(done), wrong[:5], daemon.output())
    assert {name: daemon.wait_state(name, "ready")["pid"] for name in pids} == pids
    figures = daemon.get("/metrics").text
    assert "llama_supervisor" in figures


def test_under_load_over_tls(make_daemon, folder):
    """Handshakes and requests that have begun are finished; who comes later waits for the next program."""
    pem, private = certificate(folder)
    # Two of the same words, of which one speaks TLS: they must not change places.
    doors = [{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0", "tls": {"cert_file": pem, "key_file": private}}]
    daemon = make_daemon(one("", {"stop": {"drain": "20s"}, "listen": doors}))
    daemon.wait_state("a", "ready")
    address = urllib.parse.urlsplit(daemon.listen[1])
    tls = ssl.create_default_context(cafile=pem)
    over, wrong, done = threading.Event(), [], []

    def client():
        while not over.is_set():
            connection = http.client.HTTPSConnection(address.hostname, address.port, context=tls, timeout=harness.PATIENCE)
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"Content-Type": "application/json"})
                response = connection.getresponse()
                done.append(response.status)
                if response.status != 200 or not response.read():
                    wrong.append(response.status)
            except Exception as error:
                wrong.append(repr(error))
            connection.close()
    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for i in range(3):
            asked = len(done)
            harness.wait_for(lambda: len(done) > asked + 10, what="load")
            assert upgraded(daemon, timeout=2 * harness.PATIENCE)["generation"] == i + 1
        asked = len(done)
        harness.wait_for(lambda: len(done) > asked + 10, what="load afterwards")
    finally:
        over.set()
        for thread in threads:
            thread.join(harness.PATIENCE)
    assert not wrong, (len(done), wrong[:5], daemon.output())


def test_a_handshake_is_waited_for_with_its_request(make_daemon, folder):
    """Who has just shaken hands is about to ask; who then says nothing keeps nobody from an upgrade."""
    pem, private = certificate(folder)
    doors = [{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0", "tls": {"cert_file": pem, "key_file": private}}]
    daemon = make_daemon(one("", {"listen": doors}))
    daemon.wait_state("a", "ready")
    address = urllib.parse.urlsplit(daemon.listen[1])
    tls = ssl.create_default_context(cafile=pem)

    def connect():
        plain = socket.create_connection((address.hostname, address.port), timeout=harness.PATIENCE)
        return tls.wrap_socket(plain, server_hostname=address.hostname)
    asks, silent = connect(), connect()
    daemon.signal(signal.SIGUSR2)
    harness.wait_for(lambda: "waiting for what runs" in daemon.output(), step=0.005, what=daemon.output)
    asks.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while piece := asks.recv(65536):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200 "), (answer, daemon.output())
    harness.wait_for(lambda: "took over from" in daemon.output(), what=daemon.output)
    assert silent.recv(1) == b""
    asks.close()
    silent.close()


def test_connections_go_on(make_daemon):
    """One that is idle, and one that has sent half of a request, are the new program's."""
    daemon = make_daemon(one())
    daemon.wait_state("a", "ready")
    address = urllib.parse.urlsplit(daemon.address)
    idle = http.client.HTTPConnection(address.netloc, timeout=harness.PATIENCE)
    idle.request("GET", "/health")
    assert idle.getresponse().read()
    kept = idle.sock
    half = socket.create_connection((address.hostname, address.port), timeout=harness.PATIENCE)
    half.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n")
    control = socket.socket(socket.AF_UNIX)
    control.settimeout(harness.PATIENCE)
    control.connect(daemon.control)
    time.sleep(0.1)                 # that it is read, and not only in the socket; either is right
    assert upgraded(daemon)["generation"] == 1
    half.sendall(b"Connection: close\r\n\r\n")
    control.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for sock in (half, control):
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ") and b'"generation":1' in answer, answer
        sock.close()
    idle.request("GET", "/api/v1/status")
    assert idle.sock is kept and json.loads(idle.getresponse().read())["generation"] == 1
    idle.close()


# Not a shell: some of them take signals again that they were started without.
SLOW = """import os, sys, time
if sys.argv[1] == "run":
    open(self + ".runs", "w").close()
    time.sleep(2)
os.execv(real, [real] + sys.argv[1:])
"""


def test_who_comes_in_between_waits(make_daemon, own_program):
    """While no program of ours runs at all, clients are kept by the kernel, and signals wait, too."""
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    own_program(SLOW, python=True)
    daemon.signal(signal.SIGUSR2)
    harness.wait_for(lambda: os.path.exists(harness.PROGRAM + ".runs"), what=daemon.output)
    daemon.signal(signal.SIGUSR2)       # its default is to kill
    began = time.monotonic()
    answer = chat(daemon)
    assert answer.status == 200, (answer, daemon.output())
    assert time.monotonic() - began > 0.2
    harness.wait_for(lambda: generation(daemon) == 2, what=daemon.output)
    assert daemon.wait_state("a", "ready")["pid"] == pid


def test_a_stop_in_between(make_daemon, own_program):
    """It is the new program's, and in order."""
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    own_program(SLOW, python=True)
    daemon.signal(signal.SIGUSR2)
    harness.wait_for(lambda: os.path.exists(harness.PROGRAM + ".runs"), what=daemon.output)
    daemon.stop()
    assert not harness.is_alive(pid)


def test_another_program_takes_over(make_daemon, own_program):
    """The file that it was started from, whatever was renamed there since."""
    daemon = make_daemon(one())
    daemon.wait_state("a", "ready")
    own_program('if [ "$1" = run ]; then echo "the new file runs"; fi\nexec "$real" "$@"\n')
    assert upgraded(daemon)["generation"] == 1
    assert "the new file runs" in daemon.output()


def descriptors(pid):
    found = []
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            found.append(os.readlink("/proc/%d/fd/%s" % (pid, fd)).split(":")[0])
        except FileNotFoundError:       # closed meanwhile
            pass
    return sorted(found)


def test_no_descriptor_is_left_over(make_daemon):
    daemon = make_daemon(one())
    daemon.wait_state("a", "ready")

    def settled():
        """No connection of ours is open, and the upgrade is over."""
        first = descriptors(daemon.pid)
        time.sleep(0.2)
        return first if first == descriptors(daemon.pid) else None
    upgraded(daemon)
    daemon.wait_state("a", "ready")
    before = harness.wait_for(settled)
    for _ in range(5):
        upgraded(daemon)
        daemon.wait_state("a", "ready")
    harness.wait_for(lambda: len(settled() or []) == len(before), what=lambda: (before, descriptors(daemon.pid)))
    assert "LSV_HANDOVER" not in str(open("/proc/%d/environ" % daemon.instance("a")["pid"], "rb").read())


# ---- children -----------------------------------------------------------------------------------------------------------

def test_children_are_still_ours(make_daemon, server):
    """How one ends is known after an upgrade, too."""
    daemon = make_daemon(one(), server=server)
    daemon.wait_state("a", "ready")
    upgraded(daemon)
    pid = daemon.wait_state("a", "ready")["pid"]
    os.kill(pid, signal.SIGUSR1)
    daemon.wait_state("a", "crashed")
    told = harness.assert_same_truth(daemon, "a", status="crashed", retries=1)
    assert "SIGUSR1" in told["lastError"] and not os.path.exists("/proc/%d" % pid), told


def test_one_dies_in_between(make_daemon, own_program):
    """Nobody looked, but it was still ours to bury: the status is known, and no zombie is left."""
    daemon = make_daemon(one("", {"restart": {"backoff_initial": "50ms"}}))
    pid = daemon.wait_state("a", "ready")["pid"]
    # Not a shell, which would wait for it.
    own_program("import os, sys, time\nif sys.argv[1] == 'run':\n    os.kill(%d, 10)\n    time.sleep(0.5)\n"
                "os.execv(real, [real] + sys.argv[1:])\n" % pid, python=True)
    upgraded(daemon)
    now = daemon.wait_state("a", "ready")
    assert now["pid"] != pid and now["retries"] == 1, now
    assert len(deaths(daemon)) == 1 and "SIGUSR1" in deaths(daemon)[0]["text"], deaths(daemon)
    assert not os.path.exists("/proc/%d" % pid)


def test_one_that_loads(make_daemon, real_llama_server, slow_model):
    """An upgrade in the middle of a load loads nothing twice."""
    daemon = make_daemon(one(model=slow_model), server=real_llama_server)
    pid = daemon.wait("a", lambda now: now["status"] == "starting" and now["pid"])["pid"]
    upgraded(daemon)
    assert daemon.wait_state("a", "ready")["pid"] == pid


def test_an_order_is_waited_for(make_daemon):
    """A stop that is under way is no upgrade's victim."""
    daemon = make_daemon(one("--ignore-term", {"stop": {"grace": "2s", "drain": "20s"}}))
    pid = daemon.wait_state("a", "ready")["pid"]
    assert daemon.api("POST", "/api/v1/instances/a/stop").status == 202
    upgraded(daemon)
    assert not harness.is_alive(pid)
    assert daemon.status("a") == "initial"


# ---- what lasts too long --------------------------------------------------------------------------------------------------

def test_a_stream_postpones_it(make_daemon):
    daemon = make_daemon(one("--tok-s 5"))
    daemon.wait_state("a", "ready")
    stream = Stream(daemon, max_tokens=40)
    refused = daemon.cli("upgrade")
    assert refused.returncode == 1 and generation(daemon) == 0, (refused, daemon.output())
    running = daemon.get("/api/v1/requests").json["running"]
    assert len(running) == 1, running
    for word in (running[0]["id"], "a on a", "postponed", "--force"):
        assert word in refused.stderr, refused
    answer = daemon.api("POST", "/api/v1/upgrade")
    assert answer.status == 409 and answer.json["upgrade"]["state"] == "postponed", answer
    blocker, = answer.json["requests"]
    assert blocker["id"] == running[0]["id"] and blocker["instance"] == "a" and blocker["model"] == "a", blocker
    # Everything is as before: connections are kept, and the stream ends as it should.
    assert "Connection" not in daemon.get("/health").headers
    assert len(events_of(daemon, "upgrade_postponed")) == 2
    assert counted(daemon) == (0, 2, 0)
    assert stream.over.wait(harness.PATIENCE) and stream.is_whole(), (stream.error, stream.text[-300:])
    assert upgraded(daemon)["generation"] == 1
    assert counted(daemon) == (1, 2, 0)         # the next program goes on with them
    assert upgraded(daemon)["generation"] == 2
    assert counted(daemon) == (2, 2, 0)


def test_it_waits_for_a_stream(make_daemon):
    """One that ends within stop.drain: nothing is cut, and what comes meanwhile is served, with Connection: close."""
    daemon = make_daemon(one("--tok-s 10", {"stop": {"drain": "60s"}}), start=True)
    daemon.wait_state("a", "ready")
    stream = Stream(daemon, max_tokens=30)
    result = []
    asking = threading.Thread(target=lambda: result.append(daemon.cli("upgrade", "--json")))
    asking.start()
    closing = harness.wait_for(lambda: (stream.over.is_set() and "over") or daemon.get("/health").headers.get("Connection"),
                               step=0.01)
    assert closing in ("close", "over")
    assert stream.over.wait(harness.PATIENCE) and stream.is_whole(), stream.error
    asking.join(harness.PATIENCE)
    assert result[0].returncode == 0 and json.loads(result[0].stdout)["held"] < json.loads(result[0].stdout)["took"], result


def test_force_cuts_it(make_daemon):
    daemon = make_daemon(one("--tok-s 5"))
    pid = daemon.wait_state("a", "ready")["pid"]
    stream = Stream(daemon, max_tokens=500)
    told = upgraded(daemon, "--force")
    assert told["generation"] == 1
    assert stream.over.wait(harness.PATIENCE) and not stream.is_whole()
    assert "cut by --force: req-" in daemon.output()
    assert daemon.wait_state("a", "ready")["pid"] == pid


def test_a_body_that_does_not_come_is_named(make_daemon):
    daemon = make_daemon(one())
    daemon.wait_state("a", "ready")
    address = urllib.parse.urlsplit(daemon.address)
    with socket.create_connection((address.hostname, address.port)) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 100\r\n\r\n{")
        harness.wait_for(lambda: daemon.get("/health").status == 200)
        refused = daemon.cli("upgrade")
        assert refused.returncode == 1 and "POST /v1/chat/completions (its body is still coming)" in refused.stderr, refused
        assert "127.0.0.1" in refused.stderr
    assert upgraded(daemon)["generation"] == 1


def test_one_at_a_time(make_daemon):
    daemon = make_daemon(one("--tok-s 5", {"stop": {"drain": "30s"}}))
    daemon.wait_state("a", "ready")
    stream = Stream(daemon, max_tokens=20)
    daemon.signal(signal.SIGUSR2)
    harness.wait_for(lambda: (daemon.get("/api/v1/status").json["upgrade"] or {}).get("state") == "waiting", what=daemon.output)
    answer = daemon.api("POST", "/api/v1/upgrade", {"force": True})
    assert answer.status == 409 and "under way" in answer.json["error"]["message"], answer
    assert stream.over.wait(harness.PATIENCE) and stream.is_whole()
    harness.wait_for(lambda: generation(daemon) == 1, what=daemon.output)


def test_a_stop_ends_it(make_daemon):
    daemon = make_daemon(one("--tok-s 5", {"stop": {"drain": "3s"}}))
    daemon.wait_state("a", "ready")
    stream = Stream(daemon, max_tokens=500)
    result = []
    asking = threading.Thread(target=lambda: result.append(daemon.cli("upgrade")))
    asking.start()
    harness.wait_for(lambda: (daemon.get("/api/v1/status").json["upgrade"] or {}).get("state") == "waiting", what=daemon.output)
    daemon.stop()
    asking.join(harness.PATIENCE)
    assert result[0].returncode == 1 and "stops" in result[0].stderr, result
    assert stream.over.wait(harness.PATIENCE)


# ---- what is not fit ------------------------------------------------------------------------------------------------------

def goes_on(daemon, pid):
    assert generation(daemon) == 0
    assert daemon.wait_state("a", "ready")["pid"] == pid
    assert chat(daemon).status == 200
    assert "Connection" not in daemon.get("/health").headers


def test_a_wrong_configuration(make_daemon):
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    good = dict(daemon.config)
    with open(daemon.config_file, "w") as f:
        json.dump(dict(good, lisen=[]), f)
    refused = daemon.cli("upgrade")
    assert refused.returncode == 1 and "refuses the configuration" in refused.stderr and '"listen"' in refused.stderr, refused
    assert counted(daemon)[2] == 1
    answer = daemon.api("POST", "/api/v1/upgrade")
    assert answer.status == 422 and answer.json["upgrade"]["state"] == "failed", answer
    goes_on(daemon, pid)
    with open(daemon.config_file, "w") as f:
        json.dump(dict(good, runtime_dir=daemon.runtime + "2"), f)
    refused = daemon.cli("upgrade")
    assert refused.returncode == 1 and "runtime_dir has changed" in refused.stderr, refused
    goes_on(daemon, pid)
    with open(daemon.config_file, "w") as f:
        json.dump(good, f)
    assert upgraded(daemon)["generation"] == 1


def test_a_door_that_cannot_be_opened(make_daemon):
    """Another program listens where the configuration wants to listen now."""
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    good = dict(daemon.config)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "127.0.0.1:%d" % other.getsockname()[1]
        with open(daemon.config_file, "w") as f:
            json.dump(dict(good, listen=[*good.get("listen", [{"address": "127.0.0.1:0"}]), {"address": address}]), f)
        refused = daemon.cli("upgrade")
        assert refused.returncode == 1 and address in refused.stderr and "could not listen" in refused.stderr, refused
        goes_on(daemon, pid)
    assert upgraded(daemon)["generation"] == 1
    assert harness.request("http://" + address, "GET", "/health").status == 200


def test_a_configuration_that_became_wrong_meanwhile(make_daemon):
    """It was good when the upgrade was ordered, and is not any more when those who were waited for have ended."""
    daemon = make_daemon(one("--tok-s 5", {"stop": {"drain": "60s"}}), start=True)
    pid = daemon.wait_state("a", "ready")["pid"]
    stream = Stream(daemon, max_tokens=30)
    result = []
    asking = threading.Thread(target=lambda: result.append(daemon.cli("upgrade")))
    asking.start()
    harness.wait_for(lambda: (daemon.get("/api/v1/status").json["upgrade"] or {}).get("state") == "waiting", what=daemon.output)
    good = dict(daemon.config)
    with open(daemon.config_file, "w") as f:
        json.dump(dict(good, lisen=[]), f)
    assert not stream.over.is_set()
    assert stream.over.wait(harness.PATIENCE) and stream.is_whole(), stream.error
    asking.join(harness.PATIENCE)
    assert result[0].returncode == 1 and "refuses the configuration" in result[0].stderr, (result, daemon.output())
    goes_on(daemon, pid)
    with open(daemon.config_file, "w") as f:
        json.dump(good, f)
    assert upgraded(daemon)["generation"] == 1


@pytest.mark.parametrize("script, words", [
    ("exit 3\n", "refuses the configuration"),
    ("kill -SEGV $$\n", "check was killed"),
    ("echo 'it is all wrong' >&2; exit 1\n", "it is all wrong"),
    ("rm -f \"$self\"\nexit 0\n", "could not be run: No such file"),
])
def test_a_broken_program(make_daemon, own_program, script, words):
    """Whether it fails in its check, or only when it should run."""
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    real = os.path.join(os.path.dirname(harness.PROGRAM), "real")
    own_program(script)
    refused = subprocess.run([real, "upgrade", "--socket", daemon.control], capture_output=True, text=True, check=False,
                             timeout=2 * harness.PATIENCE, env=daemon.environment(), stdin=subprocess.DEVNULL)
    assert refused.returncode == 1 and words in refused.stderr, (refused, daemon.output())
    goes_on(daemon, pid)
    status = daemon.get("/api/v1/status").json["upgrade"]
    assert status["state"] == "failed" and words in status["message"], status
    assert len(events_of(daemon, "upgrade_failed")) == 1


def test_no_program_at_all(make_daemon, own_program):
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    os.unlink(harness.PROGRAM)
    answer = daemon.api("POST", "/api/v1/upgrade")
    assert answer.status == 500 and "could not be run" in answer.json["error"]["message"], answer
    goes_on(daemon, pid)


def test_wrong_orders(make_daemon):
    daemon = make_daemon({"instances": []})
    for body in (b"[]", b"{", b'{"force":1}', b'{"forse":true}', b'"force"'):
        answer = daemon.api("POST", "/api/v1/upgrade", body, {"Content-Type": "application/json"})
        assert answer.status == 400, (body, answer)
    assert daemon.api("POST", "/api/v1/upgrade?force=1").status == 400
    assert daemon.api("GET", "/api/v1/upgrade").status == 405
    assert generation(daemon) == 0


# ---- feeds ----------------------------------------------------------------------------------------------------------------

def whole_chunks(sock):
    """The rest of an answer in chunks, which ends as it should."""
    text = b""
    while not text.endswith(b"0\r\n\r\n"):
        piece = sock.recv(65536)
        assert piece, text
        text += piece
    return text


def test_feeds_come_back(make_daemon):
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    socket_feed, events, polling = daemon.ws(), daemon.sse(), daemon.socketio()
    for feed in (socket_feed, events, polling):
        feed.wait(lambda m: m.get("type") == "llama_status")
    log = socket.socket(socket.AF_UNIX)
    log.settimeout(harness.PATIENCE)
    log.connect(daemon.control)
    log.sendall(b"GET /api/v1/instances/a/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert log.recv(10)
    told = upgraded(daemon)
    assert told["generation"] == 1
    for feed in (socket_feed, events, polling):
        feed.thread.join(harness.PATIENCE)
        assert not feed.thread.is_alive(), type(feed)
    # 1012, "Service Restart": clients of any library see by it that it is worth to come back.
    assert isinstance(socket_feed.error, websockets.exceptions.ConnectionClosed) and "1012" in str(socket_feed.error), socket_feed.error
    assert events.error is None
    assert b"the supervisor is upgraded" in whole_chunks(log)
    log.close()
    for feed in (daemon.ws(), daemon.sse(), daemon.socketio()):
        again = feed.wait(lambda m: m.get("type") == "llama_status" and m["data"]["status"] == "ready")
        assert again["data"]["pid"] == pid


def test_who_watches_from_a_terminal_goes_on(make_daemon):
    """status --watch, history --follow and --wait come back by themselves."""
    daemon = make_daemon(one("--load-ms 3000"))
    env = daemon.environment()
    watchers = [harness.spawn([harness.PROGRAM, *args, "--socket", daemon.control], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=env, stdin=subprocess.DEVNULL)
                for args in (["status", "--watch"], ["history", "--follow"], ["start", "a", "--wait"])]
    try:
        harness.wait_for(lambda: daemon.get("/metrics").text.count("feed_subscribers") and
                         sum(float(line.split()[-1]) for line in daemon.get("/metrics").text.splitlines()
                             if line.startswith("llama_supervisor_feed_subscribers")) >= 3, what=daemon.output)
        upgraded(daemon)
        daemon.wait_state("a", "ready")
        assert watchers[2].wait(harness.PATIENCE) == 0, watchers[2].stdout.read()
        text = watchers[2].stdout.read()
        assert b"a: ready" in text, text
        pid = daemon.instance("a")["pid"]
        os.kill(pid, signal.SIGKILL)
        daemon.wait_state("a", "crashed")
        told = [b"", b""]
        for i, word in ((0, b"crashed"), (1, b"died")):
            while word not in told[i]:
                piece = os.read(watchers[i].stdout.fileno(), 65536)
                assert piece, told[i]
                told[i] += piece
        assert b"upgraded" in told[1]
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()
            watcher.stdout.close()


def test_followed_logs_go_on(make_daemon, folder):
    """logs -f over upgrades, while lines are written: none is lost, none is told twice. One that is removed just ends."""
    daemon = make_daemon({"instances": one()["instances"] + [dict(one()["instances"][0], name="b")]})
    for name in "ab":
        daemon.wait_state(name, "ready")
    stop, count = threading.Event(), [0]

    def write():
        with open(os.path.join(daemon.log, "a.log"), "ab", buffering=0) as log:
            while not stop.is_set():
                count[0] += 1
                log.write(b"number %d\n" % count[0])
                time.sleep(0.002)
    writer = threading.Thread(target=write)
    told = [open(os.path.join(folder, "told-%d" % i), "wb") for i in range(3)]
    followers = [harness.spawn([harness.PROGRAM, "logs", "-f", *args, "--socket", daemon.control], stdout=out, stderr=subprocess.STDOUT,
                               env=daemon.environment(), stdin=subprocess.DEVNULL)
                 for out, args in zip(told, (["-n0", "a"], ["-n5", "a", "b", "-s", "--json"], ["b"]))]

    def text(i):
        with open(told[i].name, "rb") as f:     # another one than the writer's, which has its own place in the file
            return f.read().decode()
    try:
        harness.wait_for(lambda: "llama_supervisor_log_followers 5\n" in daemon.get("/metrics").text, what="all follow")
        assert "number" not in text(0)
        writer.start()
        for generations in (1, 2, 3):
            seen = count[0]
            harness.wait_for(lambda: "number %d\n" % (seen + 50) in text(0), what=lambda: text(0)[-500:])
            assert upgraded(daemon)["generation"] == generations
        harness.wait_for(lambda: "llama_supervisor_log_followers 5\n" in daemon.get("/metrics").text, what="all follow again")
        stop.set()
        writer.join(harness.PATIENCE)
        for i in (0, 1):
            harness.wait_for(lambda: re.search(r"number %d\b" % count[0], text(i)), what=lambda: text(i)[-500:])
            assert [int(n) for n in re.findall(r"number (\d+)", text(i))] == list(range(1, count[0] + 1))
        for i in range(3):
            assert "ask again" not in text(i) and "may be missing" not in text(i), text(i)[-2000:]
        assert {json.loads(line)["instance"] for line in text(1).splitlines()} == {"a", "b", None}
        assert text(2).count("llama_server: initializing") == 1
        daemon.write_config({**daemon.config, "instances": daemon.config["instances"][:1]})
        assert daemon.cli("reload").returncode == 0
        assert followers[2].wait(harness.PATIENCE) == 0 and "this instance is gone" in text(2), text(2)
    finally:
        stop.set()
        for follower in followers:
            follower.kill()
            follower.wait()
        for out in told:
            out.close()


def test_an_answer_that_is_not_read_is_named(make_daemon):
    daemon = make_daemon(one())
    daemon.wait_state("a", "ready")
    address = urllib.parse.urlsplit(daemon.address)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((address.hostname, address.port))
        # Answers of some 100 KB each: more than the kernel keeps for a reader that does not read.
        sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        time.sleep(0.3)
        refused = daemon.cli("upgrade")
        assert refused.returncode == 1 and "an answer that its reader has not taken" in refused.stderr, refused
    assert upgraded(daemon)["generation"] == 1


def test_an_event_stream_says_when_to_come_back(make_daemon):
    daemon = make_daemon(one())
    daemon.wait_state("a", "ready")
    address = urllib.parse.urlsplit(daemon.address)
    with socket.create_connection((address.hostname, address.port), timeout=harness.PATIENCE) as sock:
        sock.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(10)
        upgraded(daemon)
        assert b"retry: 200\n\n" in whole_chunks(sock)
