"""A machine of its own with the real systemd: booted from a bare root in a second, thrown away afterwards.

Built on `boot` (nspawn in namespaces of its own, everything it writes in memory). Whatever happens to this process, the kernel
ends the machine with it; empty cgroups of runs that were killed are swept by the next one.

Processes inside are asked through /proc/LEADER/root/proc, so pids are those that the daemon tells. Sockets inside: unix ones by
their path below /proc/LEADER/root, TCP by a thread that steps into the network namespace for a moment.
"""
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "scenario"))
import harness                                                   # noqa: E402  (it lies beside us, not on the path)
from able import CGROUPS, PREFIX, remove_tree                    # noqa: E402
from harness import PATIENCE, wait_for                           # noqa: E402

SOURCE = harness.SOURCE
BUILD = harness.BUILD or os.path.join(SOURCE, "build", "dev")
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]

UNIT = "llama-supervisor.service"
PROGRAM = "/usr/bin/llama-supervisor"
CONFIG = "/etc/llama-supervisor/llama-supervisor.json"
CONTROL = "/run/llama-supervisor/control.sock"
MODELS = "/var/lib/llama-supervisor/models"
PORT = 8077


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)              # PR_SET_PDEATHSIG; survives exec


class Connection(http.client.HTTPConnection):
    """HTTP over a socket that somebody else connects."""

    def __init__(self, connect, timeout):
        super().__init__("127.0.0.1", timeout=timeout)
        self.connect_somehow = connect

    def connect(self):
        self.sock = self.connect_somehow()


