# ctest: asan
"""`jobs` on a folder, with no daemon: what it hands in, what it sees in names, how it waits, what it refuses."""
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time

import pytest

import harness

FOLDERS = ("jobs", "claims", "partial", "results", "failures", "retry", "texts")


class Folder:
    def __init__(self, root):
        self.root = os.path.join(root, "spool")
        for name in ("",) + FOLDERS:
            os.mkdir(os.path.join(self.root, name))

    def path(self, *names):
        return os.path.join(self.root, *names)

    def put(self, name, content="{}"):
        with open(self.path(name) + ".new", "w") as f:
            f.write(content if isinstance(content, str) else json.dumps(content))
        os.rename(self.path(name) + ".new", self.path(name))

    def jobs(self, *args, stdin=None):
        return subprocess.run([harness.PROGRAM, "jobs", *args, "--dir", self.root], capture_output=True, text=True, check=False,
                              timeout=harness.PATIENCE, **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}))

    def done(self, *args, stdin=None):
        answer = self.jobs(*args, stdin=stdin)
        assert answer.returncode == 0, answer
        return answer.stdout

    def refused(self, *args, code=1, stdin=None):
        answer = self.jobs(*args, stdin=stdin)
        assert answer.returncode == code and answer.stderr.startswith("llama-supervisor jobs: "), answer
        return answer.stderr

    def list(self, *args):
        return {job["name"]: job for job in json.loads(self.done("list", "--json", *args))["jobs"]}


@pytest.fixture
def place(world):
    root = tempfile.mkdtemp(dir=world)
    yield pathlib.Path(root)
    shutil.rmtree(root)


@pytest.fixture
def folder(place):
    return Folder(str(place))


def test_what_is_submitted_lies_there_whole(folder, place):
    job = place / "question.json"
    job.write_text('{"prompt": "why?", "configuration": {"model": "q"}}')
    assert folder.done("submit", str(job)) == "question\n"
    with open(folder.path("jobs/question.json")) as f:
        assert f.read() == job.read_text()
    assert os.stat(folder.path("jobs/question.json")).st_mode & 0o7777 == 0o640
    name = folder.done("submit", "-", stdin='{"messages": []}').strip()
    assert name.startswith("job-") and os.path.exists(folder.path("jobs", name + ".json"))
    name = json.loads(folder.done("submit", "--prompt", 'say "ä"', "--model", "m", "--name", "mine", "--json"))["jobs"][0]
    assert name == "mine"
    with open(folder.path("jobs/mine.json")) as f:
        assert json.load(f) == {"prompt": 'say "ä"', "configuration": {"model": "m"}}
    assert set(folder.list()) == {"question", "mine"} | {n for n in folder.list() if n.startswith("job-")}
    assert {job["state"] for job in folder.list().values()} == {"waiting"}


def test_what_is_no_job_is_refused_before(folder, place):
    job = place / "a.json"
    job.write_text('{"prmpt": 1}')
    assert "neither" in folder.refused("submit", str(job))
    job.write_text('{"prompt":\n')
    assert "line 2" in folder.refused("submit", str(job))
    job.write_text('{"prompt": "x"}')
    assert "No such file" in folder.refused("submit", str(place / "none.json"))
    assert os.listdir(folder.path("jobs")) == []
    folder.done("submit", str(job))
    assert "a job \"a\" already" in folder.refused("submit", str(job))
    folder.put("results/17_b.json")
    assert "results/17_b.json" in folder.refused("submit", str(job), "--name", "b")
    assert "begins with a dot" in folder.refused("submit", str(job), "--name", ".b", code=2)
    folder.refused("submit", code=2)
    folder.refused("submit", str(job), "--prompt", "x", code=2)
    folder.refused("submit", str(job), str(job), "--name", "x", code=2)
    folder.refused("submit", "--prompt", "x", "--all", code=2)
    assert "did you mean jobs submit" in folder.refused("sumbit", code=2)
    assert os.listdir(folder.path("jobs")) == ["a.json"]


