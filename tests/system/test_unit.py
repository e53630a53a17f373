"""What the unit lets its processes do and see, what the journal tells with fields, and the unit of a user's own manager."""
import re

from harness import PATIENCE, wait_for
from machine import MODELS, UNIT
from service import CGROUP, FAKE, entries, fleet

# Fixed for ever: people have them in their queries (docs/API.md lists them).
READY, DIED = "640e8c75147945028c839df548610cec", "a57b48dd6ff84022937686a0bf270461"


def test_the_journal_has_fields(service):
    m = service.machine
    since = m.sh("date +'%Y-%m-%d %H:%M:%S'").strip()
    before = service.start(fleet("a"), {"instances": [
        {"name": "a", "model": "tiny.gguf"}, {"name": "b", "model": "tiny.gguf", "replicas": 2}]})
    ready = wait_for(lambda: (lambda found: found if len(found) == 3 else None)(
        m.entries("--since", since, "MESSAGE_ID=" + READY)), what="three instances are ready in the journal")
    assert sorted(one["INSTANCE"] for one in ready) == ["a", "b-0", "b-1"]
    assert {one["INSTANCE"]: one["MODEL"] for one in ready} == {"a": "a", "b-0": "b", "b-1": "b"}
    assert all(one["SYSLOG_IDENTIFIER"] == "llama-supervisor" and one["PRIORITY"] == "6" for one in ready), ready
    assert all(one["_SYSTEMD_UNIT"] == UNIT for one in ready), ready
    m.kill_pid(before["b-1"]["pid"], 9)
    died = wait_for(lambda: m.entries("--since", since, "INSTANCE=b-1", "MESSAGE_ID=" + DIED), what="its death is in the journal")
    assert died[0]["PRIORITY"] == "4" and "SIGKILL" in died[0]["MESSAGE"], died
    assert died[0]["EVENT"] == "died"
    # What a child itself says is in its log file, not here.
    assert not [one for one in m.entries("--since", since, "-u", UNIT) if "llama_server: listening" in str(one["MESSAGE"])]


def test_status_text_tells_the_fleet(service):
    m = service.machine
    service.configure({"instances": entries("a", "b", "c") + entries("d", args=["--load-503-forever"])})
    m.systemctl("start", UNIT)
    m.wait_ready(["a", "b", "c"])
    service.wait_status_text(lambda text: re.match(r"3/4 ready\b", text))
    m.cli("stop", "a", "--wait")
    service.wait_status_text(lambda text: re.match(r"2/4 ready\b", text))


def in_sandbox(machine, pid, script):
    """A shell command with the user, the rights and the view of files of a process of the unit."""
    return machine.run("nsenter", "-t", str(pid), "-m", "--", "setpriv", "--reuid", "llama-supervisor", "--regid",
                       "llama-supervisor", "--init-groups", "--bounding-set=-all", "--no-new-privs", "sh", "-c", script, check=False)


