# ctest: asan
"""The hub connector in the whole daemon, over the job folder (the one hub that needs no other program): what is claimed when, what a stop,
a crash and an upgrade do to what was claimed, and that local requests go first."""
import fcntl
import json
import os
import signal
import threading
import time

import harness
from harness import wait_for

PROMPT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


def instance(*args, **members):
    return {"name": "q", "model": "tiny.gguf", "args": ["-np", "2", "-c", "4096", *args], **members}


class Folder:
    def __init__(self, daemon):
        self.daemon, self.dir = daemon, os.path.join(daemon.state, "spool")

    def put(self, name, body=None, **members):
        os.makedirs(os.path.join(self.dir, "jobs"), exist_ok=True)
        path = os.path.join(self.dir, "jobs", name)
        with open(path + ".new", "w") as file:
            json.dump(body or {**PROMPT, **members}, file)
        os.rename(path + ".new", path + ".json")

    def names(self, folder, name=""):
        try:
            return sorted(n for n in os.listdir(os.path.join(self.dir, folder)) if name in n)
        except FileNotFoundError:
            return []

    def results(self, name=""):
        return [n for n in self.names("results") if n.split("_", 1)[-1] == name + ".json" or not name]

    def wait(self, name, n=1):
        wait_for(lambda: len(self.results(name)) == n,
                 what=lambda: "%d results of %s: %s, failures %s; %s" % (
                     n, name, self.results(), self.names("failures"), self.daemon.output()))
        with open(os.path.join(self.dir, "results", self.results(name)[-1])) as file:
            return json.load(file)

    def journal(self):
        try:
            return os.listdir(os.path.join(self.daemon.state, "hubs", "spool", "claims"))
        except FileNotFoundError:
            return []


def requests_of(daemon, state=None):
    return [r for r in daemon.get("/api/v1/requests").json["running"] if state in (None, r["state"])]


def test_a_job_is_a_request_like_any_other(make_daemon):
    daemon = make_daemon({"instances": [instance()]})
    folder = Folder(daemon)
    daemon.wait_state("q", "ready")
    folder.put("one")
    result = folder.wait("one")
    assert result["result"] and result["instance"] == "q", result
    recent = daemon.get("/api/v1/requests").json["recent"]
    assert [(r["source"], r["path"], r["outcome"], r["tokensOut"]) for r in recent] == [("hub", "/v1/chat/completions", "ok", 8)]
    wait_for(lambda: not folder.journal())
    daemon.stop()


def test_local_requests_go_first(make_daemon):
    """One slot, a long job in it, a second one in the folder: a client that comes is served before the second one is claimed."""
    daemon = make_daemon({"instances": [instance("--tok-s", "100", "-np", "1")]})
    folder = Folder(daemon)
    daemon.wait_state("q", "ready")
    wait_for(lambda: daemon.instance("q")["slots"] == 1)
    folder.put("long", max_tokens=30)
    wait_for(lambda: requests_of(daemon, "running"))
    folder.put("second")
    answers = []
    client = threading.Thread(target=lambda: answers.append(daemon.api("POST", "/v1/chat/completions", {**PROMPT, "model": "q"})))
    client.start()
    wait_for(lambda: requests_of(daemon, "waiting"))
    assert [r["source"] for r in requests_of(daemon)] == ["hub", "http"]
    client.join()
    assert answers[0].status == 200
    folder.wait("second")
    order = [r["source"] for r in reversed(daemon.get("/api/v1/requests").json["recent"])]
    assert order == ["hub", "http", "hub"]
    daemon.stop()


def test_a_stop_ends_what_it_can_and_gives_back_the_rest(make_daemon):
    daemon = make_daemon({"instances": [instance("--tok-s", "20", "--tokens", "100000")], "stop": {"drain": "3s", "grace": "1s"}})
    folder = Folder(daemon)
    daemon.wait_state("q", "ready")
    wait_for(lambda: daemon.instance("q")["slots"] == 2)
    folder.put("short", max_tokens=20)
    folder.put("long", max_tokens=3000)
    wait_for(lambda: len(requests_of(daemon, "running")) == 2, what=lambda: str(requests_of(daemon)))
    daemon.stop()
    assert len(folder.results("short")) == 1 and not folder.results("long")
    assert not folder.journal() and not folder.names("failures")
    daemon.config["instances"][0]["args"] = ["-np", "2", "-c", "4096"]
    daemon.write_config(daemon.config)
    daemon.start()
    folder.wait("long")
    daemon.stop()
    assert len(folder.results("short")) == 1


