# ctest: asan
"""The client verbs against a running daemon, in a pipe and on a terminal, and against one that is not there."""
import contextlib
import fcntl
import http.server
import json
import os
import pty
import re
import select
import signal
import socket
import socketserver
import struct
import subprocess
import termios
import threading
import time

import pytest

import harness
from harness import PATIENCE, PROGRAM, wait_for

ESCAPE = "\x1b"
LEAVE = "\x1b[?25h\x1b[?1049l"
ASKING = [["status"], ["status", "a"], ["ls"], ["ps"], ["logs", "a"], ["logs", "-f", "a"], ["logs", "-s"], ["start", "a"], ["stop", "a"],
          ["restart", "a", "--wait"], ["reload"], ["reload", "--dry-run"], ["why", "a"], ["why", "--command", "a"], ["history"],
          ["history", "-f"], ["status", "--watch"], ["requests"], ["requests", "--cancel", "a"]]


def run(*args, env=None, **kwargs):
    kwargs.setdefault("timeout", PATIENCE)
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          env={**os.environ, **(env or {})}, **kwargs)


def ok(result):
    assert result.returncode == 0, result
    assert result.stderr == "", result
    return result.stdout


def one(name="one", *args, **more):
    return {"name": name, "model": "tiny.gguf", "args": list(args), **more}


@pytest.fixture
def fleet(make_daemon):
    """Two ready replicas and a plain instance."""
    daemon = make_daemon({"instances": [one("pair", replicas=2), one("solo")]})
    for name in ("pair-0", "pair-1", "solo"):
        daemon.wait_state(name, "ready")
    return daemon


def kill_child(daemon, name, signo=signal.SIGKILL):
    """Returns once the daemon knows: whoever waits for "ready" afterwards waits for the next process."""
    pid = daemon.instance(name)["pid"]
    os.kill(pid, signo)
    daemon.wait(name, lambda now: now["pid"] != pid, what="its death is known")
    return pid


# ---- a terminal --------------------------------------------------------------------------------------------------------

