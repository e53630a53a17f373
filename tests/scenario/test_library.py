"""The model library: what lies in models_dir is told as it is, and an instance can be started from it by name."""
# ctest: real asan
import json
import os
import re
import shutil
import signal
import socket
import struct
import threading
import time

import pytest

import conftest
import harness
from harness import wait_for


def make(daemon, file, *args):
    path = os.path.join(daemon.models, file)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    conftest.make_model(path, *args)
    return path


def put(daemon, file, data):
    path = os.path.join(daemon.models, file)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    return path


def look(daemon):
    """The library now; the daemon looks at most once a second."""
    before = daemon.get("/api/v1/library").json
    time.sleep(1.05)
    after = daemon.get("/api/v1/library?rescan=1")
    assert after.status == 200, after
    assert after.json["scannedAt"] >= before["scannedAt"]
    return after.json


def models(daemon):
    return {m["file"]: m for m in look(daemon)["models"]}


@pytest.fixture
def plain(make_daemon):
    """A daemon without instances, and with an empty models_dir."""
    daemon = make_daemon({"instances": []}, start=False)
    os.unlink(os.path.join(daemon.models, "tiny.gguf"))
    return daemon.start()


# ---- what lies there -----------------------------------------------------------------------------------------------------

def test_models_are_told_as_they_are(plain):
    make(plain, "chat.gguf", "--name", "a chat", "--n-ctx", "512")
    make(plain, "deep/er/embed.gguf", "--embedding")
    make(plain, "split.gguf", "--split", "3")
    make(plain, ".hidden.gguf")
    put(plain, "readme.txt", b"no model")
    found = models(plain)
    assert sorted(found) == ["chat.gguf", "deep/er/embed.gguf", "split-00001-of-00003.gguf"]
    chat = found["chat.gguf"]
    assert chat["name"] == "a chat" and chat["architecture"] == "llama" and chat["quantization"] == "F16", chat
    assert chat["context"] == 512 and chat["type"] == "completion" and chat["chatTemplate"] and chat["parts"] == 1, chat
    assert chat["size"] == os.path.getsize(os.path.join(plain.models, "chat.gguf")) and chat["error"] is None, chat
    assert chat["path"] == os.path.join(plain.models, "chat.gguf") and chat["instances"] == [], chat
    embed = found["deep/er/embed.gguf"]
    assert embed["type"] == "embedding" and embed["pooling"] == "mean", embed
    split = found["split-00001-of-00003.gguf"]
    assert split["parts"] == 3 and split["parameters"] == chat["parameters"] and split["error"] is None, split
    assert split["size"] == sum(os.path.getsize(os.path.join(plain.models, "split-0000%d-of-00003.gguf" % i)) for i in (1, 2, 3))


def broken_files(daemon):
    """file: a piece of the reason that must be told."""
    with open(make(daemon, "whole.gguf"), "rb") as f:
        whole = f.read()
    put(daemon, "cut.gguf", whole[:-5000])
    put(daemon, "cut-in-header.gguf", whole[:300])
    put(daemon, "empty.gguf", b"")
    put(daemon, "no.gguf", b"<!DOCTYPE html>" * 10)
    put(daemon, "counts.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2 ** 63, 2 ** 63))
    put(daemon, "length.gguf", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2 ** 64 - 1) + b"x" * 100)
    put(daemon, "big-endian.gguf", b"GGUF" + struct.pack(">IQQ", 3, 0, 1))
    put(daemon, "old.gguf", b"GGUF" + struct.pack("<III", 1, 0, 1))
    make(daemon, "part.gguf", "--split", "2")
    os.unlink(os.path.join(daemon.models, "part-00001-of-00002.gguf"))
    make(daemon, "lost.gguf", "--split", "3")
    os.unlink(os.path.join(daemon.models, "lost-00002-of-00003.gguf"))
    os.symlink("/etc/hostname", os.path.join(daemon.models, "out.gguf"))
    os.symlink("../../../../../../../../etc/passwd", os.path.join(daemon.models, "dots.gguf"))
    os.symlink("nowhere.gguf", os.path.join(daemon.models, "dangling.gguf"))
    os.symlink("whole.gguf", os.path.join(daemon.models, "inside.gguf"))
    os.mkfifo(os.path.join(daemon.models, "fifo.gguf"))
    os.mkdir(os.path.join(daemon.models, "folder.gguf"))
    return {"cut.gguf": "is cut off", "cut-in-header.gguf": "the file has only", "empty.gguf": "is empty",
            "no.gguf": "does not begin with", "counts.gguf": "9223372036854775808 tensors",
            "length.gguf": "18446744073709551615 bytes", "big-endian.gguf": "big-endian", "old.gguf": "version 1",
            "part-00002-of-00002.gguf": "whose first part", "lost-00001-of-00003.gguf": "2 of its 3 parts",
            "out.gguf": "out of models_dir", "dots.gguf": "out of models_dir", "dangling.gguf": "leads nowhere",
            "fifo.gguf": "no regular file"}


