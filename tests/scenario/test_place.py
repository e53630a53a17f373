# ctest: asan
"""Where the GPUs' memory goes: "auto" is placed by what is free, what does not fit waits or is refused with the sum, what was taken is learned,
and the next load waits until the memory of the last is back. The GPUs are not there (gpus.py)."""
import json
import os
import threading
import time

import pytest

import gpus
import harness
from gpus import GIB

# weights + 1 GiB of KV cache at 8192 tokens + buffers + driver; and 1 GiB free besides.
ARGS = ["-c", "8192"]


@pytest.fixture
def machine(folder):
    return gpus.Machine(folder)


@pytest.fixture
def place(make_daemon, machine):
    """A daemon with GPUs of 24 GiB of which so much is used, and models: {"name": GiB of its file}."""
    def make(used, models, instances, env=None, **config):
        for i, gib in enumerate(used):
            machine.add("GPU-%02d" % i, 1 + i, total=24 * GIB, used=int(gib * GIB))
        daemon = make_daemon(dict({"instances": instances}, **machine.config, **config), env=dict(machine.env, **(env or {})), start=False)
        for name, gib in models.items():
            gpus.gguf(os.path.join(daemon.models, name + ".gguf"), int(gib * GIB), heads=0 if name == "unknown" else 32)
        return daemon.start()
    return make


def entry(name, model=None, **more):
    return dict({"name": name, "model": (model or name) + ".gguf", "args": ARGS}, **more)


def environment(daemon, name):
    with open("/proc/%d/environ" % daemon.instance(name)["pid"], "rb") as f:
        return dict(pair.split(b"=", 1) for pair in f.read().split(b"\0") if b"=" in pair)


def visible(daemon, name):
    return environment(daemon, name).get(b"CUDA_VISIBLE_DEVICES", b"all").decode().split(",")


def holds(machine, gpu, pid, gib):
    """The process holds that from now on, as the driver tells it."""
    machine.processes.append((gpu, pid, int(gib * GIB)))
    machine.gpus[gpu]["used"] += int(gib * GIB)
    machine.write()


def lets_go(machine, pid, processes=True, memory=True):
    for gpu, owner, size in machine.processes:
        if owner == pid and memory:
            machine.gpus[gpu]["used"] -= size
    if processes:
        machine.processes = [p for p in machine.processes if p[1] != pid]
    machine.write()


def kinds(daemon):
    return [(e["kind"], e["instance"], e["text"]) for e in daemon.get("/api/v1/history").json["events"]]


def test_the_freest_gpu_gets_it(place):
    daemon = place([20, 2], {"qwen": 4}, [entry("qwen")])
    daemon.wait_state("qwen", "ready")
    assert visible(daemon, "qwen") == ["GPU-01"]
    assert daemon.instance("qwen")["gpu"] == ["GPU-01"]
    assert daemon.instance("qwen")["lastError"] is None


def test_two_at_once_are_not_put_into_the_same_room(place):
    """What loads still holds nothing; what it was promised is not given away again."""
    daemon = place([2, 4], {"qwen": 14}, [entry("one", "qwen"), entry("two", "qwen")], env={"FAKE_LLAMA_ARGS": "--load-ms 300"})
    for name in ("one", "two"):
        daemon.wait_state(name, "ready")
    assert visible(daemon, "one") == ["GPU-00"] and visible(daemon, "two") == ["GPU-01"]


def test_the_fewest_that_hold_it_together(place):
    daemon = place([2, 18, 4], {"large": 30}, [entry("large")])
    daemon.wait_state("large", "ready")
    assert visible(daemon, "large") == ["GPU-00", "GPU-02"]


