# ctest: asan
"""`reap`: what a daemon that is gone has left is found and ended, and nobody else is."""
import json
import os
import pwd
import shutil
import signal
import subprocess

import pytest

import harness
from faults import one


def reap(daemon, *args, env=None, config=True):
    """Without a daemon; its result."""
    where = ["--config", daemon.config_file] if config else []
    return subprocess.run([harness.PROGRAM, "reap", *where, *args], capture_output=True, text=True, check=False,
                          timeout=2 * harness.PATIENCE, env={**daemon.environment(), **(env or {})}, stdin=subprocess.DEVNULL)


def two(*over, **more):
    config = one("", *over, **more)
    return harness.merged(config, {"instances": config["instances"] + [dict(config["instances"][0], name="b")]})


def killed(make_daemon, config, *names, server=harness.FAKE):
    """A daemon that was killed, and the pids of what it left."""
    daemon = make_daemon(config, server=server)
    pids = [daemon.wait_state(name, "ready")["pid"] for name in names]
    daemon.kill9()
    assert all(harness.is_alive(pid) for pid in pids)
    return daemon, pids


def all_gone(pids):
    harness.wait_for(lambda: not any(harness.is_alive(pid) for pid in pids), what=pids)


def test_after_a_kill(make_daemon, server):
    daemon, pids = killed(make_daemon, two(), "a", "b", server=server)
    dry = reap(daemon, "--dry-run")
    assert dry.returncode == 0 and all("pid %d lives on: would be ended" % pid in dry.stdout for pid in pids), dry
    assert all(harness.is_alive(pid) for pid in pids)
    done = reap(daemon)
    assert done.returncode == 0, done
    for name, pid in zip("ab", pids):
        assert "%s: pid %d: SIGTERM" % (name, pid) in done.stdout and "%s: ended after" % name in done.stdout, done
        assert not harness.is_alive(pid)
    again = reap(daemon)
    assert again.returncode == 0 and "nothing is left" in again.stdout, again
    # The next daemon counts no deaths for it.
    daemon.start()
    for name in "ab":
        now = daemon.wait_state(name, "ready")
        assert now["retries"] == 0 and now["lastError"] is None, now


def test_json(make_daemon):
    daemon, pids = killed(make_daemon, one(), "a")
    told = json.loads(reap(daemon, "--json", "--dry-run").stdout)
    assert told["dryRun"] and told["found"] == 1 and told["events"][0]["event"] == "found" and told["events"][0]["pid"] == pids[0]
    told = json.loads(reap(daemon, "--json").stdout)
    assert [event["event"] for event in told["events"]] == ["found", "told to end", "ended"] and told["left"] == 0, told
    all_gone(pids)


def test_who_ignores_sigterm_is_killed(make_daemon):
    daemon, pids = killed(make_daemon, one("--ignore-term", {"stop": {"grace": "500ms"}}), "a")
    done = reap(daemon)
    assert done.returncode == 0 and "SIGKILL, since it did not end in" in done.stdout, done
    all_gone(pids)


def test_refused_while_a_daemon_runs(make_daemon):
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    for args in ((), ("--dry-run",)):
        refused = reap(daemon, *args)
        assert refused.returncode == 1 and "pid %d" % daemon.pid in refused.stderr, refused
    refused = reap(daemon, "--post", env={"SERVICE_RESULT": "success"})
    assert refused.returncode == 1, refused
    assert daemon.instance("a")["pid"] == pid and harness.is_alive(pid)


def record_of(daemon, name="a"):
    path = os.path.join(daemon.runtime, "instances", name + ".json")
    with open(path) as f:
        return path, json.load(f)