def test_what_is_broken_is_told_with_its_reason(plain):
    reasons = broken_files(plain)
    found = models(plain)
    assert set(found) == set(reasons) | {"whole.gguf", "inside.gguf"}
    for file, reason in reasons.items():
        assert found[file]["error"] and reason in found[file]["error"], found[file]
    assert found["whole.gguf"]["error"] is None and found["inside.gguf"]["error"] is None
    assert found["out.gguf"]["size"] == 0, "nothing of a file outside is told"
    assert plain.get("/health").status == 200


def test_what_changes_is_seen(plain):
    path = make(plain, "a.gguf", "--name", "first")
    assert models(plain)["a.gguf"]["name"] == "first"
    make(plain, "a.gguf", "--name", "second")
    make(plain, "b.gguf")
    found = models(plain)
    assert found["a.gguf"]["name"] == "second" and "b.gguf" in found
    os.unlink(path)
    assert sorted(models(plain)) == ["b.gguf"]
    shutil.rmtree(plain.models)
    gone = look(plain)
    assert gone["models"] == [] and "No such file" in gone["error"], gone
    assert "No such file" in plain.cli("models").stderr


def test_projectors_and_adapters_are_companions(plain):
    def text(value):
        return struct.pack("<Q", len(value)) + value

    def file(**pairs):
        head = b"".join(text(k.replace("_", ".").encode()) + struct.pack("<I", 8) + text(v) for k, v in pairs.items())
        tensor = text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 0)
        data = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + head + tensor
        return data + b"\0" * (-len(data) % 32) + b"\0" * 16

    make(plain, "vision/Qwen2.5-VL-7B-Q4_K_M.gguf")
    make(plain, "vision/other.gguf")
    put(plain, "vision/mmproj-Qwen2.5-VL-7B-f16.gguf", file(general_architecture=b"clip", general_type=b"mmproj"))
    make(plain, "alone/only.gguf")
    put(plain, "alone/mmproj-f16.gguf", file(general_architecture=b"clip"))
    put(plain, "lora.gguf", file(general_architecture=b"llama", general_type=b"adapter"))
    put(plain, "imatrix.gguf", file(general_architecture=b"llama", general_type=b"imatrix"))
    library = look(plain)
    found = {m["file"]: m for m in library["models"]}
    assert sorted(found) == ["alone/only.gguf", "imatrix.gguf", "vision/Qwen2.5-VL-7B-Q4_K_M.gguf", "vision/other.gguf"]
    assert found["vision/Qwen2.5-VL-7B-Q4_K_M.gguf"]["companions"] == ["vision/mmproj-Qwen2.5-VL-7B-f16.gguf"]
    assert found["vision/other.gguf"]["companions"] == []
    assert found["alone/only.gguf"]["companions"] == ["alone/mmproj-f16.gguf"]
    assert "imatrix" in found["imatrix.gguf"]["error"]
    assert {c["file"]: c["kind"] for c in library["companions"]} == {
        "vision/mmproj-Qwen2.5-VL-7B-f16.gguf": "mmproj", "alone/mmproj-f16.gguf": "mmproj", "lora.gguf": "adapter"}


