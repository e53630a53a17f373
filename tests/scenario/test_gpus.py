# ctest: asan
"""GPUs that are not there: every door tells the same of them, instances know what they hold, and a machine without any is as good."""
import json
import os
import re
import subprocess
import time

import pytest

import gpus
import harness
from feeds import RawWebSocket
from gpus import GIB

ONE = {"instances": [{"name": "qwen", "model": "tiny.gguf", "gpu": ["GPU-aa"]}]}


@pytest.fixture
def machine(folder):
    return gpus.Machine(folder)


def two(machine):
    machine.add("GPU-bb", 0xC1, total=48 * GIB, used=2 * GIB, use=5, temp=40, throttle=1)
    machine.add("GPU-aa", 0x01, total=80 * GIB, used=20 * GIB, use=37, temp=61, power=312500, limit=700000, throttle=24, ecc="3,1")
    return machine


def look(daemon):
    answer = daemon.get("/api/v1/gpus")
    assert answer.status == 200
    return answer.json


def gpu(daemon, uuid):
    return next((g for g in look(daemon)["gpus"] if g["uuid"] == uuid), None)


def kinds(daemon):
    return [(e["kind"], e["text"]) for e in daemon.get("/api/v1/history").json["events"]]


def run_cli(daemon, *args):
    return subprocess.run([harness.PROGRAM, *args, "--socket", daemon.control], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, env=daemon.environment(), check=False)


def test_none_at_all_without_complaint(make_daemon, machine):
    daemon = make_daemon(dict(machine.config, instances=[{"name": "qwen", "model": "tiny.gguf"}]), env=machine.env)
    daemon.wait_state("qwen", "ready")
    assert look(daemon) == {"gpus": [], "driver": None, "problem": None, "at": None}
    cli = run_cli(daemon, "gpus")
    assert (cli.returncode, cli.stdout) == (0, "no GPU is seen on this machine\n")
    assert not re.search(r"(?<![-\w])gpu", daemon.output(), re.IGNORECASE)     # but in the name of a folder, which is made by chance
    assert daemon.instance("qwen")["gpuMemory"] is None


def test_all_doors_tell_the_same(make_daemon, machine):
    two(machine)
    daemon = make_daemon(dict(ONE, **machine.config), env=machine.env)
    daemon.wait_state("qwen", "ready")
    pid = daemon.instance("qwen")["pid"]
    machine.processes = [(1, pid, 19 * GIB), (1, 1, GIB), (0, 1, "-")]
    machine.write()
    harness.wait_for(lambda: daemon.instance("qwen")["gpuMemory"] == 19 * GIB, what=lambda: json.dumps(look(daemon)))
    told = look(daemon)
    assert told["driver"] == "580.1" and told["problem"] is None and told["at"]
    first, second = told["gpus"]
    assert (first["index"], first["uuid"], first["pci"], first["state"]) == (0, "GPU-aa", "0000:01:00.0", "ok")
    assert (first["memoryTotal"], first["memoryUsed"]) == (80 * GIB, 20 * GIB)
    assert (first["utilization"], first["temperature"], first["power"], first["powerLimit"]) == (0.37, 61, 312.5, 700)
    assert first["throttle"] == ["power_cap", "thermal"]
    assert first["ecc"] == {"corrected": 3, "uncorrected": 1} and first["lastError"] is None
    assert first["instances"] == ["qwen"]
    assert first["processes"] == [{"pid": pid, "instance": "qwen", "memory": 19 * GIB}, {"pid": 1, "instance": None, "memory": GIB}]
    assert (second["index"], second["uuid"], second["power"], second["ecc"], second["throttle"]) == (1, "GPU-bb", None, None, [])
    assert second["processes"] == [{"pid": 1, "instance": None, "memory": None}] and second["instances"] == []
    text = run_cli(daemon, "gpus").stdout
    for word in ("GPU-aa", "20.0/80.0 GiB", "37 %", "61 °C", "312/700 W", "qwen", "could not be corrected"):
        assert word in text, text
    assert json.loads(run_cli(daemon, "gpus", "--json").stdout)["gpus"][0]["uuid"] == "GPU-aa"
    with RawWebSocket(daemon.address) as ws:
        ws.send(json.dumps({"type": "subscribe", "topics": ["gpus"]}))
        assert [g["uuid"] for g in ws.message(lambda m: m["type"] == "gpus")["gpus"]["gpus"]] == ["GPU-aa", "GPU-bb"]
        machine.gpus[1]["temp"] = 88
        machine.write()
        ws.message(lambda m: m["type"] == "gpus" and m["gpus"]["gpus"][0]["temperature"] == 88)
        ws.send(json.dumps({"type": "unsubscribe", "topics": ["gpus"]}))
        assert ws.message(lambda m: m["type"] == "subscribed")["topics"] == ["status"]
    # What it holds ends with it.
    assert daemon.api("POST", "/api/v1/instances/qwen/stop").status == 202
    daemon.wait("qwen", lambda now: now["pid"] is None)
    assert daemon.instance("qwen")["gpuMemory"] is None