class Terminal:
    """The program on a pseudo-terminal of its own, which is also what Ctrl-C comes from."""

    def __init__(self, *args, width=100, height=30, env=None):
        self.master, slave = pty.openpty()
        self.resize(width, height)
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        environment.update({"TERM": "xterm-256color", **(env or {})})

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.process = harness.spawn([PROGRAM, *args], stdin=slave, stdout=slave, stderr=slave, env=environment,
                                     preexec_fn=take_terminal)
        os.close(slave)
        self.text = ""

    def resize(self, width, height):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, timeout):
        """What came within the time; "" at its end, None when nothing came."""
        if not select.select([self.master], [], [], timeout)[0]:
            return None
        try:
            data = os.read(self.master, 65536)
        except OSError:                     # EIO: nobody has the other end any more
            data = b""
        self.text += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return data

    def wait_text(self, pattern, start=0, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while not re.search(pattern, self.text[start:]):
            assert time.monotonic() < end, "%r did not come; there is: %r" % (pattern, self.text[start:])
            assert self.read(0.5) != b"", "%r did not come before its end: %r" % (pattern, self.text)
        return self.text

    def press(self, keys):
        os.write(self.master, keys.encode())

    def end(self, timeout=PATIENCE):
        """Its exit code, once all it wrote was read."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.read(0.5) != b"":
            pass
        return self.process.wait(timeout)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        os.close(self.master)


@contextlib.contextmanager
def terminal(*args, **kwargs):
    t = Terminal(*args, **kwargs)
    try:
        yield t
    finally:
        t.close()


class Follower:
    """A verb that goes on, its output in a pipe."""

    def __init__(self, *args):
        self.process = harness.spawn([PROGRAM, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""

    def look(self):
        if select.select([self.process.stdout], [], [], 0.05)[0]:
            self.text += (self.process.stdout.read() or b"").decode()
        return self.text

    def wait_text(self, pattern):
        wait_for(lambda: re.search(pattern, self.look()), what=lambda: "%r in %r" % (pattern, self.text))
        return self.text

    def end(self, signo=None):
        if signo:
            self.process.send_signal(signo)
        code = self.process.wait(PATIENCE)
        self.look()
        return code, self.process.stderr.read().decode()


@contextlib.contextmanager
def follower(*args):
    f = Follower(*args)
    try:
        yield f
    finally:
        if f.process.poll() is None:
            f.process.kill()
            f.process.wait(PATIENCE)
        f.process.stdout.close()
        f.process.stderr.close()


# ---- without a daemon ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("args", ASKING, ids=" ".join)
def test_daemon_down_is_three(folder, args):
    path = os.path.join(folder, "none.sock")
    result = run(*args, "--socket", path)
    assert result.returncode == 3, result
    assert result.stdout == ""
    assert "llama-supervisor is not running (no socket at %s): start it with systemctl start llama-supervisor" % path \
        in result.stderr


def test_run_without_a_configuration(folder):
    path = os.path.join(folder, "none.json")
    result = run("run", "--config", path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(path + ": cannot be read: No such file or directory\n")
    assert "name another with --config FILE" in result.stderr and "has errors" not in result.stderr


def test_socket_left_behind_is_three(folder):
    path = os.path.join(folder, "left.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    result = run("status", "--socket", path)
    assert result.returncode == 3, result
    assert "nobody listens at " + path in result.stderr
    os.unlink(path)


def test_version_needs_no_daemon(folder):
    path = os.path.join(folder, "none.sock")
    assert re.fullmatch(r"llama-supervisor \d+\.\d+\.\d+\n", ok(run("--version")))
    text = ok(run("version", "--socket", path))
    assert text.startswith(ok(run("--version"))) and "no daemon answers at " + path in text
    told = json.loads(ok(run("version", "--json", "--socket", path)))
    assert told["daemon"] is None and "llama-supervisor %s\n" % told["client"] == ok(run("--version"))


def test_config_names_the_daemon(folder):
    config = os.path.join(folder, "c.json")
    with open(config, "w") as f:
        json.dump({"runtime_dir": os.path.join(folder, "r")}, f)
    result = run("status", "--config", config)
    assert result.returncode == 3
    assert "no socket at %s/r/control.sock" % folder in result.stderr
    assert "run --config " + config in result.stderr
    result = run("status", "--config", os.path.join(folder, "none.json"))
    assert result.returncode == 3
    assert "none.json: No such file or directory; the default runtime directory is assumed" in result.stderr


@pytest.mark.parametrize("args, words", [
    ([], "a verb is missing"),
    (["statsu"], 'did you mean "status"?'),
    (["frobnicate"], 'there is no verb "frobnicate"'),
    (["evict", "x"], 'there is no verb "evict"'),
    (["status", "--jsn"], "unknown option --jsn; did you mean --json?"),
    (["--jsn", "status"], "unknown option --jsn; did you mean --json?"),
    (["status", "-x"], "unknown option -x"),
    (["status", "--socket"], "--socket needs a value"),
    (["status", "--json=yes"], "--json takes no value"),
    (["why"], "something is missing: llama-supervisor why NAME"),
    (["why", "a", "b"], 'unexpected argument "b"'),
    (["ls", "a"], 'unexpected argument "a"'),
    (["logs"], "something is missing: llama-supervisor logs NAME..., or --supervisor"),
    (["logs", "a", "-n", "x"], "--lines x: a number from 0 to 10000"),
    (["logs", "a", "-n", "-1"], "--lines -1"),
    (["logs", "a", "-n", "10001"], "--lines 10001"),
    (["history", "--since", "1x"], "--since 1x: a number"),
    (["start", "a", "--timeout", "5s"], "--timeout only makes sense with --wait"),
    (["start", "a", "--wait", "--timeout", "5"], "--timeout 5: a time as 90s or 5m"),
    (["completion", "tcsh"], 'there is no completion for "tcsh"'),
    (["help", "frobnicate"], 'there is no verb "frobnicate"'),
    (["--json", "run"], "its options stand behind it"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_wrong_usage_is_two(args, words):
    result = run(*args)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert words in result.stderr
    assert "see llama-supervisor help" in result.stderr


def test_help(folder):
    everything = ok(run("help"))
    assert ok(run("--help")) == everything == ok(run("-h"))
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the daemon does not run." in everything
    for verb in json.loads(ok(run("help", "--json")))["verbs"]:
        assert re.search(r"^  %s\b" % verb["name"], everything, re.M)
        text = ok(run("help", verb["name"]))
        assert text.startswith("usage: llama-supervisor " + verb["name"])
        if verb["name"] != "run":           # that one's --help is the daemon's
            assert ok(run(verb["name"], "--help")) == text
            assert ok(run("--help", verb["name"])) == text


def test_output_that_cannot_be_written(folder):
    with open("/dev/full", "w") as full:
        result = subprocess.run([PROGRAM, "help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    assert result.returncode == 1, result
    assert "cannot write the output: No space left on device" in result.stderr


# ---- who may ask -------------------------------------------------------------------------------------------------------

def test_no_permission_is_one(fleet):
    program = [PROGRAM, "status", "--socket", fleet.control]
    if os.geteuid() == 0:
        # Root may open anything; root without that capability is anybody.
        os.chown(fleet.control, 65534, 65534)
        os.chmod(fleet.control, 0o600)
        program = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search",
                   *program]
    else:
        os.chmod(fleet.control, 0)
    result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert result.returncode == 1, result
    assert "no permission to use %s: be root, or a member of the group llama-supervisor" % fleet.control in result.stderr
    assert result.stdout == ""


def test_what_is_not_ours(folder):
    path = os.path.join(folder, "other.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(1)
        with follower("status", "--socket", path) as f:
            client, _ = other.accept()
            client.recv(4096)
            client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            code, words = f.end()
            client.close()
    os.unlink(path)
    assert code == 1
    assert "what listens at %s does not speak as llama-supervisor does" % path in words


# ---- what is -----------------------------------------------------------------------------------------------------------

def test_status_in_a_pipe(fleet):
    text = ok(fleet.cli("status"))
    lines = text.splitlines()
    assert lines[0] == "all 3 instances are ready"
    assert lines[1] == ""
    assert lines[2].split() == ["NAME", "STATE", "UPTIME", "MODEL", "PID", "SLOTS", "RETRIES", "NEXT",
                                "UNTIL", "ERROR"]
    assert [line.split()[:2] for line in lines[3:]] == [["pair-0", "ready"], ["pair-1", "ready"], ["solo", "ready"]]
    wait_for(lambda: fleet.instance("solo")["slots"], what="its slots are known")
    row = ok(fleet.cli("status")).splitlines()[5]
    assert re.fullmatch(r"\d+s|\d+m\d+s", row.split()[2]), row
    assert row.split()[3:] == ["tiny.gguf", str(fleet.instance("solo")["pid"]), "0/4", "-", "-", "-", "-"]
    starts = [line.index("tiny.gguf") for line in lines[3:]]
    assert set(starts) == {lines[2].index("MODEL")}
    assert ESCAPE not in text and "●" not in text and "…" not in text


def test_status_is_not_cut_in_a_pipe(make_daemon):
    daemon = make_daemon({"instances": [one("with-quite-a-long-name-that-takes-much-room", "--oom-text")],
                          "restart": {"max_retries": 0}})
    daemon.wait_state("with-quite-a-long-name-that-takes-much-room", "error")
    error = daemon.instance("with-quite-a-long-name-that-takes-much-room")["lastError"]
    text = ok(run("status", "--socket", daemon.control, env={"COLUMNS": "40"}))
    assert text.splitlines()[-1].endswith("  " + error)
    with terminal("status", "--socket", daemon.control, width=40, env={"NO_COLOR": "1"}) as t:
        assert t.end() == 0
        assert max(len(line) for line in t.text.splitlines()) <= 40, t.text
        assert "…" in t.text and error not in t.text


def test_status_on_a_terminal(make_daemon):
    daemon = make_daemon({"instances": [one("good"), one("bad", "--oom-text")], "restart": {"max_retries": 0}})
    daemon.wait_state("good", "ready")
    daemon.wait_state("bad", "error")
    where = ["--socket", daemon.control]
    with terminal("status", *where) as t:
        assert t.end() == 0
        assert "\x1b[32m●\x1b[0m" in t.text and "\x1b[31m■\x1b[0m" in t.text
        lines = t.text.splitlines()
        assert daemon.instance("bad")["lastError"] in lines[-1], "the error stands beneath"
        assert "bad" in lines[-2]
    for args, env in (([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}), (["--no-color"], {})):
        with terminal("status", *args, *where, env=env) as t:
            assert t.end() == 0
            assert ESCAPE not in t.text, (args, env)
            assert "●" in t.text and "■" in t.text
    with terminal("status", *where, env={"NO_COLOR": ""}) as t:     # no-color.org: only when it is not empty
        assert t.end() == 0
        assert ESCAPE in t.text


def test_status_of_some(fleet):
    text = ok(fleet.cli("status", "solo"))
    assert text.startswith("solo is ready for ")
    for field in ("model", "pid", "endpoint", "slots", "context", "restarts", "log"):
        assert re.search(r"^  %s +\S" % field, text, re.M), field
    rows = ok(fleet.cli("status", "pair")).splitlines()
    assert [row.split()[0] for row in rows] == ["NAME", "pair-0", "pair-1"]
    result = fleet.cli("status", "sola")
    assert result.returncode == 1
    assert 'there is no instance "sola"; did you mean "solo"?' in result.stderr


def test_json_is_what_the_api_says(fleet):
    told = json.loads(ok(fleet.cli("status", "--json")))
    assert told["sentence"] == "all 3 instances are ready" and told["pid"] == fleet.process.pid
    assert [i["name"] for i in told["instances"]] == ["pair-0", "pair-1", "solo"]
    assert json.loads(ok(fleet.cli("status", "solo", "--json")))["pid"] == fleet.instance("solo")["pid"]
    pair = json.loads(ok(fleet.cli("--json", "status", "pair")))
    assert [i["name"] for i in pair["instances"]] == ["pair-0", "pair-1"]
    for verb in ("ls", "ps"):
        told = json.loads(ok(fleet.cli(verb, "--json")))
        assert {i["name"]: i["pid"] for i in told["instances"]} == {n: i["pid"] for n, i in fleet.instances().items()}
    assert json.loads(ok(fleet.cli("why", "solo", "--json")))["instance"] == "solo"
    told = json.loads(ok(fleet.cli("history", "--json")))
    assert told["events"][0]["kind"] == "daemon_started"
    assert json.loads(ok(fleet.cli("history", "--json", "-n", "2"))) == {**told, "events": told["events"][-2:]}
    assert json.loads(ok(fleet.cli("history", "--json", "-n", "0"))) == {**told, "events": []}
    result = fleet.cli("why", "pair")
    assert result.returncode == 1 and '"pair" has several instances: say which one, as pair-0' in result.stderr
    assert json.loads(ok(fleet.cli("reload", "--dry-run", "--json")))["keep"] == ["pair-0", "pair-1", "solo"]
    assert "instance" in json.loads(ok(fleet.cli("restart", "solo", "--json")))["message"]
    assert json.loads(ok(fleet.cli("version", "--json")))["daemon"] == json.loads(ok(fleet.cli("version", "--json")))["client"]
    result = fleet.cli("why", "nobody", "--json")
    assert result.returncode == 1 and json.loads(result.stdout)["error"]["message"] in result.stderr


def test_ls_and_ps(make_daemon):
    daemon = make_daemon({"instances": [one("b"), one("a"), one("down", autostart=False)]})
    daemon.wait_state("b", "ready")
    daemon.wait("a", lambda now: now["pid"])
    assert ok(daemon.cli("ls")) == "b\na\ndown\n"
    text = ok(daemon.cli("ps"))
    rows = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert set(rows) == {"a", "b"}, "what does not run has no process"
    for name in rows:
        now = daemon.instance(name)
        assert rows[name].split()[1] == str(now["pid"])
        assert now["endpoint"] in rows[name]
        assert re.search(r"\d+(\.\d+)? [KMG]B", rows[name])
    assert "--alias a " in rows["a"]


# ---- logs ----------------------------------------------------------------------------------------------------------------

def test_logs(fleet):
    whole = ok(fleet.cli("logs", "solo"))
    assert "llama_server: " in whole
    assert ok(fleet.cli("logs", "solo", "-n", "2")) == "".join(whole.splitlines(keepends=True)[-2:])
    assert ok(fleet.cli("logs", "solo", "-n0")) == ""
    both = ok(fleet.cli("logs", "pair", "-n1")).splitlines()
    assert [line.split(" | ")[0] for line in both] == ["pair-0", "pair-1"]
    lines = [json.loads(line) for line in ok(fleet.cli("logs", "pair-1", "solo", "--json", "-n", "2")).splitlines()]
    assert [line["instance"] for line in lines] == ["pair-1", "pair-1", "solo", "solo"]
    assert [line["line"] for line in lines[2:]] == whole.splitlines()[-2:]
    result = fleet.cli("logs", "soli")
    assert result.returncode == 1 and 'did you mean "solo"?' in result.stderr and result.stdout == ""


def test_logs_of_the_daemon_itself(fleet):
    where = ["--socket", fleet.control]
    own = ok(fleet.cli("logs", "--supervisor"))
    assert own == fleet.get("/api/v1/logs").text and "listening on" in own and "llama_server: " not in own
    assert ok(fleet.cli("logs", "-s", "-n", "1")) == own.splitlines(keepends=True)[-1]
    both = ok(fleet.cli("logs", "solo", "-sn1")).splitlines()
    assert [line.split(" | ")[0] for line in both] == ["(supervisor)", "solo        "]
    line = json.loads(ok(fleet.cli("logs", "-s", "--json", "-n1")))
    assert line == {"instance": None, "line": own.splitlines()[-1]}
    with follower("logs", "-fsn0", *where) as f, follower("logs", "-fsn0", "solo", "--json", *where) as g:
        harness.wait_for(lambda: "llama_supervisor_log_followers 3\n" in fleet.get("/metrics").text, what="all are followed")
        kill_child(fleet, "solo")
        f.wait_text("SIGKILL")
        g.wait_text("SIGKILL")
        g.wait_text("llama_server: initializing")
        g.look()
        complete = g.text[:g.text.rindex("\n")].splitlines()
        assert {json.loads(one_of_them)["instance"] for one_of_them in complete} == {"solo", None}


def test_logs_follow(fleet):
    where = ["--socket", fleet.control]
    with follower("logs", "-f", "-n", "0", "solo", *where) as f, follower("logs", "-fn0", "pair", "solo", "--json", *where) as g:
        time.sleep(0.3)
        assert f.look() == ""
        kill_child(fleet, "solo")
        f.wait_text("llama_server: initializing")
        g.wait_text("llama_server: initializing")
        fleet.wait_state("solo", "ready")
        assert f.end(signal.SIGINT)[0] == -signal.SIGINT
        g.look()
        complete = g.text[:g.text.rindex("\n")].splitlines()
        assert {json.loads(line)["instance"] for line in complete} == {"solo"}


def test_daemon_gone_in_the_middle_is_one(fleet):
    where = ["--socket", fleet.control]
    with follower("logs", "-f", "solo", *where) as f, follower("status", "--watch", *where) as g, \
            follower("history", "-f", *where) as h:
        f.wait_text("llama_server")
        g.wait_text("solo")
        h.wait_text("daemon_started")
        fleet.kill9()
        for one_of_them in (f, g, h):
            code, words = one_of_them.end()
            assert code == 1
            assert "llama-supervisor closed the connection before its answer ended" in words
    fleet.start()


def test_logs_cannot_move_the_cursor(make_daemon):
    daemon = make_daemon({"instances": [one("one", "--log-ansi")]})
    daemon.wait_state("one", "ready")
    with open(daemon.instance("one")["logPath"], "rb") as f:
        assert b"\x1b" in f.read(), "the test needs a log with escapes"
    bad = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
    assert not bad.search(ok(daemon.cli("logs", "one", "-n", "1000")))
    with terminal("logs", "one", "-n", "1000", "--socket", daemon.control, env={"NO_COLOR": "1"}) as t:
        assert t.end() == 0
        assert not bad.search(t.text)


EVIL = "evil\x1b[2J\x1b]0;title\x07\x9b31m\r\x08"


class EvilDaemon(http.server.BaseHTTPRequestHandler):
    """What a daemon could say that is not ours, or that lets something through."""
    INSTANCE = {"name": EVIL, "model": EVIL, "status": EVIL, "lastError": EVIL, "endpoint": EVIL, "modelPath": EVIL, "gpu": [EVIL],
                "logPath": EVIL, "build": EVIL, "pid": 1, "seq": 1, "wantUp": True}
    ANSWERS = {
        "/api/v1/status": {"sentence": EVIL, "reloadError": EVIL, "version": EVIL},
        "/api/v1/instances": {"instances": [INSTANCE]},
        "/api/v1/history": {"events": [{"id": 1, "time": EVIL, "kind": EVIL, "instance": EVIL, "text": EVIL}], "next": 1},
        "/api/v1/requests": {"total": 9, "running": [{"id": EVIL, "model": EVIL, "instance": EVIL, "key": EVIL, "path": EVIL,
                                                      "state": EVIL, "wait": 1}], "recent": []},
        "/why": {"instance": EVIL, "status": EVIL, "lastError": EVIL, "hint": EVIL, "logPath": EVIL, "lastDeathAt": EVIL,
                 "command": {"shell": EVIL}, "evidence": {"exit": EVIL, "detail": EVIL, "line": EVIL, "log": [EVIL]}},
        "/stop": {"message": EVIL},
        "/api/v1/reload": {"keep": [EVIL], "restart": [{"name": EVIL, "because": [EVIL]}], "needsDaemonRestart": [EVIL]},
    }

    def answer(self):
        path = self.path.split("?")[0]
        body = None
        for end, document in self.ANSWERS.items():
            if path.endswith(end):
                body = json.dumps(document).encode()
        if path.endswith("/logs"):
            body = EVIL.encode("utf-8", "surrogateescape") + b"\n" + bytes(set(range(256)) - {10}) + b"\n"
        self.send_response(200 if body else 404)
        body = body or json.dumps({"error": {"message": EVIL}}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer

    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass


def test_nothing_that_is_said_can_move_the_cursor(folder):
    path = os.path.join(folder, "evil.sock")
    bad = re.compile("[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]")
    with socketserver.ThreadingUnixStreamServer(path, EvilDaemon) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for args in (["status"], ["ls"], ["ps"], ["logs", "x"], ["logs", "x", EVIL], ["why", "x"], ["history"], ["stop", "x"], ["reload"],
                         ["requests"], ["requests", "--cancel", "x"],
                         ["version"], ["start", "x"], ["status", EVIL], ["status", EVIL + "x"]):
                result = run(*args, "--socket", path)
                assert result.returncode in (0, 1), result
                assert "evil" in result.stdout + result.stderr, result
                assert not bad.search(result.stdout.replace("\t", " ") + result.stderr), (args, result)
            with terminal("why", "--command", "x", "--socket", path, env={"NO_COLOR": "1"}) as t:
                assert t.end() == 0
                assert "evil" in t.text and not bad.search(t.text)
        finally:
            server.shutdown()
            thread.join()
    os.unlink(path)


# ---- orders --------------------------------------------------------------------------------------------------------------

def test_orders(fleet):
    pids = {name: now["pid"] for name, now in fleet.instances().items()}
    assert ok(fleet.cli("stop", "pair-0", "--wait")).splitlines()[-1] == "pair-0: initial"
    assert fleet.status("pair-0") == "initial"
    assert "pair-0: ready" in ok(fleet.cli("start", "pair-0", "--wait", "--timeout", "60s"))
    assert fleet.status("pair-0") == "ready"
    text = ok(fleet.cli("restart", "all", "--wait"))
    now = fleet.instances()
    for name in pids:
        assert name + ": ready" in text
        assert now[name]["status"] == "ready" and now[name]["pid"] != pids[name]
    # Already so: done at once.
    assert ok(fleet.cli("start", "solo", "--wait")).endswith("solo: ready\n")
    assert ok(fleet.cli("stop", "solo")) == "stop: 1 instance\n"
    fleet.wait_state("solo", "initial")
    told = json.loads(ok(fleet.cli("start", "solo", "pair", "--json")))
    assert [t["message"].split(":")[0] for t in told] == ["start", "start"]
    result = fleet.cli("stop", "nobody", "solo")
    assert result.returncode == 1
    assert 'there is no instance "nobody"' in result.stderr
    assert result.stdout == "stop: 1 instance\n", "the others are stopped all the same"


def test_waiting_for_what_fails(make_daemon):
    daemon = make_daemon({"instances": [one("bad", "--oom-text", autostart=False), one("slow", "--load-503-forever", autostart=False)],
                          "restart": {"max_retries": 1}})
    for again in range(2):      # the second time begins in error: what was does not count
        result = daemon.cli("start", "bad", "--wait")
        assert result.returncode == 1, result
        assert "bad: crashed: died while loading: out of GPU memory" in result.stdout, again
        assert "bad ended in error: " in result.stderr and "out of GPU memory" in result.stderr
        assert daemon.status("bad") == "error"
    assert ok(daemon.cli("why", "bad")).startswith("bad is in error: it is not tried again by itself\n")
    assert "bad: initial" in ok(daemon.cli("stop", "bad", "--wait"))
    began = time.monotonic()
    result = daemon.cli("start", "slow", "--wait", "--timeout", "700ms")
    assert result.returncode == 1
    assert 0.7 <= time.monotonic() - began < PATIENCE
    assert "slow is still starting after 700 ms; the order stands" in result.stderr


def test_waiting_for_a_rolling_restart(make_daemon, folder):
    starts = os.path.join(folder, "starts")
    daemon = make_daemon({"instances": [one("pair", "--crash-starts", "1", "--state-file", starts, "--load-ms", "300", replicas=2)],
                          "restart": {"max_retries": 0}})
    states = {daemon.wait_state(name, "error", "ready")["status"] for name in ("pair-0", "pair-1")}
    assert states == {"error", "ready"}
    text = ok(daemon.cli("restart", "pair", "--wait"))
    assert "pair-0: ready" in text and "pair-1: ready" in text, "the error from before is none of this order"
    assert {now["status"] for now in daemon.instances().values()} == {"ready"}
    pids = {name: now["pid"] for name, now in daemon.instances().items()}
    os.unlink(os.path.join(daemon.models, "tiny.gguf"))
    result = daemon.cli("restart", "pair", "--wait")
    assert result.returncode == 1
    assert "pair-0 ended in error: " in result.stderr
    assert "pair-1 was not restarted, since another replica did not come back" in result.stderr
    assert daemon.instance("pair-1")["pid"] == pids["pair-1"]


# ---- reload --------------------------------------------------------------------------------------------------------------

def test_reload(fleet):
    pids = {name: now["pid"] for name, now in fleet.instances().items()}
    plan = {"instances": [one("pair", "-c", "2048", replicas=2), one("solo"), one("more")]}
    fleet.write_config(plan)
    text = ok(fleet.cli("reload", "--dry-run"))
    assert text.splitlines() == ["keep     solo", "restart  pair-0 because of args", "restart  pair-1 because of args",
                                 "start    more", "this was a dry run: nothing was changed"]
    assert set(fleet.instances()) == {"pair-0", "pair-1", "solo"}
    assert ok(fleet.cli("reload")).endswith("the configuration was read again\n")
    for name in ("pair-0", "pair-1"):
        fleet.wait(name, lambda now, name=name: now["status"] == "ready" and now["pid"] != pids[name])
    fleet.wait_state("more", "ready")
    assert fleet.instance("solo")["pid"] == pids["solo"]
    fleet.write_config({"instances": [one("pair", "-c", "2048", replicas=2)]})
    assert "stop     solo, more" in ok(fleet.cli("reload"))


@pytest.mark.parametrize("text, place", [('{"instances": [\n  {"nam": "x"}]}', r"2:4: instances\[0\]\.nam"), ("{\n", r"\d+:\d+: ")])
def test_broken_configuration(fleet, text, place):
    with open(fleet.config_file) as f:
        good = f.read()
    # Its runtime_dir still says where the daemon is: that one must hear of it.
    broken = text.replace("{", '{"runtime_dir": %s, ' % json.dumps(fleet.runtime), 1)
    for args in (["reload", "--dry-run"], ["reload"]):
        with open(fleet.config_file, "w") as f:
            f.write(broken)
        result = fleet.cli(*args, "--config", fleet.config_file, socket_option=False)
        assert result.returncode == 1, result
        assert re.search("^" + re.escape(fleet.config_file) + ":" + place, result.stderr, re.M), result
        assert result.stderr.endswith("nothing was changed\n")
        told = fleet.cli(*args, "--json")
        assert told.returncode == 1 and json.loads(told.stdout)["errors"]
    assert "the last reload failed: " + fleet.config_file in ok(fleet.cli("status"))
    result = fleet.cli("check", fleet.config_file, socket_option=False)
    assert result.returncode == 1 and fleet.config_file in result.stderr
    with open(fleet.config_file, "w") as f:
        f.write(good)
    ok(fleet.cli("reload"))
    assert "reload failed" not in ok(fleet.cli("status"))
    assert ok(fleet.cli("check", "--config", fleet.config_file, socket_option=False)) == fleet.config_file + ": ok, 2 models\n"


# ---- why and history -------------------------------------------------------------------------------------------------------

def test_why_after_a_crash(make_daemon):
    daemon = make_daemon({"instances": [one("one")], "restart": {"backoff_initial": "20s", "backoff_max": "20s"}})
    daemon.wait_state("one", "ready")
    assert "nothing went wrong that is known" in ok(daemon.cli("why", "one"))
    kill_child(daemon, "one", signal.SIGABRT)
    daemon.wait_state("one", "crashed")
    text = ok(daemon.cli("why", "one"))
    assert re.match(r"one is crashed \(1/3, next try in \d+ s\)\n", text)
    assert re.search(r"^what happened +died", text, re.M) and "SIGABRT" in text
    assert re.search(r"^when +(just now|\d+ s ago)$", text, re.M)
    assert re.search(r"^how it ended +signal 6, SIGABRT", text, re.M)
    assert re.search(r"^so far +died 1 time, ", text, re.M)
    assert "the end of its log, %s:\n  " % daemon.instance("one")["logPath"] in text
    assert re.search(r"^one +crashed .* 1/3 +\d+s +- +died", ok(daemon.cli("status")), re.M)
    ok(daemon.cli("start", "one", "--wait"))
    text = ok(daemon.cli("why", "one"))
    assert re.match(r"one is ready\n", text) and re.search(r"^it once died +\S", text, re.M)


def test_why_command(make_daemon):
    daemon = make_daemon({"instances": [one("one", "--chat-template", "it's; $HOME `id`", env={"MY_TOKEN": "hush-hush"})]})
    daemon.wait("one", lambda now: now["pid"])
    line = ok(daemon.cli("why", "one", "--command"))
    assert line.count("\n") == 1 and harness.FAKE in line
    assert "hush" not in line and "MY_TOKEN=***" in line.replace("'", "")
    # What a shell makes of it is what runs.
    words = subprocess.run(["bash", "-c", 'env() { printf "%s\\n" "$@"; }; cd() { :; }; ' + line], capture_output=True, text=True,
                           check=True, timeout=PATIENCE).stdout.splitlines()
    with open("/proc/%d/cmdline" % daemon.instance("one")["pid"]) as f:
        real = f.read().rstrip("\0").split("\0")
    assert words[words.index(harness.FAKE):] == real
    told = json.loads(ok(daemon.cli("why", "one", "--command", "--json")))
    assert told["shell"] + "\n" == line and told["argv"][0] == harness.FAKE


def test_history(fleet):
    rows = [line.split(None, 4) for line in ok(fleet.cli("history")).splitlines()]
    assert rows[0][:4] == ["ID", "TIME", "ABOUT", "KIND"]
    assert rows[1][3] == "daemon_started"
    last = int(rows[-1][0])
    assert ok(fleet.cli("history", "--since", str(last))).splitlines()[1:] == []
    kill_child(fleet, "solo")
    wait_for(lambda: any(line.split()[2:4] == ["solo", "died"]
                         for line in ok(fleet.cli("history", "--since", str(last))).splitlines()[1:]))
    assert {line.split()[2] for line in ok(fleet.cli("history", "solo")).splitlines()[1:]} == {"solo"}
    assert {line.split()[2] for line in ok(fleet.cli("history", "pair")).splitlines()[1:]} == {"pair-0", "pair-1"}
    assert len(ok(fleet.cli("history", "-n", "1")).splitlines()) == 2


def test_history_follow(fleet):
    where = ["--socket", fleet.control]
    with follower("history", "-f", *where) as f, follower("history", "solo", "-f", "--json", *where) as g:
        f.wait_text("daemon_started")
        g.wait_text('"solo"')
        kill_child(fleet, "solo")
        f.wait_text(r"(?m)^ *\d+ .* solo +died ")
        g.wait_text(r'"kind":"died"')
        kill_child(fleet, "pair-0")
        f.wait_text(r"(?m)^ *\d+ .* pair-0 +died ")
        ids = [int(line.split()[0]) for line in f.text.splitlines() if line.split()[0].isdigit()]
        assert ids == sorted(set(ids)), "each event once, in order"
        assert f.text.count("ABOUT") == 1
        fleet.wait_state("solo", "ready")
        g.look()
        events = [json.loads(line) for line in g.text[:g.text.rindex("\n")].splitlines()]
        assert {event["instance"] for event in events} == {"solo"}


# ---- watch -----------------------------------------------------------------------------------------------------------------

def test_watch_on_a_terminal(make_daemon):
    daemon = make_daemon({"instances": [one("one"), one("two")], "restart": {"backoff_initial": "3s", "backoff_max": "3s"}})
    for name in ("one", "two"):
        daemon.wait_state(name, "ready")
    with terminal("status", "--watch", "--socket", daemon.control) as t:
        t.wait_text("all 2 instances are ready")
        assert t.text.startswith("\x1b[?1049h\x1b[?25l"), "the other screen, no cursor"
        start = len(t.text)
        pid = kill_child(daemon, "one")
        t.wait_text(r"▲(?s:.*)crashed", start)
        t.wait_text(r"1 crashed", start)
        t.wait_text(r"next try in [12] s", start)       # it counts down without anything happening
        t.wait_text("all 2 instances are ready", start + t.text[start:].index("crashed"))
        now = daemon.instance("one")["pid"]
        assert now != pid
        t.wait_text(str(now), start)
        t.resize(44, 12)
        t.process.send_signal(signal.SIGWINCH)
        before = len(t.text)
        t.wait_text(r"\x1b\[H", before)
        t.press("\x03")
        assert t.end() == 0
        assert t.text.endswith(LEAVE)
        assert t.text.count("\x1b[?1049h") == t.text.count("\x1b[?1049l") == 1


def test_watch_gives_the_terminal_back_when_the_daemon_goes(fleet):
    with terminal("status", "--watch", "--socket", fleet.control) as t:
        t.wait_text("all 3 instances are ready")
        fleet.kill9()
        assert t.end() == 1
        leave = t.text.index(LEAVE)
        assert "closed the connection" in t.text[leave:], "said where it can be read"
        assert t.text.count(LEAVE) == 1
    fleet.start()


def test_watch_in_a_pipe(fleet):
    where = ["--socket", fleet.control]
    with follower("status", "--watch", *where) as f, follower("status", "solo", "--watch", "--json", *where) as g:
        f.wait_text(r"solo  ready")
        g.wait_text(r'"status":"ready"')
        kill_child(fleet, "solo")
        kill_child(fleet, "pair-1")
        f.wait_text(r"(?m)^\S+Z  solo  crashed  died.*  \(1/3, next try ")
        f.wait_text(r"(?m)^\S+Z  pair-1  crashed  ")
        assert ESCAPE not in f.text
        g.wait_text(r'"status":"crashed"')
        wait_for(lambda: g.look().endswith("\n"))
        messages = [json.loads(line) for line in g.text.splitlines()]
        assert {m["instance"] for m in messages} == {"solo"}
        assert {m["type"] for m in messages} == {"llama_status"}
        fleet.wait_state("solo", "ready")
        fleet.write_config({"instances": [one("solo"), one("fresh")]})
        ok(fleet.cli("reload"))
        f.wait_text(r"(?m)^\S+Z  fresh  ready$")
        f.wait_text(r"(?m)^\S+Z  pair-0  gone$")
        assert f.end(signal.SIGINT)[0] == -signal.SIGINT


def test_watch_sees_who_comes_and_goes(fleet):
    with terminal("status", "-w", "--socket", fleet.control) as t:
        t.wait_text("all 3 instances are ready")
        start = len(t.text)
        fleet.write_config({"instances": [one("solo"), one("fresh")]})
        ok(fleet.cli("reload"))
        t.wait_text("all 2 instances are ready", start)
        t.wait_text("fresh", start)
        screen = t.text.split("\x1b[H")[-1]
        assert "pair" not in screen
        t.press("\x03")
        assert t.end() == 0


# ---- completion --------------------------------------------------------------------------------------------------------------

def complete(folder, *words):
    """What bash offers for the last of the words."""
    script = os.path.join(folder, "completion.bash")
    with open(script, "w") as f:
        f.write(ok(run("completion", "bash")))
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _llama_supervisor; printf "%s\\n" "${COMPREPLY[@]}"'
    result = subprocess.run(["bash", "-c", code, "-", script, "llama-supervisor", *words], capture_output=True, text=True,
                            check=True, timeout=PATIENCE,
                            env={**os.environ, "PATH": os.path.dirname(PROGRAM) + ":" + os.environ["PATH"]})
    assert result.stderr == "", result
    return result.stdout.split()


def test_completion(fleet, folder):
    where = ["--socket", fleet.control]
    assert complete(folder, "st") == ["status", "start", "stop"]
    assert complete(folder, *where, "logs", "p") == ["pair-0", "pair-1"]
    assert complete(folder, "start", *where, "") == ["pair-0", "pair-1", "solo", "all"]
    assert complete(folder, "logs", "--f") == ["--follow"]
    assert "--watch" in complete(folder, "status", "-")
    assert complete(folder, "completion", "") == ["bash", "zsh", "fish"]
    assert complete(folder, "logs", "--lines", "") == []
    for shell in ("zsh", "fish"):
        script = ok(run("completion", shell))
        for verb in json.loads(ok(run("help", "--json")))["verbs"]:
            assert verb["name"] in script
            for option in verb["options"]:
                assert option["name"] in script
