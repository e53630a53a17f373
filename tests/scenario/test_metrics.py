# ctest: asan
"""The figures as a Prometheus reads them: both formats, by promtool and by a real server; what the children tell, relabelled; and that the
dashboard and the alert rules ask for nothing that is not there."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.parse
import urllib.request

import pytest

import gpus
import harness
import natswire
from faults import order
from test_tls import certificate

OPEN = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
TWO = {"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": 2}, {"name": "rests", "model": "tiny.gguf", "on_demand": {}}]}
EVERYTHING = {"instances": TWO["instances"] + [{"name": "grows", "model": "tiny.gguf", "replicas": {"min": 1, "max": 2}}]}
CHAT = {"model": "qwen", "messages": [{"role": "user", "content": "hello"}]}
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="no promtool here (package prometheus)")
needs_prometheus = pytest.mark.skipif(not PROMETHEUS, reason="no prometheus here")


@pytest.fixture
def daemon(make_daemon, folder):
    machine = gpus.Machine(folder)
    machine.add("GPU-aa", 0x01, total=80 * gpus.GIB, used=20 * gpus.GIB, use=37, temp=61, power=312500, limit=700000, throttle=4, ecc="3,1")
    daemon = make_daemon(dict(TWO, **machine.config), env=machine.env)
    daemon.machine = machine
    for name in ("qwen-0", "qwen-1"):
        daemon.wait_state(name, "ready")
    for stream in (False, True):
        assert daemon.api("POST", "/v1/chat/completions", dict(CHAT, stream=stream)).status == 200
    return daemon


@pytest.fixture
def hubs(folder):
    """What a configuration says of a folder of jobs, and, where nats-server is there, of a hub of NATS."""
    config, server = {"spool": {"dir": os.path.join(folder, "spool"), "enabled": True}}, None
    if shutil.which("nats-server"):
        server = natswire.Server(folder).start()
        assert natswire.hub("init", *server.as_admin(), "--models", "qwen").returncode == 0
        file = os.path.join(server.folder, "one.nk")
        assert natswire.hub("worker", "add", "one", "--role", "worker", "--dir", server.dir, "--out", file).returncode == 0
        config["hubs"] = [{"driver": "nats", "name": "lab", "url": server.url, "worker": "one", "credentials_file": file}]
    yield config
    if server:
        server.stop()


@pytest.fixture
def whole(make_daemon, folder, hubs):
    """A daemon with something of everything that has figures: GPUs, hubs, models on demand and in ranges, TLS, keys."""
    machine = gpus.Machine(folder)
    machine.add("GPU-aa", 0x01, total=80 * gpus.GIB, used=20 * gpus.GIB, use=37, temp=61, power=312500, limit=700000, throttle=4, ecc="3,1")
    pem, private = certificate(folder)
    daemon = make_daemon(harness.merged(dict(EVERYTHING, **hubs), dict(machine.config, listen=[
        {"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0", "tls": {"cert_file": pem, "key_file": private}}])), env=machine.env)
    daemon.machine, daemon.hubs = machine, ["spool"] + [hub["name"] for hub in hubs.get("hubs", [])]
    for name in ("qwen-0", "qwen-1", "grows-0"):
        daemon.wait_state(name, "ready")
    for model in ("qwen", "rests"):
        for stream in (False, True):
            assert daemon.api("POST", "/v1/chat/completions", dict(CHAT, model=model, stream=stream)).status == 200
    harness.wait_for(lambda: {hub["name"] for hub in daemon.get("/api/v1/hubs").json["hubs"] if hub["state"] == "up"} == set(daemon.hubs),
                     what=lambda: "the hubs are up: " + daemon.get("/api/v1/hubs").text)
    return daemon


def metrics(daemon, path="/metrics", accept=None):
    answer = daemon.get(path, headers={"Accept": accept} if accept else None)
    assert answer.status == 200, answer
    return answer


def types_of(text):
    return dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.M))


def value(text, series):
    match = re.search("^" + re.escape(series) + r" (\S+)$", text, re.M)
    return float(match.group(1)) if match else None


# ---- form ------------------------------------------------------------------------------------------------------------------

def test_the_format_is_what_the_reader_likes(daemon):
    plain = metrics(daemon)
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8" and plain.headers["Vary"] == "Accept"
    assert "# EOF" not in plain.text
    for path in ("/metrics", "/metrics/instances"):
        answer = metrics(daemon, path, OPEN)
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert answer.text.endswith("\n# EOF\n") and answer.text.count("# EOF") == 1
        types = types_of(answer.text)
        assert types and not [name for name, kind in types.items() if kind == "counter" and name.endswith("_total")]
    # Both tell the same families, and the same series.
    families = {re.sub("_total$", "", name) for name in types_of(plain.text)}
    assert families == set(types_of(metrics(daemon, accept=OPEN).text))

    def names(text):
        return {line.rsplit(" ", 1)[0] for line in text.splitlines() if line[0] != "#"}
    assert names(plain.text) == names(metrics(daemon, accept=OPEN).text)


def test_every_family_is_explained_and_named_as_it_should_be(daemon):
    text = metrics(daemon).text
    types, helps = types_of(text), dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.M))
    assert set(types) == set(helps)
    for name, kind in types.items():
        assert name.startswith(("llama_supervisor_", "process_")), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|msec|milliseconds|kb|mb|percent)(_|$)", name), name
        assert kind in ("counter", "gauge", "histogram"), name
    ratios = re.findall(r"^(\S*_ratio\S*) (\S+)$", text, re.M)
    assert ratios and all(0 <= float(v) <= 1 for _, v in ratios)


@needs_promtool
@pytest.mark.parametrize("path", ["/metrics", "/metrics/instances"])
def test_promtool_has_nothing_to_say(whole, path):
    result = subprocess.run([PROMTOOL, "check", "metrics"], input=metrics(whole, path).text, capture_output=True, text=True,
                            timeout=60, check=False)
    told = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    # What llama.cpp calls its own series is not ours to better.
    assert [line for line in told if not line.startswith("llamacpp:")] == []
    assert result.returncode == (3 if told else 0)


def well_formed(text):
    """OpenMetrics 1.0, rule by rule; the families, each with its type and its samples."""
    lines, families, seen, name = text.split("\n"), {}, set(), None
    assert lines[-2:] == ["# EOF", ""] and "" not in lines[:-1], "ends with # EOF, and has no empty line"
    suffixes = {"counter": ("_total", "_created"), "gauge": ("",), "unknown": ("",), "histogram": ("_bucket", "_sum", "_count", "_created")}
    for line in lines[:-2]:
        meta = re.fullmatch(r"# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.+)", line)
        if meta:
            what, told, rest = meta.groups()
            if told != name:
                assert told not in families, told + " comes twice"
                name, families[told] = told, {"samples": []}
            assert what not in families[name] and not families[name]["samples"], line
            assert what != "HELP" or not re.search(r'(?<!\\)"', rest), line
            families[name][what] = rest
            continue
        sample = re.fullmatch(r'([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*",?)*)\})? (-?[0-9.e+-]+|\+Inf|NaN)', line)
        assert sample, line
        series, inside, number = sample.groups()
        labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', inside or "")
        assert len(dict(labels)) == len(labels) and not (inside or "").endswith(","), line
        assert series.startswith(name) and series[len(name):] in suffixes[families[name]["TYPE"]], line
        assert (series, frozenset(labels)) not in seen, line + " comes twice"
        seen.add((series, frozenset(labels)))
        families[name]["samples"].append((series, dict(labels), float(number)))
    for name, family in families.items():
        assert family.get("HELP") and family.get("TYPE") in suffixes, name
        if family["TYPE"] == "counter":
            assert not name.endswith("_total") and all(v >= 0 for _, _, v in family["samples"]), name
        if family["TYPE"] == "histogram":
            buckets, counts = {}, {}
            for series, labels, v in family["samples"]:
                key = frozenset((k, w) for k, w in labels.items() if k != "le")
                if series.endswith("_bucket"):
                    assert labels["le"] == "+Inf" or "." in labels["le"] or "e" in labels["le"], (name, labels)
                    buckets.setdefault(key, []).append((float(labels["le"]), v))
                if series.endswith("_count"):
                    counts[key] = v
            assert set(buckets) == set(counts), name
            for key, told in buckets.items():
                assert told == sorted(told) and [v for _, v in told] == sorted(v for _, v in told), (name, told)
                assert told[-1] == (float("inf"), counts[key]), (name, told)
    return families


def test_open_metrics_rule_by_rule(whole):
    for path in ("/metrics", "/metrics/instances"):
        families = well_formed(metrics(whole, path, OPEN).text)
        assert len(families) > (80 if path == "/metrics" else 5)
        # What is measured is said in its name, in base units; what is none of these is a number of things.
        for name, family in families.items() if path == "/metrics" else ():
            if family["TYPE"] == "histogram":
                assert name.endswith("_seconds"), name
            for word, unit in (("memory", "_bytes"), ("virtual", "_bytes"), ("uptime", "_seconds"), ("cpu", "_seconds"), ("time", "_seconds"),
                               ("expiry", "_seconds"), ("temperature", "_celsius"), ("power", "_watts"), ("utilization", "_ratio"),
                               ("latency", "_seconds"), ("delay", "_seconds"), ("lag", "_seconds"), ("wait", "_seconds")):
                parts = name.split("_")
                counts = family["TYPE"] == "counter" and word != "cpu"        # of events
                assert word not in parts or counts or name.endswith(unit) or parts[-1] == "waiting", (name, unit)
    with pytest.raises(AssertionError):         # it does see faults
        well_formed(metrics(whole, accept=OPEN).text.replace("_bucket{le=", "_bucked{le=", 1))


def test_every_family_is_documented(whole):
    """docs/METRICS.md has each of them, with its type, its labels and its name in OpenTelemetry, and no other."""
    with open(os.path.join(harness.SOURCE, "docs", "METRICS.md"), encoding="utf-8") as f:
        rows = {cells[1].strip(" `"): [cell.strip() for cell in cells[2:6]] for cells in (line.split("|") for line in f) if len(cells) == 7
                and cells[1].startswith(" `")}
    text = metrics(whole).text
    types, labels = types_of(text), {}
    for name, inside in re.findall(r"^([\w:]+)\{(.*)\} \S+$", text, re.M):
        family = name if name in types else re.sub("_(bucket|sum|count)$", "", name)
        labels.setdefault(family, set()).update(set(re.findall(r'(\w+)="', inside)) - {"le"})
    assert set(rows) == set(types), "docs/METRICS.md lacks %s, and has %s" % (sorted(set(types) - set(rows)), sorted(set(rows) - set(types)))
    for name, (kind, told, help_, otel) in rows.items():
        assert kind == types[name], name
        assert name not in labels or set(re.findall(r"`(\w+)`", told)) == labels[name], (name, told, labels[name])
        assert "# HELP %s %s\n" % (name, help_) in text, (name, help_)
        assert re.search(r"`[a-z][a-z_]*(\.[a-z_]+)+`", otel), (name, otel)


# ---- what is told -------------------------------------------------------------------------------------------------------------

def test_requests_in_figures(daemon):
    text = metrics(daemon).text
    assert value(text, 'llama_supervisor_requests_total{model="qwen",outcome="ok"}') == 2
    assert value(text, 'llama_supervisor_request_first_token_seconds_count{model="qwen"}') == 2
    assert value(text, 'llama_supervisor_request_time_per_token_seconds_count{model="qwen"}') == 2
    assert value(text, 'llama_supervisor_request_tokens_total{model="qwen",direction="out"}') > 2
    assert sum(value(text, 'llama_supervisor_instance_requests_total{instance="qwen-%d",model="qwen",outcome="ok"}' % i)
               for i in (0, 1)) == 2
    assert value(text, "llama_supervisor_load_seconds_count") == 2
    assert value(text, 'llama_supervisor_loop_delay_seconds_bucket{le="+Inf"}') > 0
    assert value(text, 'llama_supervisor_gpu_utilization_ratio{gpu="GPU-aa"}') == 0.37
    assert value(text, 'llama_supervisor_gpu_memory_used_bytes{gpu="GPU-aa"}') == 20 * gpus.GIB
    assert value(text, 'llama_supervisor_gpu_throttled{gpu="GPU-aa",reason="power_cap"}') == 1
    assert value(text, 'llama_supervisor_gpu_ecc_errors_total{gpu="GPU-aa",kind="uncorrected"}') == 1
    assert 'llama_supervisor_gpu_info{gpu="GPU-aa",vendor="nvidia",index="0",name="FAKE"} 1\n' in text


def total(text, name, **labels):
    """The sum of the series of that name which have these labels."""
    sums = [float(number) for inside, number in re.findall(r"^llama_supervisor_%s(?:\{(.*)\})? (\S+)$" % name, text, re.M)
            if all('%s="%s"' % pair in (inside or "") for pair in labels.items())]
    return sum(sums) if sums else None


MOVES = {
    # what issue 7 names: (series, labels, "more" or "other": what it does when it is provoked)
    "build info": ("build_info", {}, None),
    "instances by state": ("instances", {"state": "error"}, "more"),
    "uptime": ("uptime_seconds", {}, "more"),
    "restarts by cause": ("restarts_total", {"instance": "dies", "cause": "signal"}, "more"),
    "deaths": ("deaths_total", {"instance": "dies", "cause": "signal"}, "more"),
    "back-off": ("instance_backoff_seconds", {"instance": "waits"}, "more"),
    "tries": ("instance_retries", {"instance": "waits"}, "more"),
    "probe latency": ("probe_latency_seconds_count", {"instance": "good"}, "more"),
    "load time": ("load_seconds_count", {}, "more"),
    "load time of the last": ("instance_load_seconds", {"instance": "dies"}, "other"),
    "log bytes": ("log_bytes_total", {"instance": "loud"}, "more"),
    "skipped lines": ("log_skipped_bytes_total", {"instance": "loud"}, "more"),
    "feed subscribers": ("feed_subscribers", {"carrier": "sse"}, "more"),
    "feed messages": ("feed_messages_total", {}, "more"),
    "coalesced messages": ("feed_coalesced_total", {}, None),       # moves below
    "loop lag": ("loop_delay_seconds_count", {}, "more"),
    "open fds": (None, {}, "more"),
    "queue length": ("model_queue", {"model": "slow"}, "more"),
    "wait": ("model_queue_wait_seconds_count", {"model": "good"}, "more"),
    "refusals by reason": ("model_refused_total", {"model": "slow", "reason": "queue_full"}, "more"),
    "refusals of the gateway": ("gateway_refused_total", {"reason": "model"}, "more"),
    "refusals of the gate": ("http_refused_total", {"reason": "host"}, "more"),
    "requests by model and outcome": ("requests_total", {"model": "good", "outcome": "ok"}, "more"),
    "requests by instance and outcome": ("instance_requests_total", {"instance": "bad", "outcome": "failed"}, "more"),
    "time to first token": ("request_first_token_seconds_count", {"model": "good"}, "more"),
    "time per output token": ("request_time_per_token_seconds_count", {"model": "good"}, "more"),
    "tokens in": ("request_tokens_total", {"model": "good", "direction": "in"}, "more"),
    "tokens out": ("request_tokens_total", {"model": "good", "direction": "out"}, "more"),
    "retries": ("model_retries_total", {}, "more"),
    "ejections": ("instance_ejections_total", {"instance": "bad"}, "more"),
    "cancellations": ("requests_total", {"model": "slow", "outcome": "cancelled"}, "more"),
    "cancellations by instance": ("instance_requests_total", {"instance": "slow", "outcome": "cancelled"}, "more"),
    "hub claims": ("hub_claims_total", {"hub": "spool"}, "more"),
    "hub jobs": ("hub_jobs_total", {"hub": "spool", "outcome": "completed"}, "more"),
    "hub tokens": ("hub_tokens_total", {"hub": "spool"}, "more"),
    "hub state": ("hub_state", {"hub": "spool", "state": "up"}, None),
    "hub credits": ("hub_credits", {"hub": "spool"}, None),
}


def test_each_figure_moves(make_daemon, folder):
    """Every figure that the issue names is there, and is another one after what it counts has happened."""
    def entry(name, *args, **more):
        return dict({"name": name, "model": "tiny.gguf", "args": ["-np", "1", *args]}, **more)
    bad = ["--status", "500", "--only", "/v1/"]
    daemon = make_daemon({
        "spool": {"dir": os.path.join(folder, "spool")}, "restart": {"backoff_initial": "20ms", "backoff_max": "5m", "jitter": 0},
        # No slow start: who became ready a moment later would get no request at all as long as one at a time is enough.
        "gateway": {"queue": {"max": 1}, "slow_start": "0s", "eject": {"failures": 2, "initial": "60s", "max": "60s"}, "default_model": "good"},
        "instances": [entry("good", aliases=["both"]), entry("bad", *bad, aliases=["both"]), entry("slow", "--prompt-ms", "600000"),
                      entry("dies"), entry("waits", autostart=False, restart={"backoff_initial": "5m", "max_retries": "forever"},
                                           env={"FAKE_LLAMA_ARGS": "--die-loading 1"}),
                      entry("gives-up", autostart=False, restart={"max_retries": 0}, env={"FAKE_LLAMA_ARGS": "--die-loading 1"}),
                      entry("loud", autostart=False, env={"FAKE_LLAMA_ARGS": "--log-flood 200000000"})]})
    for name in ("good", "bad", "slow", "dies"):
        daemon.wait_state(name, "ready")
    harness.wait_for(lambda: daemon.get("/api/v1/hubs").json["hubs"][0]["state"] == "up", what="the folder is looked after")
    before = metrics(daemon).text

    # Instances.
    order(daemon, "start", "loud")
    pid = daemon.instance("dies")["pid"]
    os.kill(pid, signal.SIGSEGV)
    daemon.wait("dies", lambda now: now["status"] == "ready" and now["pid"] != pid)
    order(daemon, "start", "waits")
    daemon.wait_state("waits", "crashed")
    order(daemon, "start", "gives-up")
    daemon.wait_state("gives-up", "error")
    harness.wait_for(lambda: total(metrics(daemon).text, "log_skipped_bytes_total", instance="loud"), what="log is skipped")
    order(daemon, "stop", "loud")
    # Requests: served, sent elsewhere, refused, waiting, cancelled.
    for stream in (False, True):
        assert daemon.api("POST", "/v1/chat/completions", dict(CHAT, model="good", stream=stream)).status == 200
    for _ in range(100):                                # until who always fails gets none any more
        assert daemon.api("POST", "/v1/chat/completions", dict(CHAT, model="both")).status == 200
        if total(metrics(daemon).text, "instance_ejections_total", instance="bad"):
            break
    assert daemon.api("POST", "/v1/chat/completions", dict(CHAT, model="nobody")).status == 404
    assert daemon.api("GET", "/health", headers={"Host": "elsewhere.example"}).status == 403
    threads = []

    def running(state):
        return [r["id"] for r in daemon.get("/api/v1/requests").json["running"] if r["model"] == "slow" and r["state"] == state]
    for state in ("running", "waiting", "running"):     # the third is refused
        if len(threads) == 2:
            assert daemon.api("POST", "/v1/chat/completions", dict(CHAT, model="slow")).status == 429
            break
        threads.append(threading.Thread(target=lambda: daemon.api("POST", "/v1/chat/completions", dict(CHAT, model="slow"))))
        threads[-1].start()
        harness.wait_for(lambda s=state: running(s), what="one is " + state)
    # A job, and somebody who listens.
    with open(os.path.join(folder, "spool", "jobs", "one.json"), "w", encoding="utf-8") as f:
        json.dump(dict(CHAT, model="good"), f)
    harness.wait_for(lambda: os.listdir(os.path.join(folder, "spool", "results")), what="the job has a result")
    with urllib.request.urlopen(daemon.address + "/api/v1/events", timeout=harness.PATIENCE) as feed:
        assert feed.readline()
        # More descriptors than a probe, a log or a file that happened to be open before.
        at = urllib.parse.urlsplit(daemon.address)
        with contextlib.ExitStack() as idle:
            for _ in range(64):
                idle.enter_context(socket.create_connection((at.hostname, at.port), harness.PATIENCE))
            harness.wait_for(lambda: value(metrics(daemon).text, "llama_supervisor_http_connections") > 64, what="all are accepted")
            queued = metrics(daemon).text
        assert daemon.api("DELETE", "/api/v1/requests/" + running("running")[0]).status == 200
        harness.wait_for(lambda: total(metrics(daemon).text, "requests_total", model="slow", outcome="cancelled"), what="it is counted")
        harness.wait_for(lambda: running("running") and not running("waiting"), what="the next one has its slot")
        assert daemon.api("DELETE", "/api/v1/requests/" + running("running")[0]).status == 200
        after = metrics(daemon).text
    for thread in threads:
        thread.join(harness.PATIENCE)

    wrong = []
    for what, (name, labels, moves) in MOVES.items():
        if name is None:
            first, then = value(before, "process_open_fds"), value(queued, "process_open_fds")
        else:
            first, then = total(before, name, **labels), total(queued if what == "queue length" else after, name, **labels)
        ok = then is not None and (moves is None or (then > (first or 0) if moves == "more" else then != first and then > 0))
        if not ok:
            wrong.append((what, first, then))
    assert not wrong


class Reader:
    """A subscriber of the feed over a real socket; messages: (instance, seq, status) as they came."""

    def __init__(self, daemon, room=None):
        at = urllib.parse.urlsplit(daemon.address)
        self.socket = socket.socket()
        if room:        # before the connection is made, or its window is another one
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.settimeout(harness.PATIENCE)
        self.socket.connect((at.hostname, at.port))
        self.socket.sendall(("GET /api/v1/events HTTP/1.1\r\nHost: %s\r\n\r\n" % at.netloc).encode())
        self.messages, self.thread = [], threading.Thread(target=self.main, daemon=True)

    def main(self):
        with self.socket.makefile("rb") as lines:
            try:
                for line in lines:
                    if line.startswith(b"data: {"):
                        one = json.loads(line[len("data: "):])
                        self.messages.append((one["instance"], one["seq"], one["data"]["status"]))
            except (OSError, ValueError):      # cut in the middle of a line
                pass

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(harness.PATIENCE)
        self.socket.close()


def test_what_a_slow_reader_misses_is_counted_and_nothing_else(make_daemon):
    """It does not read while an instance lives through many states. Later it has the newest of each, and what it was not told is the counter's."""
    # It is told of first, so that its first change replaces nothing.
    daemon = make_daemon({"instances": [{"name": "moves", "model": "tiny.gguf", "autostart": False}]
                          + [{"name": "sleeps%d" % i, "model": "tiny.gguf", "replicas": 50, "autostart": False} for i in range(8)]})

    def counter(name):
        return int(value(metrics(daemon).text, "llama_supervisor_feed_" + name))
    fast, slow = Reader(daemon), Reader(daemon, room=1)
    try:
        fast.thread.start()
        harness.wait_for(lambda: len(fast.messages) == 401, what="the whole fleet")
        assert counter("messages_total") < 2 * 401, "it all went into a pipe that nobody reads"
        for _ in range(3):
            order(daemon, "start", "moves")
            daemon.wait_state("moves", "ready")
            order(daemon, "stop", "moves")
            daemon.wait_state("moves", "initial")
        assert counter("coalesced_total") >= 8
        slow.thread.start()
        harness.wait_for(lambda: fast.messages[-1:] == slow.messages[-1:] and counter("messages_total") == len(fast.messages) + len(slow.messages),
                         what=lambda: "%d and %d, of %d" % (len(fast.messages), len(slow.messages), counter("messages_total")))
        assert len(slow.messages) + counter("coalesced_total") == len(fast.messages)
        assert fast.messages[-1][2] == "initial"

        def moves(reader):
            return [message for message in reader.messages if message[0] == "moves"]
        assert len(moves(slow)) < len(moves(fast)) and set(moves(slow)) < set(moves(fast)) and moves(slow) == sorted(moves(slow))
        assert {message[0] for message in slow.messages} == {message[0] for message in fast.messages}
    finally:
        fast.close()
        if not slow.thread.ident:
            slow.thread.start()
        slow.close()