def test_strangers_are_never_met(make_daemon):
    """A number that belongs to somebody else by now, and numbers of another boot."""
    daemon, pids = killed(make_daemon, one(), "a")
    os.kill(pids[0], signal.SIGKILL)
    all_gone(pids)
    stranger = harness.spawn(["sleep", "600"], start_new_session=True)
    try:
        path, record = record_of(daemon)
        begun = harness.process_table()[stranger.pid][2]
        for change in ({"pid": stranger.pid},
                       {"pid": stranger.pid, "startTime": begun - 1},
                       {"pid": stranger.pid, "startTime": begun, "bootId": "another"},
                       {"pid": -1}, {"pid": 1}, {"pid": 0}):
            with open(path, "w") as f:
                json.dump({**record, **change}, f)
            done = reap(daemon)
            assert done.returncode == 0 and "nothing is left" in done.stdout, (change, done)
            assert stranger.poll() is None, change
        with open(path, "w") as f:
            f.write('{"pid":')
        assert reap(daemon).returncode == 0 and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_another_view_of_the_boot(make_daemon):
    """In systemd-nspawn a shell reads another boot id than a unit with a /proc of its own: the process bears its mark."""
    daemon, pids = killed(make_daemon, two(), "a", "b")
    for name in "ab":
        path, record = record_of(daemon, name)
        with open(path, "w") as f:
            json.dump({**record, "bootId": "00000000-0000-0000-0000-000000000000"}, f)
    daemon.start()
    assert [daemon.wait_state(name, "ready")["pid"] for name in "ab"] == pids
    assert daemon.instance("a")["adopted"]
    daemon.kill9()
    path, record = record_of(daemon)
    with open(path, "w") as f:
        json.dump({**record, "bootId": "00000000-0000-0000-0000-000000000000"}, f)
    done = reap(daemon)
    for name, pid in zip("ab", pids):
        assert "%s: pid %d: SIGTERM" % (name, pid) in done.stdout, done
    all_gone(pids)


WRAPPER = """#!/bin/sh
case "$*" in *--help*) exec %(fake)s "$@";; esac
%(how)s sleep 600 &
exec %(fake)s "$@"
"""


@pytest.mark.parametrize("how", ["", "setsid"])
def test_what_its_leader_left(make_daemon, folder, how):
    """The server has died, what it started lives, in its session or out of it."""
    wrapper = os.path.join(folder, "llama-server")
    with open(wrapper, "w") as f:
        f.write(WRAPPER % {"how": how, "fake": harness.FAKE})
    os.chmod(wrapper, 0o755)
    daemon = make_daemon(one(), server=wrapper)
    leader = daemon.wait_state("a", "ready")["pid"]
    below, = [pid for pid in daemon.children() if pid != leader]
    daemon.kill9()
    os.kill(leader, signal.SIGKILL)
    harness.wait_for(lambda: not harness.is_alive(leader))
    assert harness.is_alive(below)
    done = reap(daemon)
    assert done.returncode == 0 and "a: 1 process of it: SIGTERM" in done.stdout, done
    all_gone([below])


def test_without_records(make_daemon):
    """The runtime directory was emptied: the marks in their environment and their logs are left."""
    daemon, pids = killed(make_daemon, one(), "a")
    os.unlink(record_of(daemon)[0])
    done = reap(daemon)
    assert done.returncode == 0 and "a: 1 process of it: SIGTERM" in done.stdout, done
    all_gone(pids)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may become somebody else")
def test_of_another_user(make_daemon, folder):
    """Root does it with the rights of the owner of the runtime directory."""
    user = pwd.getpwnam("nobody")
    os.chmod(os.path.dirname(folder), 0o711)
    program, server = os.path.join(folder, "llama-supervisor"), os.path.join(folder, "llama-server")
    shutil.copy(harness.PROGRAM, program)
    shutil.copy(harness.FAKE, server)
    os.chmod(folder, 0o755)
    daemon = make_daemon(one(), start=False, server=server)
    model = os.path.join(daemon.models, "tiny.gguf")
    real = os.path.realpath(model)
    os.unlink(model)
    shutil.copy(real, model)
    for path in [daemon.root, daemon.config_file, model, daemon.runtime, daemon.state, daemon.log, daemon.models]:
        os.chown(path, user.pw_uid, -1)

    def become():
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    known, harness.PROGRAM = harness.PROGRAM, program
    try:
        daemon.start(preexec_fn=become)
    finally:
        harness.PROGRAM = known
    pid = daemon.wait_state("a", "ready")["pid"]
    assert os.stat("/proc/%d" % pid).st_uid == user.pw_uid
    daemon.kill9()
    told = json.loads(reap(daemon, "--json", "--dry-run").stdout)
    assert told["found"] == 1 and told["events"][0]["pid"] == pid, told
    os.unlink(record_of(daemon)[0])
    done = reap(daemon)
    assert done.returncode == 0 and "a: 1 process of it: SIGTERM" in done.stdout, done
    all_gone([pid])


