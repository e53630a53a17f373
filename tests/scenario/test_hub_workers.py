# ctest: asan
"""The whole daemon as a worker of a Convex hub and of a GoLlama hub: what they give is done once and told once, whatever dies between."""
import concurrent.futures
import os
import re
import signal

import pytest

from convex_double import ConvexDouble
from gollama_double import GollamaDouble
from harness import free_port, request, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def convex(nothing_left):
    double = ConvexDouble()
    yield double
    double.close()


@pytest.fixture
def gollama(nothing_left):
    double = GollamaDouble()
    yield double
    double.close()


def entry(*args, **members):
    return {"name": "q", "model": "tiny.gguf", "aliases": ["llama3"], "args": ["-np", "2", "-c", "4096", *args], **members}


def convex_daemon(make_daemon, double, *args, **config):
    daemon = make_daemon({"instances": [entry(*args)], "hubs": [{"driver": "convex", "url": double.url, "credentials_file": "farm.key"}],
                          **config}, start=False)
    with open(daemon.path("farm.key"), "w") as f:
        f.write("k1\n")
    os.chmod(daemon.path("farm.key"), 0o600)
    daemon.start()
    daemon.wait_state("q", "ready")
    return daemon


def nothing_noted(daemon, name):
    """Every job is settled, as far as our journal knows."""
    wait_for(lambda: not os.listdir(os.path.join(daemon.state, "hubs", name, "claims")),
             what=lambda: str(os.listdir(os.path.join(daemon.state, "hubs", name, "claims"))) + daemon.output())


def done(double, *names):
    wait_for(lambda: all(double.jobs[n]["status"] == "success" for n in names), what=lambda: str(double.jobs))


def whole_text(daemon, text="hi"):
    """What the server says to it when nothing disturbs it."""
    answer = daemon.api("POST", "/v1/chat/completions", {"model": "q", "messages": [{"role": "user", "content": text}]})
    return answer.json["choices"][0]["message"]["content"]


def test_convex_jobs_are_done_and_streamed(make_daemon, convex):
    daemon = convex_daemon(make_daemon, convex, "--tokens", "40")
    names = [convex.add_job("hi") for _ in range(10)] + [convex.add_job("hi", stream=False)]
    done(convex, *names)
    expected = whole_text(daemon)
    for name in names:
        job = convex.jobs[name]
        assert (job["text"], job["claims"]) == (expected, 1)
    assert not convex.jobs[names[-1]]["pieces"]
    nothing_noted(daemon, "convex")
    # A word of its own: the name of a folder is made by chance.
    assert not re.search(r"\bk1\b", daemon.output()) and "convex: hub is up" in daemon.output()
    daemon.stop()


def test_a_killed_daemon_claims_nothing_twice_and_its_job_is_told_once(make_daemon, convex):
    daemon = convex_daemon(make_daemon, convex, "--tok-s", "20", "--tokens", "60")
    name = convex.add_job("hi")
    wait_for(lambda: convex.jobs[name]["pieces"], what=lambda: str(convex.jobs))
    daemon.kill9()
    daemon.start()
    done(convex, name)
    job = convex.jobs[name]
    assert job["claims"] == 1 and job["text"] == whole_text(daemon)
    assert len({m["sessionId"] for m in convex.said() if m["type"] == "Connect"}) == 1
    numbered = {}
    for m in convex.said():
        if m["type"] == "Mutation":
            assert numbered.setdefault(m["requestId"], m) == m      # one number, one mutation
    daemon.stop()


def test_an_upgrade_by_force_goes_on_with_the_same_claim(make_daemon, convex):
    daemon = convex_daemon(make_daemon, convex, "--tok-s", "20", "--tokens", "60", stop={"drain": "200ms", "grace": "1s"})
    name = convex.add_job("hi")
    wait_for(lambda: convex.jobs[name]["pieces"], what=lambda: str(convex.jobs))
    assert daemon.cli("upgrade", "--json", "--force").returncode == 0, daemon.output()
    done(convex, name)
    assert convex.jobs[name]["claims"] == 1 and convex.jobs[name]["text"] == whole_text(daemon)
    daemon.stop()


def test_a_hub_that_goes_away_and_comes_back(make_daemon, convex):
    daemon = convex_daemon(make_daemon, convex, "--tok-s", "40", "--tokens", "60")
    names = [convex.add_job("hi") for _ in range(4)]
    for cut in range(1, 4):
        wait_for(lambda: sum(bool(j["pieces"]) + (j["status"] == "success") for j in convex.jobs.values()) >= cut,
                 what=lambda: str(convex.jobs))
        convex.drop()
    done(convex, *names)
    expected = whole_text(daemon)
    assert all((j["text"], j["claims"]) == (expected, 1) for j in convex.jobs.values()), convex.jobs
    daemon.stop()


