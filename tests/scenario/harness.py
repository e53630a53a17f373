"""What scenarios stand on: a daemon in a world of its own, a client for each of its doors, and the proof that nothing is left.

A Daemon lives below one folder, /tmp/lsv-XXXXXXXX (short: unix paths end at 108 bytes), with run, state, log and models in
it. pytest is made the subreaper of whatever it starts, so that an orphan comes back to us and is found.
"""
import asyncio
import ctypes
import glob
import http.client
import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

import websockets

BUILD = os.environ.get("LSV_BUILD", "")
SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("LSV_PROGRAM") or os.path.join(BUILD, "llama-supervisor")
FAKE = os.path.join(BUILD, "tests", "fakes", "fake_llama_server")

# How long a thing may take that should take a moment: slow machines, sanitizers and full queues included.
PATIENCE = float(os.environ.get("LSV_PATIENCE", "60"))
SANITIZER_WORDS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error: ", "WARNING: ThreadSanitizer")


def free_port():
    """A loopback port that nobody has, outside the range that the kernel gives to outgoing connections: what is bound now and
    then, by servers that come and go, is not taken meanwhile by a test next door."""
    while True:
        port = random.randrange(15000, 30000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))     # without SO_REUSEADDR: nor has anybody had it a minute ago
                return port
            except OSError:
                continue


def wait_for(question, timeout=PATIENCE, what=None, step=0.02):
    """The first true answer of question(); fails with what (a text or a function that gives one) when time is up."""
    end = time.monotonic() + timeout
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > end:
            told = what() if callable(what) else what
            raise AssertionError("not within %g s: %s" % (timeout, told or getattr(question, "__name__", "it")))
        time.sleep(step)


# ---- processes ---------------------------------------------------------------------------------------------------------

PR_SET_CHILD_SUBREAPER = 36
popens = set()          # what we started ourselves; they are waited for by Popen, all other children by reap_orphans


def become_subreaper():
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def spawn(*args, **kwargs):
    child = subprocess.Popen(*args, **kwargs)
    popens.add(child)
    return child


def process_table(proc="/proc"):
    """pid: (ppid, state, start time, command line as one text) of every process."""
    table = {}
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            with open("%s/%s/stat" % (proc, name), "rb") as f:
                fields = f.read().decode(errors="replace").rsplit(")", 1)[1].split()
            with open("%s/%s/cmdline" % (proc, name), "rb") as f:
                command = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
        table[int(name)] = (int(fields[1]), fields[0], int(fields[19]), command)
    return table