def test_the_walk_is_bounded(plain):
    os.makedirs(os.path.join(plain.models, *"123456789"))
    put(plain, "1/2/3/4/5/6/7/8/ok.gguf", b"x")
    put(plain, "1/2/3/4/5/6/7/8/9/too-deep.gguf", b"x")
    outside = os.path.join(plain.root, "elsewhere")
    os.mkdir(outside)
    os.symlink(outside, os.path.join(plain.models, "linked"))
    os.symlink("..", os.path.join(plain.models, "circle"))
    library = look(plain)
    assert [m["file"] for m in library["models"]] == ["1/2/3/4/5/6/7/8/ok.gguf"]
    told = "\n".join(library["warnings"])
    assert "1/2/3/4/5/6/7/8/9 lies too deep" in told and "linked is a symlink to a folder" in told and "circle" in told, told
    for i in range(2100):
        put(plain, "many/%04d.gguf" % i, b"x")
    library = look(plain)
    assert len(library["models"]) == 2048 and any("more than 2048" in w for w in library["warnings"])


def test_many_ask_at_once(plain):
    """One walk answers all of them, and whoever leaves is forgotten."""
    make(plain, "a.gguf")
    look(plain)
    time.sleep(1.05)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(plain.get("/api/v1/library?rescan=1").status)) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 40
    assert plain.get("/api/v1/library?rescan=maybe").status == 400


def test_the_library_on_the_command_line(make_daemon, server):
    daemon = make_daemon({"instances": [{"name": "user", "model": "mine.gguf"}]}, server=server, start=False)
    make(daemon, "mine.gguf")
    daemon.start()
    put(daemon, "bad.gguf", b"nothing")
    daemon.wait_state("user", "ready")
    out = daemon.cli("models", "--rescan")
    assert out.returncode == 0 and out.stderr == "", out
    lines = out.stdout.splitlines()
    assert lines[0].split()[:4] == ["FILE", "ARCH", "WEIGHTS", "QUANT"], out.stdout
    row = next(line.split() for line in lines if line.startswith("mine.gguf"))
    assert row[1] == "llama" and row[3] == "F16" and row[-1] == "user", row
    assert any("does not begin with" in line for line in lines)
    assert any("out of models_dir" in line for line in lines), "the harness links tiny.gguf into it"
    told = daemon.cli("models", "--json")
    assert told.returncode == 0 and '"mine.gguf"' in told.stdout and '"instances":["user"]' in told.stdout.replace(" ", "")


# ---- instances out of it -------------------------------------------------------------------------------------------------

CONFIGURED = {"instances": [{"name": "one", "model": "tiny.gguf", "aliases": ["uno"], "autostart": False},
                            {"name": "pair", "model": "tiny.gguf", "replicas": 2, "autostart": False}]}


def start(daemon, model, status=201, **more):
    answer = daemon.api("POST", "/api/v1/instances", body={"model": model, **more})
    assert answer.status == status, answer
    return answer.json


def remove(daemon, name, status=200):
    answer = daemon.api("DELETE", "/api/v1/instances/" + name)
    assert answer.status == status, answer
    return answer.json


def kept(daemon):
    with open(os.path.join(daemon.state, "dynamic.json"), encoding="utf-8") as f:
        return [entry["name"] for entry in json.load(f)["instances"]]


def is_gone(daemon, name):
    wait_for(lambda: name not in daemon.instances(), what="%s is gone" % name)


def argv(daemon, name):
    """Of its last start; there is none until it was spawned."""
    return wait_for(lambda: daemon.get("/api/v1/instances/%s/why" % name).json["command"])["argv"]


def events(daemon, kind):
    return [e for e in daemon.get("/api/v1/history").json["events"] if e["kind"] == kind]