def test_what_never_fits_is_refused_with_the_sum(place):
    daemon = place([2, 4], {"huge": 60, "qwen": 4}, [entry("huge"), entry("qwen")])
    feed = daemon.ws()
    daemon.wait_state("huge", "error")
    daemon.wait_state("qwen", "ready")
    told = daemon.instance("huge")["lastError"]
    assert told.startswith("does not fit into the GPUs: needs 61.6G: weights 60.0G + KV cache 1.0G (8192 tokens) + buffers 56M + driver 0.5G"
                           " = 61.6G, better with 1.0G free besides (--fit-target); GPU 0 has 22.0G free of 24.0G; GPU 1 has 20.0G free of 24.0G; "
                           "it cannot fit"), told
    assert feed.wait(lambda m: m.get("instance") == "huge" and m["data"]["status"] == "error")["data"]["lastError"] == told
    assert "needs 61.6G" in daemon.cli("why", "huge").stdout
    assert [e for e in kinds(daemon) if e[0] == "refused"] == [("refused", "huge", told)]
    assert daemon.instance("huge")["pid"] is None and daemon.instance("huge")["retries"] == 0
    # Its settings change: it is tried again.
    daemon.write_config(dict(daemon.config, instances=[entry("huge", args=ARGS + ["-ngl", "4"]), entry("qwen")]))
    assert daemon.api("POST", "/api/v1/reload").status == 200
    daemon.wait_state("huge", "ready")
    assert daemon.instance("huge")["lastError"] is None


def test_what_does_not_fit_now_waits(place, machine):
    daemon = place([20, 21], {"qwen": 10}, [entry("qwen")])
    told = daemon.wait("qwen", lambda now: now["lastError"], what="it says why it waits")
    assert told["status"] == "initial" and told["pid"] is None
    assert told["lastError"].startswith("waits for GPU memory: needs 11.6G: "), told
    assert "GPU 1 has 3.0G free of 24.0G; it starts when enough is free" in told["lastError"]
    machine.gpus[1]["used"] = 2 * GIB
    machine.write()
    daemon.wait_state("qwen", "ready")
    assert visible(daemon, "qwen") == ["GPU-01"] and daemon.instance("qwen")["lastError"] is None


def test_waiting_has_an_end(place):
    daemon = place([20], {"qwen": 10}, [entry("qwen", health={"load_timeout": "1s"})])
    told = daemon.wait_state("qwen", "error")
    assert told["lastError"].startswith("waited ") and "for GPU memory: needs 11.6G" in told["lastError"]


def test_who_says_where_is_left_alone(place):
    daemon = place([20, 2], {"huge": 60, "unknown": 4}, [
        entry("device", "huge", args=ARGS + ["-sm", "layer"]), entry("env", "huge", env={"CUDA_VISIBLE_DEVICES": "0"}),
        entry("cpu", "huge", gpu="none"), entry("first", "huge", gpu=[0]), entry("unknown")])
    for name in ("device", "env", "cpu", "first", "unknown"):
        daemon.wait_state(name, "ready")
    assert visible(daemon, "device") == ["all"] and visible(daemon, "env") == ["0"] and visible(daemon, "cpu") == [""]
    assert visible(daemon, "first") == ["GPU-00"] and visible(daemon, "unknown") == ["all"]
    assert "first" in daemon.output() and "may not fit where" in daemon.output()
    assert "unknown" in daemon.output() and "is not placed: its header tells too little for an estimate" in daemon.output()


def test_a_set_that_can_never_hold_it(place):
    """A person has chosen; only what llama-server itself could not make fit is refused."""
    daemon = place([2, 2], {"huge": 60}, [entry("huge", gpu=[1], args=ARGS + ["-ngl", "all"])])
    assert "does not fit into its GPUs: needs 61.6G" in daemon.wait_state("huge", "error")["lastError"]


# ---- plan ----------------------------------------------------------------------------------------------------------------

def plan(daemon, *names):
    """What `plan --json` says, and its exit code."""
    result = daemon.cli("plan", "--json", *names)
    assert result.returncode in (0, 1), result
    return json.loads(result.stdout), result.returncode


def line(told, name):
    return next(x for x in told["instances"] if x["instance"] == name)


def on(told, name):
    return [g["gpu"] for g in line(told, name)["gpus"]]


