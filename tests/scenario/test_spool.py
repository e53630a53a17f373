# ctest: asan
"""The job folder over the whole daemon: files in, files out, whatever dies between."""
import glob
import json
import os
import random
import re
import signal
import time

import pytest

import harness
from harness import wait_for

SOAK = float(os.environ.get("SOAK", "1"))


class Spool:
    def __init__(self, root):
        self.root = root

    def path(self, *names):
        return os.path.join(self.root, *names)

    def names(self, folder):
        return sorted(name for name in os.listdir(self.path(folder)) if not name.startswith("."))

    def is_there(self):
        return os.path.isdir(self.path("texts"))

    def put(self, name, job):
        """As a user does: written elsewhere, moved in."""
        with open(self.path("texts", name + ".new"), "wb") as f:
            f.write(job if isinstance(job, bytes) else json.dumps(job).encode())
        os.rename(self.path("texts", name + ".new"), self.path("jobs", name + ".json"))

    def results(self, name=None):
        """NAME: its result files; without: of all."""
        found = {}
        for file in self.names("results"):
            match = re.fullmatch(r"[0-9]+_(.*)\.json", file)
            found.setdefault(match.group(1), []).append(file)
        return found.get(name, []) if name else found

    def result(self, name):
        files = self.results(name)
        assert len(files) == 1, files
        with open(self.path("results", files[0])) as f:
            return json.load(f)

    def failures(self, name):
        return [file for file in self.names("failures") if re.fullmatch(r"[0-9]+_%s\.[0-9]+(\.final)?\.json" % re.escape(name), file)]

    def failure(self, name):
        with open(self.path("failures", self.failures(name)[-1])) as f:
            return json.load(f)

    def partial(self, claim):
        """Its lines once the last one is there, which comes after the result."""
        with open(self.path("partial", claim)) as f:
            lines = [json.loads(line) for line in f if line.endswith("\n")]
        return lines if lines and "end" in lines[-1] else None

    def wait(self, *names, timeout=harness.PATIENCE, what=None):
        wait_for(lambda: all(self.results(name) for name in names), timeout,
                 lambda: "results of %s\n%s\n%s" % (", ".join(n for n in names if not self.results(n)), self.tell(), what() if what else ""))

    def tell(self):
        return "\n".join("%s: %s" % (folder, " ".join(self.names(folder)[-20:])) for folder in
                         ("jobs", "claims", "results", "failures", "retry"))


def config(root, **more):
    return harness.merged({"instances": [{"name": "one", "model": "tiny.gguf", "slots": 2}],
                           "spool": {"dir": root, "backoff": "1s"}}, more)


@pytest.fixture
def spool(folder):
    return Spool(os.path.join(folder, "spool"))


def begin(daemon, spool):
    daemon.start()
    wait_for(spool.is_there, what=daemon.output)
    return daemon


def chat(text="hello", **configuration):
    return {"prompt": text, "configuration": configuration}


def test_a_job_becomes_a_result(make_daemon, real_llama_server, spool):
    d = make_daemon(config(spool.root), start=False, server=real_llama_server)
    begin(d, spool)
    spool.put("a", chat("hello", max_tokens=8, seed=3))
    spool.wait("a", what=d.output)
    result = spool.result("a")
    assert result["job"] == "jobs/a.json" and result["instance"] == "one" and result["attempt"] == 1, result
    assert result["result"] == result["response"]["choices"][0]["message"]["content"] and result["result"], result
    assert result["request"]["seed"] == 3 and result["request"]["messages"][0]["content"] == "hello", result
    assert os.stat(spool.path("results", spool.results("a")[0])).st_mode & 0o7777 == 0o444
    lines = wait_for(lambda: spool.partial("a.1"), what=d.output)
    assert "".join(line["text"] for line in lines[:-1]) == result["result"]
    assert lines[-1]["end"] == "done"
    assert spool.names("jobs") == ["a.json"] and spool.names("claims") == ["a.1"] and spool.names("failures") == []
    hub = wait_for(lambda: [h for h in d.get("/api/v1/hubs").json["hubs"] if h["name"] == "spool" and h["jobs"]["completed"] == 1])[0]
    assert hub["driver"] == "spool" and hub["state"] == "up" and hub["url"] == spool.root, hub


def test_what_was_put_before_the_daemon_is_done_when_it_starts(make_daemon, real_llama_server, spool):
    d = make_daemon(config(spool.root), start=False, server=real_llama_server)
    for folder in "", "jobs", "texts", "results":
        os.mkdir(spool.path(folder))
    for i in range(5):
        spool.put("j%d" % i, chat("n %d" % i, max_tokens=2))
    with open(spool.path("results/1700000000_j3.json"), "w") as f:
        f.write("never read")
    begin(d, spool)
    spool.wait("j0", "j1", "j2", "j4", what=d.output)
    time.sleep(0.5)         # a second result of j3 would come now
    assert spool.results("j3") == ["1700000000_j3.json"]
    answer = d.cli("jobs", "list", "--all", "--json", "--dir", spool.root, socket_option=False)
    assert {job["state"] for job in json.loads(answer.stdout)["jobs"]} == {"done"}, answer