def test_names_of_strangers_make_no_series(daemon):
    """Nothing that a client can make up becomes a label: models, paths, methods, hosts, keys, traces, ids, languages."""
    def ask(i):
        name = "stranger-%d" % i
        answers = [daemon.api("POST", "/v1/chat/completions", dict(CHAT, model=name)), daemon.api("GET", "/%s/%s" % (name, name)),
                   daemon.api(name.upper().replace("-", ""), "/v1/models"), daemon.api("GET", "/v1/models/" + name),
                   daemon.api("GET", "/upstream/%s/health" % name), daemon.api("GET", "/api/v1/instances/" + name),
                   daemon.api("POST", "/v1/chat/completions", CHAT, headers={
                       "X-Request-Id": name, "User-Agent": name, "X-Forwarded-For": name, "traceparent": "00-%032x-%016x-01" % (i + 1, i + 1)}),
                   daemon.api("GET", "/health", headers={"Host": name + ".example"}),
                   daemon.api("GET", "/health", headers={"Origin": "http://%s.example" % name})]
        assert [a.status for a in answers][:4] == [404, 404, 501, 404] and answers[6].status == 200, [a.status for a in answers]
    ask(0)                      # what happens the first time has its series then
    before = metrics(daemon).text.count("\n")
    for i in range(1, 30):
        ask(i)
    text = metrics(daemon).text
    assert "stranger" not in text.lower() and text.count("\n") == before