def test_kill9_loses_no_job_and_does_none_twice(make_daemon):
    daemon = make_daemon({"instances": [instance("--tok-s", "200")]})
    folder = Folder(daemon)
    daemon.wait_state("q", "ready")
    names = ["job-%02d" % i for i in range(20)]
    for name in names:
        folder.put(name, max_tokens=20)
    for done in (2, 6, 10, 15):
        wait_for(lambda: len(folder.results()) >= done, what=lambda: daemon.output())
        daemon.kill9()
        daemon.start()
    for name in names:
        folder.wait(name)
    assert len(folder.results()) == len(names)
    wait_for(lambda: not folder.journal(), what=lambda: str(folder.journal()))
    assert not folder.names("failures")
    daemon.stop()


def test_a_death_of_llama_server_is_run_again(make_daemon):
    daemon = make_daemon({"instances": [instance("--tok-s", "20")]})
    folder = Folder(daemon)
    daemon.wait_state("q", "ready")
    folder.put("one", max_tokens=25)
    wait_for(lambda: folder.names("partial"), what=lambda: daemon.output())
    os.kill(daemon.instance("q")["pid"], signal.SIGKILL)
    result = folder.wait("one")
    assert result["response"]["usage"]["completion_tokens"] == 25
    assert not folder.names("failures") and len(folder.names("claims", "one.1")) == 1 and not folder.names("claims", "one.2")
    daemon.stop()


def test_an_upgrade_waits_for_a_job(make_daemon):
    daemon = make_daemon({"instances": [instance("--tok-s", "20")], "stop": {"drain": "20s"}})
    folder = Folder(daemon)
    daemon.wait_state("q", "ready")
    folder.put("one", max_tokens=25)
    wait_for(lambda: requests_of(daemon, "running"))
    assert daemon.cli("upgrade", "--json").returncode == 0, daemon.output()
    assert len(folder.results("one")) == 1
    assert daemon.get("/api/v1/status").json["generation"] == 1
    folder.put("two")
    folder.wait("two")
    daemon.stop()


def test_an_upgrade_by_force_does_it_again_under_the_same_claim(make_daemon):
    daemon = make_daemon({"instances": [instance("--tok-s", "20")], "stop": {"drain": "200ms"}})
    folder = Folder(daemon)
    daemon.wait_state("q", "ready")
    folder.put("one", max_tokens=30)
    wait_for(lambda: folder.names("partial"))
    assert daemon.cli("upgrade", "--json", "--force").returncode == 0, daemon.output()
    assert not folder.results("one")
    result = folder.wait("one")
    assert result["response"]["usage"]["completion_tokens"] == 30
    assert not folder.names("failures") and not folder.names("claims", "one.2")
    daemon.stop()


def test_two_daemons_with_one_state_dir(make_daemon):
    """What the first has promised is its own, through an upgrade, too; the second says what is wrong, and takes it over when the first is dead."""
    first = make_daemon({"instances": [instance("--tok-s", "20")]})
    folder = Folder(first)
    first.wait_state("q", "ready")
    wait_for(lambda: first.get("/api/v1/hubs/spool").json["hub"]["state"] == "up")
    second = make_daemon({"instances": [instance("--tok-s", "20")], "state_dir": first.state})

    def refused():
        hub = second.get("/api/v1/hubs/spool").json["hub"]
        return hub["state"] == "down" and "another llama-supervisor" in hub["why"] and "(process %d)" % first.process.pid in hub["why"] and hub
    hub = wait_for(refused, what=second.output)
    assert "state_dir of its own" in hub["why"] and hub["retryIn"] is not None
    assert "state_dir of its own" in second.cli("hub", "status", "spool").stdout
    second.wait_state("q", "ready")
    answer = second.api("POST", "/v1/chat/completions", {"model": "q", **PROMPT})
    assert answer.status == 200, answer
    folder.put("one", max_tokens=4)
    folder.wait("one")
    had, over = [], threading.Event()

    def covet():
        """Is it free for a moment, while one program becomes the next?"""
        with open(os.path.join(first.state, "hubs", "spool", "lock"), "rb") as file:
            while not over.wait(0.0005):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    had.append(True)
                    return
                except BlockingIOError:
                    pass
    thread = threading.Thread(target=covet)
    thread.start()
    assert first.cli("upgrade", "--json").returncode == 0, first.output()
    assert first.get("/api/v1/status").json["generation"] == 1
    over.set()
    thread.join()
    assert not had
    wait_for(lambda: first.get("/api/v1/hubs/spool").json["hub"]["state"] == "up", what=first.output)
    folder.put("two", max_tokens=4)
    folder.wait("two")
    assert refused()
    assert second.get("/api/v1/hubs/spool").json["hub"]["jobs"]["claimed"] == 0
    folder.put("three", max_tokens=100)
    wait_for(lambda: folder.names("partial", "three"))
    first.kill9()
    wait_for(lambda: second.get("/api/v1/hubs/spool").json["hub"]["state"] == "up", what=second.output)
    folder.wait("three")
    assert len(folder.results()) == 3
    second.stop()


