# ctest: asan
"""The job folder over the whole daemon: files in, files out, whatever dies between."""
import glob
import json
import os
import re
import signal
import time

import pytest

import harness
from harness import wait_for

SOAK = float(os.environ.get("LSV_SOAK", "1"))


class Spool:
    def __init__(self, root):
        self.root = root

    def path(self, *names):
        return os.path.join(self.root, *names)

    def names(self, folder):
        return sorted(name for name in os.listdir(self.path(folder)) if not name.startswith("."))

    def is_there(self):
        return os.path.isdir(self.path("failures"))

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

    def wait(self, *names, timeout=harness.PATIENCE, what=None):
        wait_for(lambda: all(self.results(name) for name in names), timeout,
                 lambda: "results of %s\n%s\n%s" % (", ".join(n for n in names if not self.results(n)), self.tell(), what() if what else ""))

    def tell(self):
        return "\n".join("%s: %s" % (folder, " ".join(self.names(folder)[-20:])) for folder in
                         ("jobs", "claims", "results", "failures", "retry"))


def config(spool, **more):
    return harness.merged({"instances": [{"name": "one", "model": "tiny.gguf", "slots": 2}],
                           "spool": {"dir": spool, "backoff": "1s"}}, more)


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
    with open(spool.path("partial/a.1")) as f:
        lines = [json.loads(line) for line in f]
    assert "".join(line["text"] for line in lines[:-1]) == result["result"]
    assert lines[-1]["end"] == "done"
    assert spool.names("jobs") == ["a.json"] and spool.names("claims") == ["a.1"] and spool.names("failures") == []


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
