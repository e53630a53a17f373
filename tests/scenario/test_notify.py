"""What systemd hears of the daemon: ready when the doors are open, and the fleet in one line for `systemctl status`."""
# ctest: asan
import os
import socket
import threading

import pytest

import harness
from faults import one, order


class Manager:
    """The socket that systemd gives; what came, newest last."""

    def __init__(self, folder):
        self.path, self.lines = os.path.join(folder, "notify"), []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.thread.start()

    def main(self):
        while True:
            data = self.socket.recv(65536)
            if not data:
                return
            self.lines += data.decode().splitlines()

    def status(self):
        return ([None] + [line[len("STATUS="):] for line in list(self.lines) if line.startswith("STATUS=")])[-1]

    def wait_status(self, text):
        harness.wait_for(lambda: self.status() == text, what=lambda: "STATUS=%s; it is %s" % (text, self.status()))

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
            mine.sendto(b"", self.path)
        self.thread.join(harness.PATIENCE)
        self.socket.close()


@pytest.fixture
def manager(folder):
    made = Manager(folder)
    yield made
    made.close()


def test_the_fleet_in_one_line(make_daemon, manager, fake_llama_server):
    config = one("--prompt-ms 120000", {"stop": {"drain": "100ms"}})
    config["instances"].append(dict(config["instances"][0], name="b", autostart=False))
    daemon = make_daemon(config, start=False)
    daemon.env["NOTIFY_SOCKET"] = manager.path
    daemon.start()
    assert "READY=1" in manager.lines
    manager.wait_status("1/2 ready; 1 not running")
    body = {"model": "a", "messages": [{"role": "user", "content": "wait"}]}
    clients = [threading.Thread(target=lambda: daemon.api("POST", "/v1/chat/completions", body=body)) for _ in range(3)]
    for client in clients:
        client.start()
    manager.wait_status("1/2 ready, 2 queued; 1 not running")     # one slot
    order(daemon, "start", "b")
    manager.wait_status("2/2 ready, 2 queued")
    daemon.stop()
    for client in clients:
        client.join(harness.PATIENCE)
    assert "STOPPING=1" in manager.lines
