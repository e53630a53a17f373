"""The daemon dies, comes back, reads its configuration again: the models stay, and what was known stays known."""
# ctest: real asan
import os
import signal
import subprocess
import time

import pytest

import harness
from faults import crashed, deaths, events, one, order, start_again, stays


def two(fault="", *over):
    """Instances "a" and "b" that do not come back by themselves before the test is over."""
    config = one(fault, *over)
    return harness.merged(config, {"instances": config["instances"] + [dict(config["instances"][0], name="b")]})


def loads(daemon, name="a"):
    """How often its model was loaded, by its log."""
    with open(os.path.join(daemon.log, name + ".log"), "rb") as f:
        return f.read().count(b"model loaded")


def comes_back(daemon):
    daemon.kill9()
    return daemon.start()


# ---- kill -9 of the daemon -----------------------------------------------------------------------------------------------

def test_the_daemon_is_killed(make_daemon, server):
    """Nothing is loaded again: the same processes, uptime and tries go on, the numbers of the feed rise."""
    daemon = make_daemon(two("", {"restart": {"backoff_initial": "50ms"}}), server=server)
    os.kill(daemon.wait_state("a", "ready")["pid"], signal.SIGKILL)
    daemon.wait("a", lambda now: now["status"] == "ready" and now["retries"] == 1, what="back again")
    daemon.wait_state("b", "ready")
    harness.wait_for(lambda: daemon.instance("a")["uptime"] >= 1, what="uptime")
    before, loaded = daemon.instances(), [loads(daemon, "a"), loads(daemon, "b")]
    daemon.kill9()
    assert daemon.children() == sorted(row["pid"] for row in before.values())
    time.sleep(0.5)
    daemon.start()
    began = time.monotonic()
    for name, was in before.items():
        now = daemon.wait_state(name, "ready")
        assert now["pid"] == was["pid"] and now["adopted"] and now["startedAt"] == was["startedAt"], (was, now)
        assert now["uptime"] >= was["uptime"] and now["seq"] > was["seq"], (was, now)
        assert now["retries"] == was["retries"] and now["restarts"] == was["restarts"], (was, now)
    print("taken over within %.2f s" % (time.monotonic() - began))
    assert [loads(daemon, "a"), loads(daemon, "b")] == loaded
    told = harness.assert_same_truth(daemon, "a", status="ready", retries=1)
    assert "SIGKILL" in told["lastError"]
    harness.assert_same_truth(daemon, "b", status="ready", retries=0, lastError=None)
    assert len(deaths(daemon)) == 1             # the history has survived, and tells nothing twice
    assert len(events(daemon, "adopted")) == 1 and len(events(daemon, "ready")) == 2


def test_a_child_of_an_earlier_life_dies(make_daemon, server):
    """Not our child any more: its death is known all the same, and so is a stop."""
    daemon = make_daemon(two(), server=server)
    for name in ("a", "b"):
        daemon.wait_state(name, "ready")
    comes_back(daemon)
    pid = daemon.wait_state("a", "ready")["pid"]
    os.kill(pid, signal.SIGKILL)
    daemon.wait_state("a", "crashed")
    harness.assert_same_truth(daemon, "a", status="crashed", retries=1)
    assert deaths(daemon)[-1]["cause"] in ("killed", "unknown"), deaths(daemon)
    assert start_again(daemon)["pid"] != pid
    pid = daemon.wait_state("b", "ready")["pid"]
    order(daemon, "stop", "b")
    daemon.wait_state("b", "initial")
    harness.wait_for(lambda: not harness.is_alive(pid), what="b has ended")
    harness.assert_same_truth(daemon, "b", status="initial", retries=0)


def test_it_died_meanwhile(make_daemon, server):
    """Explained, though nobody was looking, and started anew."""
    daemon = make_daemon(two(), server=server)
    pids = [daemon.wait_state(name, "ready")["pid"] for name in ("a", "b")]
    daemon.kill9()
    os.kill(pids[0], signal.SIGKILL)
    harness.wait_for(lambda: not harness.is_alive(pids[0]))
    daemon.start()
    now = daemon.wait_state("a", "ready")
    assert now["pid"] != pids[0] and not now["adopted"]
    assert len(deaths(daemon)) == 1 and deaths(daemon)[0]["evidence"]["detail"] == "it died while no supervisor was looking"
    told = harness.assert_same_truth(daemon, "a", status="ready")
    assert "died" in told["lastError"] and deaths(daemon)[0]["text"] == told["lastError"]
    stays(daemon, pids[1], "b")


