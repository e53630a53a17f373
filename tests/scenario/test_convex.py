"""The driver for Convex hubs, under our hand (hub_tool), against a double of the backend: the recorded conversation, lost answers, crashes,
revoked keys, jobs that come with an answer, HTTP in place of the WebSocket."""
# ctest: asan
import json
import os
import resource
import time

import pytest

from convex_double import ConvexDouble
from feeds import Node
from harness import SOURCE, wait_for
from pipes import Tool, conform

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RECORD = os.path.join(SOURCE, "tests", "scenario", "convex-frames.jsonl")


@pytest.fixture
def hub(nothing_left):
    made = []

    def make(**kwargs):
        made.append(ConvexDouble(**kwargs))
        return made[-1]
    yield make
    for double in made:
        double.close()


@pytest.fixture
def worker(hub, folder):
    """worker(double) is a driver with its folder; the same folder again is the same worker."""
    tools = []

    def make(double, key="k1", name="w", adopt=None, unread=False):
        state, credentials = os.path.join(folder, name), os.path.join(folder, name + ".key")
        os.makedirs(state, exist_ok=True)
        with open(credentials, "w") as f:
            f.write(key + "\n")
        tool = Tool("hub_tool", "convex", "url=" + double.url, "dir=" + state, "credentials=" + credentials,
                    *(["adopt=" + adopt] if adopt else []), *(["unread=yes"] if unread else []))
        tools.append(tool)
        tool.key_file = credentials
        tool.expect(*(["adopted 0"] if adopt else []), "ready")
        return tool
    yield make
    for tool in tools:
        tool.close()


def crash(tool):
    """kill -9, as far as the driver can tell: nothing is closed or written any more."""
    tool.say("crash")
    tool.process.wait(30)


def crash_noted(tool, folder, job):
    """… once its journal says that the job is claimed; before that the claim is said again, and brings the job once more."""
    def is_noted():
        with open(os.path.join(folder, "w", "session.jsonl")) as f:
            return any('"a":' in line and job in line for line in f)
    wait_for(is_noted)
    crash(tool)


def take(tool):
    """The id of the job that comes next."""
    return tool.until("job ").split()[1]


def settle(tool, job, text="done"):
    tool.say("complete", job, text)
    return tool.until("settled " + job).split()[2]


def test_our_frames_are_those_of_the_recorded_conversation(hub, worker):
    """The reference worker (npm convex, shared/worker.ts) did two jobs; so do we, and say the same words in the same order."""
    with open(RECORD) as f:
        record = [json.loads(line) for line in f]
    wanted = [r["msg"] for r in record if r["dir"] == "C->S"]
    wanted = wanted[:next(i for i, m in enumerate(wanted) if m.get("requestId") == 8)]    # then its test tries a revoked key
    key = wanted[3]["args"][0]["apiKey"]
    double = hub(keys=[key])
    tool = worker(double, key)
    tool.until("state up")
    tool.say("credits 1")
    for text in ("hi one", "hi two"):
        wait_for(lambda: double.said() and double.said()[-1].get("type") == "ModifyQuerySet")
        double.add_job(text)
        job = take(tool)
        # In pieces of another size than the hub is told.
        tool.say("progress", job, 0, "Hello th").expect("took 0")
        tool.say("progress", job, 8, "ere. How are you? b").expect("took 0")
        assert settle(tool, job, "Hello there. How are you? bye") == "stored"
        tool.say("credits 1")
    wait_for(lambda: len(double.said()) > len(wanted))          # the next question
    said = double.said()[:len(wanted)]

    def same(frames):
        names = {}
        frames = json.loads(json.dumps(frames))
        for frame in frames:
            frame.pop("sessionId", None), frame.pop("clientTs", None)
            for args in frame.get("args", []):
                if "jobId" in args:
                    args["jobId"] = names.setdefault(args["jobId"], "job %d" % len(names))
        return frames
    assert same(said) == same(wanted)
    assert double.said("OPEN") == [record[0]["msg"]]
    assert [job["text"] for job in double.jobs.values()] == ["Hello there. How are you? bye"] * 2


