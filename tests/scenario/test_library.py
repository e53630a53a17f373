"""The model library: what lies in models_dir is told as it is, and an instance can be started from it by name."""
# ctest: real asan
import os
import shutil
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