def test_a_death_of_llama_server_tells_nothing_twice(make_daemon, convex):
    daemon = convex_daemon(make_daemon, convex, "--tok-s", "20", "--tokens", "60")
    name = convex.add_job("hi")
    wait_for(lambda: convex.jobs[name]["pieces"], what=lambda: str(convex.jobs))
    os.kill(daemon.instance("q")["pid"], signal.SIGKILL)
    done(convex, name)
    assert convex.jobs[name]["claims"] == 1 and convex.jobs[name]["text"] == whole_text(daemon)
    assert not [a for _, a in convex.calls if a.get("state") == "failed"]
    daemon.stop()


def test_a_stop_finishes_what_runs_and_gives_back_what_comes_with_it(make_daemon, convex):
    daemon = convex_daemon(make_daemon, convex, "--tok-s", "20", "--tokens", "30", stop={"drain": "60s", "grace": "1s"})
    convex.give_tried = False
    names = [convex.add_job("hi %d" % i) for i in range(4)]
    # Both run: what only waits for a slot is given back at once.
    wait_for(lambda: sum(bool(j["pieces"]) for j in convex.jobs.values()) == 2, what=lambda: str(convex.jobs))
    daemon.stop()
    states = sorted(j["status"] for j in convex.jobs.values())
    assert states.count("success") == 2 and "inProgress" not in states, states
    # Nothing is lost: whoever works next does them.
    assert [convex.jobs[n]["text"] for n in names if convex.jobs[n]["status"] != "success"] == ["", ""]


def test_a_foreign_model_is_failed_before_a_word_is_told(make_daemon, convex):
    daemon = convex_daemon(make_daemon, convex, "--tokens", "10")
    foreign, own = convex.add_job("hi", model="unknown-70b"), convex.add_job("hi")
    done(convex, own)
    wait_for(lambda: convex.jobs[foreign]["status"] == "failed", what=lambda: str(convex.jobs))
    assert convex.jobs[foreign]["text"] == ""
    nothing_noted(daemon, "convex")
    daemon.stop()


def test_a_revoked_key_shows_on_the_doors(make_daemon, convex):
    convex.keys = {"another"}
    daemon = convex_daemon(make_daemon, convex)
    convex.add_job("hi")
    wait_for(lambda: "convex: hub refuses our key" in daemon.output(), what=daemon.output)
    hub = daemon.get("/api/v1/hubs").json["hubs"][0]
    assert hub["state"] == "revoked" and "farm.key" in hub["why"] and hub["name"] == "convex"
    daemon.stop()


def gollama_daemon(make_daemon, double, *args, **config):
    port = free_port()
    daemon = make_daemon({"instances": [entry(*args)],
                          "hubs": [{"driver": "gollama", "url": double.url, "credentials_file": "hub.creds", "listen": "127.0.0.1:%d" % port,
                                    "allow": ["127.0.0.1"]}], **config}, start=False)
    with open(daemon.path("hub.creds"), "w") as f:
        f.write("admin:password\n")
    os.chmod(daemon.path("hub.creds"), 0o600)
    daemon.start()
    daemon.wait_state("q", "ready")
    wait_for(lambda: double.workers, what=daemon.output)
    return daemon


def test_gollama_chats_are_answered(make_daemon, gollama):
    daemon = gollama_daemon(make_daemon, gollama, "--tokens", "12")
    expected = whole_text(daemon, "hello")
    # More than there are slots: they are held, and nobody is dropped.
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda i: request(gollama.url, "POST", "/chat", {"message": "hello"}).json["reply"], range(60)))
    assert replies == [expected] * 60
    assert len(gollama.registered) == 1
    nothing_noted(daemon, "gollama")
    hub = daemon.get("/api/v1/hubs").json["hubs"][0]
    assert hub["inbound"] and hub["state"] == "up" and hub["jobs"]["completed"] == 60, hub
    recent = daemon.get("/api/v1/requests").json["recent"]
    assert {r["source"] for r in recent if r["path"] == "/v1/chat/completions"} <= {"hub", "http"}
    daemon.stop()


def test_gollama_a_death_of_llama_server_is_not_the_hubs_business(make_daemon, gollama):
    daemon = gollama_daemon(make_daemon, gollama, "--tok-s", "20", "--tokens", "40")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reply = pool.submit(gollama.chat, "hello")
        wait_for(lambda: daemon.get("/api/v1/requests").json["running"])
        os.kill(daemon.instance("q")["pid"], signal.SIGKILL)
        assert reply.result(60) == whole_text(daemon, "hello")
    assert len(gollama.registered) == 1 and len(gollama.workers) == 1
    daemon.stop()
