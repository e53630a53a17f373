# ctest: asan
"""Sockets that came with the start: of a socket unit, of systemd's store of descriptors; and what is told to systemd. The service
manager is played by the test: LISTEN_FDS, and a NOTIFY_SOCKET that takes descriptors."""
import array
import fcntl
import json
import os
import signal
import socket
import threading
import time
import urllib.parse

import pytest

import harness
from faults import one

# Puts the descriptors of LSV_TEST_FDS at 3 and the following, as systemd does.
STARTER = """#!/usr/bin/python3
import os, sys
fds = [int(n) for n in os.environ.pop("LSV_TEST_FDS").split(",") if n]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i, inheritable=True)
os.closerange(3 + len(fds), 256)
if fds:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(%r, [%r] + sys.argv[1:])
"""


class Manager:
    """What systemd is to the daemon: gives it descriptors, hears what it says, and keeps what it stores."""

    def __init__(self, folder, monkeypatch):
        self.path = os.path.join(folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.said, self.store, self.given, self.over = [], [], [], False
        self.starter = os.path.join(folder, "starter")
        with open(self.starter, "w") as f:
            f.write(STARTER % (harness.PROGRAM, harness.PROGRAM))
        os.chmod(self.starter, 0o755)
        monkeypatch.setattr(harness, "PROGRAM", self.starter)
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while not self.over:
            data, control, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(64 * 4))
            fds = array.array("i")
            for level, kind, payload in control:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(payload[:len(payload) // 4 * 4])
            lines = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
            if "FDSTORE" in lines:
                self.store += [(lines["FDNAME"], fd) for fd in fds]
            if "FDSTOREREMOVE" in lines:
                for name, fd in list(self.store):
                    if name == lines["FDNAME"]:
                        self.store.remove((name, fd))
                        os.close(fd)
            self.said.append(lines)

    def close(self):
        self.over = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
            wake.sendto(b"OVER=1", self.path)
        self.thread.join(harness.PATIENCE)
        self.socket.close()
        for _, fd in self.store:
            os.close(fd)
        os.unlink(self.path)

    def environment(self, sockets=(), stored=False, **more):
        """sockets: (name, socket) of a socket unit. The store goes along as it is."""
        rows = [(name, s.fileno()) for name, s in sockets] + (self.store if stored else [])
        # Far from 3, so that none is in another's place.
        self.given = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for _, fd in rows]
        env = {"NOTIFY_SOCKET": self.path, "LSV_TEST_FDS": ",".join(str(fd) for fd in self.given), **more}
        if rows:
            env.update(LISTEN_FDS=str(len(rows)), LISTEN_FDNAMES=":".join(name for name, _ in rows))
        return env

    def start(self, daemon, sockets=(), stored=False, launch_only=False, **more):
        daemon.env = self.environment(sockets, stored, **more)
        try:
            (daemon.launch if launch_only else daemon.start)(pass_fds=tuple(self.given))
        finally:
            daemon.env = {"LSV_TEST_FDS": ""}       # for the client's verbs
            for fd in self.given:
                os.close(fd)
        return daemon

    def count(self, key, value="1"):
        return len([lines for lines in self.said if lines.get(key) == value])

    def names(self):
        return sorted(name for name, _ in self.store)


@pytest.fixture
def manager(folder, monkeypatch):
    made = Manager(folder, monkeypatch)
    yield made
    made.close()


def listening(address=("127.0.0.1", 0), family=socket.AF_INET):
    s = socket.socket(family)
    if family != socket.AF_UNIX:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(address)
    s.listen(16)
    return s


def ask(sock):
    sock.settimeout(harness.PATIENCE)
    sock.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := sock.recv(65536):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


# ---- socket units ---------------------------------------------------------------------------------------------------------

def test_a_socket_that_listen_names(make_daemon, manager):
    """It is used instead of binding another; who came before the daemon was started is served, too."""
    s = listening()
    port = s.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as early:
        daemon = make_daemon({**one(), "listen": [{"address": "127.0.0.1:%d" % port}]}, start=False)
        manager.start(daemon, [("llama-supervisor.socket", s)])
        assert ask(early)["listen"] == ["http://127.0.0.1:%d" % port]
    # Systemd holds it itself; only what the daemon opened goes into the store.
    harness.wait_for(lambda: manager.count("READY"))
    assert len(manager.store) == 1 and "control" in manager.names()[0], manager.names()
    daemon.wait_state("a", "ready")
    assert daemon.cli("upgrade").returncode == 0, daemon.output()
    assert daemon.get("/api/v1/status").json["generation"] == 1
    assert len(manager.names()) >= 1 and all("control" in name for name in manager.names())
    daemon.stop()
    with socket.create_connection(("127.0.0.1", port)):
        pass                            # it is the unit's, and still listens
    s.close()


def test_further_doors(make_daemon, manager, folder):
    path = os.path.join(folder, "further.sock")
    tcp, unix = listening(), listening(path, socket.AF_UNIX)
    daemon = make_daemon(one(), start=False)
    manager.start(daemon, [("a", tcp), ("b", unix)])
    port = tcp.getsockname()[1]
    assert len(daemon.listen) == 3 and "http://127.0.0.1:%d" % port in daemon.listen and "unix:" + path in daemon.listen
    for address in daemon.listen:
        assert harness.request(address, "GET", "/health").status == 200
    assert daemon.cli("upgrade").returncode == 0, daemon.output()
    for address in daemon.listen:
        assert harness.request(address, "GET", "/api/v1/status").json["generation"] == 1
    daemon.stop()
    assert os.path.exists(path)         # not ours to unlink
    tcp.close()
    unix.close()


def test_a_door_to_the_world(make_daemon, manager):
    """The rules for listeners hold for those of others, too."""
    s = listening(("0.0.0.0", 0))
    daemon = make_daemon({"instances": []}, start=False)
    manager.start(daemon, [("world", s)], launch_only=True)
    assert daemon.wait_exit() == 1
    assert "0.0.0.0" in daemon.output() and "refused: this address can be reached from other machines" in daemon.output()
    daemon.write_config({"instances": [], "insecure": True})
    manager.start(daemon, [("world", s)])
    assert "http://0.0.0.0:%d" % s.getsockname()[1] in daemon.listen
    assert "without a key" in daemon.output()
    s.close()


def test_what_cannot_be_listened_on(make_daemon, manager, folder):
    datagrams, bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    for s in (datagrams, bound):
        s.bind(("127.0.0.1", 0))
    abstract = listening("\0lsv-test-%d" % os.getpid(), socket.AF_UNIX)
    daemon = make_daemon({"instances": []}, start=False)
    manager.start(daemon, [("datagrams", datagrams), ("bound", bound), ("abstract", abstract)])
    assert len(daemon.listen) == 1
    for name in ("datagrams", "bound", "abstract"):
        assert 'descriptor "%s" of systemd is not used' % name in daemon.output()
    for s in (datagrams, bound, abstract):
        s.close()


def test_not_meant_for_us(make_daemon, manager):
    """LISTEN_PID of somebody else."""
    s = listening()
    daemon = make_daemon({"instances": []}, start=False)
    daemon.env = manager.environment([("a", s)])
    with open(manager.starter) as f:
        text = f.read()
    with open(manager.starter, "w") as f:
        f.write(text.replace("str(os.getpid())", "'1'"))
    daemon.start(pass_fds=tuple(manager.given))
    for fd in manager.given:
        os.close(fd)
    assert len(daemon.listen) == 1
    s.close()


# ---- the store ------------------------------------------------------------------------------------------------------------

def test_listeners_outlive_a_crash(make_daemon, manager, folder):
    """Who comes while no daemon is there waits, and is served by the next one; also at a port that the kernel chose."""
    path = os.path.join(folder, "x.sock")
    config = {**one(), "listen": [{"address": "127.0.0.1:0"}, {"address": "unix:" + path}, {"address": "127.0.0.1:0"}]}
    daemon = make_daemon(config, start=False)
    manager.start(daemon)
    harness.wait_for(lambda: manager.count("READY"))
    pid = daemon.wait_state("a", "ready")["pid"]
    assert len(manager.store) == 4 and all(name.startswith("lsv-") for name in manager.names()), manager.names()
    before = daemon.listen
    daemon.kill9()
    manager.store.reverse()             # in whatever order systemd gives them back
    address = urllib.parse.urlsplit(before[0])
    early = [socket.create_connection((address.hostname, address.port))]
    for place in (path, daemon.control):
        s = socket.socket(socket.AF_UNIX)
        s.connect(place)
        early.append(s)
    manager.start(daemon, stored=True)
    assert daemon.listen == before
    for s in early:
        assert ask(s)["pid"] == daemon.pid
        s.close()
    assert daemon.wait_state("a", "ready")["pid"] == pid


def test_an_older_configurations_listener(make_daemon, manager):
    """What is not listened on any more is closed, and taken out of the store."""
    s = listening()
    port = s.getsockname()[1]
    s.close()
    daemon = make_daemon({"instances": [], "listen": [{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:%d" % port}]}, start=False)
    manager.start(daemon)
    harness.wait_for(lambda: len(manager.store) == 3)
    daemon.kill9()
    daemon.write_config({"instances": [], "listen": [{"address": "127.0.0.1:0"}]})
    manager.start(daemon, stored=True)
    harness.wait_for(lambda: manager.count("READY") == 2)
    assert not [name for name in manager.names() if str(port) in name], manager.names()
    assert "127.0.0.1:%d is not listened on any more" % port in daemon.output()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    # The same by an upgrade: a listener that the configuration names no more.
    daemon.write_config({"instances": [], "listen": [{"address": "127.0.0.1:%d" % port}]})
    gone = urllib.parse.urlsplit(daemon.address)
    assert daemon.cli("upgrade").returncode == 0, daemon.output()
    daemon.listen = ["http://127.0.0.1:%d" % port]
    assert daemon.get("/api/v1/status").json["listen"] == daemon.listen
    harness.wait_for(lambda: not [name for name in manager.names() if name == "lsv-127.0.0.1_0"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((gone.hostname, gone.port))


def test_a_socket_file_that_is_gone(make_daemon, manager, folder):
    """A stored socket whose file somebody took away is nobody's door: a new one is made."""
    daemon = make_daemon({"instances": []}, start=False)
    manager.start(daemon)
    harness.wait_for(lambda: len(manager.store) == 2)
    daemon.kill9()
    os.unlink(daemon.control)
    manager.start(daemon, stored=True)
    assert daemon.control_api("GET", "/api/v1/status").json["pid"] == daemon.pid


# ---- what is told ---------------------------------------------------------------------------------------------------------

def test_an_upgrade_is_a_reload(make_daemon, manager):
    """RELOADING with its time, READY again when the doors are open; the same when it fails at last."""
    daemon = make_daemon(one(), start=False)
    manager.start(daemon)
    daemon.wait_state("a", "ready")
    harness.wait_for(lambda: manager.count("READY") == 1)
    assert daemon.cli("upgrade").returncode == 0, daemon.output()
    harness.wait_for(lambda: manager.count("READY") == 2)
    words = [key for lines in manager.said for key in lines if key in ("READY", "RELOADING")]
    assert words == ["READY", "RELOADING", "READY"], manager.said
    reloading, = [lines for lines in manager.said if "RELOADING" in lines]
    assert 0 < int(reloading["MONOTONIC_USEC"]) <= time.monotonic() * 1e6


def test_a_long_stop_is_not_cut(make_daemon, manager):
    daemon = make_daemon(one("--ignore-term", {"stop": {"grace": "1s"}}), start=False)
    manager.start(daemon)
    daemon.wait_state("a", "ready")
    assert not [lines for lines in manager.said if "EXTEND_TIMEOUT_USEC" in lines]
    daemon.stop()
    told = [key for lines in manager.said for key in lines if key in ("STOPPING", "EXTEND_TIMEOUT_USEC")]
    assert told[:2] == ["STOPPING", "EXTEND_TIMEOUT_USEC"], manager.said


def test_the_watchdog_hears_the_loop(make_daemon, manager):
    """As long as the loop turns, before and after an upgrade; and not while it does not."""
    daemon = make_daemon({"instances": []}, start=False)
    manager.start(daemon, WATCHDOG_USEC="200000")
    harness.wait_for(lambda: manager.count("WATCHDOG") > 3)
    assert daemon.cli("upgrade").returncode == 0, daemon.output()
    heard = manager.count("WATCHDOG")
    harness.wait_for(lambda: manager.count("WATCHDOG") > heard + 3)
    daemon.signal(signal.SIGSTOP)
    time.sleep(0.3)
    heard = manager.count("WATCHDOG")
    time.sleep(1)
    assert manager.count("WATCHDOG") == heard
    daemon.signal(signal.SIGCONT)
    harness.wait_for(lambda: manager.count("WATCHDOG") > heard)
