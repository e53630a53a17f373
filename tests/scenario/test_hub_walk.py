"""The walk of docs/HUB.md, done as it is written: each block that is marked with "walk" is run, in the order of the page, on the machine that the mark
names. What differs: machines are folders, names and ports are this machine's, and systemd is us. A page that is changed so that it does not work any more
fails here."""
import json
import os
import re
import shutil
import subprocess

import pytest

import harness
from harness import wait_for

pytestmark = pytest.mark.skipif(not shutil.which("nats-server") or not shutil.which("curl"), reason="there is no nats-server, or no curl")

PAGE = os.path.join(harness.SOURCE, "docs", "HUB.md")
NOW = 120

# Where the program looks when it runs as root on its own machine, said aloud; and curl knows our CA.
PREAMBLE = r'''
set -eu
llama-supervisor()
{
        case "$1 ${2:-}" in
        "hub worker") set -- "$@" --dir "$HUB" ;;
        "hub init")
                case " $* " in
                *" --write-config "*) set -- "$@" --dir "$HUB" --listen "127.0.0.1:$HUB_PORT" --store "$HUB/store" --pid-file "$HUB/pid" ;;
                esac
                ;;
        "hub check" | "hub status" | "key add")
                case " $* " in
                *" --url "*) ;;
                *) set -- "$@" --config "$CONFIG" ;;
                esac
                ;;
        esac
        "$PROGRAM" "$@"
}
curl() { command curl --cacert "$HUB/ca.pem" "$@"; }
'''


def steps():
    """[(kind, machines, text)] of the page: kind is "run" or "config"."""
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    found = []
    for mark, language, text in re.findall(r"<!-- walk: ([^>]*) -->\n```(\w+)\n(.*?)```", page, re.S):
        names = mark.split()
        kind = names.pop(0) if names[0] == "config" else "run"
        assert language == ("json" if kind == "config" else "sh"), mark
        found.append((kind, names, text))
    assert len(found) == page.count("<!-- walk:"), "a mark without a block"
    return found


class Walk:
    def __init__(self, folder, make_daemon):
        self.folder, self.make_daemon = folder, make_daemon
        self.hub = os.path.join(folder, "hub")
        self.port, self.front_port = harness.free_port(), harness.free_port()
        self.daemons, self.server, self.key = {}, None, ""

    def here(self, text, machine):
        for theirs, ours in (("/etc/llama-supervisor/hub/", self.hub + "/"), ("/etc/llama-supervisor/hub", self.hub),
                             ("hub.example.org:4222", "localhost:%d" % self.port), ("hub.example.org", "localhost"),
                             ("0.0.0.0:8443", "127.0.0.1:%d" % self.front_port), ("front.example.org:8443", "localhost:%d" % self.front_port),
                             ("front.example.org", "localhost"), ("qwen2.5-7b-instruct-q4_k_m.gguf", "tiny.gguf"),
                             ('"worker": "gpu-1"', '"worker": "%s"' % machine)):
            text = text.replace(theirs, ours)
        assert "example.org" not in text and "/etc/" not in text, text
        return text

    def shell(self, text, machine):
        daemon = self.daemons.get(machine)
        env = {"PATH": os.environ["PATH"], "HOME": self.folder, "LANG": "C.UTF-8", "PROGRAM": harness.PROGRAM, "HUB": self.hub,
               "HUB_PORT": str(self.port), "CONFIG": daemon.config_file if daemon else "", "KEY": self.key}
        done = subprocess.run(["bash", "-c", PREAMBLE + self.here(text, machine)], capture_output=True, text=True, check=False,
                              timeout=NOW, stdin=subprocess.DEVNULL, env=env, cwd=self.folder)
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout

    def run(self, text, machine):
        """Line by line of what systemd is asked for; the rest goes to a shell."""
        out, lines = "", []
        for line in text.splitlines(True):
            if line == "systemctl restart llama-supervisor\n":
                out += self.shell("".join(lines), machine)
                lines = []
                self.start(self.daemons[machine])
            else:
                lines.append(line)
        return out + self.shell("".join(lines), machine)

    def start(self, daemon):
        """As Daemon.start, but asks by the control socket: the front's own address is TLS."""
        daemon.launch()

        def is_up():
            try:
                return daemon.control_api("GET", "/health").status == 200
            except OSError:
                return False
        wait_for(is_up, what=daemon.output)

    def start_server(self):
        log = os.path.join(self.folder, "nats.log")
        with open(log, "wb") as file:
            self.server = harness.spawn(["nats-server", "-c", os.path.join(self.hub, "nats.conf")], stdout=file, stderr=file)

        def is_up():
            with open(log, encoding="utf-8", errors="replace") as file:
                text = file.read()
            assert self.server.poll() is None, text
            return "Server is ready" in text and os.path.exists(os.path.join(self.hub, "pid"))
        wait_for(is_up)

    def configure(self, text, machine):
        daemon = self.make_daemon(json.loads(self.here(text, machine)), start=False)
        self.daemons[machine] = daemon
        shutil.copy(os.path.join(self.hub, machine + ".nk"), daemon.path("hub.nk"))
        shutil.copy(os.path.join(self.hub, "ca.pem"), daemon.path("hub-ca.pem"))
        if machine == "front":      # "a certificate for its own name"
            self.shell("""cd $HUB
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" -addext "subjectAltName=DNS:localhost" \
        -keyout {0}/front.key -out {0}/front.csr
openssl x509 -req -in {0}/front.csr -CA ca.pem -CAkey ca.key -days 2 -copy_extensions copy -out {0}/front.pem""".format(daemon.root), machine)

    def stop(self):
        if self.server and self.server.poll() is None:
            self.server.terminate()
            self.server.wait(harness.PATIENCE)