def test_started_by_name_and_removed(make_daemon, server):
    daemon = make_daemon(CONFIGURED, server=server)
    make(daemon, "sub/extra.gguf")
    made = daemon.api("POST", "/api/v1/instances", body={"model": "sub/extra.gguf", "args": ["-c", "512", "-np", "1"]})
    assert made.status == 201 and made.headers["Location"] == "/api/v1/instances/extra", made
    assert made.json["name"] == "extra" and made.json["dynamic"] is True and made.json["wantUp"] is True, made.json
    now = daemon.wait_state("extra", "ready")
    assert now["dynamic"] and now["modelPath"] == os.path.join(daemon.models, "sub/extra.gguf"), now
    assert not daemon.instance("one")["dynamic"]
    harness.assert_same_truth(daemon, "extra", status="ready", retries=0, lastError=None)
    assert argv(daemon, "extra")[-4:] == ["-c", "512", "-np", "1"]
    said = daemon.api("POST", "/v1/chat/completions", body={"model": "extra", "messages": [{"role": "user", "content": "hi"}]})
    assert said.status == 200 and said.json["choices"][0]["message"]["content"], said
    assert models(daemon)["sub/extra.gguf"]["instances"] == ["extra"]
    assert len(events(daemon, "created")) == 1 and kept(daemon) == ["extra"]
    pid = now["pid"]
    assert "forgotten" in remove(daemon, "extra")["message"] and len(events(daemon, "removed")) == 1
    is_gone(daemon, "extra")
    wait_for(lambda: not harness.is_alive(pid), what="its process has ended")
    assert daemon.api("POST", "/v1/chat/completions", body={"model": "extra", "messages": []}).status == 404
    assert kept(daemon) == [] and remove(daemon, "extra", 404)["error"]["code"] == 404
    assert os.path.exists(os.path.join(daemon.models, "sub/extra.gguf"))
    start(daemon, "sub/extra.gguf")
    daemon.wait_state("extra", "ready")


def test_it_survives_the_daemon(make_daemon, server):
    daemon = make_daemon(CONFIGURED, server=server)
    make(daemon, "extra.gguf")
    start(daemon, "extra.gguf", name="mine")
    pid = daemon.wait_state("mine", "ready")["pid"]
    daemon.kill9()
    assert harness.is_alive(pid)
    daemon.start()
    now = daemon.wait_state("mine", "ready")
    assert now["pid"] == pid and now["adopted"] and now["dynamic"], now
    daemon.stop()
    assert not harness.is_alive(pid), "a daemon that ends takes it down like every other"
    daemon.start()
    again = daemon.wait_state("mine", "ready")
    assert again["pid"] != pid and again["dynamic"], again
    remove(daemon, "mine")
    is_gone(daemon, "mine")
    daemon.restart()
    assert "mine" not in daemon.instances()


def test_a_reload_leaves_it_alone(make_daemon, fake_llama_server):
    daemon = make_daemon(CONFIGURED)
    make(daemon, "extra.gguf")
    start(daemon, "extra.gguf")
    pid = daemon.wait_state("extra", "ready")["pid"]
    plan = daemon.api("POST", "/api/v1/reload?dry_run=1").json
    assert "extra" in plan["keep"] and not plan["stop"], plan
    daemon.write_config({"instances": [{"name": "new", "model": "tiny.gguf", "autostart": False}]})
    assert daemon.api("POST", "/api/v1/reload").json["applied"] is True
    assert sorted(daemon.instances()) == ["extra", "new"]
    now = daemon.instance("extra")
    assert now["pid"] == pid and now["status"] == "ready" and now["dynamic"], now
    # What stands in the files meanwhile is not the business of whoever starts or removes a model.
    daemon.write_config({"instances": [{"name": "later", "model": "tiny.gguf", "nonsense": 1}]})
    start(daemon, "extra.gguf", name="second")
    daemon.wait_state("second", "ready")
    remove(daemon, "second")
    is_gone(daemon, "second")
    assert sorted(daemon.instances()) == ["extra", "new"] and daemon.instance("extra")["pid"] == pid
    assert daemon.api("POST", "/api/v1/reload").status == 422
    # What it inherits is changed for it, too: like a configured one.
    daemon.write_config({"instances": [], "llama_server": {"args": ["-np", "2"]}})
    plan = daemon.api("POST", "/api/v1/reload").json
    assert [r["name"] for r in plan["restart"]] == ["extra"] and plan["restart"][0]["because"] == ["args"], plan
    daemon.wait("extra", lambda now: now["status"] == "ready" and now["pid"] != pid, what="started anew")
    assert ["-np", "2"] == [a for a in argv(daemon, "extra") if a in ("-np", "2")][:2]