def test_errors_and_a_lost_gpu(make_daemon, machine):
    two(machine)
    daemon = make_daemon(dict(ONE, **machine.config), env=machine.env)
    daemon.wait_state("qwen", "ready")
    machine.xid(1, 45)
    harness.wait_for(lambda: gpu(daemon, "GPU-aa")["lastError"], what="the error is told")
    assert gpu(daemon, "GPU-aa")["lastError"]["xid"] == 45 and gpu(daemon, "GPU-bb")["lastError"] is None
    assert [text for kind, text in kinds(daemon) if kind == "gpu_error"][0].startswith("GPU 0 (GPU-aa): its driver reports error 45")
    machine.gpus[1]["lost"] = True
    machine.write()
    harness.wait_for(lambda: gpu(daemon, "GPU-aa")["state"] == "lost", what="it is lost")
    assert gpu(daemon, "GPU-aa")["temperature"] is None and gpu(daemon, "GPU-bb")["state"] == "ok"
    machine.gpus[1]["lost"] = False
    machine.write()
    harness.wait_for(lambda: gpu(daemon, "GPU-aa")["state"] == "ok", what="it is back")
    told = [kind for kind, _ in kinds(daemon) if kind.startswith("gpu_")]
    assert told == ["gpu_error", "gpu_lost", "gpu_back"]


def test_a_driver_that_hangs_holds_nothing_up(make_daemon, machine):
    two(machine)
    daemon = make_daemon(dict(ONE, **machine.config), env=machine.env)
    daemon.wait_state("qwen", "ready")
    machine.gpus[1]["hang"] = 4000     # at each question
    machine.write()
    slowest = 0

    def is_told():
        nonlocal slowest
        before = time.monotonic()
        assert daemon.get("/health").status == 200
        slowest = max(slowest, time.monotonic() - before)
        return "GPU-aa" in (look(daemon)["problem"] or "")

    harness.wait_for(is_told, what=lambda: "the silence is told; " + json.dumps(look(daemon)))
    assert slowest < 3.9        # one question alone would have taken longer
    assert [text for kind, text in kinds(daemon) if kind == "gpu_silent"] == ["the driver has not answered for GPU-aa for 5 s"]
    # exec would wait for the thread that is in there, so no upgrade begins, not even by force.
    for args in ((), ("--force",)):
        result = daemon.cli("upgrade", *args)
        assert result.returncode == 1 and "driver of a GPU does not answer" in result.stderr, result
    assert daemon.get("/health").status == 200
    daemon.stop()               # the thread is still in there


def environment(daemon, name):
    with open("/proc/%d/environ" % daemon.instance(name)["pid"], "rb") as f:
        return dict(pair.split(b"=", 1) for pair in f.read().split(b"\0") if b"=" in pair)