def test_the_sandbox_of_a_child(service):
    """It reads its model; it cannot write to the system, look into homes, see others' processes or gain rights."""
    m = service.machine
    m.sh("mkdir -p /home/visitor && echo secret >/home/visitor/secret && chmod 755 /home/visitor; echo secret >/root/secret")
    pid = service.start(fleet("a"))["a"]["pid"]

    def can(script):
        return in_sandbox(m, pid, script).returncode == 0
    assert can("head -c 4 %s/tiny.gguf" % MODELS)
    assert can("touch /var/lib/llama-supervisor/try && rm /var/lib/llama-supervisor/try")
    for forbidden in ("touch /usr/try", "touch /etc/try", "touch /var/lib/try", "cat /root/secret", "cat /home/visitor/secret",
                      "ls /home/visitor", "touch /sys/fs/cgroup/try", "echo 1 >/proc/sys/vm/drop_caches", "cat /dev/kmsg"):
        assert not can(forbidden), forbidden
    status = dict(line.split(":\t", 1) for line in m.read("/proc/%d/status" % pid).splitlines() if ":\t" in line)
    assert int(status["NoNewPrivs"]) == 1 and int(status["Seccomp"]) == 2, status
    assert all(int(status[key], 16) == 0 for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")), status
    assert re.search(r"Max core file size +0 +0 ", m.read("/proc/%d/limits" % pid))
    # Of the daemon's descriptors it has none, of the environment nothing that concerns us.
    links = m.sh("ls -l /proc/%d/fd" % pid)
    assert "control.sock" not in links and links.count("/var/log/llama-supervisor/a.log") == 2, links
    environment = m.sh("tr '\\0' '\\n' </proc/%d/environ" % pid)
    assert "NOTIFY_SOCKET" not in environment and "LISTEN_" not in environment and "WATCHDOG" not in environment, environment


def test_a_model_in_a_home_is_hidden_and_that_is_said(service):
    m = service.machine
    m.sh("mkdir -p /home/visitor && cp %s/tiny.gguf /home/visitor/ && chmod 755 /home/visitor" % MODELS)
    service.configure({"instances": [{"name": "a", "model": "/home/visitor/tiny.gguf"}], "restart": {"max_retries": 0}})
    m.systemctl("start", UNIT)
    one = wait_for(lambda: (lambda now: now if now.get("a", {}).get("lastError") else None)(m.instances()),
                   what=lambda: "why: %s" % m.instances())["a"]
    assert "ProtectHome" in one["lastError"] or "ProtectHome" in m.cli("why", "a").stdout, (one, m.cli("why", "a").stdout)


def test_nobody_else_takes_our_groups(service):
    """Any local user may open the folder of the unit's group, and lock what he has opened; that is not the lock that we look at."""
    m = service.machine
    holder = None
    try:
        service.start(fleet("a"))
        assert m.read("/proc/%d/cgroup" % m.instances()["a"]["pid"]).strip().endswith("/llama-supervisor.service/instance-a")
        nobody = ["setpriv", "--reuid", "nobody", "--clear-groups", "--regid", "nogroup", "flock"]
        assert "ermission denied" in m.run(*nobody, CGROUP + "/lock", "true", check=False).stderr
        holder = m.spawn(*nobody, CGROUP, "sleep", "600")      # waits for it: we only look, below
        wait_for(lambda: m.run("flock", "--nonblock", CGROUP, "true", check=False).returncode == 1, what="nobody holds the folder")
        pid = m.main_pid
        m.kill_pid(pid, 9)
        m.wait_new_main(pid)
        before = m.wait_ready(["a"])
        m.cli("restart", "a", "--wait")
        after = service.wait_another("a", before)
        assert m.read("/proc/%d/cgroup" % after["a"]["pid"]).strip().endswith("/llama-supervisor.service/instance-a")
        assert "another llama-supervisor" not in m.journal()
    finally:
        m.sh("pkill -KILL -x sleep || true")
        if holder:
            holder.wait(PATIENCE)


def test_security_of_the_unit(machine):
    """At most 2.0 as systemd counts it."""
    told = machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", UNIT, check=False)
    assert told.returncode == 0, told.stdout[-2000:]


def test_systemd_knows_every_key(machine):
    """Also the one of Debian 12: a key that it does not know would be told at each reload of its units."""
    folder = machine.sh("dpkg -L llama-supervisor | grep '/systemd/system$'").strip()
    for args in (["%s/%s" % (folder, name) for name in ("llama-supervisor.service", "llama-supervisor.socket", "llama-supervisor-gpu.service")],
                 ["--user", "/usr/lib/systemd/user/llama-supervisor.service"]):
        told = machine.run("env", "XDG_RUNTIME_DIR=/run", "systemd-analyze", "verify", "--man=no", *args, check=False)
        assert (told.returncode, told.stdout + told.stderr) == (0, ""), told
    has = "DelegateSubgroup=ctl" in machine.read(folder + "/llama-supervisor.service")
    assert has == (int(machine.sh("systemctl --version").split()[1]) >= 254)


def test_the_tighter_drop_in(service):
    """The example for machines without GPUs: even less, and it works."""
    m = service.machine
    service.drop_in("cpu-only", m.read("/usr/share/doc/llama-supervisor/examples/cpu-only.conf"))
    service.start(fleet("a"))
    m.cli("restart", "a", "--wait")
    told = m.run("systemd-analyze", "security", "--no-pager", "--threshold=16", UNIT, check=False)
    assert told.returncode == 0, told.stdout[-2000:]


def test_a_unit_of_a_user(machine):
    """systemctl --user: directories and doors of his own, models that outlive the daemon, a stop that leaves nothing."""
    m = machine
    m.systemctl("stop", UNIT)
    m.run("systemd-sysusers", "-", stdin="u visitor 1234 - /home/visitor /bin/sh\n")
    m.sh("mkdir -p /home/visitor/.config/llama-supervisor /home/visitor/.local/share/llama-supervisor/models; "
         "cp %s/tiny.gguf /home/visitor/.local/share/llama-supervisor/models/" % MODELS)
    m.write("/home/visitor/.config/llama-supervisor/llama-supervisor.json", """
        {"listen": [{"address": "127.0.0.1:8099"}], "instances": [{"name": "mine", "model": "tiny.gguf"}],
         "llama_server": {"binary": "%s"}}""" % FAKE)
    m.sh("chown -R visitor: /home/visitor; systemctl start user@1234")

    def user(*args, **kwargs):
        return m.run("setpriv", "--reuid", "visitor", "--regid", "visitor", "--init-groups", "env", "HOME=/home/visitor",
                     "XDG_RUNTIME_DIR=/run/user/1234", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1234/bus", *args, **kwargs)
    try:
        wait_for(lambda: user("systemctl", "--user", "is-system-running", check=False).stdout.strip() in ("running", "degraded"),
                 2 * PATIENCE, "the user's manager is up")
        user("systemctl", "--user", "start", "llama-supervisor")
        wait_for(lambda: "ready" in user("llama-supervisor", "status", check=False).stdout, what="it is ready")
        children = m.children()
        assert len(children) == 1
        pid = int(user("systemctl", "--user", "show", "-P", "MainPID", "llama-supervisor").stdout)
        m.kill_pid(pid, 9)
        wait_for(lambda: int(user("systemctl", "--user", "show", "-P", "MainPID", "llama-supervisor").stdout) not in (0, pid) and
                 "ready" in user("llama-supervisor", "status", check=False).stdout, what="another one is there")
        assert m.children() == children
        user("systemctl", "--user", "stop", "llama-supervisor")
        wait_for(lambda: not m.children(), what=lambda: "nothing is left: %s" % m.children())
    finally:
        m.systemctl("stop", "user@1234")