def test_the_plan_is_what_happens(place):
    """Before anything starts, without a daemon and with one: it is what happens then."""
    instances = [entry("one", "qwen"), entry("two", "qwen"), entry("large"), entry("huge"), entry("cpu", "huge", gpu="none"),
                 entry("rest", "qwen", autostart=False)]
    daemon = place([2, 4, 1], {"qwen": 14, "large": 20, "huge": 90}, instances)
    daemon.wait_state("huge", "error")
    for name in ("one", "two", "large", "cpu"):
        daemon.wait_state(name, "ready")
    where = {name: visible(daemon, name) for name in ("one", "two", "large")}
    daemon.stop()
    # The fake GPUs show no use by what ran, so the machine is as it was.
    offline = daemon.cli("plan", "--json", "--config", daemon.config_file, socket_option=False)
    assert offline.returncode == 1 and "no daemon runs with" in offline.stderr
    told = json.loads(offline.stdout)
    for name, gpus_of in where.items():
        assert (on(told, name), line(told, name)["verdict"]) == (gpus_of, "fits"), told
    assert line(told, "huge")["verdict"] == "refused" and "needs 91.6G" in line(told, "huge")["reason"]
    assert line(told, "cpu")["verdict"] == "cpu" and not line(told, "rest")["wanted"]
    estimate = line(told, "one")["estimate"]
    assert estimate["total"] == sum(estimate[k] for k in ("weights", "cache", "buffers", "projector", "draft", "driver"))
    assert (estimate["weights"], estimate["cache"], estimate["tokens"]) == (14 * GIB, GIB, 8192) and not estimate["guess"]
    for gpu in told["gpus"]:
        taken = sum(g["takes"] for x in told["instances"] if x["wanted"] for g in x["gpus"] if g["gpu"] == gpu["gpu"])
        assert gpu["memoryLeft"] == gpu["memoryFree"] - taken >= 0
    # What the daemon left cordoned is so here, too; what it cordoned for deaths was until the machine is booted.
    store = os.path.join(daemon.state, "gpus.json")
    with open(store, "w") as f:
        json.dump({"cordons": [{"gpu": where["large"][0], "by": "person", "why": "a test", "since": 1, "bootId": "x"},
                               {"gpu": where["one"][0], "by": "deaths", "why": "a test", "since": 1, "bootId": "another"}]}, f)
    told = json.loads(daemon.cli("plan", "--json", "--config", daemon.config_file, socket_option=False).stdout)
    assert {g["gpu"]: g["unusable"] for g in told["gpus"]}[where["large"][0]] == "cordoned"
    assert where["large"][0] not in sum((on(told, x["instance"]) for x in told["instances"]), []) and on(told, "one")
    os.unlink(store)
    # Of a daemon before it starts them: the same.
    daemon.write_config(dict(daemon.config, instances=[dict(i, autostart=False) for i in instances]))
    daemon.start()
    told, code = plan(daemon)
    assert code == 0 and told["complete"] and told["fits"]
    told, code = plan(daemon, "huge")
    assert code == 1
    text = daemon.cli("plan", "one", "huge")
    assert text.returncode == 1 and "needs 91.6G: weights 90.0G" in text.stdout and "GPU 2" in text.stdout, text.stdout
    assert "weights 14.0G + KV cache 1.0G (8192 tokens)" in text.stdout
    assert daemon.cli("plan", "nobody").returncode == 1
    assert daemon.get("/api/v1/plan?instance=nobody").status == 404
    one = daemon.get("/api/v1/plan?instance=one").json
    assert [x["instance"] for x in one["instances"]] == ["one"] and one["fits"]
    assert daemon.get("/api/v1/plan?instance=huge").json["fits"] is False


def test_plan_without_a_daemon_and_without_gpus(make_daemon, machine):
    daemon = make_daemon(dict(machine.config, instances=[{"name": "qwen", "model": "tiny.gguf"}]), env=machine.env, start=False)
    result = daemon.cli("plan", "--offline", "--config", daemon.config_file, socket_option=False)
    assert (result.returncode, result.stderr) == (0, "") and "no GPU is seen on this machine" in result.stdout
    daemon.start()
    daemon.wait_state("qwen", "ready")
    told, code = plan(daemon)
    assert code == 0 and line(told, "qwen")["verdict"] in ("runs", "unplaced") and told["gpus"] == []
    daemon.write_config(dict(daemon.config, bogus=1))
    result = daemon.cli("plan", "--offline", "--config", daemon.config_file, socket_option=False)
    assert result.returncode == 1 and "bogus" in result.stderr