def is_alive(pid):
    """Running or stopped, not a zombie."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(root=None):
    """pid: (state, start time, command) of all below root (default: of this pytest)."""
    table = process_table()
    found, grew = {root or os.getpid()}, True
    while grew:
        new = {pid for pid, row in table.items() if row[0] in found} - found
        found |= new
        grew = bool(new)
    found.discard(root or os.getpid())
    return {pid: table[pid][1:] for pid in found}


def reap_orphans():
    """Buries children that fell to us as the subreaper, never those that a Popen waits for."""
    known = {p.pid for p in popens if p.returncode is None}
    for pid, (state, _, _) in descendants().items():
        if state == "Z" and pid not in known:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass            # a zombie of somebody who still lives: theirs to bury


# ---- nothing is left ---------------------------------------------------------------------------------------------------

class Leftovers:
    """Compares processes, sockets, files, mounts and cgroups with what was there before."""

    # Where a daemon that lost its way would write, besides the world of the test.
    ELSEWHERE = ("/run/llama-supervisor", "/var/lib/llama-supervisor", "/var/log/llama-supervisor", "/etc/llama-supervisor",
                 "/root/.local/state/llama-supervisor", "/root/.local/share/llama-supervisor")

    def __init__(self, root):
        self.root = root
        self.before = self.look()

    def look(self):
        reap_orphans()
        family = {pid: row for pid, row in descendants().items() if row[0] != "Z"}
        return {"process": {"%d (%s)" % (pid, row[2]) for pid, row in family.items()},
                "socket": self.sockets(family), "file": self.files(), "mount": self.mounts(), "cgroup": self.cgroups()}

    def sockets(self, family):
        found = set()
        with open("/proc/net/unix") as f:
            found |= {"unix " + line.split()[-1] for line in f if self.root in line}
        inodes = {}
        for pid in family:
            for link in glob.glob("/proc/%d/fd/*" % pid):
                try:
                    target = os.readlink(link)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    inodes[target[8:-1]] = pid
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(table) as f:
                for line in f:
                    fields = line.split()
                    if fields[3] == "0A" and fields[9] in inodes:
                        found.add("tcp %s of %d" % (fields[1], inodes[fields[9]]))
        return found

    def files(self):
        found = {path for path in self.ELSEWHERE if os.path.lexists(path)}
        for folder, folders, names in os.walk(self.root):
            found |= {os.path.join(folder, name) for name in folders + names}
        return found

    def mounts(self):
        with open("/proc/self/mountinfo") as f:
            points = {line.split()[4] for line in f}
        return {point for point in points if self.root in point or point.startswith(self.ELSEWHERE)}

    def cgroups(self):
        found = set()
        for folder, folders, _ in os.walk("/sys/fs/cgroup"):
            # The machines of tests/system have services of our name in them; they are those tests' to clean up.
            folders[:] = [name for name in folders if not name.startswith("lsv-system-")]
            found |= {os.path.join(folder, name) for name in folders
                      if os.path.basename(self.root) in name
                      or ("llama-supervisor" in name and not name.startswith("lsv-"))}    # of another world, next door
        return found

    def left(self, patience=5):
        """What is there now and was not before, as lines; what is about to go is given a moment."""
        end = time.monotonic() + patience
        while True:
            now = self.look()
            lines = ["%s: %s" % (kind, thing) for kind in now for thing in sorted(now[kind] - self.before[kind])]
            if not lines or time.monotonic() > end:
                return lines
            time.sleep(0.05)

    def clean_up(self):
        """After the failure is told: the next test must not stumble over it. Only what is ours is touched."""
        before = {int(text.split()[0]) for text in self.before["process"]}
        for pid in descendants():
            if pid not in before:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for child in list(popens):
            if child.poll() is None and child.pid not in before:
                child.wait(PATIENCE)
        for _ in range(100):
            reap_orphans()
            if not [pid for pid in descendants() if pid not in before]:
                break
            time.sleep(0.02)
        for mount in sorted(self.mounts() - self.before["mount"], reverse=True):
            subprocess.run(["umount", "-l", mount], check=False)
        for path in sorted(self.files() - self.before["file"], reverse=True):
            if path.startswith(self.root):
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path, ignore_errors=True)
                elif os.path.lexists(path):
                    os.unlink(path)


# ---- the daemon --------------------------------------------------------------------------------------------------------

class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")

    def __repr__(self):
        return "<%d %s>" % (self.status, self.text[:500])


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def request(address, method, path, body=None, headers=None, timeout=PATIENCE):
    """address: "http://127.0.0.1:1234" or "unix:/path". A body that is no bytes is sent as JSON."""
    headers = dict(headers or {})
    if address.startswith("unix:"):
        connection = UnixConnection(address[5:].removeprefix("//"), timeout)
    else:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=timeout)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def merged(base, over):
    """over on top of base, objects key by key; a value of None takes the key away."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Daemon:
    """One llama-supervisor and its folders. config is laid over quick defaults: a free port, the fake llama-server, short
    back-off. Nothing runs before start(). stop() also proves that it went well: exit code 0, no word of a sanitizer."""

    def __init__(self, root, config, env=None, server=FAKE):
        self.root = tempfile.mkdtemp(prefix="d-", dir=root)
        self.runtime, self.state, self.log, self.models = (self.path(n) for n in ("run", "state", "log", "models"))
        for folder in (self.runtime, self.state, self.log, self.models):
            os.mkdir(folder)
        self.config_file = self.path("config.json")
        self.output_file = self.path("daemon.out")
        self.control = os.path.join(self.runtime, "control.sock")
        self.env, self.process, self.killed, self.feeds = env or {}, None, False, []
        self.defaults = {
            "listen": [{"address": "127.0.0.1:0"}],
            "runtime_dir": self.runtime, "state_dir": self.state, "log_dir": self.log, "models_dir": self.models,
            "llama_server": {"binary": server},
            "restart": {"backoff_initial": "50ms", "backoff_max": "200ms", "jitter": 0, "max_retries": 3, "reset_after": "60s"},
            "health": {"interval": "100ms", "timeout": "1s", "failures": 3, "load_timeout": "60s"},
            "stop": {"grace": "1s", "drain": "1s"},
            "auth": {"anonymous": ["read", "infer", "admin"]},
            "gpus": {"nvml": "", "root": self.path("no-gpus")},     # the fake sees none; those of this machine are not for tests
        }
        self.write_config(config)

    def path(self, *names):
        return os.path.join(self.root, *names)

    def write_config(self, config):
        self.config = merged(self.defaults, config)
        with open(self.config_file + ".new", "w") as f:
            json.dump(self.config, f, indent=1)
        os.rename(self.config_file + ".new", self.config_file)

    def environment(self):
        """Ours without what would lead the daemon, or the tools of a test, out of the world of the test."""
        env = {key: value for key, value in os.environ.items()
               if not key.startswith(("XDG_", "NOTIFY_", "LISTEN_", "LLAMA_", "AIP_", "LSV_", "RUNTIME_", "STATE_", "LOGS_"))}
        env.update(HOME=self.root, TMPDIR=self.root, LSV_TEST_ID=os.path.basename(self.root))
        env.update(self.env)
        return env

    # -- life

    def launch(self, *args, preexec_fn=None, pass_fds=()):
        """Starts it without waiting for anything."""
        listen = os.path.join(self.runtime, "listen.json")
        if os.path.exists(listen):
            os.unlink(listen)
        with open(self.output_file, "ab") as out:
            self.process = spawn([PROGRAM, "run", "--config", self.config_file, *args], cwd=self.root, env=self.environment(),
                                 stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=preexec_fn, pass_fds=pass_fds)
        self.killed = False
        return self

    def start(self, *args, timeout=PATIENCE, **kwargs):
        """Starts it and waits until /health answers."""
        self.launch(*args, **kwargs)
        wait_for(self.is_healthy, timeout, lambda: "the daemon answers /health; it said:\n" + self.output())
        return self

    def is_healthy(self):
        if self.process.poll() is not None:
            raise AssertionError("the daemon ended with %s:\n%s" % (self.process.returncode, self.output()))
        try:
            with open(os.path.join(self.runtime, "listen.json")) as f:
                self.listen = json.load(f)["listen"]
            return request(self.listen[0], "GET", "/health", timeout=2).status == 200
        except (OSError, ValueError, http.client.HTTPException):
            return False

    @property
    def address(self):
        return self.listen[0]

    @property
    def pid(self):
        return self.process.pid

    def signal(self, signo):
        self.process.send_signal(signo)

    def wait_exit(self, timeout=PATIENCE):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError("the daemon does not end within %g s:\n%s" % (timeout, self.output())) from None

    def stop(self, timeout=PATIENCE, code=0):
        self.signal(signal.SIGTERM)
        got = self.wait_exit(timeout)
        assert got == code, "the daemon ended with %s:\n%s" % (got, self.output())
        self.check_sanitizers()

    def kill9(self):
        """The daemon alone; its children live on."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.killed = True

    def restart(self):
        self.stop()
        return self.start()

    def close(self):
        """The end of a test: stops it, proves it, removes the folder. After kill9() what survived on purpose is killed too;
        what else is alive is left for the check of leftovers to find."""
        try:
            for feed in self.feeds:
                feed.close()
            if self.process and self.process.poll() is None:
                self.stop()
            if self.killed:
                for pid in self.children():
                    os.kill(pid, signal.SIGKILL)
                    wait_for(lambda pid=pid: not is_alive(pid), what="%d dies of SIGKILL" % pid)
            if self.process:
                self.check_sanitizers()
        finally:
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.process.wait(PATIENCE)
            shutil.rmtree(self.root, ignore_errors=True)

    def check_sanitizers(self):
        for line in self.output().splitlines():
            assert not any(word in line for word in SANITIZER_WORDS), self.output()

    # -- evidence

    def output(self, limit=20000):
        try:
            with open(self.output_file, "rb") as f:
                return f.read()[-limit:].decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def child_logs(self):
        """name: text of the log files of the instances."""
        texts = {}
        for path in glob.glob(os.path.join(self.log, "**", "*.log*"), recursive=True):
            with open(path, "rb") as f:
                texts[os.path.basename(path)] = f.read()[-5000:].replace(b"\0", b"").decode("utf-8", "replace")
        return texts

    def children(self):
        """Pids of living processes that this daemon started, now or in an earlier life: below it, or with its folder in
        their command line."""
        below = set(descendants(self.process.pid)) if self.process else set()
        mine = {pid for pid, row in descendants().items() if self.root in row[2]} - {self.process.pid if self.process else 0}
        return sorted(pid for pid in below | mine if is_alive(pid))

    # -- doors

    def api(self, method, path, body=None, headers=None, timeout=PATIENCE):
        return request(self.address, method, path, body, headers, timeout)

    def get(self, path, **kwargs):
        return self.api("GET", path, **kwargs)

    def control_api(self, method, path, body=None, headers=None, timeout=PATIENCE):
        return request("unix:" + self.control, method, path, body, headers, timeout)

    def cli(self, *args, socket_option=True, timeout=PATIENCE, **kwargs):
        """A client verb; its exit code is the test's business."""
        options = ["--socket", self.control] if socket_option else []
        return subprocess.run([PROGRAM, *args, *options], capture_output=True, text=True, timeout=timeout, check=False,
                              stdin=subprocess.DEVNULL, env=self.environment(), **kwargs)

    def instance(self, name):
        answer = self.get("/api/v1/instances/" + name)
        assert answer.status == 200, answer
        return answer.json

    def instances(self):
        return {one["name"]: one for one in self.get("/api/v1/instances").json["instances"]}

    def status(self, name):
        return self.instance(name)["status"]

    def wait(self, name, question, timeout=PATIENCE, what="it"):
        """Until question(instance as the API tells it) is true; returns that instance."""
        seen = []

        def ask():
            now = self.instance(name)
            if not seen or seen[-1]["status"] != now["status"] or seen[-1]["lastError"] != now["lastError"]:
                seen.append(now)
            return now if question(now) else None
        return wait_for(ask, timeout, lambda: "%s of %s; it was: %s\n%s\n%s" % (
            what, name, json.dumps(seen[-8:], indent=1), self.output(), self.child_logs()))

    def wait_state(self, name, *states, timeout=PATIENCE):
        return self.wait(name, lambda now: now["status"] in states, timeout, "state " + "/".join(states))

    def ws(self, query="", **kwargs):
        return self.keep(WebSocketFeed(self.address.replace("http:", "ws:", 1) + "/ws" + query, **kwargs))

    def sse(self, query="", headers=None):
        return self.keep(SseFeed(self.address, "/api/v1/events" + query, headers))

    def socketio(self, instance=None, headers=None):
        return self.keep(SocketIoFeed(self.address, instance, headers))

    def keep(self, feed):
        self.feeds.append(feed)
        return feed