def test_a_plain_request_a_file_and_a_command(make_daemon, real_llama_server, spool):
    d = make_daemon(config(spool.root, spool={"commands": {"words": ["/bin/echo", "three", "little", "words"]}}), start=False,
                    server=real_llama_server)
    begin(d, spool)
    with open(spool.path("texts/intro.txt"), "w") as f:
        f.write("From a file.\n")
    spool.put("plain", {"model": "one", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "stream": True})
    spool.put("built", {"prompt": {"prepend": {"file": "texts/intro.txt"}, "base": {"command": "words"}, "append": "End."},
                        "configuration": {"max_tokens": 4}})
    spool.put("completion", {"prompt": "once upon", "path": "/v1/completions", "configuration": {"max_tokens": 4}})
    spool.wait("plain", "built", "completion", what=d.output)
    assert spool.result("built")["request"]["messages"][0]["content"] == "From a file.\nthree little words\nEnd."
    assert spool.result("plain")["result"] and "stream" not in spool.result("plain")["request"]
    assert spool.result("completion")["response"]["object"] == "text_completion", spool.result("completion")


def test_what_cannot_be_done_is_told_once(make_daemon, real_llama_server, spool):
    d = make_daemon(config(spool.root), start=False, server=real_llama_server)
    begin(d, spool)
    spool.put("broken", b'{"prompt": ')
    spool.put("model", chat(model="other"))
    spool.put("wrong", {"messages": [{"role": "user"}], "temperature": "hot"})
    spool.put("good", chat(max_tokens=2))
    spool.wait("good", what=d.output)
    wait_for(lambda: all(spool.failures(name) for name in ("broken", "model", "wrong")), what=spool.tell)
    assert "is no JSON" in spool.failure("broken")["error"]
    assert "\"other\" is not known here" in spool.failure("model")["error"] and "one" in spool.failure("model")["error"]
    assert spool.failure("wrong")["kind"] == "permanent", spool.failure("wrong")
    assert all(name.endswith(".1.final.json") for name in spool.names("failures"))
    # Written anew, it is tried again; what was said stays.
    spool.put("broken", chat(max_tokens=2))
    spool.wait("broken", what=d.output)
    assert len(spool.failures("broken")) == 1 and spool.result("broken")["attempt"] == 2


def test_three_tries_then_failed_until_retry(make_daemon, real_llama_server, spool):
    gate = spool.root + ".gate"
    d = make_daemon(config(spool.root, spool={"commands": {"gate": ["/bin/cat", gate]}}), start=False, server=real_llama_server)
    begin(d, spool)
    spool.put("a", {"prompt": {"base": {"command": "gate"}}, "configuration": {"max_tokens": 2}})
    wait_for(lambda: len(spool.failures("a")) == 3, what=spool.tell)
    epochs = [int(name.split("_")[0]) for name in spool.failures("a")]
    assert epochs[1] - epochs[0] >= 1 and epochs[2] - epochs[1] >= 2, epochs        # 1 s, then 2 s
    assert spool.failures("a")[-1].endswith("_a.3.final.json")
    assert gate in spool.failure("a")["error"]
    with open(gate, "w") as f:
        f.write("open\n")
    d.restart()             # that it has failed is known from names, too
    answer = d.cli("jobs", "show", "a", "--dir", spool.root, socket_option=False)
    assert "a is failed" in answer.stdout, answer
    answer = d.cli("jobs", "retry", "a", "--dir", spool.root, socket_option=False)
    assert answer.returncode == 0, answer
    spool.wait("a", what=d.output)
    assert spool.result("a")["attempt"] == 4 and len(spool.failures("a")) == 3


def slow(text="count"):
    return chat(text, max_tokens=150, ignore_eos=True)


def slow_config(spool, model, **more):
    return config(spool.root, instances=[{"name": "one", "model": model, "slots": 1, "args": ["-t", "1", "-np", "1", "-c", "4096"]}], **more)


def is_streaming(spool, name):
    return any(os.path.getsize(path) for path in glob.glob(spool.path("partial", name + ".*")))


def test_llama_server_dies_in_the_middle(make_daemon, real_llama_server, slow_model, spool):
    d = make_daemon(slow_config(spool, slow_model), start=False, server=real_llama_server)
    begin(d, spool)
    spool.put("a", slow())
    wait_for(lambda: is_streaming(spool, "a"), what=d.output)
    os.kill(d.instance("one")["pid"], signal.SIGKILL)
    spool.wait("a", what=d.output)
    result = spool.result("a")
    assert result["run"] == 2 or result["attempt"] == 2, result
    lines = wait_for(lambda: spool.partial("a.%d" % result["attempt"]), what=d.output)
    # Who reads drops what is older than the last run: the rest is the answer.
    assert "".join(line["text"] for line in lines if line.get("run") == result["run"]) == result["result"]


