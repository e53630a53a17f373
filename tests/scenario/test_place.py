# ctest: asan
"""Where the GPUs' memory goes: "auto" is placed by what is free, what does not fit waits or is refused with the sum, what was taken is learned,
and the next load waits until the memory of the last is back. The GPUs are not there (gpus.py)."""
import json
import os

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
                           " = 61.6G, and 1.0G free besides (--fit-target); GPU 0 has 22.0G free of 24.0G; GPU 1 has 20.0G free of 24.0G; "
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
    assert told["lastError"].startswith("waited 1") and "for GPU memory: needs 11.6G" in told["lastError"]


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
