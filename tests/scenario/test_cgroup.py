"""A service with a delegated control group: every instance lives in a group of its own, which nobody leaves; and what is told where
there is none. The limits themselves are tested under a real kernel (tests/system): most machines of tests have no controllers."""
# ctest: real asan
import json
import os
import signal
import subprocess

import pytest

import harness
from faults import deaths, events, one, order, start_again, stays

LIMITS = {"memory": "512M", "cpus": 1.5, "pids": 300}


def v2_root():
    """Where cgroup v2 is mounted, and our own group in it."""
    with open("/proc/self/mountinfo") as f:
        points = [line.split()[4] for line in f if " - cgroup2 " in line and line.split()[3] == "/"]
    with open("/proc/self/cgroup") as f:
        own = [line.strip()[3:] for line in f if line.startswith("0::")]
    return (points[0], own[0].rstrip("/")) if points and own else (None, None)


class Unit:
    """A group as systemd gives it to a service with Delegate=."""

    def __init__(self, world, name):
        root, own = v2_root()
        if not root or not os.access(root + own, os.W_OK):
            pytest.skip("nobody may make control groups of version 2 here; unit/host/cgroup has a tree of files")
        self.root, self.path = root, "%s/%s-%s" % (own, os.path.basename(world), name)
        self.folder = root + self.path
        os.mkdir(self.folder)
        os.setxattr(self.folder, "trusted.delegate" if os.geteuid() == 0 else "user.delegate", b"1")

    def enter(self):
        with open(self.folder + "/cgroup.procs", "w") as f:
            f.write("0")

    def groups(self):
        """But "lock", in which nobody lives."""
        return sorted(name for name in os.listdir(self.folder) if os.path.isdir(self.folder + "/" + name) and name != "lock")

    def pids(self, group):
        try:
            with open("%s/%s/cgroup.procs" % (self.folder, group)) as f:
                return [int(line) for line in f]
        except (FileNotFoundError, OSError):
            return []

    def close(self):
        with open(self.folder + "/cgroup.kill", "w") as f:
            f.write("1")

        def gone():
            harness.reap_orphans()
            for folder, folders, _ in os.walk(self.folder, topdown=False):
                for name in folders:
                    try:
                        os.rmdir(os.path.join(folder, name))
                    except OSError:
                        return False
            try:
                os.rmdir(self.folder)
            except OSError:
                return False
            return True
        harness.wait_for(gone, what="the control group is empty")


@pytest.fixture
def unit(nothing_left, world, request):
    made = Unit(world, "llama-supervisor.service")
    yield made
    made.close()


@pytest.fixture
def start(unit, make_daemon):
    """A daemon that systemd would have started in that group."""
    def begin(config, **kwargs):
        daemon = make_daemon(config, start=False, **kwargs)
        return daemon.start(preexec_fn=unit.enter)
    return begin


def group_of(pid):
    with open("/proc/%d/cgroup" % pid) as f:
        return [line.strip()[3:] for line in f if line.startswith("0::")][0]


def record_of(daemon, name="a"):
    with open(os.path.join(daemon.runtime, "instances", name + ".json")) as f:
        return json.load(f)


def told(daemon, words):
    return [line for line in daemon.output().splitlines() if words in line]


@pytest.fixture
def hiding_server(folder, fake_llama_server):
    """A server whose helper cannot be told from a stranger: another session, nothing of ours in its environment or its outputs."""
    path = os.path.join(folder, "hiding-server")
    with open(path, "w") as f:
        f.write("#!/bin/sh\ncase \"$*\" in *--help*|*--version*) ;;\n"
                "*) setsid env -i %s/sleep-far >/dev/null 2>&1 & ;;\nesac\nexec %s \"$@\"\n" % (folder, fake_llama_server))
    with open(folder + "/sleep-far", "w") as f:
        f.write("#!/bin/sh\ntrap '' TERM HUP\nwhile :; do sleep 1000; done\n")
    for name in (path, folder + "/sleep-far"):
        os.chmod(name, 0o755)
    return path


def hidden(unit, pid):
    """All of the instance's group that is not its leader."""
    return [other for other in unit.pids("instance-a") if other != pid]


# ---- with a delegated group ---------------------------------------------------------------------------------------------

def test_each_lives_in_its_group(start, unit, server):
    """The daemon in ctl, each instance beside it; who is stopped leaves no group; a start makes it anew."""
    config = one()
    config["instances"].append(dict(config["instances"][0], name="b.x"))
    daemon = start(config, server=server)
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in ("a", "b.x")}
    assert group_of(daemon.pid) == unit.path + "/ctl"
    assert unit.groups() == ["ctl", "instance-a", "instance-b.x"] and unit.pids("") == []
    for name, pid in pids.items():
        assert group_of(pid) == "%s/instance-%s" % (unit.path, name) and pid in unit.pids("instance-" + name)
        assert os.getsid(pid) == pid and os.getpgid(pid) == pid
        assert record_of(daemon, name)["cgroup"] == "%s/instance-%s" % (unit.path, name)
    order(daemon, "stop", "b.x")
    daemon.wait_state("b.x", "initial")
    harness.wait_for(lambda: unit.groups() == ["ctl", "instance-a"], what="the group of who was stopped is gone")
    again = start_again(daemon, "b.x")
    assert group_of(again["pid"]) == unit.path + "/instance-b.x"
    daemon.stop()
    harness.wait_for(lambda: unit.groups() == ["ctl"], what="no group is left")