def test_parts_of_a_gpu(make_daemon, machine):
    """One replica for each GPU that can be used: the parts of a divided one, not that itself; and parts by their name."""
    two(machine)
    machine.parts = [(1, "MIG-1", 40 * GIB, GIB), (1, "MIG-2", 40 * GIB, GIB)]
    machine.write()
    daemon = make_daemon(dict({"instances": [{"name": "each", "model": "tiny.gguf", "replicas": "per-gpu"},
                                             {"name": "part", "model": "tiny.gguf", "gpu": ["MIG-2"]}]}, **machine.config), env=machine.env)
    names = ("each-0", "each-1", "each-2", "part")
    for name in names:
        daemon.wait_state(name, "ready")
    assert set(daemon.instances()) == set(names)
    pins = sorted(environment(daemon, name)[b"CUDA_VISIBLE_DEVICES"] for name in names)
    assert pins == [b"GPU-bb", b"MIG-1", b"MIG-2", b"MIG-2"]
    assert daemon.instance("part")["gpu"] == ["MIG-2"]


def test_nothing_is_started_on_a_lost_gpu(make_daemon, machine):
    two(machine)
    daemon = make_daemon(dict(ONE, **machine.config), env=machine.env)
    daemon.wait_state("qwen", "ready")
    machine.gpus[1]["lost"] = True
    machine.write()
    harness.wait_for(lambda: gpu(daemon, "GPU-aa")["state"] == "lost", what="it is lost")
    assert daemon.api("POST", "/api/v1/instances/qwen/restart").status == 202
    daemon.wait("qwen", lambda now: "GPU-aa is lost" in (now["lastError"] or ""), what="it says so")
    machine.gpus[1]["lost"] = False
    machine.write()
    harness.wait_for(lambda: gpu(daemon, "GPU-aa")["state"] == "ok", what="it is back")
    daemon.api("POST", "/api/v1/instances/qwen/start")
    daemon.wait_state("qwen", "ready")


def test_amd_by_files(make_daemon, machine):
    machine.add_amd(1, 3, "6f5c1d2e3a4b5c6d", hwmon__hwmon4__temp1_input="54000", hwmon__hwmon4__power1_average="181000000",
                    hwmon__hwmon4__power1_cap="303000000", ras__umc_err_count="ue: 0\nce: 2")
    machine.put("sys/class/kfd/kfd/topology/nodes/1/gpu_id", "4711\n")
    machine.put("sys/class/kfd/kfd/topology/nodes/1/properties", "cpu_cores_count 0\nlocation_id 768\ndomain 0\n")
    config = {"instances": [{"name": "qwen", "model": "tiny.gguf", "gpu": ["GPU-6f5c1d2e3a4b5c6d"]}]}
    daemon = make_daemon(dict(config, **machine.config), env=machine.env)
    daemon.wait_state("qwen", "ready")
    pid = daemon.instance("qwen")["pid"]
    machine.put("sys/class/kfd/kfd/proc/%d/vram_4711" % pid, str(5 * GIB) + "\n")
    harness.wait_for(lambda: daemon.instance("qwen")["gpuMemory"] == 5 * GIB, what=lambda: json.dumps(look(daemon)))
    one, = look(daemon)["gpus"]
    assert (one["vendor"], one["utilization"], one["temperature"], one["power"], one["powerLimit"]) == ("amd", 0.12, 54, 181, 303)
    assert one["ecc"] == {"corrected": 2, "uncorrected": 0} and one["throttle"] is None
    assert one["processes"] == [{"pid": pid, "instance": "qwen", "memory": 5 * GIB}]
    with open("/proc/%d/environ" % pid, "rb") as f:
        assert b"ROCR_VISIBLE_DEVICES=GPU-6f5c1d2e3a4b5c6d" in f.read().split(b"\0")


def test_a_library_that_does_not_work(make_daemon, machine):
    """The kernel's list is enough to pin; why figures are missing is told, once."""
    two(machine)
    with open(machine.file, "w") as f:
        f.write("init 18\n")
    daemon = make_daemon(dict(ONE, **machine.config), env=machine.env)
    daemon.wait_state("qwen", "ready")
    told = look(daemon)
    assert "different versions" in told["problem"]
    assert [(g["uuid"], g["state"], g["memoryUsed"], g["processes"]) for g in told["gpus"]] == [
        ("GPU-aa", "unknown", None, None), ("GPU-bb", "unknown", None, None)]
    assert told["gpus"][0]["instances"] == ["qwen"]         # it is meant for that one
    assert daemon.output().count("different versions") == 1
    assert "figures are missing" in run_cli(daemon, "gpus").stdout
