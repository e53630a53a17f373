"""Servers and sockets that are not ours: taken as they are, told truly, never signalled; and nobody can pretend to be ours."""
# ctest: real asan
import http.server
import os
import signal
import socket
import threading
import time

import pytest

import harness
from faults import alone_crashed, crashed, deaths, events, one, order, socket_of, start_again, stays

SHORT = {"health": {"timeout": "500ms", "interval": "50ms"}}


@pytest.fixture
def foreign(make_server, server, tiny_model):
    """foreign(port) starts somebody else's llama-server there, and returns it ready."""
    def start(port):
        return make_server(server, "-m", tiny_model, "-c", "2048", "-np", "1", "-t", "1", "--port", str(port),
                           host="127.0.0.1").wait_ready()
    return start


def lost(daemon, *words):
    told = daemon.wait("a", lambda now: now["status"] == "crashed" and now["lastError"], what="lost")
    assert told["pid"] is None and told["startedAt"] is None and told["nextRetryAt"] is None, told
    said = harness.assert_same_truth(daemon, "a", status="crashed", retries=0)
    for word in words:
        assert word in said["lastError"], said
    return said


# ---- adopt ---------------------------------------------------------------------------------------------------------------

def test_a_foreign_server_comes_and_goes(make_daemon, foreign, server):
    port = harness.free_port()
    address = "http://127.0.0.1:%d" % port
    config = harness.merged(SHORT, {"instances": [{"name": "a", "adopt": address}]})
    daemon = make_daemon(config, server=server)
    lost(daemon, "connection refused", address)
    other = foreign(port)
    now = daemon.wait_state("a", "ready")
    assert now["pid"] is None and now["adopted"] and now["foreign"] and now["models"] and now["startedAt"], now
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    # Nobody may order it about.
    for verb in ("stop", "restart"):
        answer = daemon.api("POST", "/api/v1/instances/a/" + verb)
        assert answer.status in (403, 409) and "somebody else's" in answer.text, answer
    assert daemon.cli("stop", "a").returncode == 1
    # It hangs for a while: told, not touched.
    other.process.send_signal(signal.SIGSTOP)
    daemon.wait("a", lambda now: now["status"] in ("unhealthy", "crashed"), what="hung")
    lost(daemon, "does not answer")
    other.process.send_signal(signal.SIGCONT)
    daemon.wait_state("a", "ready")
    assert other.process.poll() is None
    # It goes, and another comes.
    assert other.end(signal.SIGTERM) == 0
    lost(daemon, "connection refused")
    another = foreign(port)
    daemon.wait_state("a", "ready")
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    # The daemon goes and comes: it lives on.
    daemon.stop()
    assert another.process.poll() is None and another.end(0, timeout=0.3) == "still there"
    daemon.start()
    daemon.wait_state("a", "ready")
    assert another.process.poll() is None
    assert deaths(daemon) == []


def test_a_foreign_server_on_a_unix_socket(make_daemon, make_server, server, tiny_model):
    other = make_server(server, "-m", tiny_model, "-c", "2048", "-np", "1", "-t", "1").wait_ready()
    daemon = make_daemon(harness.merged(SHORT, {"instances": [{"name": "a", "adopt": "unix:" + other.socket}]}), server=server)
    daemon.wait_state("a", "ready")
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    daemon.stop()
    assert other.answers(200) and os.path.exists(other.socket)


