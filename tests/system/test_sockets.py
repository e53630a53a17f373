"""Listeners that outlive the daemon: systemd's store of descriptors, and the socket unit. And who may use the control socket."""
import signal

from harness import wait_for
from machine import CONTROL, PORT, UNIT
from service import fleet

GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def answer_of(sock):
    sock.settimeout(60)
    text = b""
    while True:
        piece = sock.recv(65536)
        if not piece:
            return text
        text += piece


def test_the_store_keeps_the_listeners_over_a_crash(service):
    """Who connects while no daemon is there is not refused, and is served by the next one."""
    m = service.machine
    service.drop_in("slow", "[Service]\nRestartSec=2s\n")
    service.start(fleet("a"))
    assert int(m.show("NFileDescriptorStore")) >= 2, "the listener and the control socket are in the store"
    pid = m.main_pid
    m.kill_pid(pid, signal.SIGKILL)
    wait_for(lambda: m.show("SubState") == "auto-restart", what="no daemon runs")
    socks = [m.tcp(), m.tcp(), m.unix()]                # refused, if nobody listened
    for sock in socks:
        sock.sendall(GET)
    assert m.show("SubState") == "auto-restart", "they connected while nobody was there"
    for sock in socks:
        text = answer_of(sock)
        assert text.startswith(b"HTTP/1.1 200"), text
        sock.close()
    assert m.main_pid != pid


def test_a_changed_listener_leaves_the_store(service):
    """After a restart with another address nobody listens at the old one."""
    m = service.machine
    service.start(fleet("a"))
    service.configure(fleet("a"), {"listen": [{"address": "127.0.0.1:8078"}]})
    pid = m.main_pid
    m.kill_pid(pid, signal.SIGKILL)
    m.wait_new_main(pid)
    assert m.request("GET", "/health", port=8078).status == 200

    def is_refused():
        try:
            m.tcp(PORT, 5).close()
            return False
        except ConnectionRefusedError:
            return True
    wait_for(is_refused, what="nobody listens at the old address")


def test_a_request_starts_the_daemon(service):
    """The socket unit: systemd listens, the first request starts the service, and stopping the service leaves the listener."""
    m = service.machine
    service.configure(fleet("a"))
    m.systemctl("start", "llama-supervisor.socket")
    assert m.show("ActiveState") == "inactive"
    with m.tcp() as sock:
        sock.sendall(GET)
        assert answer_of(sock).startswith(b"HTTP/1.1 200")
    assert m.show("ActiveState") == "active"
    m.wait_ready(["a"])
    log = m.journal()
    assert "in use" not in log, log
    m.systemctl("stop", UNIT)
    assert m.show("ActiveState", "llama-supervisor.socket") == "active"
    with m.tcp() as sock:                               # and again
        sock.sendall(GET)
        assert answer_of(sock).startswith(b"HTTP/1.1 200")


def test_the_socket_unit_is_shipped_disabled(service):
    m = service.machine
    assert m.systemctl("is-enabled", "llama-supervisor.socket", check=False).stdout.strip() == "disabled"
    assert m.systemctl("is-enabled", UNIT, check=False).stdout.strip() == "enabled"


def test_the_socket_unit_and_a_crash(service):
    """Both at once: the daemon that comes back has one listener for the address, not two."""
    m = service.machine
    service.configure(fleet("a"))
    m.systemctl("start", "llama-supervisor.socket")
    m.systemctl("start", UNIT)
    m.wait_ready(["a"])
    pid = m.main_pid
    children = m.children()
    m.kill_pid(pid, signal.SIGKILL)
    m.wait_new_main(pid)
    m.wait_ready(["a"])
    assert m.children() == children
    for _ in range(8):                                  # a second listener would get some of them and never answer
        with m.tcp() as sock:
            sock.sendall(GET)
            assert answer_of(sock).startswith(b"HTTP/1.1 200")


def test_the_control_socket_is_for_the_group(service):
    m = service.machine
    service.start(fleet("a"))
    assert m.sh("stat -c '%%a %%U %%G' %s" % CONTROL).split() == ["660", "llama-supervisor", "llama-supervisor"]
    m.run("systemd-sysusers", "-", stdin="u visitor -\nu member -\nm member llama-supervisor\n")

    def status(user, **kwargs):
        return m.run("setpriv", "--reuid", user, "--regid", user, "--init-groups", "llama-supervisor", "status", **kwargs)
    refused = status("visitor", check=False)
    assert refused.returncode == 1 and "ermission" in refused.stderr, refused
    assert "ready" in status("member").stdout


def test_a_stop_that_is_cut_short_is_finished_by_reap(service):
    """The daemon dies in the middle of stopping, when systemd would start another: ExecStopPost knows that this was a stop."""
    m = service.machine
    service.start(fleet("a", args=["--ignore-term"]))
    pid = m.main_pid
    m.systemctl("stop", "--no-block", UNIT)
    wait_for(lambda: m.instances().get("a", {}).get("status") == "stopping" or not m.start_time(pid), what="it stops")
    if m.start_time(pid):
        m.kill_pid(pid, signal.SIGKILL)
    wait_for(lambda: m.show("ActiveState") in ("inactive", "failed"), what=lambda: m.show("ActiveState"))
    service.assert_nothing_runs()