def test_a_killed_daemon_finds_them(start, unit, server):
    """The same process in the same group, also for the daemon after the next; nothing is loaded again."""
    daemon = start(one())
    pid = daemon.wait_state("a", "ready")["pid"]
    for _ in range(2):
        daemon.kill9()
        assert unit.pids("instance-a") == [pid]
        daemon.start(preexec_fn=unit.enter)
        stays(daemon, pid)
        assert daemon.instance("a")["adopted"] and group_of(pid) == unit.path + "/instance-a"
        assert group_of(daemon.pid) == unit.path + "/ctl"
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    harness.wait_for(lambda: unit.groups() == ["ctl"], what="its group is gone")


@pytest.mark.parametrize("end", ["stop", "death", "meanwhile"])
def test_nobody_hides(start, unit, hiding_server, end):
    """What it started ends with it, though it left session, outputs and environment behind."""
    daemon = start(one(), server=hiding_server)
    pid = daemon.wait_state("a", "ready")["pid"]
    far = harness.wait_for(lambda: hidden(unit, pid), what="its helper")
    if end == "stop":
        order(daemon, "stop")
        daemon.wait_state("a", "initial")
    elif end == "death":
        os.kill(pid, signal.SIGKILL)
        daemon.wait_state("a", "crashed")
    else:
        daemon.kill9()
        os.kill(pid, signal.SIGKILL)
        harness.wait_for(lambda: not harness.is_alive(pid))
        assert any(harness.is_alive(other) for other in far)
        daemon.start(preexec_fn=unit.enter)
        assert daemon.wait_state("a", "ready")["pid"] != pid
        assert deaths(daemon)[-1]["cause"] == "unknown"
    harness.wait_for(lambda: not [other for other in far if harness.is_alive(other)], what="its helper is gone")
    if end != "meanwhile":
        harness.wait_for(lambda: unit.groups() == ["ctl"], what="its group is gone")