def test_the_double_is_a_backend_for_the_real_client(hub):
    """The npm package "convex", version 1.48.0, reads the same protocol on the other side of the double: what it says is what we say."""
    double = hub(chains=False)
    names = [double.add_job("hi one"), double.add_job("hi two")]
    node = Node("convex.mjs", double.url, "k1", "2")
    try:
        node.wait("end")
        said = {one["what"]: one["data"] for one in node.said}
    finally:
        node.close()
    assert [one["data"]["jobId"] for one in node.said if one["what"] == "job"] == names
    assert "Invalid API key" in said["refused"] and said["next"] is None
    assert [double.jobs[name]["text"] for name in names] == ["Hello there. How are you? bye"] * 2
    assert all(double.jobs[name]["beats"] == 1 for name in names)


def test_a_claim_whose_answer_is_lost_is_claimed_once(hub, worker):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    double.cut = lambda message: message.get("udfPath") == "workers:giveMeWork"
    name = double.add_job()
    tool.say("credits 1")
    assert take(tool) == name
    claims = [m for m in double.said() if m.get("udfPath") == "workers:giveMeWork"]
    connects = [m for m in double.said() if m["type"] == "Connect"]
    assert len(claims) == 2 and claims[0] == claims[1] and double.jobs[name]["claims"] == 1
    assert [m["connectionCount"] for m in connects] == [0, 1] and connects[0]["sessionId"] == connects[1]["sessionId"]
    assert connects[0]["lastCloseReason"] == "InitialConnect" != connects[1]["lastCloseReason"]
    assert settle(tool, name) == "stored"


def test_a_result_whose_answer_is_lost_is_stored_once(hub, worker):
    double = hub()
    tool = worker(double)
    name = double.add_job()
    tool.until("state up")
    tool.say("credits 1")
    assert take(tool) == name
    tool.say("progress", name, 0, "One. Two. ").expect("took 0")
    double.cut = lambda message: message["args"][0].get("state") == "success"
    tool.say("complete", name, "One. Two. Three.")
    assert tool.until("settled") == "settled %s unknown" % name
    # The connector asks again; what is on its way is not said twice.
    deadline = time.monotonic() + 60
    while settle(tool, name, "One. Two. Three.") == "unknown":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert double.jobs[name]["text"] == "One. Two. Three." and double.jobs[name]["status"] == "success"
    ends = [m for m in double.said() if m["type"] == "Mutation" and m["args"][0].get("state") == "success"]
    assert len({m["requestId"] for m in ends}) == 1


@pytest.mark.parametrize("moment", ["claim", "text", "end"])
def test_a_crash_claims_nothing_twice_and_says_nothing_twice(hub, worker, moment):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    if moment == "claim":
        # It dies after the claim was made at the hub, before its answer came.
        double.cut = lambda message: message.get("udfPath") == "workers:giveMeWork"
    name = double.add_job()
    tool.say("credits 1")
    if moment == "claim":
        wait_for(lambda: double.jobs[name]["claims"] == 1)
        crash(tool)
    else:
        assert take(tool) == name
        tool.say("progress", name, 0, "One. Two. and").expect("took 0")
        wait_for(lambda: double.jobs[name]["text"] == "One. Two.")
        if moment == "end":
            double.cut = lambda message: message["args"][0].get("state") == "success"
            tool.say("complete", name, "One. Two. and three.")
            wait_for(lambda: double.jobs[name]["status"] == "success")
        crash(tool)

    again = worker(double, adopt=None if moment == "claim" else name)
    if moment == "claim":
        again.until("state up")
        assert take(again) == name
        assert settle(again, name) == "stored"
        assert double.jobs[name]["text"] == "done"
    else:
        again.until("state up")
        if moment == "text":
            # The connector runs it again from the start: what the hub has is not told again, whatever the pieces.
            again.say("progress", name, 0, "One. Tw").until("took 0")
            again.say("progress", name, 7, "o. and three. ").until("took 0")
        assert settle(again, name, "One. Two. and three.") == "stored"
        assert double.jobs[name]["text"] == "One. Two. and three."
    assert double.jobs[name]["claims"] == 1 and double.jobs[name]["status"] == "success"
    sessions = {m["sessionId"] for m in double.said() if m["type"] == "Connect"}
    assert len(sessions) == 1
    # One number, one mutation.
    numbered = {}
    for m in double.said():
        if m["type"] == "Mutation":
            assert numbered.setdefault(m["requestId"], m) == m