def test_every_door_tells_the_same(make_daemon):
    daemon = make_daemon({"instances": [instance("--tok-s", "20")],
                          "hubs": [{"driver": "nats", "name": "lab", "url": "nats://127.0.0.1:9"}], "spool": {"enabled": True}})
    folder = Folder(daemon)
    feed = daemon.ws()
    feed.send(json.dumps({"type": "subscribe", "topics": ["hub"]}))
    daemon.wait_state("q", "ready")
    folder.put("one", max_tokens=30)
    wait_for(lambda: requests_of(daemon, "running"))
    hubs = {hub["name"]: hub for hub in daemon.get("/api/v1/hubs").json["hubs"]}
    assert sorted(hubs) == ["lab", "spool"]
    assert hubs["spool"]["state"] == "up" and hubs["spool"]["running"] == 1 and hubs["spool"]["jobs"]["claimed"] == 1
    assert hubs["lab"]["state"] in ("connecting", "down") and hubs["lab"]["driver"] == "nats"
    one = daemon.get("/api/v1/hubs/spool").json
    assert one["hub"]["name"] == "spool" and one["workers"] is None
    missing = daemon.get("/api/v1/hubs/nobody")
    assert missing.status == 404 and "GET /api/v1/hubs" in missing.json["error"]["message"]
    shown = daemon.cli("hub", "status").stdout
    assert "lab" in shown and "spool" in shown and "up" in shown, shown
    assert json.loads(daemon.cli("hub", "status", "--json").stdout)["hubs"][0]["name"] == "lab"
    assert "spool" in daemon.cli("hub", "status", "spool").stdout
    assert daemon.cli("hub", "status", "nobody").returncode == 1
    assert daemon.cli("hub", "nonsense").returncode == 2
    assert "hub spool is up, 1 of its jobs runs" in daemon.cli("status").stdout
    folder.wait("one")
    wait_for(lambda: daemon.get("/api/v1/hubs/spool").json["hub"]["jobs"]["completed"] == 1)
    metrics = daemon.get("/metrics").text
    for line in ('hub_state{hub="spool",driver="spool",state="up"} 1', 'hub_state{hub="lab",driver="nats",state="up"} 0',
                 'hub_jobs_total{hub="spool",driver="spool",outcome="completed"} 1', 'hub_tokens_total{hub="spool",driver="spool"} 30'):
        assert "llama_supervisor_" + line in metrics, metrics
    feed.wait(lambda m: m.get("type") == "hub" and any(h["name"] == "spool" and h["jobs"]["completed"] == 1 for h in m["hubs"]))
    states = [s["state"] for s in daemon.get("/api/v1/status").json["hubs"] if s["name"] == "spool"]
    assert states == ["up"]
    assert "spool: hub is up" in daemon.output() and "hub spool is up" not in daemon.output(), daemon.output()
    assert any((e["hub"], e["text"]) == ("spool", "hub is up") for e in daemon.get("/api/v1/history").json["events"] if e["kind"] == "hub_up")
    wait_for(lambda: [e for e in daemon.get("/api/v1/history").json["events"] if e["kind"] == "hub_down"])
    assert [e for e in daemon.get("/api/v1/history").json["events"] if e["kind"] == "hub_up"]
    daemon.stop()