def test_the_plan_of_two_vendors(make_daemon, machine):
    """What a program can use is asked of it: without a daemon, and by one, it is the same. The fake sees CUDA's alone."""
    machine.add("GPU-00", 1, total=24 * GIB, used=GIB)
    machine.add_amd(1, 3, "6f5c1d2e3a4b5c6d", mem_info_vram_total=str(48 * GIB))
    instances = [entry("each", "qwen", replicas="per-gpu"), entry("free", "qwen"), entry("green", "qwen", gpu=[0], autostart=False),
                 entry("red", "qwen", gpu=["GPU-6f5c1d2e3a4b5c6d"])]
    daemon = make_daemon(dict(machine.config, instances=instances), env=machine.env, start=False)
    gpus.gguf(os.path.join(daemon.models, "qwen.gguf"), 2 * GIB)
    told = json.loads(daemon.cli("plan", "--offline", "--json", "--config", daemon.config_file, socket_option=False).stdout)
    assert [x["instance"] for x in told["instances"]] == ["each", "free", "green", "red"], told
    assert [on(told, name) for name in ("each", "free", "green")] == [["GPU-00"]] * 3, told
    assert "none that its llama-server can use" in line(told, "red")["reason"]
    daemon.start()
    for name in ("each", "free"):
        daemon.wait_state(name, "ready")
        assert visible(daemon, name) == ["GPU-00"]
    daemon.wait_state("red", "error")
    assert sorted(i["name"] for i in daemon.get("/api/v1/instances").json["instances"]) == ["each", "free", "green", "red"]
    # One that sees both: a replica on each.
    daemon.stop()
    daemon.env["FAKE_DEVICES"] = "  CUDA0: FAKE (8 MiB, 8 MiB free)\n  ROCm0: FAKE (8 MiB, 8 MiB free)"
    told = json.loads(daemon.cli("plan", "--offline", "--json", "--config", daemon.config_file, socket_option=False).stdout)
    assert [on(told, name) for name in ("each-0", "each-1", "red")] == [["GPU-00"]] + [["GPU-6f5c1d2e3a4b5c6d"]] * 2, told
    daemon.start()
    for name in ("each-0", "each-1"):
        daemon.wait_state(name, "ready")


# ---- what was taken ------------------------------------------------------------------------------------------------------

def test_what_was_taken_is_learned(place, machine):
    """It took more than the estimate says: the next start knows, after a restart of the daemon, too; and "learned.json" may be broken."""
    daemon = place([2, 10], {"qwen": 12}, [entry("qwen")])
    daemon.wait_state("qwen", "ready")
    assert visible(daemon, "qwen") == ["GPU-00"]
    told, _ = plan(daemon)
    assert line(told, "qwen")["learned"] is None and line(told, "qwen")["needs"] == line(told, "qwen")["estimate"]["total"]
    pid = daemon.instance("qwen")["pid"]
    holds(machine, 0, pid, 19)
    harness.wait_for(lambda: line(plan(daemon)[0], "qwen")["learned"] == 19 * GIB, what=lambda: daemon.output())
    now = line(plan(daemon)[0], "qwen")
    assert (now["verdict"], now["holds"], now["needs"], now["estimate"]["weights"]) == ("runs", 19 * GIB, 19 * GIB, 12 * GIB)
    daemon.stop()
    machine.processes = []
    machine.gpus[0]["used"], machine.gpus[1]["used"] = 6 * GIB, 2 * GIB
    machine.write()
    daemon.start()
    daemon.wait_state("qwen", "ready")
    assert visible(daemon, "qwen") == ["GPU-01"]
    assert line(plan(daemon)[0], "qwen")["learned"] == 19 * GIB
    # It is less than what is free nowhere: refused by what was learned, not by the estimate.
    daemon.stop()
    machine.gpus[0]["used"] = machine.gpus[1]["used"] = int(5.5 * GIB)
    machine.write()
    result = daemon.cli("plan", "--offline", "--config", daemon.config_file, socket_option=False)
    assert result.returncode == 0 and "GPU 0, GPU 1" in result.stdout, result
    # Another file with the same name has to be learned anew.
    gpus.gguf(os.path.join(daemon.models, "qwen.gguf"), 13 * GIB)
    result = daemon.cli("plan", "--offline", "--json", "--config", daemon.config_file, socket_option=False)
    assert line(json.loads(result.stdout), "qwen")["learned"] is None
    with open(os.path.join(daemon.state, "learned.json"), "w") as f:
        f.write("{")
    daemon.start()
    daemon.wait_state("qwen", "ready")
    assert "learned.json cannot be read" in daemon.output()
    assert open(os.path.join(daemon.state, "learned.json.bad")).read() == "{"