def test_a_job_that_nobody_noted_is_given_back(hub, worker, folder):
    """Claimed and answered, but the connector died before it wrote the claim down: it is for others at once, not after a minute."""
    double = hub(chains=False)
    tool = worker(double)
    tool.until("state up")
    name = double.add_job()
    tool.say("credits 1")
    assert take(tool) == name
    crash_noted(tool, folder, name)
    again = worker(double)
    again.until("state up")
    wait_for(lambda: double.jobs[name]["status"] == "pending")
    assert again.say("credits 1") and take(again) == name
    assert settle(again, name) == "stored"


def test_nothing_is_given_back_before_all_that_was_noted_is_read(hub, worker, folder):
    """A disk in trouble: what the connector has noted of it is not known yet, so the job may be ours to go on with."""
    double = hub(chains=False)
    tool = worker(double)
    tool.until("state up")
    name = double.add_job()
    tool.say("credits 1")
    assert take(tool) == name
    crash_noted(tool, folder, name)
    again = worker(double, unread=True)
    again.until("state up")
    other = double.add_job()
    assert again.say("credits 1") and take(again) == other          # later than what would have been said on opening
    assert not [m for m in double.said() if m.get("udfPath") == "workers:submitWork"] and double.jobs[name]["claims"] == 1
    again.say("read")
    wait_for(lambda: double.jobs[name]["status"] == "pending")
    assert double.jobs[other]["status"] != "pending" and settle(again, other) == "stored"