class Machine:
    """One booted machine. run() and sh() are root's shell in it; file names are those inside."""
    count = 0

    def __init__(self, suite, root):
        """suite: bookworm or trixie; root: the folder of its bare root."""
        Machine.count += 1
        self.suite = suite
        self.name = "%s%d-%d" % (PREFIX, os.getpid(), Machine.count)
        self.folder = os.path.join("/tmp", self.name)
        os.mkdir(self.folder)
        self.console = tempfile.TemporaryFile()
        self.leader, self.process, self.is_off = None, None, False
        try:
            self.process = harness.spawn([os.path.join(HERE, "boot"), self.name, self.folder, root], stdin=subprocess.DEVNULL,
                                         stdout=self.console, stderr=self.console, preexec_fn=die_with_parent)
            self.leader = wait_for(self.find_leader, PATIENCE, lambda: "PID 1 of the machine; it said:\n" + self.said())
            wait_for(self.is_up, 2 * PATIENCE, lambda: "systemd is up; it said:\n" + self.said())
        except BaseException:
            self.kill()
            raise

    # -- life

    def find_leader(self):
        if self.process.poll() is not None:
            raise AssertionError("the machine ended with %s:\n%s" % (self.process.returncode, self.said()))
        pid = self.process.pid
        for _ in range(2):                              # unshare → systemd-nspawn → systemd
            try:
                with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
                    children = f.read().split()
            except FileNotFoundError:
                return None
            if len(children) != 1:
                return None
            pid = int(children[0])
        with open("/proc/%d/comm" % pid) as f:
            return pid if f.read().strip() == "systemd" else None

    def is_up(self):
        if self.process.poll() is not None:
            raise AssertionError("the machine ended with %s:\n%s" % (self.process.returncode, self.said()))
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        if state == "degraded":
            raise AssertionError("the machine is degraded:\n" + self.sh(
                "systemctl --failed --no-pager; journalctl -b -p warning --no-pager"))
        return state == "running"

    def said(self):
        self.console.seek(0)
        return self.console.read()[-5000:].decode("utf-8", "replace")

    def power_off(self, timeout=2 * PATIENCE):
        """As a person would: services are stopped in order. For tests of just that; stop() is for the end of a test."""
        os.kill(self.leader, signal.SIGRTMIN + 4)
        self.process.wait(timeout)
        self.is_off = True

    def stop(self):
        self.kill()

    def kill(self):
        """The end, at once, and the proof that nothing stays."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        self.console.close()
        places = [os.path.join(top, self.name) for top in CGROUPS]

        def gone():
            for place in places:
                remove_tree(place)
            return not any(os.path.exists(place) for place in places)
        wait_for(gone, PATIENCE, "the machine's processes are gone")
        os.rmdir(self.folder)

    # -- inside

    def command(self, *args):
        return ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w",
                "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root",
                "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "TERM=dumb", *args]

    def run(self, *args, check=True, timeout=3 * PATIENCE, stdin=None):
        result = subprocess.run(self.command(*args), capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
                                input=stdin if stdin is not None else "")
        if check:
            assert result.returncode == 0, "%s: exit status %d\n%s%s" % (" ".join(args), result.returncode, result.stdout,
                                                                        result.stderr)
        return result

    def sh(self, script, check=True, timeout=3 * PATIENCE):
        """stdout of a shell script."""
        return self.run("sh", "-c", "set -e\n" + script, check=check, timeout=timeout).stdout

    def spawn(self, *args, **kwargs):
        return harness.spawn(self.command(*args), preexec_fn=die_with_parent, **kwargs)

    def path(self, name):
        """Where a file of the machine is seen from here."""
        return "/proc/%d/root%s" % (self.leader, name)

    def exists(self, name):
        # Not os.path.lexists: symbolic links on the way would lead out of the machine.
        return self.run("test", "-e", name, check=False).returncode == 0

    def read(self, name):
        return self.run("cat", name).stdout

    def write(self, name, text, mode=None):
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1.new" && mv "$1.new" "$1"', "sh", name, stdin=text)
        if mode:
            self.run("chmod", mode, name)

    def copy_in(self, source, name, mode="755"):
        with open(source, "rb") as f:
            script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
            result = subprocess.run(self.command("sh", "-c", script, "sh", name, mode), stdin=f, capture_output=True, check=False)
        assert result.returncode == 0, result

    # -- processes, by the pids that they have inside

    def processes(self):
        """pid: (ppid, state, start time, command line)."""
        return harness.process_table(self.path("/proc"))

    def start_time(self, pid):
        """In ticks, or None when there is no such process (or it is a zombie)."""
        try:
            with open(self.path("/proc/%d/stat" % pid), "rb") as f:
                fields = f.read().rsplit(b")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in (b"Z", b"X") else int(fields[19])

    def state_of(self, pid):
        return self.processes().get(pid, (0, "gone"))[1]

    def kill_pid(self, pid, signo):
        self.run("/bin/kill", "-" + signal.Signals(signo).name[3:], str(pid))

    def host_pid(self, pid):
        """The number that a process of the machine has out here."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open("/proc/%s/status" % name) as f:
                        told = [line.split()[1:] for line in f if line.startswith("NSpid:")][0]
                    if told[-1] == str(pid) and len(told) > 1 and os.path.samestat(
                            os.stat("/proc/%s/ns/pid" % name), os.stat("/proc/%d/ns/pid" % self.leader)):
                        return int(name)
                except (FileNotFoundError, ProcessLookupError, IndexError):
                    continue
        raise AssertionError("no process %d in %s" % (pid, self.name))

    def children(self, program="llama-server"):
        """pid: start time of all llama-servers that live in the machine."""
        return {pid: row[2] for pid, row in self.processes().items()
                if row[1] not in "ZX" and os.path.basename(row[3].split(" ")[0]) == program}

    # -- sockets

    def tcp(self, port=PORT, timeout=PATIENCE, address="127.0.0.1"):
        """A connected socket to a port inside."""
        box = []

        def step_in():
            try:
                with open("/proc/%d/ns/net" % self.leader) as f:
                    if LIBC.setns(f.fileno(), CLONE_NEWNET) != 0:        # of this thread alone
                        raise OSError(ctypes.get_errno(), "setns")
                box.append(socket.create_connection((address, port), timeout))
            except OSError as error:
                box.append(error)
        thread = threading.Thread(target=step_in)
        thread.start()
        thread.join()
        if isinstance(box[0], OSError):
            raise box[0]
        return box[0]

    def unix(self, name=CONTROL, timeout=PATIENCE):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect(self.path(name))
        except BaseException:
            sock.close()
            raise
        return sock

    def request(self, method, path, body=None, headers=None, timeout=PATIENCE, port=PORT, control=False):
        """An Answer, over TCP or over the control socket."""
        connection = Connection((lambda: self.unix(timeout=timeout)) if control else (lambda: self.tcp(port, timeout)), timeout)
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return harness.Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def api(self, method, path, body=None, **kwargs):
        return self.request(method, path, body, control=True, **kwargs)

    def cli(self, *args, check=True, **kwargs):
        return self.run(PROGRAM, *args, check=check, **kwargs)

    # -- the service

    def systemctl(self, *args, check=True, **kwargs):
        return self.run("systemctl", *args, check=check, **kwargs)

    def show(self, key, unit=UNIT):
        return self.run("systemctl", "show", "-P", key, unit).stdout.strip()

    @property
    def main_pid(self):
        return int(self.show("MainPID"))

    def journal(self, *args):
        return self.run("journalctl", "--no-pager", *(args or ("-u", UNIT))).stdout

    def entries(self, *matches):
        """The journal's entries as dicts."""
        self.run("journalctl", "--sync", check=False)
        return [json.loads(line) for line in self.run("journalctl", "-o", "json", "--no-pager", *matches).stdout.splitlines()]

    def instances(self):
        """name: what the API tells, over the control socket; {} when it does not answer."""
        try:
            answer = self.api("GET", "/api/v1/instances", timeout=5)
        except (OSError, http.client.HTTPException):
            return {}
        return {one["name"]: one for one in answer.json["instances"]} if answer.status == 200 else {}

    def evidence(self):
        """What a failed test shows."""
        parts = []
        for title, script in (("systemctl status", "systemctl status --no-pager -l 'llama-supervisor*'"),
                              ("journal", "journalctl --no-pager -b -n 150 -o short-monotonic"),
                              ("processes", "ps -eo pid,ppid,stat,lstart,cgroup:80,args"),
                              ("configuration", "cat " + CONFIG),
                              ("logs of children", "tail -n 20 /var/log/llama-supervisor/*.log")):
            try:
                parts.append((title + " in " + self.name, self.sh(script, check=False, timeout=PATIENCE)))
            except (subprocess.SubprocessError, OSError) as error:
                parts.append((title, str(error)))
        return parts

    def wait_ready(self, names=None, timeout=PATIENCE):
        """Until all instances (or those named) are ready; returns them."""
        def ask():
            now = self.instances()
            wanted = names or list(now)
            if wanted and all(now.get(name, {}).get("status") == "ready" for name in wanted):
                return now
            return None
        return wait_for(ask, timeout, lambda: "ready: %s" % json.dumps(self.instances(), indent=1), step=0.02)

    def wait_new_main(self, old, timeout=PATIENCE):
        """The pid of the daemon that came after old and is active."""
        def ask():
            told = dict(line.split("=", 1) for line in self.run(
                "systemctl", "show", "-p", "MainPID", "-p", "ActiveState", "-p", "SubState", UNIT).stdout.splitlines())
            pid = int(told["MainPID"])
            return pid if pid not in (0, old) and told["SubState"] == "running" else None
        return wait_for(ask, timeout, lambda: "a new daemon:\n" + self.sh("systemctl status --no-pager " + UNIT, check=False))


class Held:
    """A process that stands still whatever it is sent, except SIGKILL: held as by a debugger. (systemd sends SIGCONT after
    SIGTERM, so a process that was only stopped would wake up.) Only the thread that made this may use it."""
    SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, machine, pid):
        self.pid = machine.host_pid(pid)
        for request in (self.SEIZE, self.INTERRUPT):
            if LIBC.ptrace(request, self.pid, None, None) != 0:
                raise OSError(ctypes.get_errno(), "ptrace")
        os.waitpid(self.pid, self.WALL)

    def is_dead(self):
        """Also buries it: until then its real parent does not see its end."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG | self.WALL)
        except ChildProcessError:
            return True
        return pid == self.pid and os.WIFSIGNALED(status)