def test_what_was_cut_down_teaches_nothing(place, machine):
    """llama-server left layers on the CPU, since there was no room: the next start needs all of it again, and nobody is put beside it. Whose layers are
    given takes what it takes, and who had room has left nothing out."""
    daemon = place([10, 22], {"cut": 12, "fixed": 1}, [entry("cut", gpu=[0]), entry("fixed", args=ARGS + ["-ngl", "4"], gpu=[1])])
    pids = {name: daemon.wait_state(name, "ready")["pid"] for name in ("cut", "fixed")}
    before = line(plan(daemon)[0], "cut")
    holds(machine, 0, pids["cut"], 13)                  # 13.6 are wanted; 1 is left
    holds(machine, 1, pids["fixed"], 0.7)
    harness.wait_for(lambda: line(plan(daemon)[0], "fixed")["learned"] == int(0.7 * GIB), what=lambda: daemon.output())
    now = line(plan(daemon)[0], "cut")
    assert now["learned"] is None and now["needs"] == before["needs"] > 13.5 * GIB and now["holds"] == 13 * GIB
    assert "cut: takes 13.0G of GPU memory, 13.6G were expected: llama-server may have left layers on the CPU" in daemon.output()
    path = os.path.join(daemon.state, "learned.json")
    harness.wait_for(lambda: os.path.exists(path), what="it is written")
    assert open(path).read().count('"key"') == 1


def test_nothing_is_learned_where_the_driver_hides_processes(place, machine):
    daemon = place([2], {"qwen": 12}, [entry("qwen")])
    daemon.wait_state("qwen", "ready")
    machine.processes = [(0, daemon.instance("qwen")["pid"], "-")]
    machine.write()
    harness.wait_for(lambda: any(p["instance"] == "qwen" for p in daemon.get("/api/v1/gpus").json["gpus"][0]["processes"]),
                     what="it is seen")
    assert line(plan(daemon)[0], "qwen")["learned"] is None
    assert not os.path.exists(os.path.join(daemon.state, "learned.json"))


# ---- the memory of the last ----------------------------------------------------------------------------------------------

def waits(daemon):
    text = daemon.get("/metrics").text
    return {name: value(text, "llama_supervisor_gpu_memory_%s_total" % name) for name in ("waits", "late")}