def test_while_the_journal_cannot_be_written_nothing_is_told_but_heartbeats(hub, worker):
    double = hub(chains=False)
    tool = worker(double)
    tool.until("state up")
    name = double.add_job()
    tool.say("credits 1")
    assert take(tool) == name
    soft, hard = resource.prlimit(tool.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(tool.process.pid, resource.RLIMIT_FSIZE, (1, hard))
    tool.say("renew", name)                             # which finds the trouble, and goes on without a line
    assert "File too large" in tool.until("state up the journal cannot be written")
    wait_for(lambda: double.jobs[name]["beats"] == 1)
    tool.say("renew", name)
    wait_for(lambda: double.jobs[name]["beats"] == 2)
    other = double.add_job()
    tool.say("credits 1").say("complete", name, "done").say("renew", name)
    wait_for(lambda: double.jobs[name]["beats"] == 3)   # on the same socket: what was held would have been said before
    assert double.jobs[name]["status"] != "success" and double.jobs[other]["claims"] == 0
    assert not [m for m in double.said() if m.get("udfPath") == "workers:submitWork"]
    resource.prlimit(tool.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert tool.until("settled").split()[1:] == [name, "stored"]
    assert take(tool) == other and double.jobs[other]["claims"] == 1
    numbers = [m["requestId"] for m in double.said() if m["type"] == "Mutation"]
    assert len(numbers) == len(set(numbers))


def test_a_revoked_key_is_told_and_a_new_one_needs_no_restart(hub, worker):
    double = hub(keys=["other"])
    tool = worker(double)
    tool.until("state up")
    double.add_job()
    tool.say("credits 1")
    assert "API key" in tool.until("state revoked")
    claims = [c for c in double.calls if c[0] == "workers:giveMeWork"]
    assert len(claims) == 1             # no storm: the next try is a minute later


def test_a_hidden_refusal_says_what_it_may_be(hub, worker):
    double = hub(keys=["other"], redact=True)
    tool = worker(double)
    tool.until("state up")
    double.add_job()
    tool.say("credits 1")
    line = tool.until("state down")
    assert "Server Error" in line and "revoked" in line


def test_heartbeats_and_the_loss_of_a_claim(hub, worker):
    double = hub(chains=False)
    tool = worker(double)
    tool.until("state up")
    name = double.add_job()
    tool.say("credits 1")
    assert take(tool) == name
    # While the last one is not answered another is none: as the daemon does, it is said again.
    wait_for(lambda: tool.say("renew", name) and double.jobs[name]["beats"] >= 2, step=0.1)
    double.jobs[name]["status"] = "timedOut"
    wait_for(lambda: tool.say("renew", name) and not tool.lines.empty(), step=0.1)
    assert "not in progress" in tool.until("lost " + name)
    tool.say("release", name).until("settled " + name)
    # A result that comes too late is refused, and that is told.
    second = double.add_job()
    tool.say("credits 1")
    assert take(tool) == second
    double.jobs[second]["worker"] = "k2"
    assert settle(tool, second) == "lease_lost"
    assert double.jobs[second]["text"] == ""


def test_an_end_brings_the_next_job_and_one_that_is_not_wanted_goes_back(hub, worker):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    names = [double.add_job("job %d" % i) for i in range(3)]
    tool.say("credits 1")
    assert take(tool) == names[0]
    assert settle(tool, names[0]) == "stored"
    assert take(tool) == names[1]                   # without a claim of ours
    assert [c[0] for c in double.calls].count("workers:giveMeWork") == 1
    # The daemon stops: the connector takes nothing more. What comes with the end is failed, and what comes with that, too: each once.
    tool.say("refuse 108")
    tool.say("drain")
    assert settle(tool, names[1]) == "stored"
    tool.until("refused " + names[2])
    tool.until("state drained")                     # only now: what came with the end is given back
    fails = [a for _, a in double.calls if a.get("state") == "failed"]
    assert len(fails) == 2 and {a["jobId"] for a in fails} == {names[2]} and {a["message"] for a in fails} == {""}
    assert [double.jobs[n]["status"] for n in names[:2]] == ["success"] * 2 and double.jobs[names[2]]["text"] == ""


def test_a_failure_after_text_can_be_told_from_the_next_attempt(hub, worker):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    name = double.add_job()
    tool.say("credits 1")
    assert take(tool) == name
    tool.say("progress", name, 0, "Hel.").until("took 0")
    tool.say("fail", name, "retry")
    tool.until("settled %s stored" % name)
    assert take(tool) == name                       # its own next attempt, by the same answer
    assert settle(tool, name, "Hello") == "stored"
    assert double.jobs[name]["text"] == "Hel.\n\n[interrupted]\n\nHello"


def test_null_in_spite_of_work_does_not_spin(hub, worker):
    double = hub()
    double.lie_null = True
    tool = worker(double)
    tool.until("state up")
    double.add_job()
    tool.say("credits 1")
    wait_for(lambda: double.calls)
    time.sleep(2.5)                                 # a spin makes thousands of calls meanwhile
    assert 1 <= len(double.calls) <= 3
    double.lie_null = False
    take(tool)


def test_many_slots_take_many_jobs_over_one_socket(hub, worker):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    names = [double.add_job("job %d" % i) for i in range(12)]
    tool.say("credits 4")
    done = []
    while len(done) < 12:
        words = tool.next().split()
        if words[0] == "job":
            tool.say("complete", words[1], "answer. to " + words[1])
        elif words[0] == "settled":
            assert words[2] == "stored"
            done.append(words[1])
            tool.say("credits 4")
    assert sorted(done) == sorted(names) and all(j["claims"] == 1 for j in double.jobs.values())
    assert all(j["text"] == "answer. to " + n for n, j in double.jobs.items())


def test_no_credit_no_question(hub, worker):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    tool.say("credits 1")
    wait_for(lambda: double.said() and double.said()[-1]["type"] == "ModifyQuerySet")
    tool.say("credits 0")
    wait_for(lambda: double.said()[-1]["type"] == "ModifyQuerySet" and double.said()[-1]["modifications"][0]["type"] == "Remove")
    double.add_job()
    double.ping()
    tool.say("counts").until("counts")
    assert not double.calls


def test_transitions_that_do_not_fit_and_long_texts(hub, worker):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    double.bad_transition = True
    tool.say("credits 1")
    tool.until("state down")
    tool.until("state up")
    assert "1002" in double.said("CLOSE")
    name = double.add_job("x" * 2000000)
    assert take(tool) == name
    text = ("a long answer without an end " * 40000).strip()
    # Text is taken only as fast as the hub acknowledges it.
    taken, refused = 0, 0
    for at in range(0, 30000, 1000):
        while True:
            line = tool.say("progress", name, at, text[at:at + 1000]).until("took")
            if line == "took 0":
                taken += 1
                break
            refused += 1
            time.sleep(0.01)
    assert settle(tool, name, text) == "stored"
    assert double.jobs[name]["text"] == text and len(double.jobs[name]["pieces"]) >= 30


def test_http_stands_in_for_the_websocket_and_gives_way_to_it(hub, worker):
    double = hub(chains=False)
    double.refuse_upgrades = True
    tool = worker(double)
    name = double.add_job()
    tool.say("credits 1")
    assert "plain HTTP stands in, and partial text is not told" in tool.until("state up")
    assert take(tool) == name
    # No text over HTTP, since it could not be said again safely.
    tool.say("progress", name, 0, "One. ").expect("took -11")
    tool.say("renew", name)
    wait_for(lambda: double.jobs[name]["beats"] == 1)
    # The answer to the end is lost: asked again, "not in progress" means that it is there.
    double.cut = lambda body: body.get("args", {}).get("state") == "success"
    tool.say("complete", name, "One. Two.")
    how = tool.until("settled").split()[2]
    deadline = time.monotonic() + 60
    while how == "unknown":
        assert time.monotonic() < deadline
        time.sleep(0.2)
        how = settle(tool, name, "One. Two.")
    assert how == "already" and double.jobs[name]["text"] == "One. Two."
    assert not double.said("OPEN")


def test_what_cannot_be_opened_says_why(hub, folder, nothing_left):
    double = hub()
    credentials = os.path.join(folder, "key")
    for content, words in ((None, "No such file"), ("", "holds no API key"), ("two words", "holds no API key")):
        if content is not None:
            with open(credentials, "w") as f:
                f.write(content)
        tool = Tool("hub_tool", "convex", "url=" + double.url, "dir=" + folder, "credentials=" + credentials)
        assert words in tool.expect("open: ")
        tool.close()
    with open(credentials, "w") as f:
        f.write("k1\n")
    for url in ("tls://h", "https://h/path"):
        tool = Tool("hub_tool", "convex", "url=" + url, "dir=" + folder, "credentials=" + credentials)
        assert "https://NAME.convex.cloud" in tool.expect("open: ")
        tool.close()


def test_a_torn_journal_is_read_as_far_as_it_goes(hub, worker, folder):
    double = hub()
    tool = worker(double)
    tool.until("state up")
    name = double.add_job()
    tool.say("credits 1")
    assert take(tool) == name
    tool.say("progress", name, 0, "One. ").until("took 0")
    wait_for(lambda: double.jobs[name]["text"] == "One.")
    crash(tool)
    journal = os.path.join(folder, "w", "session.jsonl")
    assert os.stat(journal).st_mode & 0o777 == 0o600
    with open(journal) as f:
        assert "k1" not in f.read()
    with open(journal, "a") as f:
        f.write('{"m":99,"kind":2,"pa')
    again = worker(double, adopt=name)
    assert settle(again, name, "One. Two.") in ("stored", "unknown")
    wait_for(lambda: double.jobs[name]["text"] == "One. Two.")
    assert len({m["sessionId"] for m in double.said() if m["type"] == "Connect"}) == 1


def test_it_does_what_every_hub_does(hub, folder):
    """The table of tests/unit/hub/conformance.h; this hub has no release and no failure for good, and does not count attempts."""
    names = {}

    def begin():
        double, state = hub(), os.path.join(folder, "c%d" % len(os.listdir(folder)))
        os.mkdir(state)
        with open(os.path.join(state, "key"), "w") as f:
            f.write("k1\n")
        names.clear()
        return double, ("url=" + double.url, "dir=" + state, "credentials=" + os.path.join(state, "key"))

    def put(double, name):
        names[name] = double.add_job(name)

    def results(double, name):
        return int(double.jobs[names[name]]["status"] == "success")
    passed, left_out = conform("convex", begin, put, results)
    assert passed == ["credits are kept", "a result is stored", "what failed here comes again", "a claim is handed on",
                      "who drains claims nothing"]
    assert left_out == ["what is released comes again", "what failed for good is over"]