def test_killed_while_a_model_loads(make_daemon, real_llama_server, slow_model):
    daemon = make_daemon(one(model=slow_model), server=real_llama_server)
    pid = daemon.wait("a", lambda now: now["status"] == "starting" and now["pid"])["pid"]
    comes_back(daemon)
    daemon.wait_state("a", "ready")
    stays(daemon, pid)
    assert loads(daemon) == 1


def test_tries_go_on(make_daemon, fake_llama_server):
    """A daemon that is killed again and again is no way around max_retries."""
    daemon = make_daemon(one("--die-loading 3", {"restart": {"backoff_initial": "50ms", "max_retries": 3}}))
    daemon.wait_state("a", "error")
    comes_back(daemon)
    daemon.wait("a", lambda now: now["status"] == "error", what="given up again")
    harness.assert_same_truth(daemon, "a", status="error", retries=3)
    assert 4 <= len(deaths(daemon)) <= 5, deaths(daemon)


def test_hung_and_left_alone(make_daemon, server):
    """A stopped child outlives the daemon too (no SIGHUP of the kernel's), and the next daemon notices."""
    daemon = make_daemon(one("", {"health": {"timeout": "300ms"}}), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    os.kill(pid, signal.SIGSTOP)
    daemon.kill9()
    time.sleep(0.3)
    assert daemon.children() == [pid]
    # It was ready for the daemon that died; for the new one it never answered, which is the patience of a start.
    daemon.write_config(harness.merged(daemon.config, {"health": {"start_attempts": 5}}))
    daemon.start()
    crashed(daemon, "unresponsive", "did not answer")
    harness.wait_for(lambda: not harness.is_alive(pid), what="it was killed")


def test_what_a_person_stopped_stays_stopped(make_daemon, server):
    daemon = make_daemon(two(), server=server)
    for name in ("a", "b"):
        daemon.wait_state(name, "ready")
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    comes_back(daemon)
    daemon.wait_state("b", "ready")
    time.sleep(0.3)
    assert daemon.instance("a")["pid"] is None
    harness.assert_same_truth(daemon, "a", status="initial")
    start_again(daemon)


def test_settings_changed_meanwhile(make_daemon, server):
    """Changed while nobody was looking: restarted; gone from the file: stopped; unchanged: left alone."""
    config = two()
    config["instances"].append(dict(config["instances"][0], name="c"))
    daemon = make_daemon(config, server=server)
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in ("a", "b", "c")}
    daemon.kill9()
    config["instances"][1] = dict(config["instances"][1], args=["-c", "1024", "-np", "1", "-t", "1"])
    config["instances"].pop()
    daemon.write_config(config)
    daemon.start()
    stays(daemon, pids["a"], "a")
    daemon.wait("b", lambda now: now["status"] == "ready" and now["pid"] != pids["b"], what="restarted")
    harness.wait_for(lambda: not harness.is_alive(pids["c"]), what="c is stopped")
    harness.wait_for(lambda: sorted(daemon.instances()) == ["a", "b"], what="c is gone")
    assert deaths(daemon, "b") == []