def value(text, series):
    return next((float(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.startswith(series + " ")), None)


@pytest.mark.parametrize("gpu", ("auto", [0]))
def test_the_next_load_waits_until_memory_is_back(place, machine, gpu):
    daemon = place([2], {"qwen": 4}, [entry("qwen", gpu=gpu)])
    first = daemon.wait_state("qwen", "ready")["pid"]
    holds(machine, 0, first, 6)
    harness.wait_for(lambda: daemon.instance("qwen")["gpuMemory"] == 6 * GIB, what="it is seen")
    assert waits(daemon) == {"waits": 0, "late": 0}
    daemon.api("POST", "/api/v1/instances/qwen/restart")
    harness.wait_for(lambda: not harness.is_alive(first), what="the first one ends")
    ended = time.monotonic()
    lets_go(machine, first, memory=False)           # the process is gone, its bytes are not back
    harness.wait_for(lambda: waits(daemon)["waits"] == 1, what=lambda: daemon.output())
    assert daemon.instance("qwen")["status"] == "initial" and daemon.instance("qwen")["pid"] is None
    machine.gpus[0]["used"] = 2 * GIB
    machine.write()
    assert daemon.wait_state("qwen", "ready")["pid"] != first
    # The daemon's patience is 10 s, which a machine that stands still may use up.
    assert waits(daemon) == {"waits": 1, "late": 0} or time.monotonic() - ended > 8


def test_memory_that_never_comes_back_is_not_waited_for_for_ever(place, machine):
    daemon = place([2], {"qwen": 4}, [entry("qwen")])
    first = daemon.wait_state("qwen", "ready")["pid"]
    holds(machine, 0, first, 6)
    harness.wait_for(lambda: daemon.instance("qwen")["gpuMemory"] == 6 * GIB, what="it is seen")
    daemon.api("POST", "/api/v1/instances/qwen/restart")
    harness.wait_for(lambda: not harness.is_alive(first), what="the first one ends")
    lets_go(machine, first, memory=False)
    assert daemon.wait_state("qwen", "ready")["pid"] != first
    assert waits(daemon) == {"waits": 1, "late": 1}
    assert "is not back after 10 s: going on without it" in daemon.output()


# ---- on demand -----------------------------------------------------------------------------------------------------------

def test_who_is_not_used_makes_room(place, machine):
    """No budget is configured: what the GPUs have decides. The one that was not used for longest goes, no more than needed."""
    daemon = place([2], {"a": 6, "b": 6, "c": 10}, [entry(n, on_demand={"idle_timeout": "1h"}) for n in "abc"])

    def ask(name):
        answer = daemon.api("POST", "/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "hi"}]})
        assert answer.status == 200, answer
        pid = daemon.instance(name)["pid"]
        holds(machine, 0, pid, {"a": 7.6, "b": 7.6, "c": 11.6}[name])
        harness.wait_for(lambda: daemon.instance(name)["gpuMemory"], what="it is seen")
        return pid

    pids = {name: ask(name) for name in "ab"}
    assert daemon.instance("a")["status"] == daemon.instance("b")["status"] == "ready"
    done = []

    def third():
        done.append(daemon.api("POST", "/v1/chat/completions", {"model": "c", "messages": [{"role": "user", "content": "hi"}]}))

    thread = threading.Thread(target=third)
    thread.start()
    harness.wait_for(lambda: not harness.is_alive(pids["a"]), what=lambda: "a goes\n" + daemon.output())
    lets_go(machine, pids["a"])
    thread.join(harness.PATIENCE)
    assert done and done[0].status == 200, (done, daemon.output())
    assert daemon.instance("b")["pid"] == pids["b"] and daemon.instance("a")["status"] == "idle"
    assert [e[2] for e in kinds(daemon) if e[0] == "unload"] == ["unloaded: evicted for c"]
    assert daemon.instance("c")["lastError"] is None


def test_who_waits_for_a_busy_one_is_told_in_the_end(place, machine):
    daemon = place([2], {"a": 12, "b": 12}, [entry(n, on_demand={}) for n in "ab"], gateway={"queue": {"timeout": "2s"}})
    daemon.api("POST", "/api/v1/instances/a/start")
    daemon.wait_state("a", "ready")
    machine.gpus[0]["used"] = 16 * GIB              # somebody else's
    machine.write()
    harness.wait_for(lambda: daemon.get("/api/v1/gpus").json["gpus"][0]["memoryUsed"] == 16 * GIB, what="it is seen")
    answer = daemon.api("POST", "/v1/chat/completions", {"model": "b", "messages": [{"role": "user", "content": "hi"}]})
    assert answer.status in (429, 503), answer
    told = daemon.wait("b", lambda now: now["status"] == "idle" and "waited" in (now["lastError"] or ""))
    assert "for GPU memory: needs 13.6G" in told["lastError"]


def test_who_answers_already_needs_no_place(place, make_server, fake_llama_server, tiny_model):
    """A fixed address is asked first; only when nobody answers there the GPUs are weighed, and the same words are said."""
    port, other = harness.free_port(), harness.free_port()
    make_server(fake_llama_server, "-m", tiny_model, "--port", str(port), host="127.0.0.1").wait_ready()
    daemon = place([2], {"huge": 60}, [entry("there", "huge", endpoint="http://127.0.0.1:%d" % port),
                                       entry("absent", "huge", endpoint="http://127.0.0.1:%d" % other)])
    daemon.wait_state("there", "ready")
    assert daemon.wait_state("absent", "error")["lastError"].startswith("does not fit into the GPUs: needs 61.6G")
    assert len([e for e in kinds(daemon) if e[0] == "refused"]) == 1
    assert daemon.instance("there")["lastError"] is None
