# ctest: asan
"""The figures as a Prometheus reads them: both formats, by promtool and by a real server; what the children tell, relabelled; and that the
dashboard and the alert rules ask for nothing that is not there."""
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse

import pytest

import gpus
import harness

OPEN = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
TWO = {"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": 2}, {"name": "rests", "model": "tiny.gguf", "on_demand": {}}]}
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
def test_promtool_has_nothing_to_say(daemon, path):
    result = subprocess.run([PROMTOOL, "check", "metrics"], input=metrics(daemon, path).text, capture_output=True, text=True,
                            timeout=60, check=False)
    told = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    # What llama.cpp calls its own series is not ours to better.
    assert [line for line in told if not line.startswith("llamacpp:")] == []
    assert result.returncode == (3 if told else 0)


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


def test_names_of_strangers_make_no_series(daemon):
    before = metrics(daemon).text.count("\n")
    for i in range(30):
        assert daemon.api("POST", "/v1/chat/completions", dict(CHAT, model="stranger-%d" % i)).status == 404
    text = metrics(daemon).text
    assert "stranger" not in text and text.count("\n") <= before + 2


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
                      ("$gpu", ".+"), ("$job", ".+")):
        expression = expression.replace(name, put)
    assert "$" not in expression, expression
    return expression


def series_of(expression):
    return set(re.findall(r"\b(?:llama_supervisor_|llamacpp:|process_)\w+", expression))


def test_no_expression_asks_for_what_is_not_there(daemon):
    text = metrics(daemon).text + metrics(daemon, "/metrics/instances").text
    known = set()
    for name, kind in types_of(text).items():
        known |= {name} if kind != "histogram" else {name + "_bucket", name + "_sum", name + "_count"}
    labels = {}
    for name, inside in re.findall(r"^([\w:]+)\{(.*)\} \S+$", text, re.M):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    found = list(expressions())
    assert len(found) > 30
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
def test_a_real_prometheus_reads_all_of_it(daemon, folder):
    address = daemon.address.removeprefix("http://")
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
        assert len(server.query("llamacpp:requests_processing")) == 2
        assert server.query("sum(llama_supervisor_requests_total)")[0]["value"][1] == "2"
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
