"""The real llama-server under the real unit: it loads, answers, outlives the daemon, and is not hindered by the sandbox."""
import json
import os
import shutil
import signal
import subprocess

import pytest

import machine as machines
from harness import wait_for
from service import Service

PLACE = "/opt/llama-server"


@pytest.fixture(scope="module")
def real(machine):
    """The real program, moved into the machine with its own C library."""
    given = os.environ.get("LSV_LLAMA_SERVER") or os.path.join(machines.SOURCE, "build/llama-server/usr/bin/llama-server")
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(given))))
    if not os.path.exists(os.path.join(folder, ".unpacked")):
        pytest.skip("the llama-server here (%s) was not unpacked by scripts/fetch-llama-server, so it cannot be moved" % given)
    if not shutil.which("patchelf"):
        pytest.skip("patchelf is not installed")
    pack = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
    unpack = subprocess.run(machine.command("sh", "-c", "mkdir -p %s && tar -C %s -x" % (PLACE, PLACE)), stdin=pack.stdout,
                            capture_output=True, check=False)
    pack.stdout.close()
    assert pack.wait() == 0 and unpack.returncode == 0, unpack
    loader = subprocess.run(["patchelf", "--print-interpreter", os.path.realpath(given)], capture_output=True, text=True,
                            check=True).stdout.strip()
    # Written as another file, since a program with another loader is what makes it the one of this place.
    patched = machine.path(PLACE + "/usr/bin/llama-server")
    subprocess.run(["patchelf", "--set-interpreter", PLACE + loader[len(folder):], patched], check=True, capture_output=True)
    return PLACE + "/usr/bin/llama-server"


def test_the_real_one_outlives_the_daemon(machine, real):
    m = machine
    service = Service(m)
    service.reset()
    service.start({"llama_server": {"binary": real}, "instances": [{"name": "a", "model": "tiny.gguf", "args": ["-c", "512"]}]})
    before = m.children()
    assert len(before) == 1

    def ask():
        answer = m.request("POST", "/v1/chat/completions", {"model": "a", "max_tokens": 8, "messages": [
            {"role": "user", "content": "hi"}]})
        assert answer.status == 200, answer
        return json.loads(answer.body)["choices"][0]["message"]["content"]
    said = ask()
    assert said
    pid = m.main_pid
    m.kill_pid(pid, signal.SIGKILL)
    m.wait_new_main(pid)
    m.wait_ready(["a"])
    assert m.children() == before and ask() == said
    m.cli("upgrade")
    m.wait_ready(["a"])
    assert m.children() == before and ask() == said
    service.stop()
    wait_for(lambda: not m.children(), what="it is stopped")
