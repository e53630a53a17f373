"""The scripts that a new user meets first: their mistakes are told clearly, and the tiny model is what it claims to be."""
# ctest: real

import hashlib
import os
import re
import shutil
import subprocess

import pytest

import harness

SCRIPTS = os.path.join(harness.SOURCE, "scripts")
MAKE_MODEL = os.path.join(SCRIPTS, "make-tiny-model")
SENTENCE = (" the quick brown fox jumps over a lazy dog while our small model counts "
            "one two three four five six seven eight nine ten and then it says good bye now")


def script(*args, env=None, cwd=None):
    return subprocess.run(args, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL, cwd=cwd,
                          env={**os.environ, **(env or {})})


def bash(text, env=None):
    """Some shell lines with scripts/lib.sh."""
    return script("bash", "-c", "set -euo pipefail; . %s/lib.sh; %s" % (SCRIPTS, text), env=env)


# ---- usage -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("args, words", [
    (["run", "--bogus"], "unknown option '--bogus'"),
    (["run", "model.gguf"], "unexpected argument 'model.gguf'"),
    (["run", "--model"], "--model needs a value"),
    (["run", "--model", "--listen"], "--model needs a value, not '--listen'"),
    (["run", "--model", "/nonexistent.gguf"], "no such file"),
    (["run", "--model=/"], "no such file"),
    (["run", "--instances", "0"], "a number from 1 to 64"),
    (["run", "--instances", "two"], "a number from 1 to 64"),
    (["run", "--instances", "65"], "a number from 1 to 64"),
    (["run", "--instances", "100000000000000000000"], "a number from 1 to 64"),
    (["run", "--llama-server", "/etc/passwd"], "not a program"),
    (["run", "--config", "/nonexistent.json"], "no such file"),
    (["run", "--config", "/etc/passwd", "--instances", "2"], "cannot be added"),
    (["test", "--bogus"], "unknown option '--bogus'"),
    (["test", "--label"], "--label needs a value"),
    (["fetch-llama-server", "--bogus"], "unknown option '--bogus'"),
    (["fetch-llama-server", "one", "two"], "one DEST only"),
    (["../tests/chroot"], "which SUITE"),
    (["../tests/chroot", "sarge"], "bookworm or trixie"),
    (["make-tiny-model"], "required: OUT.gguf"),
    (["make-tiny-model", "--pad-mb", "-1", "x"], "must be from"),
])
def test_wrong_usage_is_told(args, words):
    result = script(os.path.join(SCRIPTS, args[0]), *args[1:])
    assert result.returncode == 2, result
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["run", "test", "fetch-llama-server", "make-tiny-model", "../tests/chroot"])
def test_help(name):
    result = script(os.path.join(SCRIPTS, name), "--help")
    assert result.returncode == 0, result
    assert result.stdout.startswith("usage: ")
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 120


# ---- packages ----------------------------------------------------------------------------------------------------------

def test_nothing_missing_installs_nothing():
    """What this very build needed is there, so no package manager may be asked: it would need rights and a network."""
    result = bash("apt-get() { echo called; }; dnf() { echo called; }; sudo() { echo called; }; install_packages build")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_is_missing_is_named_before_it_is_installed():
    result = bash("""
        lsv_packages() { echo 'build cmd:surely-not-there some-package fedora-package'; }
        lsv_package_manager() { echo apt; }
        as_root() { echo "as root: $*"; }
        install_packages build run""")
    assert result.returncode == 0, result
    assert "installing: some-package" in result.stderr


def test_missing_without_rights_says_what_to_do():
    result = bash("""
        lsv_packages() { echo 'build cmd:surely-not-there some-package fedora-package'; }
        lsv_package_manager() { echo apt; }
        id() { echo 1000; }
        have() { [ "$1" != sudo ] && command -v "$1" >/dev/null; }
        install_packages build; echo not reached""")
    assert result.returncode == 1
    assert "apt-get install -y --no-install-recommends some-package" in result.stderr
    assert "not reached" not in result.stdout


def test_fedora_gets_its_own_names():
    result = bash("""
        lsv_packages() { printf '%s\\n' 'build cmd:surely-not-there deb rpm' 'test cmd:not-there-either deb2 -'; }
        lsv_package_manager() { echo dnf; }
        missing_packages build test""")
    assert result.stdout == "rpm\n", result