def test_without_a_good_configuration(make_daemon):
    daemon, pids = killed(make_daemon, one(), "a")
    with open(daemon.config_file, "w") as f:
        json.dump(dict(daemon.config, nonsense=1), f)
    done = reap(daemon)
    assert done.returncode == 0 and "cannot be read: looking into %s" % daemon.runtime in done.stderr, done
    all_gone(pids)


def test_nothing_there(make_daemon, folder):
    daemon = make_daemon({"instances": []}, start=False)
    assert "nothing is left" in reap(daemon).stdout
    shutil.rmtree(daemon.runtime)
    assert reap(daemon).returncode == 0
    assert reap(daemon, "somebody").returncode == 2
    assert reap(daemon, "--socket", "/x").returncode == 2
    assert reap(daemon, "--dryrun").returncode == 2
    helped = reap(daemon, "--help")
    assert helped.returncode == 0 and "--dry-run" in helped.stdout and "--json" in helped.stdout, helped


# ---- --post ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("result, ends", [("success", True), ("timeout", True), ("signal", False), ("core-dump", False),
                                          ("watchdog", False), ("exit-code", False), ("oom-kill", False), ("resources", False),
                                          (None, False)])
def test_post(make_daemon, result, ends):
    daemon, pids = killed(make_daemon, one(), "a")
    done = reap(daemon, "--post", env={"SERVICE_RESULT": result} if result else {})
    assert done.returncode == 0, done
    if ends:
        all_gone(pids)
    else:
        assert "left for the next daemon" in done.stdout and harness.is_alive(pids[0]), done
        daemon.start()
        assert daemon.wait_state("a", "ready")["pid"] == pids[0]


def test_post_after_a_start_that_took_too_long(make_daemon):
    """The next daemon hung before its doors were open: what the one before it left is for the one after it."""
    daemon, pids = killed(make_daemon, one(), "a")
    assert reap(daemon, "--post", env={"SERVICE_RESULT": "signal"}).returncode == 0
    for _ in range(2):          # and it hangs again
        done = reap(daemon, "--post", env={"SERVICE_RESULT": "timeout"})
        assert done.returncode == 0 and "no stop (timeout)" in done.stdout and harness.is_alive(pids[0]), done
    daemon.start()
    assert daemon.wait_state("a", "ready")["pid"] == pids[0]
    daemon.kill9()
    # That one had started: its timeout is that of a stop.
    assert reap(daemon, "--post", env={"SERVICE_RESULT": "timeout"}).returncode == 0
    all_gone(pids)


def test_post_beside_a_daemon_forgets_nothing(make_daemon):
    daemon = make_daemon(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    assert reap(daemon, "--post", env={"SERVICE_RESULT": "signal"}).returncode == 0
    daemon.kill9()
    assert reap(daemon, "--post", env={"SERVICE_RESULT": "timeout"}).returncode == 0
    all_gone([pid])


def test_post_after_a_stop_that_was_cut_short(make_daemon):
    """systemd kills a daemon that takes too long to stop: that is a stop, and no crash."""
    daemon = make_daemon(one("--ignore-term", {"stop": {"grace": "10m"}}))
    pid = daemon.wait_state("a", "ready")["pid"]
    marker = os.path.join(daemon.runtime, "stopping")
    assert not os.path.exists(marker)
    daemon.signal(signal.SIGTERM)
    harness.wait_for(lambda: os.path.exists(marker), what=daemon.output)
    daemon.kill9()
    with open(daemon.config_file, "w") as f:
        json.dump(harness.merged(daemon.config, {"stop": {"grace": "300ms"}}), f)
    done = reap(daemon, "--post", env={"SERVICE_RESULT": "signal"})
    assert done.returncode == 0 and "SIGKILL" in done.stdout, done
    all_gone([pid])
    daemon.start()
    harness.wait_for(lambda: not os.path.exists(marker), what="the marker goes with the next start")
    os.kill(daemon.wait_state("a", "ready")["pid"], signal.SIGKILL)     # it would take ten minutes by itself