def test_states_are_read_from_names(folder):
    for name in "waiting", "running", "retrying", "failed", "done", "back", "died", "forgiven":
        folder.put("jobs/%s.json" % name, {"prompt": "x"})
    folder.put("claims/running.1")
    folder.put("failures/100_retrying.1.json")
    folder.put("failures/100_failed.1.json")
    folder.put("failures/200_failed.2.final.json", {"error": "it was wrong"})
    folder.put("failures/100_done.1.json")
    folder.put("results/300_done.json", {"result": "an answer\nof two lines", "model": "m", "instance": "i", "tokens": 5, "ran_ms": 7})
    folder.put("claims/back.1")
    folder.put("claims/back.1.free")
    folder.put("claims/died.1")
    folder.put("failures/100_forgiven.1.final.json")
    folder.put("retry/forgiven.1")
    folder.put("results/300_archived.json", {"result": "old"})
    with open(folder.path("claims/running.1")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = {name: job["state"] for name, job in folder.list("--all").items()}
        assert told == {"waiting": "waiting", "running": "running", "retrying": "retrying", "failed": "failed", "done": "done",
                        "back": "waiting", "died": "waiting", "forgiven": "waiting", "archived": "done"}
        assert set(folder.list("--state", "failed")) == {"failed"}
        assert "done" not in folder.list()
        assert "1 running, 1 retrying, 1 failed, 2 done" in folder.done("list")
    assert folder.list()["running"]["state"] == "waiting"
    assert folder.list()["failed"]["failure"] == "200_failed.2.final.json"
    assert folder.done("show", "--text", "done") == "an answer\nof two lines\n"
    assert "results/300_done.json" in folder.done("show", "done")
    assert json.loads(folder.done("show", "done", "--json"))["result"]["tokens"] == 5
    assert "it was wrong" in folder.done("show", "failed")
    assert "it is failed: it was wrong" in folder.refused("show", "--text", "failed")
    assert "no job \"none\"" in folder.refused("show", "none")
    folder.refused("list", "--state", "odd", code=2)


def test_retry_marks_and_takes_nothing_away(folder):
    for name in "a", "b", "c":
        folder.put("jobs/%s.json" % name, {"prompt": "x"})
    folder.put("failures/100_a.3.final.json")
    folder.put("failures/100_b.1.final.json")
    before = sorted(os.listdir(folder.path("failures")))
    assert "has not failed: it is waiting" in folder.refused("retry", "a", "c")
    assert os.listdir(folder.path("retry")) == []
    folder.done("retry", "a")
    assert os.listdir(folder.path("retry")) == ["a.3"]
    assert json.loads(folder.done("retry", "--all", "--json")) == {"retried": 1}
    assert sorted(os.listdir(folder.path("retry"))) == ["a.3", "b.1"]
    assert sorted(os.listdir(folder.path("failures"))) == before
    folder.refused("retry", code=2)


def test_wait_ends_with_the_job(folder):
    folder.put("jobs/a.json", {"prompt": "x"})
    folder.put("jobs/b.json", {"prompt": "x"})
    assert "not done in time: a and others" in folder.refused("wait", "a", "b", "--timeout", "100ms")
    threading.Timer(0.3, folder.put, ("results/100_a.json", {"result": "1"})).start()
    folder.done("wait", "a")
    threading.Timer(0.3, folder.put, ("failures/100_b.1.final.json", {"error": "no"})).start()
    assert "1 of 2 failed" in folder.refused("wait", "a", "b")
    assert "no job \"c\"" in folder.refused("wait", "c")
    folder.refused("wait", code=2)

    def answer():
        harness.wait_for(lambda: os.path.exists(folder.path("jobs/d.json")))
        folder.put("results/200_d.json", {"result": "forty two"})
    thread = threading.Thread(target=answer)
    thread.start()
    assert folder.done("submit", "--prompt", "x", "--name", "d", "--wait") == "forty two\n"
    thread.join()


def test_a_folder_that_is_not_there(world):
    answer = subprocess.run([harness.PROGRAM, "jobs", "list", "--dir", os.path.join(world, "nowhere")], capture_output=True, text=True,
                            check=False, timeout=harness.PATIENCE)
    assert answer.returncode == 1 and "there is no such folder" in answer.stderr


def test_the_folder_of_a_configuration(folder, place):
    config = place / "c.json"
    config.write_text(json.dumps({"spool": {"dir": folder.root}, "runtime_dir": str(place / "r"), "state_dir": str(place / "s"),
                                  "log_dir": str(place / "l")}))
    answer = subprocess.run([harness.PROGRAM, "jobs", "submit", "--prompt", "x", "--name", "n", "--config", str(config)],
                            capture_output=True, text=True, check=False, timeout=harness.PATIENCE)
    assert answer.returncode == 0, answer
    assert os.listdir(folder.path("jobs")) == ["n.json"]
    config.write_text("{")
    answer = subprocess.run([harness.PROGRAM, "jobs", "list", "--config", str(config)], capture_output=True, text=True, check=False,
                            timeout=harness.PATIENCE)
    assert answer.returncode == 1 and "--dir names the folder itself" in answer.stderr


def test_many_results(folder):
    for i in range(20000):
        os.close(os.open(folder.path("results/1790000000_job-%06d.json" % i), os.O_WRONLY | os.O_CREAT, 0o444))
    folder.put("jobs/new.json", {"prompt": "x"})
    began = time.monotonic()
    assert set(folder.list()) == {"new"}
    assert len(folder.list("--all")) == 20001
    print("two lists took %.3f s" % (time.monotonic() - began))
