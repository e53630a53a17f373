"""The harness itself: a check of leftovers that finds nothing would let every other test pass."""
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import harness


def left_of(check):
    """What it complains about, without giving it time; then everything is cleaned up."""
    lines = check.left(patience=0.3)
    check.clean_up()
    assert not check.left(patience=5), "clean_up left something"
    return lines


def test_a_process_is_found(nothing_left):
    harness.spawn([sys.executable, "-c", "import time; time.sleep(600)"])
    assert any(line.startswith("process: ") and "sleep(600)" in line for line in left_of(nothing_left))


def test_an_orphan_is_found(nothing_left):
    """Its parent is dead and it is in a session of its own: it has fallen to us, the subreaper."""
    code = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert any("sleep 600" in line for line in left_of(nothing_left))


def test_an_orphan_that_ended_is_not_held_against_us(nothing_left):
    subprocess.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '0.2'])"], check=True)
    time.sleep(0.5)
    assert left_of(nothing_left) == []


def test_a_stopped_process_that_ignores_sigterm_is_found(nothing_left):
    child = harness.spawn([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
    child.send_signal(signal.SIGSTOP)
    assert any(str(child.pid) in line for line in left_of(nothing_left))


def test_a_file_and_a_socket_are_found(nothing_left, world):
    path = os.path.join(world, "x.sock")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen()
        lines = nothing_left.left(patience=0.1)
        assert "file: " + path in lines and "socket: unix " + path in lines
    assert left_of(nothing_left) == ["file: " + path]
    assert not os.path.exists(path)


def test_a_listening_port_of_a_child_is_found(nothing_left):
    child = harness.spawn([sys.executable, "-c", "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
                                                 "print('up', flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    assert any(line.startswith("socket: tcp ") for line in nothing_left.left(patience=0.1))
    left_of(nothing_left)
    child.stdout.close()


def test_a_mount_is_found(nothing_left, world):
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    path = os.path.join(world, "m")
    os.mkdir(path)
    if subprocess.run(["mount", "-t", "tmpfs", "none", path], check=False).returncode != 0:
        os.rmdir(path)
        pytest.skip("this machine does not let us mount")
    assert "mount: " + path in left_of(nothing_left)


def test_wait_for_gives_up():
    with pytest.raises(AssertionError, match="not within 0.1 s: the moon"):
        harness.wait_for(lambda: False, 0.1, "the moon")


def test_merged():
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert harness.merged(base, {"a": {"b": 3}, "d": [], "e": 1}) == {"a": {"b": 3, "c": 2}, "d": [], "e": 1}
    assert harness.merged(base, {"a": {"b": None}, "d": None}) == {"a": {"c": 2}}


def test_the_worlds_are_short(world):
    """A socket's path has 108 bytes; the longest in use is that of an instance in its daemon's runtime_dir."""
    assert len(os.path.join(world, "d-12345678", "run", "instances")) < 60


# ---- the daemon's clients, against a stub ------------------------------------------------------------------------------

@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(harness, "PROGRAM", os.path.join(os.path.dirname(os.path.abspath(__file__)), "stub_daemon.py"))


def test_every_door_is_asked(stub, make_daemon):
    daemon = make_daemon({"instances": []})
    told = harness.assert_same_truth(daemon, "a", status="crashed")
    assert told == {"status": "crashed", "lastError": "exited with code 3", "retries": 2}
    assert daemon.wait_state("a", "crashed")["retries"] == 2
    assert daemon.instances().keys() == {"a"}
    assert daemon.get("/nonexistent").status == 404
    assert daemon.cli("nonsense").returncode == 2


@pytest.mark.parametrize("door", list(harness.DOORS))
def test_a_lying_door_is_found(stub, make_daemon, door):
    daemon = make_daemon({"instances": []}, env={"STUB_LIE": door})
    with pytest.raises(AssertionError, match="nobody knows"):
        harness.assert_same_truth(daemon, "a", timeout=0.3)


def test_an_unexpected_truth_is_found(stub, make_daemon):
    daemon = make_daemon({"instances": []})
    with pytest.raises(AssertionError, match="the doors agree"):
        harness.assert_same_truth(daemon, "a", timeout=0.3, status="ready")
    with pytest.raises(AssertionError, match="state ready of a"):
        daemon.wait_state("a", "ready", timeout=0.3)


def test_a_daemon_that_ends_badly_is_found(stub, make_daemon):
    daemon = make_daemon({"instances": []}, env={"STUB_CODE": "3"})
    with pytest.raises(AssertionError, match="the daemon ended with 3"):
        daemon.stop()
    with open(daemon.output_file, "a") as f:
        f.write("x.c:1:2: runtime error: signed integer overflow\n")
    with pytest.raises(AssertionError, match="signed integer overflow"):
        daemon.check_sanitizers()
    os.unlink(daemon.output_file)


def test_what_a_daemon_leaves_is_found(stub, make_daemon, nothing_left):
    daemon = make_daemon({"instances": []}, env={"STUB_LEAVE": "1"})
    daemon.close()
    assert any("sleep 600" in line for line in left_of(nothing_left))


def test_a_killed_daemon_comes_back(stub, make_daemon):
    daemon = make_daemon({"instances": []})
    first = daemon.pid
    daemon.kill9()
    daemon.start()
    assert daemon.pid != first and daemon.get("/health").status == 200