def test_the_children_tell_through_one_door(daemon):
    text = metrics(daemon, "/metrics/instances").text
    for name in ("qwen-0", "qwen-1"):
        assert value(text, 'llama_supervisor_instance_metrics_told{instance="%s",model="qwen"}' % name) == 1
        assert value(text, 'llamacpp:requests_processing{instance="%s",model="qwen"}' % name) == 0
    assert "rests" not in text                      # it was not loaded for that
    assert daemon.status("rests") == "idle"
    assert text.count("# TYPE llamacpp:tokens_predicted_total counter\n") == 1
    # Lines of a family stand together.
    order = [re.match(r"[\w:]+", line).group(0) for line in text.splitlines() if line[0] != "#"]
    assert len([1 for a, b in zip(order, order[1:]) if a != b]) == len(set(order)) - 1


def test_a_child_that_hangs_is_left_out(daemon):
    pid = daemon.instance("qwen-1")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        text = metrics(daemon, "/metrics/instances").text
    finally:
        os.kill(pid, signal.SIGCONT)
    assert value(text, 'llamacpp:requests_processing{instance="qwen-0",model="qwen"}') == 0
    assert 'llamacpp:requests_processing{instance="qwen-1"' not in text
    assert value(text, 'llama_supervisor_instance_metrics_told{instance="qwen-1",model="qwen"}') in (0, None)