@pytest.fixture
def walk(folder, make_daemon):
    w = Walk(folder, make_daemon)
    yield w
    w.stop()


def hub_of(daemon):
    return next(h for h in json.loads(daemon.cli("hub", "status", "--json").stdout)["hubs"] if h["driver"] == "nats")


def test_the_walk_of_the_page(walk):
    said = []
    for kind, machines, text in steps():
        for machine in machines:
            if kind == "config":
                walk.configure(text, machine)
                continue
            if machine == "client":
                # Workers tell of themselves every ten seconds; who asks sooner is told so.
                front = walk.daemons["front"]
                wait_for(lambda f=front: "qwen" in f.control_api("GET", "/v1/models").text, NOW)
            out = walk.run(text, machine)
            said.append((machine, text, out))
            if "--write-config" in text:
                walk.start_server()
            if "key add me" in text:
                walk.key = re.search(r"lsv_[\w-]+", out).group(0)

    def told(part):
        return next(out for _, text, out in said if part in text)

    assert "consumer llama_lo: made" in told("hub init --url") and "wrong" not in told("hub init --url")
    assert re.search(r"^front +gateway", told("worker list"), re.M)
    assert re.search(r"rights: \d+ of a worker are as they should be", told("hub check --models"))
    answer = told("/v1/chat/completions")
    assert '"owned_by":"hub"' in answer and answer.rstrip().endswith("data: [DONE]"), answer
    farm = told("hub farm")
    assert re.search(r"^gpu-1 ", farm, re.M) and re.search(r"^gpu-2 ", farm, re.M), farm
    assert "no dead letters" in told("--role janitor")
    # gpu-2 is out, and knows it; everybody else goes on.
    wait_for(lambda: hub_of(walk.daemons["gpu-2"])["state"] == "revoked", NOW, lambda: str(hub_of(walk.daemons["gpu-2"])))
    assert hub_of(walk.daemons["gpu-1"])["state"] == "up" and hub_of(walk.daemons["front"])["state"] == "up"
    again = walk.run(next(text for _, text, _ in said if "/v1/chat/completions" in text), "client")
    assert again.rstrip().endswith("data: [DONE]"), again