# ---- feeds -------------------------------------------------------------------------------------------------------------

class Feed:
    """A door that talks by itself: a thread collects the messages (parsed) in self.messages."""

    def __init__(self):
        self.messages, self.error, self.closing = [], None, False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.main, daemon=True)

    def main(self):
        try:
            self.listen()
        except Exception as error:              # told to whoever waits; a thread has nobody to raise it to
            if not self.closing:
                self.error = error
        with self.changed:
            self.changed.notify_all()

    def got(self, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def wait(self, question, timeout=PATIENCE, start=0):
        """The first message (from index start on) for which question(message) is true."""
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                for message in self.messages[start:]:
                    if question(message):
                        return message
                assert not self.error, "%s: %r; it told: %s" % (type(self).__name__, self.error, self.messages[-5:])
                assert time.monotonic() < end, "%s: nothing such within %g s; it told: %s" % (
                    type(self).__name__, timeout, self.messages[-5:])
                self.changed.wait(min(0.5, max(0.01, end - time.monotonic())))

    def of(self, name):
        """The messages about one instance."""
        with self.changed:
            return [m for m in self.messages if m.get("instance") == name]

    def states(self, name):
        """The states it told about an instance, each once in a row."""
        told = []
        for message in self.of(name):
            if not told or told[-1] != message["data"]["status"]:
                told.append(message["data"]["status"])
        return told

    def close(self):
        self.closing = True
        self.hang_up()
        self.thread.join(PATIENCE)


class WebSocketFeed(Feed):
    def __init__(self, url, **kwargs):
        super().__init__()
        self.url, self.kwargs, self.outbox, self.loop, self.socket = url, kwargs, queue.Queue(), None, None
        self.opened = threading.Event()
        self.thread.start()

    def listen(self):
        asyncio.run(self.run())

    async def run(self):
        self.loop = asyncio.get_running_loop()
        async with websockets.connect(self.url, open_timeout=PATIENCE, close_timeout=2, max_size=1 << 26, **self.kwargs) as ws:
            self.socket = ws
            self.opened.set()
            async for text in ws:
                self.got(json.loads(text))

    def send(self, text):
        assert self.opened.wait(PATIENCE), self.error
        asyncio.run_coroutine_threadsafe(self.socket.send(text), self.loop).result(PATIENCE)

    def hang_up(self):
        if self.socket and self.thread.is_alive():
            try:
                asyncio.run_coroutine_threadsafe(self.socket.close(), self.loop).result(PATIENCE)
            except Exception:                   # it is closed already
                pass


class SseFeed(Feed):
    def __init__(self, address, path, headers=None):
        super().__init__()
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=PATIENCE)
        self.path, self.headers, self.status = path, headers or {}, None
        self.thread.start()

    def listen(self):
        self.connection.request("GET", self.path, headers={"Accept": "text/event-stream", **self.headers})
        self.sock = self.connection.sock
        response = self.connection.getresponse()
        self.status = response.status
        assert response.status == 200, response.read()
        assert response.getheader("Content-Type", "").startswith("text/event-stream"), response.getheaders()
        data = []
        while not self.closing:
            line = response.readline().decode().rstrip("\r\n")
            if line.startswith("data:"):
                data.append(line[5:].lstrip(" "))
            elif not line and data:
                self.got(json.loads("\n".join(data)))
                data = []
            elif not line and response.isclosed():
                return

    def hang_up(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            pass
        self.connection.close()


class SocketIoFeed(Feed):
    """Engine.IO 4 by polling with Socket.IO 5 packets on top, written from the protocol, so that it is a second opinion beside
    the npm client: https://github.com/socketio/engine.io-protocol, https://github.com/socketio/socket.io-protocol."""

    def __init__(self, address, instance=None, headers=None):
        super().__init__()
        self.address, self.headers, self.sid = address, headers or {}, None
        self.query = "/socket.io/?EIO=4&transport=polling" + ("&instance=" + urllib.parse.quote(instance) if instance else "")
        self.thread.start()

    def poll(self):
        answer = request(self.address, "GET", self.query + ("&sid=" + self.sid if self.sid else ""), headers=self.headers)
        assert answer.status == 200, answer
        return answer.text.split("\x1e")

    def post(self, packet):
        answer = request(self.address, "POST", self.query + "&sid=" + self.sid, packet.encode(),
                         {"Content-Type": "text/plain;charset=UTF-8", **self.headers})
        assert answer.status == 200 and answer.text == "ok", answer

    def emit(self, *event):
        self.post("42" + json.dumps(event))

    def listen(self):
        first = self.poll()[0]
        assert first[0] == "0", first
        self.sid = json.loads(first[1:])["sid"]
        self.post("40")
        while not self.closing:
            for packet in self.poll():
                if packet == "2":
                    self.post("3")
                elif packet.startswith("42"):
                    event = json.loads(packet[2:])
                    if event[0] == "llamaStatus":
                        self.got(event[1])
                elif packet.startswith(("1", "41", "44")):
                    raise AssertionError("closed by the server: " + packet)

    def hang_up(self):
        if self.sid and self.thread.is_alive():
            try:
                self.post("1")
            except (AssertionError, OSError, http.client.HTTPException):
                pass


# ---- the same truth on every door --------------------------------------------------------------------------------------

def truth(data):
    return {"status": data["status"], "lastError": data["lastError"], "retries": data["retries"]}


def told_by_cli(daemon, name):
    result = daemon.cli("status", "--json")
    assert result.returncode == 0, result
    told = json.loads(result.stdout)
    rows = told["instances"] if isinstance(told, dict) else told
    return truth([row for row in rows if row["name"] == name][0])


def told_by_rest(daemon, name):
    return truth(daemon.instance(name))


def told_by_feed(open_feed, name):
    feed = open_feed()
    try:
        return truth(feed.wait(lambda m: m.get("type") == "llama_status" and m["instance"] == name)["data"])
    finally:
        feed.close()


DOORS = {
    "CLI": told_by_cli,
    "REST": told_by_rest,
    "WebSocket": lambda d, name: told_by_feed(d.ws, name),
    "SSE": lambda d, name: told_by_feed(d.sse, name),
    "Socket.IO": lambda d, name: told_by_feed(lambda: d.socketio(instance=name), name),
}


def assert_same_truth(daemon, name, timeout=PATIENCE, **expected):
    """Every door tells the same status, lastError and retries (and those given in expected). They are asked one after the
    other, so all are asked again as long as they differ: a state may be about to change."""
    said = {}

    def agreed():
        said.update({door: ask(daemon, name) for door, ask in DOORS.items()})
        first = said["REST"]
        return all(one == first for one in said.values()) and all(first[key] == value for key, value in expected.items())
    wait_for(agreed, timeout, lambda: "the doors agree about %s (%s): %s\n%s" % (
        name, expected, json.dumps(said, indent=1), daemon.output()), step=0.1)
    return said["REST"]


# ---- servers by hand ---------------------------------------------------------------------------------------------------

class Server:
    """A llama-server (real or fake) started by the test itself, without a daemon. stderr goes to a file."""

    def __init__(self, program, *args, folder, env=None, host=None):
        self.socket = os.path.join(folder, "s%d.sock" % len(os.listdir(folder)))
        self.log_file = self.socket + ".log"
        self.args = [program, *args, "--host", host or self.socket]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("LLAMA_", "AIP_"))}
        environment.update(GGML_NO_BACKTRACE="1", **(env or {}))
        with open(self.log_file, "wb") as log, open(self.log_file + ".out", "wb") as out:
            self.process = spawn(self.args, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment)

    @property
    def address(self):
        return "unix:" + self.socket

    def log(self):
        with open(self.log_file, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def out(self):
        with open(self.log_file + ".out", "rb") as f:
            return f.read().decode("utf-8", "replace")

    def answers(self, status, path="/health"):
        try:
            return request(self.address, "GET", path, timeout=2).status == status
        except (OSError, http.client.HTTPException):
            return False

    def wait_ready(self):
        wait_for(lambda: "listening on " in self.log() or self.process.poll() is not None, what=self.log)
        assert self.process.poll() is None, self.log()
        return self

    def wait_loading(self):
        wait_for(lambda: self.answers(503), what=self.log)
        return self

    def end(self, signo=None, timeout=PATIENCE):
        """Its exit code (negative: the signal), or "still there"."""
        if signo is not None:
            self.process.send_signal(signo)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return "still there"

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        for path in (self.socket, self.log_file, self.log_file + ".out"):
            if os.path.lexists(path):
                os.unlink(path)

