# ctest: serial
"""tests/bench/load and tests/bench/chaos are tools for users: they count right, and the product passes them."""
import json
import os
import subprocess

import harness

BENCH = os.path.join(harness.SOURCE, "tests", "bench")


def run(tool, daemon, *args, code=0):
    done = subprocess.run(["/usr/bin/env", "python3", "-B", os.path.join(BENCH, tool), "--url", daemon.address, "--json", *args],
                          capture_output=True, text=True, check=False, timeout=10 * harness.PATIENCE)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def fleet(make_daemon, **more):
    daemon = make_daemon(harness.merged({"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": 3}]}, more))
    for i in range(3):
        daemon.wait_state("qwen-%d" % i, "ready")
    return daemon


def test_load(make_daemon):
    daemon = fleet(make_daemon)
    told = run("load", daemon, "-n", "60", "-c", "6", "--model", "qwen")
    assert told["requests"] == 60 and told["outcomes"] == {"ok": 60} and told["statuses"] == {"200": 60}
    assert set(told["instances"]) == {"qwen-0", "qwen-1", "qwen-2"} and sum(told["instances"].values()) == 60
    assert told["tokens"] > 60 and told["first_token_ms"]["p50"] <= told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]
    told = run("load", daemon, "-n", "3", "-c", "1", "--model", "nobody", "--no-stream", code=1)
    assert told["outcomes"] == {"refused": 3} and told["statuses"] == {"404": 3}
    (reason, times), = told["reasons"].items()
    assert times == 3 and reason.startswith('404: the model "nobody" does not exist'), told
    told = run("load", daemon, "-n", "2", "--model", "nobody", code=1)
    assert told["reasons"] == {reason: 2}, told


def test_chaos(make_daemon):
    """Whatever befalls the instances, no request is left without an answer, and everything comes back."""
    daemon = fleet(make_daemon, restart={"max_retries": "forever"}, health={"timeout": "300ms"})
    seconds = 12 * float(os.environ.get("SOAK", "1"))
    told = run("chaos", daemon, "-t", "%g" % seconds, "-c", "6", "--every", "0.8", "--thaw", "1", "--model", "qwen", "--deadline", "60")
    assert not told["outcomes"].get("lost") and told["outcomes"]["ok"] > 50, told
    assert sum(told["faults"].values()) >= 5 and not told["not_recovered"], told


def test_chaos_says_what_it_may_not(make_daemon):
    daemon = fleet(make_daemon, auth={"anonymous": ["read", "infer"]})
    done = subprocess.run(["/usr/bin/env", "python3", "-B", os.path.join(BENCH, "chaos"), "--url", daemon.address, "-t", "30",
                           "--every", "0.2", "--faults", "drain"], capture_output=True, text=True, check=False,
                          timeout=harness.PATIENCE)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()          # and no traceback
    assert line.startswith("chaos: drain qwen-") and ': 403: this needs the scope "admin"' in line and "--key-file" in line
