"""The daemon's log as systemd's journal gets it: a fake journald hears what the daemon says at the well-known address, in a mount
namespace of its own."""
# ctest: asan
import ctypes
import os
import signal
import socket
import struct
import threading

import pytest

import harness
from faults import one, order

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18


class FakeJournald:
    """Entries as lists of (field, value)."""

    def __init__(self, folder):
        self.folder, self.entries, self.thread = folder, [], None
        self.open()

    def open(self):
        self.path = os.path.join(self.folder, "socket")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.read()

    def read(self):
        """All the time: a socket holds no more than net.unix.max_dgram_qlen entries, mostly ten."""
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.thread.start()

    def main(self):
        while True:
            data = self.socket.recv(65536)
            if not data:
                return
            self.entries.append(self.parse(data))

    @staticmethod
    def parse(data):
        fields = []
        while data:
            line, _, rest = data.partition(b"\n")
            if b"=" in line:
                key, _, value = line.partition(b"=")
            else:
                key, (size,) = line, struct.unpack("<Q", rest[:8])
                value, rest = rest[8:8 + size], rest[9 + size:]
            fields.append((key.decode(), value.decode()))
            data = rest
        return fields

    def of(self, event):
        return [dict(entry) for entry in list(self.entries) if ("EVENT", event) in entry]

    def wait(self, event, count=1):
        return harness.wait_for(lambda: len(self.of(event)) >= count and self.of(event), what="an entry of " + event)

    def stand_still(self):
        """An empty entry ends the thread; the socket stays, and fills."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
            mine.sendto(b"", self.path)
        self.thread.join(harness.PATIENCE)

    def close(self):
        if self.thread.is_alive():
            self.stand_still()
        self.socket.close()
        os.unlink(self.path)


def enter(folder):
    """In the child, before the daemon: a mount namespace whose /run is empty but for that folder."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result):
        if result:
            raise OSError(ctypes.get_errno(), "mount namespace")
    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    check(libc.mount(b"none", b"/run", b"tmpfs", 0, None))
    os.makedirs("/run/systemd/journal")
    check(libc.mount(folder.encode(), b"/run/systemd/journal", None, MS_BIND, None))


@pytest.fixture
def journald(folder):
    if os.geteuid() != 0:
        pytest.skip("only root may make a mount namespace; unit/host/journal does without")
    made = FakeJournald(folder)
    yield made
    made.close()


@pytest.fixture
def start(make_daemon, journald, folder):
    """A daemon whose stderr is, by its environment, the journal's."""
    def begin(config, **kwargs):
        daemon = make_daemon(config, start=False, **kwargs)
        with open(daemon.output_file, "ab"):
            pass
        made = os.stat(daemon.output_file)
        daemon.env = {"JOURNAL_STREAM": "%d:%d" % (made.st_dev, made.st_ino)}
        return daemon.start(preexec_fn=lambda: enter(folder))
    return begin


def documented():
    """kind: MESSAGE_ID of docs/API.md."""
    with open(os.path.join(harness.SOURCE, "docs", "API.md")) as f:
        rows = [line.split("|") for line in f if line.startswith("| `")]
    return {row[1].strip(" `"): row[2].strip(" `") for row in rows if len(row) == 5 and len(row[2].strip(" `")) == 32}


def test_a_life_in_the_journal(start, journald, fake_llama_server):
    """Each event once, with the fields and the id of the documentation; and every line of the log is there."""
    config = one("", {"restart": {"backoff_initial": "20ms", "max_retries": 1}}, replicas=2)
    daemon = start(config)
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in ("a-0", "a-1")}
    os.kill(pids["a-1"], signal.SIGKILL)
    daemon.wait("a-1", lambda now: now["status"] == "ready" and now["pid"] != pids["a-1"])
    assert daemon.api("POST", "/api/v1/reload").status == 200
    daemon.write_config({"instances": [{"name": "a", "modle": "x"}]})
    assert daemon.api("POST", "/api/v1/reload").status == 422
    daemon.write_config(config)
    order(daemon, "stop", "a-0")
    daemon.wait_state("a-0", "initial")
    daemon.stop()
    ids = documented()
    for event, instance, count, priority in (
            ("daemon_started", None, 1, 6), ("started", "a-0", 1, 6), ("started", "a-1", 2, 6), ("ready", "a-0", 1, 6),
            ("died", "a-1", 1, 4), ("reload", None, 1, 6), ("reload_failed", None, 1, 3), ("stopped", "a-0", 1, 6),
            ("stopping", None, 1, 6)):
        found = [entry for entry in journald.of(event) if entry.get("INSTANCE") == instance]
        assert len(found) == count, (event, journald.of(event))
        for entry in found:
            assert entry["MESSAGE_ID"] == ids[event] and entry["PRIORITY"] == str(priority), entry
            assert entry["SYSLOG_IDENTIFIER"] == "llama-supervisor"
            assert entry.get("MODEL") == (instance and "a") and "GPU_UUID" not in entry
            assert entry["MESSAGE"].startswith(instance + ": " if instance else ""), entry
    # The history tells the same events, each once.
    assert {dict(entry)["EVENT"] for entry in list(journald.entries) if "EVENT" in dict(entry)} <= set(ids)
    assert "a-0" not in daemon.output() and "ready" not in daemon.output(), "lines of the journal are told on stderr as well"


def test_journald_stands_still(start, journald, fake_llama_server):
    """The daemon goes on; what the journal did not get is told when it takes lines again, and counted for Prometheus."""
    daemon = start(one("", {"restart": {"backoff_initial": "10ms", "backoff_max": "10ms", "max_retries": "forever"}}))
    daemon.wait_state("a", "ready")

    def lost():
        text = daemon.get("/metrics").text
        return float([line.split()[1] for line in text.splitlines() if line.startswith("llama_supervisor_log_lost_total ")][0])
    assert lost() == 0

    def fill():
        """Orders that are refused are lines of the log, too."""
        for _ in range(50):
            daemon.api("POST", "/api/v1/reload")
        return lost() > 0
    journald.stand_still()
    harness.wait_for(fill, what="a line is lost")
    assert daemon.status("a") == "ready"
    journald.read()

    def told():
        daemon.api("POST", "/api/v1/reload")
        return [dict(entry)["MESSAGE"] for entry in list(journald.entries)
                if "before this one could not be written" in dict(entry)["MESSAGE"]]
    said = harness.wait_for(told, what="it is told")
    assert int(said[0].split()[0]) >= 1


def test_journald_is_away(start, journald, fake_llama_server):
    """Without its socket lines go to stderr; when it is back, to it again."""
    daemon = start(one())
    daemon.wait_state("a", "ready")
    journald.wait("ready")
    journald.close()
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    harness.wait_for(lambda: "<6>a: stopped" in daemon.output(), what="told on stderr, with its priority")
    journald.open()
    order(daemon, "start")
    daemon.wait_state("a", "ready")
    journald.wait("ready", 2)