@pytest.mark.real
def test_the_real_one_tells_and_sleeps_on(make_daemon, real_llama_server):
    """A scrape is no use: a model that went to sleep stays asleep, and is unloaded when its time is over."""
    daemon = make_daemon({"instances": [{"name": "one", "model": "tiny.gguf", "args": ["-c", "2048", "--sleep-idle-seconds", "1"]}]},
                         server=real_llama_server)
    daemon.wait_state("one", "ready")
    asleep = lambda: daemon.get("/props?model=one").json.get("is_sleeping") is True    # noqa: E731
    harness.wait_for(asleep, what="it sleeps")
    for _ in range(3):
        text = metrics(daemon, "/metrics/instances").text
        assert value(text, 'llamacpp:n_decode_total{instance="one",model="one"}') is not None, text
    assert asleep()


# ---- the dashboard and the rules ------------------------------------------------------------------------------------------------

def packaged(*names):
    return os.path.join(harness.SOURCE, "packaging", *names)


def expressions():
    """(where, expression) of all panels and rules."""
    with open(packaged("grafana", "llama-supervisor.json"), encoding="utf-8") as f:
        board = json.load(f)
    panels = list(board["panels"])
    for panel in panels:
        panels += panel.get("panels", [])
        for target in panel.get("targets", []):
            yield "panel \"%s\"" % panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield "variable " + variable["name"], re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"]["query"])
    import yaml
    with open(packaged("prometheus", "llama-supervisor.rules.yml"), encoding="utf-8") as f:
        for group in yaml.safe_load(f)["groups"]:
            for rule in group["rules"]:
                yield "rule " + rule.get("alert", rule.get("record")), rule["expr"]