def test_the_configuration_wins(make_daemon, fake_llama_server):
    daemon = make_daemon({"instances": []})
    for name in ("clash", "alias", "pair-1", "free"):
        make(daemon, name + ".gguf")
        assert start(daemon, name + ".gguf")["name"] == name
        daemon.wait_state(name, "ready")
    pid = daemon.instance("free")["pid"]
    daemon.write_config({"instances": [{"name": "clash", "model": "tiny.gguf", "aliases": ["alias"], "args": ["-np", "1"]},
                                       {"name": "pair", "model": "tiny.gguf", "replicas": 2}]})
    assert daemon.api("POST", "/api/v1/reload?dry_run=1").json["applied"] is False
    assert kept(daemon) == ["clash", "alias", "pair-1", "free"] and not events(daemon, "dynamic_replaced")
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: kept(daemon) == ["free"], what="three are forgotten")
    for name in ("clash", "pair-1"):
        daemon.wait(name, lambda now: now["status"] == "ready" and not now["dynamic"], what="the configured one")
    is_gone(daemon, "alias")
    assert sorted(e["instance"] for e in events(daemon, "dynamic_replaced")) == ["alias", "clash", "pair-1"]
    assert daemon.instance("free")["pid"] == pid
    for name in ("clash", "pair", "pair-1", "alias"):
        told = remove(daemon, name, 409)["error"]["message"]
        assert "is in the configuration" in told and "reload" in told, told


def test_names_are_made_and_unique(make_daemon, fake_llama_server):
    daemon = make_daemon(CONFIGURED)
    make(daemon, "Qwen 2.5 (7B) ünï.gguf")
    make(daemon, "---.gguf")
    make(daemon, "split.gguf", "--split", "2")
    make(daemon, "x" * 120 + ".gguf")
    make(daemon, "one.gguf")
    make(daemon, "pair-0.gguf")
    made = [start(daemon, file)["name"] for file in ("Qwen 2.5 (7B) ünï.gguf", "---.gguf", "split-00001-of-00002.gguf",
                                                     "x" * 120 + ".gguf", "one.gguf", "one.gguf", "pair-0.gguf")]
    assert made[:3] == ["Qwen-2.5-7B-n", "model", "split"], made
    assert re.fullmatch("x{20,58}", made[3]) and made[4:] == ["one-2", "one-3", "pair-0-2"], made
    for name in made:
        daemon.wait_state(name, "ready")
    daemon.restart()
    for name in made:
        assert daemon.wait_state(name, "ready")["dynamic"]
    for name in ("one", "uno", "pair", "pair-1", "split"):
        told = start(daemon, "one.gguf", 409, name=name)["error"]
        assert told["param"] == "name" and "is taken" in told["message"], told


def test_an_embedding_model_is_started_as_one(make_daemon, real_llama_server):
    daemon = make_daemon({"instances": []}, server=real_llama_server)
    make(daemon, "embed.gguf", "--embedding")
    start(daemon, "embed.gguf")
    now = daemon.wait_state("embed", "ready")
    assert "--embeddings" in argv(daemon, "embed")
    answer = harness.request(now["endpoint"], "POST", "/v1/embeddings", body={"input": "a"})
    assert answer.status == 200 and len(answer.json["data"][0]["embedding"]) == 64, answer
    start(daemon, "embed.gguf", name="own", args=["--embedding", "--pooling", "last"])
    assert "--embeddings" not in argv(daemon, "own")