def test_who_has_no_record_is_ended(start, unit, server):
    """The daemon was killed before it could write the record; the group knows whose the process is."""
    daemon = start(one(), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    daemon.kill9()
    os.unlink(os.path.join(daemon.runtime, "instances", "a.json"))
    daemon.start(preexec_fn=unit.enter)
    now = daemon.wait_state("a", "ready")
    assert now["pid"] != pid and not now["adopted"]
    harness.wait_for(lambda: not harness.is_alive(pid), what="the one without a record is gone")
    assert told(daemon, "of an earlier supervisor have no record: killed")
    assert unit.groups() == ["ctl", "instance-a"]


def test_it_cannot_be_run(start, unit, folder, fake_llama_server):
    """What exec alone finds out is a start that failed, as everywhere."""
    path = os.path.join(folder, "server")
    with open(path, "w") as f:
        f.write("#!/bin/sh\nexec %s \"$@\"\n" % fake_llama_server)
    os.chmod(path, 0o755)
    daemon = start(one("", {"restart": {"max_retries": 0}}), server=path)
    pid = daemon.wait_state("a", "ready")["pid"]
    with open(path, "w") as f:
        f.write("#!/nonexistent/interpreter\n")     # the --help that is known belongs to another file
    order(daemon, "restart")
    daemon.wait_state("a", "error")
    assert not harness.is_alive(pid)
    assert "No such file or directory" in daemon.instance("a")["lastError"]
    harness.wait_for(lambda: unit.groups() == ["ctl"], what="no group is left")


def test_two_daemons_in_one_group(start, unit, make_daemon):
    """The second one leaves the groups alone, and says so."""
    first = start(one())
    pid = first.wait_state("a", "ready")["pid"]
    second = make_daemon(one(limits=LIMITS), start=False).start(preexec_fn=unit.enter)
    other = second.wait_state("a", "ready")["pid"]
    assert told(second, "another llama-supervisor uses the control group")
    assert unit.groups() == ["ctl", "instance-a"] and unit.pids("instance-a") == [pid]
    order(second, "restart")
    second.wait("a", lambda now: now["status"] == "ready" and now["pid"] != other)
    stays(first, pid)
    second.stop()
    stays(first, pid)


@pytest.mark.parametrize("who", ["reap", "daemon"])
def test_an_old_record_ends_nobody_elses(start, unit, make_daemon, who):
    """Left by a daemon with another runtime_dir, of an instance that died: its group is that of today's daemon by now."""
    first = start(one())
    pid = first.wait_state("a", "ready")["pid"]
    first.kill9()
    os.kill(pid, signal.SIGKILL)
    harness.wait_for(lambda: not harness.is_alive(pid))
    second = make_daemon(one(), start=False).start(preexec_fn=unit.enter)
    pid = second.wait_state("a", "ready")["pid"]
    assert group_of(pid) == unit.path + "/instance-a" == record_of(first)["cgroup"]
    if who == "reap":
        result = subprocess.run([harness.PROGRAM, "reap", "--config", first.config_file], capture_output=True, text=True, check=False,
                                timeout=2 * harness.PATIENCE, env=first.environment(), stdin=subprocess.DEVNULL)
        assert result.returncode == 0 and "nothing is left" in result.stdout, result
    else:                               # without a unit this time
        first.start().wait_state("a", "ready")
    stays(second, pid)


# ---- limits that cannot be kept ------------------------------------------------------------------------------------------

def test_limits_without_a_group(make_daemon, server):
    """Told once, with the reason and the names; everything works."""
    config = one(limits=LIMITS)
    config["instances"].append(dict(config["instances"][0], name="b"))
    config["instances"].append(dict(config["instances"][0], name="c", limits={}))
    daemon = make_daemon(config, server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    lines = told(daemon, "limits")
    assert len(lines) == 1 and "limits are not kept for a, b: " in lines[0], lines
    reason = lines[0].split("limits are not kept for a, b: ")[1]
    status = daemon.get("/api/v1/status").json
    assert status["limitsProblem"] == "limits are not kept for a, b: " + reason
    assert "limits are not kept" in status["sentence"]
    assert daemon.instance("a")["limits"] == {"memory": 512 << 20, "cpus": 1.5, "pids": 300,
                                              "problem": "limits are not kept: " + reason}
    assert daemon.instance("c")["limits"] == {"memory": None, "cpus": None, "pids": None, "problem": None}
    assert daemon.instance("a")["usage"] is None
    assert daemon.get("/api/v1/instances/a/why").json["limitsProblem"] == "limits are not kept: " + reason
    for words in (["status"], ["status", "a"], ["why", "a"]):
        assert "limits are not kept" in daemon.cli(*words).stdout, words
    assert "limits are not kept" not in daemon.cli("status", "c").stdout
    assert "instance_cpu_seconds_total{" not in daemon.get("/metrics").text
    assert len(events(daemon, "limits", None)) == 1
    assert daemon.api("POST", "/api/v1/reload").status == 200
    assert len(told(daemon, "limits")) == 1
    stays(daemon, pid)


def test_limits_without_controllers(start, unit, server):
    """Groups, but not all of what they can do: each limit that is not kept is named with its reason."""
    with open(unit.folder + "/cgroup.controllers") as f:
        there = f.read().split()
    missing = [key for key, name in (("memory", "memory"), ("cpus", "cpu"), ("pids", "pids")) if name not in there]
    daemon = start(one(limits=LIMITS), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    for key in LIMITS:
        lines = told(daemon, "limits.%s is not kept for a: " % key)
        assert len(lines) == (key in missing), (key, missing, daemon.output())
    assert group_of(pid) == unit.path + "/instance-a"
    assert daemon.get("/api/v1/status").json["limitsProblem"].count("\n") == max(len(missing) - 1, 0)
    problem = daemon.instance("a")["limits"]["problem"]
    assert [key for key in LIMITS if "limits.%s is not kept: " % key in (problem or "")] == missing


def test_what_it_uses(start, unit, fake_llama_server):
    """Figures of the group, on the doors that tell of one instance and to Prometheus; over a restart counts go on."""
    daemon = start(one())
    pid = daemon.wait_state("a", "ready")["pid"]

    def used():
        usage = daemon.instance("a")["usage"]
        return usage and usage["cpuSeconds"] > 0 and usage
    usage = harness.wait_for(used, what="CPU time")
    assert set(usage) == {"memory", "memoryMax", "oomKills", "cpuSeconds", "tasks"}
    text = daemon.get("/metrics").text
    rows = [line for line in text.splitlines() if line.startswith('llama_supervisor_instance_cpu_seconds_total{instance="a"')]
    assert len(rows) == 1 and float(rows[0].split()[-1]) > usage["cpuSeconds"] - 0.002     # rounded there
    assert "cpu time" in daemon.cli("status", "a").stdout
    order(daemon, "restart")
    daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"] != pid)
    assert harness.wait_for(used)["cpuSeconds"] >= usage["cpuSeconds"]
    order(daemon, "stop")
    daemon.wait_state("a", "initial")
    assert daemon.instance("a")["usage"] is None


def test_other_limits_restart_nobody(start, unit, server):
    daemon = start(one(limits=LIMITS), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    config = one(limits={"memory": "1G"})
    daemon.write_config(config)
    plan = daemon.api("POST", "/api/v1/reload").json
    assert plan["restart"] == [], plan
    stays(daemon, pid)