def plain(expression):
    """Without what only Grafana knows."""
    for name, put in (("$__rate_interval", "1m"), ("$__interval", "1m"), ("$__range", "1h"), ("$instance", ".+"), ("$model", ".+"),
                      ("$gpu", ".+"), ("$hub", ".+"), ("$job", ".+")):
        expression = expression.replace(name, put)
    assert "$" not in expression, expression
    return expression


def series_of(expression):
    return set(re.findall(r"\b(?:llama_supervisor_|llamacpp:|process_)\w+", expression))


# Families that no panel and no rule asks for, and why.
ELSEWHERE = {
    "llama_supervisor_start_time_seconds": "uptime_seconds is shown",
    "llama_supervisor_instance_slots": "instance_lease_slots is shown",
    "llama_supervisor_instance_queue": "model_queue is shown",
    "llama_supervisor_gateway_comments_total": "for who looks into one stream that waits",
    "llama_supervisor_loop_lag_seconds": "loop_delay_seconds is shown",
    "llama_supervisor_loop_longest_turn_seconds": "loop_delay_seconds is shown",
    "llama_supervisor_gpu_info": "names, for joins",
    "process_virtual_memory_bytes": "says nothing here", "process_max_fds": "a constant", "process_threads": "a constant",
    "process_start_time_seconds": "uptime_seconds is shown",
}