def test_what_is_refused(make_daemon, fake_llama_server):
    daemon = make_daemon(CONFIGURED, env={"SECRET": "hunter2"})
    reasons = broken_files(daemon)
    outside = make(daemon, "../outside.gguf")
    os.symlink(os.path.dirname(outside), os.path.join(daemon.models, "leak"))
    put(daemon, "proj.gguf", open(os.path.join(harness.SOURCE, "tests/fuzz/corpus/gguf/mmproj"), "rb").read())

    def refused(status, piece, param, **body):
        answer = daemon.api("POST", "/api/v1/instances", body=body)
        assert answer.status == status and piece in answer.json["error"]["message"], (body, answer)
        assert answer.json["error"]["param"] == param, (body, answer)
        assert "hunter2" not in answer.text and "root:" not in answer.text

    for file in reasons:
        code = 403 if file in ("out.gguf", "dots.gguf") else 404 if file == "dangling.gguf" else \
            400 if file in ("part-00002-of-00002.gguf", "fifo.gguf") else 422
        refused(code, file, "model", model=file)
    for path in (outside, "../outside.gguf", "sub/../../outside.gguf", "/etc/passwd", "/etc/nothing", "leak/outside.gguf", "..",
                 "tiny.gguf"):
        refused(403, "models_dir", "model", model=path)
    refused(404, "did you mean whole.gguf?", "model", model="whale.gguf")
    refused(400, "folder", "model", model="folder.gguf")
    refused(400, "projector", "model", model="proj.gguf")
    refused(400, "\"model\" is missing", "model")
    refused(400, "not empty", "model", model="")
    refused(400, "not empty", "model", model=7)
    refused(404, "hf:user/repo", "model", model="hf:user/repo")
    refused(400, "letters, digits", "name", model="whole.gguf", name="a b")
    refused(400, "letters, digits", "name", model="whole.gguf", name="../../x")
    refused(400, "is taken", "name", model="whole.gguf", name="control")
    refused(400, "array of texts", "args", model="whole.gguf", args="-c 1")
    refused(400, "array of texts", "args", model="whole.gguf", args=["-c", 1])
    refused(400, "gpu", "gpu", model="whole.gguf", gpu=["${SECRET}"])
    refused(400, "gpu", "gpu", model="whole.gguf", gpu={"a": 1})
    refused(400, "did you mean \"model\"", None, model="whole.gguf", modell="x")
    for key in ("env", "binary", "llama_server", "cwd", "endpoint", "adopt", "api_key_file", "replicas"):
        refused(400, key, None, model="whole.gguf", **{key: "x"})
    for arg in ("--port", "--host", "--api_key", "-m", "--tools", "--path", "--slot_save_path", "--slot-save-path=/x", "--hf-repo-draft",
                "--mcp-servers-config", "--agent", "-jf", "--log-prompts-dir", "--fim-qwen-7b-default", "--rpc", "--lora-scaled"):
        refused(400, "is refused", "args", model="whole.gguf", args=["-c", "64", arg, "x"])
    refused(403, "args: ", "args", model="whole.gguf", args=["--mmproj", "/etc/passwd"])
    refused(403, "args: ", "args", model="whole.gguf", args=["-md", "../outside.gguf"])
    refused(404, "args: ", "args", model="whole.gguf", args=["--lora", "none.gguf"])
    answer = daemon.api("POST", "/api/v1/instances", body=b"{\"model\":", headers={"Content-Type": "application/json"})
    assert answer.status == 400 and "not JSON" in answer.text
    answer = daemon.api("POST", "/api/v1/instances", body=b"[]", headers={"Content-Type": "application/json"})
    assert answer.status == 400 and "must be an object" in answer.text
    assert daemon.api("POST", "/api/v1/instances").status == 400
    assert daemon.api("POST", "/api/v1/instances", body=b"{}", headers={"Content-Type": "text/plain"}).status == 415
    assert daemon.api("POST", "/api/v1/instances", body={"model": "x" * 70000}).status == 413
    assert sorted(daemon.instances()) == ["one", "pair-0", "pair-1"] and not os.path.exists(os.path.join(daemon.state, "dynamic.json"))
    # Nothing of our environment comes out, and what is not refused arrives as it was given.
    start(daemon, "whole.gguf", args=["--grammar", "a $${SECRET} ${SECRET} ${", "--mmproj", "proj.gguf"])
    assert argv(daemon, "whole")[-4:] == ["--grammar", "a $${SECRET} ${SECRET} ${", "--mmproj",
                                          os.path.join(os.path.realpath(daemon.models), "proj.gguf")]


