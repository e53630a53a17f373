"""The unit under the real systemd: start, readiness, status text, reload, stop, watchdog, and a daemon that hangs when it stops."""
import re
import signal
import time

from harness import is_alive, wait_for
from machine import CONFIG, PROGRAM, UNIT, Held
from service import entries, fleet


def test_ready_means_that_the_doors_are_open(service):
    """systemctl start comes back while the models still load, and the API answers at once."""
    m = service.machine
    service.configure(fleet("slow", args=["--load-ms", "3000"]))
    m.systemctl("start", UNIT)
    answer = m.request("GET", "/api/v1/instances")
    assert answer.status == 200, answer
    assert answer.json["instances"][0]["status"] in ("initial", "starting"), answer
    assert m.show("ActiveState") == "active"
    m.wait_ready()


def test_reload_touches_only_what_changed(service):
    m = service.machine
    before = service.start(fleet("a", "b"))
    service.configure({"instances": entries("a") + entries("b", args=["-c", "2048"]) + entries("c")})
    pid = m.main_pid
    m.systemctl("reload", UNIT)
    after = service.wait_another("b", before)
    m.wait_ready(["a", "b", "c"])
    assert m.main_pid == pid
    assert after["a"]["pid"] == before["a"]["pid"]


def test_reload_of_a_broken_file_changes_nothing(service):
    m = service.machine
    before = service.start(fleet("a"))
    m.write(CONFIG, '{"instances": [{"nam": "a"}]}', mode="644")
    m.systemctl("reload", UNIT, check=False)
    wait_for(lambda: "reload refused" in m.journal(), what=lambda: "the mistake is told:\n" + m.journal())
    assert m.show("ActiveState") == "active"
    assert m.instances()["a"]["pid"] == before["a"]["pid"]


def test_stop_ends_all_in_order(service):
    """A running answer may end (drain), then SIGTERM, for one that ignores it SIGKILL; nothing is left, the unit is not failed."""
    m = service.machine
    service.start({"instances": entries("polite", args=["--tok-s", "20", "--tokens", "30"]) +
                   entries("stubborn", args=["--ignore-term"])})
    children = m.children()
    assert len(children) == 2, children
    sock = m.tcp()
    body = b'{"model": "polite", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    first = sock.recv(65536)
    assert first.startswith(b"HTTP/1.1 200"), first
    wait_for(lambda: m.instances()["polite"]["inFlight"] == 1, what="the answer runs")
    service.stop()
    rest = first
    while True:
        piece = sock.recv(65536)
        if not piece:
            break
        rest += piece
    sock.close()
    assert b"data: [DONE]" in rest, rest[-500:]
    assert m.show("Result") == "success" and m.show("ActiveState") == "inactive"
    told = m.journal()
    assert re.search(r"stubborn.*SIGKILL", told), told


def test_a_frozen_loop_is_noticed_and_children_stay(service):
    """SIGSTOP: the watchdog ends the daemon, systemd starts another one, and that one takes the same children over."""
    m = service.machine
    service.drop_in("watchdog", "[Service]\nWatchdogSec=2s\n")
    before = service.start(fleet("a", "b"))
    children, pid = m.children(), m.main_pid
    m.kill_pid(pid, signal.SIGSTOP)
    m.wait_new_main(pid)
    after = m.wait_ready(["a", "b"])
    assert m.children() == children
    assert {name: one["pid"] for name, one in after.items()} == {name: one["pid"] for name, one in before.items()}
    assert m.show("NRestarts") == "1"
    assert re.search("[Ww]atchdog timeout", m.journal()), m.journal()


def test_the_watchdog_is_fed_while_the_loop_turns(service):
    """And not by a thread or a timer of its own: an idle daemon lives through several intervals."""
    m = service.machine
    service.drop_in("watchdog", "[Service]\nWatchdogSec=1s\n")
    service.start(fleet("a"))
    pid, end = m.main_pid, time.monotonic() + 3
    wait_for(lambda: time.monotonic() > end, what="three intervals")
    assert m.main_pid == pid and m.show("NRestarts") == "0"