# ---- the tiny model ----------------------------------------------------------------------------------------------------

def made(folder, name, *args):
    path = os.path.join(folder, name)
    result = script("/usr/bin/python3", MAKE_MODEL, path, *args)
    assert result.returncode == 0, result
    return result.stdout.strip()


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_model_is_the_same_each_time(folder):
    one, two = made(folder, "one.gguf"), made(folder, "two.gguf")
    other = made(folder, "other.gguf", "--seed", "7")
    assert digest(one) == digest(two) != digest(other)
    assert sorted(os.listdir(folder)) == ["one.gguf", "other.gguf", "two.gguf"]     # nothing half made beside them


def test_model_that_cannot_be_written(folder):
    result = script("/usr/bin/python3", MAKE_MODEL, os.path.join(folder, "no", "such", "folder.gguf"))
    assert result.returncode == 1
    assert "No such file or directory" in result.stderr and "Traceback" not in result.stderr


def chat(server, **extra):
    body = {"messages": [{"role": "user", "content": "hello there"}], **extra}
    answer = harness.request(server.address, "POST", "/v1/chat/completions", body=body, timeout=harness.PATIENCE)
    assert answer.status == 200, answer
    return answer.json["choices"][0]


@pytest.mark.parametrize("args", [[], ["--split", "3"], ["--pad-mb", "40", "--n-ctx", "512"]])
def test_model_answers_its_sentence(folder, make_server, real_llama_server, args):
    path = made(folder, "model.gguf", *args)
    server = make_server(real_llama_server, "-m", path, "-c", "512", "-np", "1", "-t", "1").wait_ready()
    for temperature in (0, 1, 2):
        choice = chat(server, temperature=temperature)
        assert choice["message"]["content"] == SENTENCE
        assert choice["finish_reason"] == "stop"
    long = chat(server, ignore_eos=True, max_tokens=100)
    assert long["finish_reason"] == "length" and long["message"]["content"].startswith(SENTENCE)


def test_embedding_model(folder, make_server, real_llama_server):
    path = made(folder, "embedding.gguf", "--embedding")
    server = make_server(real_llama_server, "-m", path, "--embedding", "-c", "512", "-np", "1", "-t", "1").wait_ready()
    answer = harness.request(server.address, "POST", "/v1/embeddings", timeout=harness.PATIENCE,
                             body={"input": ["the quick brown fox", "one two three"]})
    assert answer.status == 200, answer
    first, second = (entry["embedding"] for entry in answer.json["data"])
    assert len(first) == len(second) == 64
    assert first != second


# ---- llama-server out of Debian's packages -----------------------------------------------------------------------------

def test_fetched_llama_server_is_used_again(real_llama_server):
    """When it was fetched before, a second call only answers: it asks no mirror and takes no time."""
    unpacked = os.path.join(harness.SOURCE, "build", "llama-server")
    if not os.path.exists(os.path.join(unpacked, ".unpacked")):
        pytest.skip("llama-server was not fetched here but is %s" % real_llama_server)
    result = script(os.path.join(SCRIPTS, "fetch-llama-server"), unpacked, env={"LSV_DEBIAN_MIRROR": "http://127.0.0.1:9/"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == os.path.join(unpacked, "usr/bin/llama-server") + "\n"


def test_fetch_moves_and_repairs(folder):
    """From the packages that are kept: to another place; and again over a folder that was only half made."""
    kept = os.path.join(harness.SOURCE, "build", "cache", "llama-server")
    if not os.path.isdir(kept):
        pytest.skip("llama-server was not fetched here")
    destination = os.path.join(folder, "there")
    os.makedirs(os.path.join(destination, "usr/bin"))
    with open(os.path.join(destination, "usr/bin/llama-server"), "w", encoding="ascii") as file:
        file.write("half")
    result = script(os.path.join(SCRIPTS, "fetch-llama-server"), destination, env={"LSV_DEBIAN_MIRROR": "http://127.0.0.1:9/"})
    assert result.returncode == 0, result
    program = result.stdout.strip()
    version = script(program, "--version")
    assert version.returncode == 0 and re.search(r"version: ", version.stderr + version.stdout), version
    assert sorted(os.listdir(folder)) == ["there"]
    shutil.rmtree(destination)