def test_a_second_daemon_is_refused(make_daemon, server):
    daemon = make_daemon(one(), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    second = subprocess.run([harness.PROGRAM, "run", "--config", daemon.config_file], capture_output=True, text=True,
                            timeout=harness.PATIENCE, check=False, env=daemon.environment(), stdin=subprocess.DEVNULL)
    assert second.returncode == 1 and "held by another llama-supervisor (pid %d)" % daemon.pid in second.stderr, second
    stays(daemon, pid)
    assert daemon.cli("status").returncode == 0


# ---- reload and rolling restarts -------------------------------------------------------------------------------------------

def reload_by_signal(daemon, config):
    """SIGHUP, until the history tells of it."""
    def count():
        return len([e for e in daemon.get("/api/v1/history").json["events"] if e["kind"].startswith("reload")])
    before = count()
    daemon.write_config(config)
    daemon.signal(signal.SIGHUP)
    harness.wait_for(lambda: count() > before, what="reloaded")


def test_reload_touches_only_what_changed(make_daemon, server):
    config = two()
    daemon = make_daemon(config, server=server)
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in ("a", "b")}
    changed = dict(config["instances"][1], args=["-c", "1024", "-np", "1", "-t", "1"])
    reload_by_signal(daemon, harness.merged(config, {"instances": [config["instances"][0], changed,
                                                                   dict(config["instances"][0], name="c")]}))
    daemon.wait_state("c", "ready")
    daemon.wait("b", lambda now: now["status"] == "ready" and now["pid"] != pids["b"], what="b restarted")
    stays(daemon, pids["a"])
    assert deaths(daemon, "b") == []
    pid = daemon.instance("c")["pid"]
    reload_by_signal(daemon, harness.merged(config, {"instances": [config["instances"][0], changed]}))
    harness.wait_for(lambda: sorted(daemon.instances()) == ["a", "b"] and not harness.is_alive(pid), what="c is gone")
    stays(daemon, pids["a"])


def test_a_broken_file_changes_nothing(make_daemon, server):
    config = one()
    daemon = make_daemon(config, server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    reload_by_signal(daemon, harness.merged(config, {"instances": [dict(config["instances"][0], modell="x")]}))
    told = daemon.get("/api/v1/status").json["reloadError"]
    assert "modell" in told and daemon.config_file in told, told
    assert "modell" in daemon.cli("status").stdout
    stays(daemon, pid)
    assert daemon.cli("reload").returncode == 1
    reload_by_signal(daemon, config)
    assert daemon.get("/api/v1/status").json["reloadError"] is None
    stays(daemon, pid)


def replay(feed, names, start):
    """How many were ready after each message of the feed."""
    now, counts = {}, []
    for i, message in enumerate(list(feed.messages)):
        if message.get("instance") in names:
            now[message["instance"]] = message["data"]["status"]
            if i >= start:
                counts.append(sum(status == "ready" for status in now.values()))
    return counts


@pytest.mark.parametrize("how", ["restart", "reload"])
def test_replicas_go_one_after_the_other(make_daemon, server, how):
    config = one("--load-ms 150", replicas=3)
    daemon, names = make_daemon(config, server=server), ["a-0", "a-1", "a-2"]
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in names}
    feed = daemon.ws()
    feed.wait(lambda m: m.get("instance") == "a-2")
    start = len(feed.messages)
    if how == "restart":
        order(daemon, "restart", "a")
    else:
        reload_by_signal(daemon, one("--load-ms 150", replicas=3, args=["-b", "256"]))
    for name in names:
        daemon.wait(name, lambda now, was=pids[name]: now["status"] == "ready" and now["pid"] != was, what="restarted")
    # The feed may tell it a moment after REST did.
    harness.wait_for(lambda: 2 in replay(feed, names, start) and replay(feed, names, start)[-1] == 3,
                     what=lambda: "two were always ready, three in the end: %s" % replay(feed, names, start))
    assert min(replay(feed, names, start)) == 2
    for name in names:
        harness.assert_same_truth(daemon, name, status="ready", retries=0, lastError=None)


def test_a_bad_change_stops_at_the_first_replica(make_daemon, server):
    """What does not come back keeps the others from going down for the same."""
    config = one("", {"restart": {"backoff_initial": "20ms", "backoff_max": "20ms", "max_retries": 1}}, replicas=3)
    daemon, names = make_daemon(config, server=server), ["a-0", "a-1", "a-2"]
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in names}
    bad = harness.merged(config, {"instances": [dict(config["instances"][0], args=["--bogus-flag"])]})
    reload_by_signal(daemon, bad)
    failed = harness.wait_for(lambda: [n for n, row in daemon.instances().items() if row["status"] == "error"], what="one fails")
    assert len(failed) == 1
    time.sleep(0.5)
    for name in names:
        if name not in failed:
            assert daemon.instance(name)["pid"] == pids[name] and daemon.status(name) == "ready"
    harness.assert_same_truth(daemon, failed[0], status="error")
    reload_by_signal(daemon, config)
    for name in names:
        daemon.wait_state(name, "ready")