def test_stop_of_a_daemon_that_hangs_leaves_nothing(service):
    """It does not even see the SIGTERM: systemd kills it at last, and ExecStopPost ends its children."""
    m = service.machine
    service.drop_in("stop", "[Service]\nTimeoutStopSec=2s\n")
    service.start(fleet("a", "b"))
    held = Held(m, m.main_pid)
    assert len(m.children()) == 2
    m.systemctl("stop", "--no-block", UNIT)
    wait_for(held.is_dead, what="systemd kills the daemon")
    wait_for(lambda: m.show("ActiveState") in ("failed", "inactive"), what=lambda: "the unit is down: " + m.show("ActiveState"))
    assert m.show("Result") == "timeout", m.show("Result")
    service.assert_nothing_runs()
    m.systemctl("reset-failed", UNIT)
    m.systemctl("start", UNIT)
    m.wait_ready(["a", "b"])


HANGS = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'if [ -e /run/hang ]; then %s sleep 600; fi; exec %s run --config %s'\n"


def test_a_start_that_hangs_after_a_crash_ends_no_model(service):
    """SERVICE_RESULT=timeout is told for it, too: the models are for the try after that."""
    m = service.machine
    service.drop_in("hang", HANGS % ("exec", PROGRAM, CONFIG) + "TimeoutStartSec=2s\n")
    service.start(fleet("a", "b"))
    children = m.children()
    assert len(children) == 2
    m.sh("touch /run/hang")
    pid = m.main_pid
    m.kill_pid(pid, signal.SIGKILL)
    # Two starts have hung, and been given up.
    wait_for(lambda: int(m.show("NRestarts")) >= 3, what=lambda: "tries: " + m.show("NRestarts"))
    assert m.show("Result") == "timeout" or "timed out" in m.journal()
    assert m.children() == children
    m.sh("rm /run/hang")
    m.wait_new_main(pid)
    m.wait_ready(["a", "b"])
    assert m.children() == children


def test_a_stop_of_a_start_that_hangs_leaves_nothing(service):
    """A person's stop in between is a stop, though the daemon cannot tell it: systemd is asked."""
    m = service.machine
    service.drop_in("hang", HANGS % ('trap "" TERM;', PROGRAM, CONFIG) + "TimeoutStartSec=10min\nTimeoutStopSec=2s\n")
    service.start(fleet("a", "b"))
    m.sh("touch /run/hang")
    pid = m.main_pid
    m.kill_pid(pid, signal.SIGKILL)
    # The shell has its trap before it sleeps.
    wait_for(lambda: any(row[3].startswith("sleep 600") for row in m.processes().values()), what="a start that hangs")
    assert m.show("SubState") == "start" and m.main_pid not in (0, pid)
    assert len(m.children()) == 2
    m.systemctl("stop", UNIT)
    assert m.show("Result") == "timeout"
    m.sh("rm /run/hang; pkill -KILL -x sleep || true")
    service.assert_nothing_runs()
    m.systemctl("reset-failed", UNIT)


def test_what_the_unit_hides_is_said(service):
    """A program in /home is there for everybody but the service: no permission would help, so the way out is told."""
    m = service.machine
    m.sh("cp /usr/local/bin/llama-server /home/llama-server")
    service.configure({"instances": entries("a", llama_server={"binary": "/home/llama-server"})})
    m.systemctl("start", UNIT)
    wait_for(lambda: m.instances().get("a", {}).get("lastError"), what=lambda: "an error: %s" % m.instances())
    assert "ProtectHome" in m.cli("why", "a", check=False).stdout


def test_power_off_stops_the_fleet(service):
    """The machine goes down (so this is the last test here): the service is stopped in order, as by systemctl stop."""
    m = service.machine
    service.start(fleet("a", "b"))
    journal = m.sh("find /run/log/journal /var/log/journal -name system.journal 2>/dev/null | head -n 1").strip()
    with open(m.path(journal), "rb") as f:              # an open file outlives the machine
        m.power_off()
        told = f.read()
    assert not is_alive(m.leader)
    assert b"MESSAGE=SIGTERM: stopping every instance" in told and b"MESSAGE=stopped" in told
