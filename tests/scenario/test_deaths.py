"""A supervised llama-server dies, or cannot even be started: explained in plain words, told alike on every door, and repaired."""
# ctest: real asan
import os
import signal
import stat
import subprocess
import time

import pytest

import harness
from faults import alone_crashed, crashed, deaths, events, one, order, start_again


def test_kill_9(make_daemon, server):
    daemon = make_daemon(one(), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    os.kill(pid, signal.SIGKILL)
    alone_crashed(daemon, "killed", "somebody killed it", "SIGKILL")
    now = start_again(daemon)
    assert now["pid"] != pid and now["restarts"] == 1


@pytest.mark.parametrize("signo", [signal.SIGSEGV, signal.SIGBUS, signal.SIGILL])
def test_a_crash(make_daemon, server, signo):
    # A fake that is built with AddressSanitizer would make an exit code of it.
    env = {"ASAN_OPTIONS": "handle_segv=0:handle_sigbus=0:handle_sigill=0"}
    daemon = make_daemon(one(env=env), server=server)
    os.kill(daemon.wait_state("a", "ready")["pid"], signo)
    alone_crashed(daemon, "signal", "it crashed", signo.name)


def test_exit_0(make_daemon, server):
    """Somebody else's SIGTERM: it ends well, and yet nobody wanted that. (The real one closes its socket first and may take a
    moment to end: it is not to be killed as unresponsive meanwhile.)"""
    daemon = make_daemon(one("", {"health": {"failures": 100}}), server=server)
    os.kill(daemon.wait_state("a", "ready")["pid"], signal.SIGTERM)
    alone_crashed(daemon, "exited", "ended by itself", "exit code 0")


@pytest.mark.parametrize("code", [0, 1, 42])
def test_exit_code(make_daemon, fake_llama_server, code):
    daemon = make_daemon(one("--crash-after 0.3 --exit-code %d" % code))
    alone_crashed(daemon, "exited", "exit code %d," % code)


def test_abort_on_an_assertion(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--abort-after 0.3"))
    alone_crashed(daemon, "gpu_error", "the GPU or its driver failed", "SIGABRT")


def test_gpu_memory(make_daemon, fake_llama_server):
    """The line that gave it away is part of the evidence, and `why` shows it."""
    daemon = make_daemon(one("--oom-text"))
    alone_crashed(daemon, "out_of_gpu_memory", "out of GPU memory", "while loading")
    assert "out of memory" in deaths(daemon)[-1]["evidence"]["line"]
    assert deaths(daemon)[-1]["evidence"]["line"] in daemon.cli("why", "a").stdout


def test_it_dies_while_it_loads(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--die-loading SEGV --load-ms 300"))
    alone_crashed(daemon, "signal", "while loading", "SIGSEGV")


def test_it_is_killed_while_it_loads(make_daemon, real_llama_server, slow_model):
    daemon = make_daemon(one(model=slow_model), server=real_llama_server)
    pid = daemon.wait("a", lambda now: now["status"] == "starting" and now["pid"])["pid"]
    os.kill(pid, signal.SIGKILL)
    alone_crashed(daemon, "killed", "while loading")


def test_tries_are_counted_and_used_up(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--die-loading 3", {"restart": {"backoff_initial": "20ms", "backoff_max": "50ms", "max_retries": 3}}))
    feed = daemon.ws()
    daemon.wait_state("a", "error")
    told = harness.assert_same_truth(daemon, "a", status="error", retries=3)
    assert "exit code 3" in told["lastError"] and "gave up after 3 retries" in told["lastError"]
    assert len(deaths(daemon)) == 4             # the first start and three tries
    assert set(feed.states("a")) <= {"initial", "starting", "crashed", "error"}
    daemon.wait("a", lambda now: now["nextRetryAt"] is None, what="no further try")
    time.sleep(0.5)
    assert len(deaths(daemon)) == 4


def test_a_real_server_gives_up_too(make_daemon, real_llama_server):
    daemon = make_daemon(one("", {"restart": {"backoff_initial": "20ms", "backoff_max": "50ms", "max_retries": 2}},
                             model="nothing.gguf"), server=real_llama_server)
    daemon.wait_state("a", "error")
    harness.assert_same_truth(daemon, "a", status="error", retries=2)
    # A person mends it, and says so: the tries begin anew.
    os.symlink(os.path.join(daemon.models, "tiny.gguf"), os.path.join(daemon.models, "nothing.gguf"))
    start_again(daemon)
    harness.assert_same_truth(daemon, "a", status="ready")


def test_it_comes_back_by_itself(make_daemon, fake_llama_server, folder):
    count = os.path.join(folder, "starts")
    daemon = make_daemon(one("--crash-starts 2 --state-file " + count, {"restart": {"backoff_initial": "50ms"}}))
    daemon.wait_state("a", "ready")
    harness.assert_same_truth(daemon, "a", status="ready", retries=2)
    assert len(deaths(daemon)) == 2
    with open(count) as f:
        assert f.read() == "3\n"


def test_tries_are_forgiven(make_daemon, server):
    """Well for long enough: the count and the old error are gone from every door, the history keeps the death."""
    daemon = make_daemon(one("", {"restart": {"backoff_initial": "50ms", "reset_after": "1s"}}), server=server)
    os.kill(daemon.wait_state("a", "ready")["pid"], signal.SIGKILL)
    daemon.wait("a", lambda now: now["status"] == "ready" and now["retries"] == 1, what="back again")
    daemon.wait("a", lambda now: now["retries"] == 0, what="forgiven")
    harness.assert_same_truth(daemon, "a", status="ready", retries=0, lastError=None)
    assert len(deaths(daemon)) == 1


def test_a_grandchild_does_not_linger(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--grandchild"))
    pid = daemon.wait_state("a", "ready")["pid"]
    harness.wait_for(lambda: len(daemon.children()) == 2, what="a grandchild")
    grandchild = [child for child in daemon.children() if child != pid][0]
    os.kill(pid, signal.SIGKILL)
    crashed(daemon, "killed", "somebody killed it")
    harness.wait_for(lambda: not harness.is_alive(grandchild), what="the grandchild is gone")


def with_stray(make_daemon, *over):
    """A daemon, the pid of its instance, and that of a grandchild that has left the session."""
    daemon = make_daemon(one("--grandchild-session", *over))
    pid = daemon.wait_state("a", "ready")["pid"]
    harness.wait_for(lambda: len(daemon.children()) == 2, what="a grandchild")
    stray = [child for child in daemon.children() if child != pid][0]
    harness.wait_for(lambda: os.getsid(stray) == stray, what="a session of its own")
    return daemon, pid, stray


@pytest.fixture
def stranger(folder):
    """Somebody who writes into the instance's log, in a session of his own and with its name in the environment; his life is not ours."""
    started = []

    def start(daemon, name="a"):
        with open(os.path.join(daemon.log, name + ".log"), "ab") as log:
            started.append(subprocess.Popen(["sleep", "600"], stdout=log, stderr=log, start_new_session=True,
                                            env={"LSV_INSTANCE": name, "PATH": os.environ["PATH"]}))
        return started[-1]
    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_stray_does_not_linger(make_daemon, fake_llama_server, stranger):
    """It left the session of its leader, so that neither group nor session tell of it."""
    daemon, pid, stray = with_stray(make_daemon)
    somebody = stranger(daemon)
    os.kill(pid, signal.SIGKILL)
    crashed(daemon, "killed", "somebody killed it")
    harness.wait_for(lambda: not harness.is_alive(stray), what="the stray is gone")
    assert somebody.poll() is None
    assert "1 processes that it left behind were killed" in daemon.output()


def test_a_stray_is_stopped_with_its_leader(make_daemon, fake_llama_server, stranger):
    daemon, pid, stray = with_stray(make_daemon)
    somebody = stranger(daemon)
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    harness.wait_for(lambda: not harness.is_alive(stray), what="the stray is gone")
    assert not harness.is_alive(pid) and somebody.poll() is None


def test_a_stray_of_an_earlier_life(make_daemon, fake_llama_server, stranger):
    """Its leader died while no daemon was looking; the next one finds it by the record."""
    daemon, pid, stray = with_stray(make_daemon)
    somebody = stranger(daemon)
    daemon.kill9()
    os.kill(pid, signal.SIGKILL)
    harness.wait_for(lambda: not harness.is_alive(pid), what="dead")
    assert harness.is_alive(stray)
    daemon.start()
    harness.wait_for(lambda: not harness.is_alive(stray), what="the stray is gone")
    assert somebody.poll() is None


def test_a_stray_of_a_leader_that_was_taken_over(make_daemon, fake_llama_server):
    daemon, pid, stray = with_stray(make_daemon)
    daemon.kill9()
    daemon.start()
    assert daemon.wait_state("a", "ready")["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    crashed(daemon, "killed", "somebody killed it")
    harness.wait_for(lambda: not harness.is_alive(stray), what="the stray is gone")


def test_a_wrapper_script(make_daemon, server, folder):
    """The program is a script that starts llama-server and waits for it: its child may answer, and both end together."""
    wrapper = os.path.join(folder, "wrapper")
    with open(wrapper, "w") as f:
        f.write('#!/bin/sh\n"%s" "$@"\nexit $?\n' % server)
    os.chmod(wrapper, stat.S_IRWXU)
    daemon = make_daemon(one("", {"llama_server": {"binary": wrapper}}))
    pid = daemon.wait_state("a", "ready")["pid"]
    assert len(daemon.children()) == 2
    os.kill(pid, signal.SIGKILL)                # the script alone; the server loses its leader
    alone_crashed(daemon, "killed", "somebody killed it")
    start_again(daemon)
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    harness.wait_for(lambda: daemon.children() == [], what="both have ended")
    harness.assert_same_truth(daemon, "a", status="initial", retries=0)


def test_model_missing(make_daemon, server):
    daemon = make_daemon(one(model="nothing.gguf"), server=server)
    alone_crashed(daemon, "model_missing", "the model file is not there")


@pytest.mark.parametrize("size", [0, 3, 1000, -1000])
def test_model_truncated(make_daemon, server, folder, tiny_model, size):
    path = os.path.join(folder, "short.gguf")
    with open(tiny_model, "rb") as whole, open(path, "wb") as short:
        short.write(whole.read()[:size])
    daemon = make_daemon(one(model=path), server=server)
    alone_crashed(daemon, "bad_model", "damaged", "exit code 1")


def test_unknown_argument(make_daemon, server):
    daemon = make_daemon(one(args=["--bogus-flag"]), server=server)
    alone_crashed(daemon, "bad_argument", "refused an argument")
    assert "error: invalid argument: --bogus-flag" in daemon.cli("why", "a").stdout


def test_binary_missing(make_daemon):
    daemon = make_daemon(one(), server="/nonexistent/llama-server")
    alone_crashed(daemon, "binary_missing", "not found", "/nonexistent/llama-server")


def test_binary_not_executable(make_daemon, folder):
    path = os.path.join(folder, "llama-server")
    with open(path, "w") as f:
        f.write("text")
    daemon = make_daemon(one(), server=path)
    alone_crashed(daemon, "binary_forbidden", "may not be executed", path)


def test_binary_for_another_machine(make_daemon, folder):
    path = os.path.join(folder, "llama-server")
    with open(path, "wb") as f:
        f.write(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf7\x00" + bytes(100))
    os.chmod(path, stat.S_IRWXU)
    daemon = make_daemon(one(), server=path)
    alone_crashed(daemon, "binary_format", "not for this machine")


def test_the_binary_comes_later(make_daemon, real_llama_server, folder):
    """An upgrade of the package: the program is away for a moment."""
    path = os.path.join(folder, "llama-server")
    daemon = make_daemon(one("", {"restart": {"backoff_initial": "100ms", "backoff_max": "200ms", "max_retries": "forever"}}), server=path)
    daemon.wait("a", lambda now: now["retries"] >= 2, what="tries")
    with open(path + ".new", "w") as f:
        f.write('#!/bin/sh\nexec "%s" "$@"\n' % real_llama_server)
    os.chmod(path + ".new", stat.S_IRWXU)
    os.rename(path + ".new", path)
    daemon.wait_state("a", "ready")
    harness.assert_same_truth(daemon, "a", status="ready")
    assert [event["kind"] for event in events(daemon, "ready")] == ["ready"]