def test_a_stop_gives_back_what_it_cannot_end(make_daemon, real_llama_server, slow_model, spool):
    one = make_daemon(slow_config(spool, slow_model, stop={"drain": "300ms"}), start=False, server=real_llama_server)
    begin(one, spool)
    spool.put("a", slow())
    wait_for(lambda: is_streaming(spool, "a"), what=one.output)
    one.stop()
    assert spool.names("claims") == ["a.1", "a.1.free"] and spool.names("failures") == []
    two = make_daemon(slow_config(spool, slow_model), start=False, server=real_llama_server)
    begin(two, spool)
    spool.wait("a", what=two.output)
    assert spool.result("a")["attempt"] == 2


def test_results_that_are_in_the_way_stay(make_daemon, real_llama_server, slow_model, spool):
    d = make_daemon(slow_config(spool, slow_model), start=False, server=real_llama_server)
    begin(d, spool)
    spool.put("a", slow())
    wait_for(lambda: is_streaming(spool, "a"), what=d.output)
    now = int(time.time())
    for epoch in range(now, now + 600):
        with open(spool.path("results/%d_a.json" % epoch), "w") as f:
            f.write("somebody's")
    last = "%d_a.json" % (now + 600)
    wait_for(lambda: last in spool.names("results"), what=d.output)
    with open(spool.path("results", last)) as f:
        assert json.load(f)["attempt"] == 1
    for epoch in range(now, now + 600):
        with open(spool.path("results/%d_a.json" % epoch)) as f:
            assert f.read() == "somebody's"


def check_once_each(spool, names):
    """Exactly one result for each, and never two attempts at once: each later one had a reason that is still there to see."""
    results = spool.results()
    assert sorted(results) == sorted(names)
    assert {name: files for name, files in results.items() if len(files) != 1} == {}
    assert sorted(os.listdir(spool.path("jobs"))) == sorted(name + ".json" for name in names)
    for name in names:
        result = spool.result(name)
        assert result["job"] == "jobs/%s.json" % name and result["result"], result
        attempts = sorted(int(file.split(".")[-1]) for file in spool.names("claims") if re.fullmatch(re.escape(name) + r"\.[0-9]+", file))
        assert attempts == list(range(1, len(attempts) + 1)) and result["attempt"] == attempts[-1], (name, attempts, result["attempt"])


def test_two_daemons_on_one_folder(make_daemon, real_llama_server, spool):
    both = [make_daemon(config(spool.root), start=False, server=real_llama_server) for _ in range(2)]
    for d in both:
        begin(d, spool)
        d.wait_state("one", "ready")
    names = ["job-%03d" % i for i in range(int(40 * SOAK))]
    for name in names:
        spool.put(name, chat(name, max_tokens=6))
    spool.wait(*names, timeout=4 * harness.PATIENCE, what=lambda: both[0].output() + both[1].output())
    check_once_each(spool, names)
    assert not glob.glob(spool.path("claims", "*.2"))       # nobody took what the other had


def test_kill_9_at_any_moment(make_daemon, real_llama_server, spool):
    seed = int(os.environ.get("LSV_SPOOL_SEED", "0")) or int(time.time())
    dice = random.Random(seed)
    print("LSV_SPOOL_SEED=%d" % seed)
    both = [make_daemon(config(spool.root), start=False, server=real_llama_server) for _ in range(2)]
    for d in both:
        begin(d, spool)
        d.wait_state("one", "ready")
    names = []
    for turn in range(int(6 * SOAK)):
        for _ in range(8):
            names.append("job-%04d" % len(names))
            spool.put(names[-1], chat(names[-1], max_tokens=dice.randrange(1, 40)))
        time.sleep(dice.random() * 0.5)         # the moment is the point, not what has happened by then
        victim = dice.choice(both)
        victim.kill9()
        time.sleep(dice.random() * 0.3)
        victim.start()
    spool.wait(*names, timeout=4 * harness.PATIENCE, what=lambda: both[0].output() + both[1].output())
    check_once_each(spool, names)


def test_an_upgrade_in_the_middle(make_daemon, real_llama_server, spool):
    d = make_daemon(config(spool.root, stop={"drain": "60s"}), start=False, server=real_llama_server)
    begin(d, spool)
    d.wait_state("one", "ready")
    names = []
    for _ in range(3):
        for _ in range(6):
            names.append("job-%04d" % len(names))
            spool.put(names[-1], chat(names[-1], max_tokens=30))
        answer = d.cli("upgrade", timeout=2 * harness.PATIENCE)
        assert answer.returncode == 0, (answer, d.output())
    spool.wait(*names, timeout=2 * harness.PATIENCE, what=d.output)
    check_once_each(spool, names)
    assert spool.names("failures") == []