def test_there_are_not_too_many(make_daemon, fake_llama_server):
    daemon = make_daemon({"instances": []}, start=False)
    make(daemon, "one.gguf")
    os.makedirs(daemon.state, exist_ok=True)
    with open(os.path.join(daemon.state, "dynamic.json"), "w", encoding="utf-8") as f:
        json.dump({"instances": [{"name": "n%d" % i, "model": "one.gguf", "autostart": False} for i in range(64)]}, f)
    daemon.start()
    assert len(daemon.instances()) == 64
    told = start(daemon, "one.gguf", 409)["error"]["message"]
    assert "remove one first" in told
    remove(daemon, "n7")
    assert start(daemon, "one.gguf")["name"] == "one"


def test_a_crowd_and_those_who_leave(make_daemon, fake_llama_server):
    """At most eight wait for a look at their model; who leaves before it is looked at gets no instance, or a whole one."""
    daemon = make_daemon({"instances": []})
    make(daemon, "one.gguf")
    host, port = daemon.address.removeprefix("http://").split(":")
    answers = []

    def ask(i):
        answer = daemon.api("POST", "/api/v1/instances", body={"model": "one.gguf", "name": "n%d" % i, "args": ["-c", "64"]})
        answers.append((answer.status, "n%d" % i))

    def leave(i):
        body = json.dumps({"model": "one.gguf", "name": "left%d" % i}).encode()
        with socket.create_connection((host, int(port))) as s:
            s.sendall(b"POST /api/v1/instances HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    threads = [threading.Thread(target=ask if i % 2 else leave, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} <= {201, 503} and any(status == 201 for status, _ in answers), answers
    made = {name for status, name in answers if status == 201}
    wait_for(lambda: set(kept(daemon)) == set(daemon.instances()), what="what is kept is what runs")
    assert {name for name in kept(daemon) if name.startswith("n")} == made
    for name in kept(daemon):
        daemon.wait_state(name, "ready")
    assert daemon.get("/health").status == 200


def test_work_goes_on_while_models_come_and_go(make_daemon, fake_llama_server):
    """Each start and each removal is a new configuration below the requests that run and those that wait."""
    daemon = make_daemon({"instances": [{"name": "one", "model": "tiny.gguf", "args": ["-np", "1"]}]})
    make(daemon, "extra.gguf")
    daemon.wait_state("one", "ready")
    over, answers = threading.Event(), []

    def work():
        while not over.is_set():
            answer = daemon.api("POST", "/v1/chat/completions", body={"model": "one", "messages": [{"role": "user", "content": "hi"}]})
            answers.append(answer.status)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(6):
        start(daemon, "extra.gguf", name="extra%d" % i)
        if i % 2:
            daemon.wait_state("extra%d" % i, "ready")
        remove(daemon, "extra%d" % i)
    over.set()
    for thread in threads:
        thread.join()
    assert len(answers) > 6 and set(answers) == {200}, answers


@pytest.mark.parametrize("content", ["", "{", "[]", "{\"instances\": [{\"model\": \"x\"}]}", "\x00\x01"])
def test_a_broken_state_file_is_told(make_daemon, content):
    daemon = make_daemon(CONFIGURED, start=False)
    os.makedirs(daemon.state, exist_ok=True)
    path = os.path.join(daemon.state, "dynamic.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write(content)
    daemon.start()
    assert len(events(daemon, "dynamic_lost")) == 1 and "dynamic.json" in daemon.output()
    with open(path + ".bad", encoding="utf-8") as f:
        assert f.read() == content
    make(daemon, "extra.gguf")
    start(daemon, "extra.gguf")
    assert kept(daemon) == ["extra"]


def test_one_that_cannot_be_had_any_more_is_told_and_kept(make_daemon, fake_llama_server):
    """Somebody put a refused argument into the state file: told, not started, and not lost."""
    daemon = make_daemon(CONFIGURED, start=False)
    os.makedirs(daemon.state, exist_ok=True)
    with open(os.path.join(daemon.state, "dynamic.json"), "w", encoding="utf-8") as f:
        json.dump({"instances": [{"name": "bad", "model": "tiny.gguf", "args": ["--port", "1"]},
                                 {"name": "good", "model": "tiny.gguf"}]}, f)
    daemon.start()
    daemon.wait_state("good", "ready")
    assert "bad" not in daemon.instances()
    assert "--port is refused" in events(daemon, "dynamic_refused")[0]["text"]
    assert kept(daemon) == ["bad", "good"]
    remove(daemon, "bad")
    assert kept(daemon) == ["good"]


def test_the_state_file_cannot_be_written(make_daemon, fake_llama_server):
    """What the next daemon would not know is not started."""
    daemon = make_daemon(CONFIGURED)
    make(daemon, "extra.gguf")
    os.mkdir(os.path.join(daemon.state, "dynamic.json"))
    told = start(daemon, "extra.gguf", 500)["error"]["message"]
    assert "dynamic.json cannot be written" in told, told
    assert "extra" not in daemon.instances()
    os.rmdir(os.path.join(daemon.state, "dynamic.json"))
    start(daemon, "extra.gguf")
    assert kept(daemon) == ["extra"]


def test_on_the_command_line(make_daemon, server):
    daemon = make_daemon(CONFIGURED, server=server)
    make(daemon, "extra.gguf")
    done = daemon.cli("start", "--socket", daemon.control, "--model", "extra.gguf", "--wait", "--context", "512", "--gpu", "none",
                      "--name", "cli", "--", "-np", "1", socket_option=False)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "start: cli" and done.stdout.endswith("cli: ready\n"), done
    words = argv(daemon, "cli")
    assert words[-4:] == ["--ctx-size", "512", "-np", "1"], words
    assert "cli" in daemon.cli("models").stdout
    told = json.loads(daemon.cli("start", "--model", "extra.gguf", "--json").stdout)
    assert told["name"] == "extra" and told["dynamic"] is True
    daemon.wait_state("extra", "ready")
    for args, code, piece in ((["start", "--model", "nix.gguf"], 1, "there is no nix.gguf"),
                              (["start", "--model", "extra.gguf", "--name", "one"], 1, "is taken"),
                              (["start", "--model", "extra.gguf", "--gpu", "some"], 1, "gpu"),
                              (["start", "--model", "extra.gguf", "other"], 2, "stand behind --"),
                              (["start", "--model", "extra.gguf", "--context", "many"], 2, "a number of tokens"),
                              (["start", "--name", "x", "one"], 2, "only makes sense with --model"),
                              (["start"], 2, "something is missing"),
                              (["remove", "one"], 1, "is in the configuration"),
                              (["remove", "none"], 1, "there is no instance")):
        result = daemon.cli(*args)
        assert result.returncode == code and piece in result.stderr, result
    assert "forgotten" in daemon.cli("remove", "cli", "extra").stdout
    is_gone(daemon, "cli")
    is_gone(daemon, "extra")
    assert daemon.cli("start", "one", "--wait").returncode == 0