def test_every_family_has_a_panel_or_a_rule():
    with open(os.path.join(harness.SOURCE, "docs", "METRICS.md"), encoding="utf-8") as f:
        families = dict(re.findall(r"^\| `((?:llama_supervisor|process)_\w+)` \| (\w+) \|", f.read(), re.M))
    asked = {name for where, expression in expressions() if not where.startswith("variable") for name in series_of(expression)}
    asked = {re.sub("_(bucket|sum|count)$", "", name) if re.sub("_(bucket|sum|count)$", "", name) in families else name for name in asked}
    assert families.keys() - asked - ELSEWHERE.keys() == set()
    assert ELSEWHERE.keys() <= families.keys() - asked              # the list says nothing of what is not so


def test_no_expression_asks_for_what_is_not_there(whole):
    text = metrics(whole).text + metrics(whole, "/metrics/instances").text
    known = set()
    for name, kind in types_of(text).items():
        known |= {name} if kind != "histogram" else {name + "_bucket", name + "_sum", name + "_count"}
    labels = {}
    for name, inside in re.findall(r"^([\w:]+)\{(.*)\} \S+$", text, re.M):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    found = list(expressions())
    assert len(found) > 60
    # Of each part there is something to be asked: else a misspelled label would go unseen.
    assert {value(text, 'llama_supervisor_hub_state{hub="%s",driver="%s",state="up"}' % (name, driver))
            for name, driver in [("spool", "spool")] + [("lab", "nats")] * ("lab" in whole.hubs)} == {1}
    assert labels["llama_supervisor_tls_certificate_expiry_timestamp_seconds"] == {"listen"} and "llama_supervisor_model_replicas" in labels
    for where, expression in found:
        assert series_of(expression), "%s asks for nothing of ours: %s" % (where, expression)
        for name in series_of(expression):
            assert name in known, "%s: there is no series %s" % (where, name)
        for name, inside in re.findall(r"((?:llama_supervisor_|llamacpp:|process_)\w+)\{([^}]*)\}", expression):
            asked = set(re.findall(r'(\w+)\s*[=!]~?"', inside)) - {"job"}
            if name in labels:
                assert asked <= labels[name], "%s: %s has no label %s" % (where, name, asked - labels[name])