class Llama(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = []                                  # (when, where) of each GET /health

    def do_GET(self):                           # noqa: N802
        body = b'{"status":"ok"}'
        if self.path == "/health":
            self.asked.append((time.monotonic(), self.server.server_address[0]))
        elif self.path == "/v1/models":
            body = b'{"object":"list","data":[{"id":"tiny"}]}'
        else:
            body = b"[]"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


CROWD = 32


def crowd(since):
    """Of the questions that each was asked a second, the most within a tenth of one; None: not all have been asked twice since."""
    last = {}
    for at, who in Llama.asked:
        if at >= since:
            last.setdefault(who, []).append(at)
    if len(last) < CROWD or min(map(len, last.values())) < 3:
        return None
    moments = sorted(times[-1] % 1 for times in last.values())
    moments += [at + 1 for at in moments]
    return max(sum(at <= other < at + 0.1 for other in moments) for at in moments[:CROWD])


def test_probes_are_spread_again_after_the_daemon_stood_still(make_daemon):
    """All questions that came due meanwhile are asked in one moment. They do not stay together for ever."""
    port, servers = harness.free_port(), []
    Llama.asked.clear()
    try:
        for n in range(CROWD):
            servers.append(http.server.ThreadingHTTPServer(("127.0.0.%d" % (n + 2), port), Llama))
            threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        daemon = make_daemon({"health": {"interval": "1s", "timeout": "5s"}, "instances": [
            {"name": "a%d" % n, "adopt": "http://127.0.0.%d:%d" % (n + 2, port)} for n in range(CROWD)]})
        for n in range(CROWD):
            daemon.wait_state("a%d" % n, "ready")
        os.kill(daemon.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(daemon.pid, signal.SIGCONT)
        since = time.monotonic()
        # Eight share a moment. On a machine that is busy they come late, but not all and for ever.
        harness.wait_for(lambda: (crowd(since) or CROWD) <= 12, 40, what="probes that do not come together")
    finally:
        for s in servers:
            s.shutdown()
            s.server_close()


# ---- endpoint ------------------------------------------------------------------------------------------------------------

def at(port, *over, **more):
    return one("", SHORT, *over, endpoint="http://127.0.0.1:%d" % port, **more)


def test_nobody_is_at_the_endpoint(make_daemon, server):
    """Then one of ours is started there, and supervised as any other."""
    port = harness.free_port()
    daemon = make_daemon(at(port), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    assert pid and harness.request("http://127.0.0.1:%d" % port, "GET", "/health").status == 200
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    os.kill(pid, signal.SIGKILL)
    alone_crashed(daemon, "killed", "somebody killed it")
    start_again(daemon)                          # on the same port, at once
    daemon.kill9()
    daemon.start()                               # ours, not somebody else's: it is taken over with its pid
    now = daemon.wait_state("a", "ready")
    assert now["pid"] and now["adopted"] and not now["foreign"]


def test_somebody_is_at_the_endpoint(make_daemon, foreign, server):
    """Taken as it is. When it goes, one of ours takes its place."""
    port = harness.free_port()
    other = foreign(port)
    daemon = make_daemon(at(port), server=server)
    now = daemon.wait_state("a", "ready")
    assert now["pid"] is None and now["adopted"] and now["foreign"], now
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    assert daemon.children() == []
    assert other.end(signal.SIGTERM) == 0
    now = daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"], what="ours")
    stays(daemon, now["pid"])
    assert len(events(daemon, "lost")) == 1 and deaths(daemon) == []


class NotALlama(http.server.BaseHTTPRequestHandler):
    def do_GET(self):                           # noqa: N802 (the name is http.server's)
        self.send_response(404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"no")

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("who", ["silent", "web server"])
def test_another_program_is_at_the_endpoint(make_daemon, server, who):
    """Told, not killed, and no other is started there; when it has gone, ours comes."""
    if who == "silent":
        port = harness.free_port()
        taken = socket.create_server(("127.0.0.1", port))
    else:
        port = harness.free_port()
        taken = http.server.ThreadingHTTPServer(("127.0.0.1", port), NotALlama)
        threading.Thread(target=taken.serve_forever, daemon=True).start()
    try:
        daemon = make_daemon(at(port), server=server)
        lost(daemon, "no healthy llama-server answers at", str(port), "HTTP 404" if who == "web server" else "no answer")
        why = daemon.cli("why", "a")
        assert "no healthy llama-server answers" in why.stdout, why
        assert daemon.children() == []
    finally:
        if who == "silent":
            taken.close()
        else:
            taken.shutdown()
            taken.server_close()
    now = daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"], what="ours")
    stays(daemon, now["pid"])


def test_the_port_is_taken_before_ours_binds(make_daemon, server):
    """Bound by a program that does not listen (yet): nobody answers there, and llama-server cannot bind."""
    with socket.socket() as taken:
        port = harness.free_port()
        taken.bind(("127.0.0.1", port))
        daemon = make_daemon(at(port), server=server)
        alone_crashed(daemon, "endpoint_taken", "taken by another program", "exit code 1")
        assert "couldn't bind" in deaths(daemon)[-1]["evidence"]["line"]
    start_again(daemon)


# ---- the private socket ----------------------------------------------------------------------------------------------------

def test_a_stale_socket_lies_there(make_daemon, server):
    """llama-server never removes its socket file, and cannot bind over one."""
    daemon = make_daemon(one(), start=False, server=server)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(socket_of(daemon))
    daemon.start()
    stays(daemon, daemon.wait_state("a", "ready")["pid"])
    assert os.stat(socket_of(daemon)).st_mode & 0o077 == 0


@pytest.mark.parametrize("what", ["file", "link"])
def test_something_else_lies_there(make_daemon, server, folder, what):
    """What is no socket was not left by a llama-server: told, and not removed."""
    daemon = make_daemon(one(), start=False, server=server)
    precious = os.path.join(folder, "precious") if what == "link" else socket_of(daemon)
    with open(precious, "w") as f:
        f.write("mine")
    if what == "link":
        os.symlink(precious, socket_of(daemon))
    daemon.start()
    alone_crashed(daemon, "endpoint_taken", "could not start", "its socket: File exists")
    with open(precious) as f:
        assert f.read() == "mine"
    os.unlink(socket_of(daemon))
    start_again(daemon)


def test_an_impostor_on_the_private_socket(make_daemon, make_server, server, tiny_model):
    """Another llama-server has put its socket in the place of ours and answers well: that says nothing about ours. SO_PEERCRED
    tells. Ours, which nobody can reach any more, is replaced; the impostor is not ours to kill."""
    daemon = make_daemon(one("", {"health": {"interval": "20ms"}}), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    impostor = make_server(server, "-m", tiny_model, "-c", "2048", "-np", "1", "-t", "1").wait_ready()
    os.rename(impostor.socket, socket_of(daemon))
    crashed(daemon, "unresponsive", "another program (pid %d) answers on its socket" % impostor.process.pid)
    assert impostor.process.poll() is None
    now = start_again(daemon)
    assert now["pid"] not in (pid, impostor.process.pid)
    stays(daemon, now["pid"], deaths_before=1)
    assert impostor.process.poll() is None


def test_a_helper_of_its_own_may_answer(make_daemon, fake_llama_server):
    """A program of its process group (a wrapper's child) is no impostor."""
    daemon = make_daemon(one("--peer-lie"))
    pid = daemon.wait_state("a", "ready")["pid"]
    time.sleep(0.5)
    stays(daemon, pid)
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    harness.wait_for(lambda: daemon.children() == [], what="both have ended")