@needs_promtool
def test_the_rules_fire_as_they_should():
    for args in (["check", "rules", packaged("prometheus", "llama-supervisor.rules.yml")],
                 ["test", "rules", os.path.join(harness.SOURCE, "tests", "prometheus", "rules_test.yml")]):
        result = subprocess.run([PROMTOOL, *args], capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    # Each rule is among those that are proved to fire.
    import yaml
    with open(packaged("prometheus", "llama-supervisor.rules.yml"), encoding="utf-8") as f:
        rules = {rule["alert"] for group in yaml.safe_load(f)["groups"] for rule in group["rules"]}
    with open(os.path.join(harness.SOURCE, "tests", "prometheus", "rules_test.yml"), encoding="utf-8") as f:
        proved = {t["alertname"] for test in yaml.safe_load(f)["tests"] for t in test["alert_rule_test"] if t.get("exp_alerts")}
    assert rules == proved
    with open(os.path.join(harness.SOURCE, "docs", "OPERATIONS.md"), encoding="utf-8") as f:
        assert rules == set(re.findall(r"^\| `(Llama\w+)` \|", f.read(), re.M))


class Prometheus:
    def __init__(self, folder, targets):
        self.port = harness.free_port()
        config = os.path.join(folder, "prometheus.yml")
        with open(config, "w", encoding="utf-8") as f:
            json.dump({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                       "rule_files": [packaged("prometheus", "llama-supervisor.rules.yml")],
                       "scrape_configs": [{"job_name": name, "metrics_path": path, "honor_labels": True,
                                           "static_configs": [{"targets": [address]}]} for name, path, address in targets]}, f)
        self.output = open(os.path.join(folder, "prometheus.out"), "wb")
        self.process = harness.spawn([PROMETHEUS, "--config.file=" + config, "--storage.tsdb.path=" + os.path.join(folder, "tsdb"),
                                      "--web.listen-address=127.0.0.1:%d" % self.port, "--log.level=warn"],
                                     stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output)

    def get(self, path, **query):
        try:
            return harness.request("http://127.0.0.1:%d" % self.port, "GET", path + ("?" + urllib.parse.urlencode(query) if query else ""))
        except OSError:
            return None

    def query(self, expression):
        answer = self.get("/api/v1/query", query=expression)
        assert answer and answer.status == 200, (expression, answer)
        return answer.json["data"]["result"]

    def close(self):
        self.process.terminate()
        self.process.wait(harness.PATIENCE)
        self.output.close()


@needs_prometheus
def test_a_real_prometheus_reads_all_of_it(whole, folder):
    address = whole.address.removeprefix("http://")
    server = Prometheus(folder, [("llama-supervisor", "/metrics", address), ("llama-supervisor-instances", "/metrics/instances", address)])
    try:
        def is_ready():
            answer = server.get("/-/ready")
            return answer is not None and answer.status == 200
        harness.wait_for(is_ready, what="Prometheus is ready")
        # Twice, so that rates have something to compare.
        harness.wait_for(lambda: all(float(r["value"][1]) >= 2 for r in server.query("count_over_time(up[1m])") or [{"value": [0, 0]}])
                         and len(server.query("up")) == 2, what="two scrapes of each")
        assert {r["metric"]["job"]: r["value"][1] for r in server.query("up")} == {
            "llama-supervisor": "1", "llama-supervisor-instances": "1"}, server.get("/api/v1/targets").text
        assert len(server.query("llamacpp:requests_processing")) == 4
        assert server.query("sum(llama_supervisor_requests_total)")[0]["value"][1] == "4"
        assert len(server.query("llama_supervisor_hub_state == 1")) == len(whole.hubs)
        # What is told in a scrape is in a scrape: nothing was thrown away.
        for job in ("llama-supervisor", "llama-supervisor-instances"):
            told = server.query('scrape_samples_scraped{job="%s"}' % job)[0]["value"][1]
            assert told == server.query('scrape_samples_post_metric_relabeling{job="%s"}' % job)[0]["value"][1] and int(told) > 10
        for where, expression in expressions():
            answer = server.get("/api/v1/query", query=plain(expression))
            assert answer and answer.status == 200, "%s: %s: %s" % (where, expression, answer)
        rules = server.get("/api/v1/rules").json["data"]["groups"]
        assert rules and all(rule["health"] in ("ok", "unknown") for group in rules for rule in group["rules"]), rules
    finally:
        server.close()
        shutil.rmtree(os.path.join(folder, "tsdb"), ignore_errors=True)
