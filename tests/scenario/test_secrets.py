# ctest: real asan
"""What people ask and are told is theirs: a word of a prompt or an answer is looked for in all that the daemon leaves behind."""
import glob
import os
import resource
import signal
import subprocess

import harness

CANARY = "canary-5e1b07c2"


def no_limit():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def leaves_core(folder):
    """Whether this machine writes a core of a process that may leave one."""
    child = subprocess.Popen(["sleep", "60"], cwd=folder, preexec_fn=no_limit)
    child.send_signal(signal.SIGABRT)
    _, status = os.waitpid(child.pid, 0)
    child.returncode = -signal.SIGABRT
    for path in glob.glob(os.path.join(folder, "core*")):
        os.unlink(path)
    return os.WCOREDUMP(status)


def post(daemon, path, body):
    return harness.request(daemon.address, "POST", path, body)


def ask(daemon, **more):
    return post(daemon, "/v1/chat/completions", {"model": "qwen", "messages": [{"role": "user", "content": CANARY}], **more})


def files(daemon):
    found = {}
    for path in glob.glob(daemon.root + "/**", recursive=True):
        if os.path.isfile(path) and not path.endswith(".gguf"):
            with open(path, "rb") as f:
                found[path] = f.read()
    return found


def test_no_word_of_a_prompt_is_left(make_daemon, server):
    """In no file, on no door, on no command line; also of requests that were wrong, refused, cut off or cancelled."""
    daemon = make_daemon({"log_level": "debug", "instances": [{"name": "qwen", "model": "tiny.gguf"}]}, server=server)
    daemon.wait_state("qwen", "ready")
    assert ask(daemon).status == 200
    assert ask(daemon, stream=True).status == 200
    assert ask(daemon, model=CANARY).status == 404
    assert post(daemon, "/v1/chat/completions", ('{"model": "qwen", "messages": "%s"' % CANARY).encode()).status == 400
    assert post(daemon, "/v1/completions?%s=1" % CANARY, {"model": "qwen", "prompt": CANARY}).status in (200, 400)
    os.kill(daemon.instance("qwen")["pid"], signal.SIGKILL)
    texts = files(daemon)
    for path in ("/metrics", "/api/v1/status", "/api/v1/instances", "/api/v1/requests", "/api/v1/history", "/api/v1/models", "/"):
        texts[path] = daemon.get(path).body
    for name in ("cmdline", "environ"):
        with open("/proc/%d/%s" % (daemon.pid, name), "rb") as f:
            texts[name] = f.read()
    assert len(texts) > 12 and daemon.output_file in texts
    for what, text in texts.items():
        assert CANARY.encode() not in text, what


def test_no_core(make_daemon):
    """A daemon that aborts in the middle of a request leaves no picture of its memory, whatever the limits allow."""
    daemon = make_daemon({"instances": [{"name": "qwen", "model": "tiny.gguf"}]}, start=False)
    # Where cores go to a program that is missing (a container on a foreign host), no flag tells, and only files are looked for.
    telling = leaves_core(daemon.root)
    daemon.start(preexec_fn=no_limit)
    daemon.wait_state("qwen", "ready")
    assert ask(daemon).status == 200
    daemon.signal(signal.SIGABRT)
    _, status = os.waitpid(daemon.pid, 0)
    daemon.process.returncode = -signal.SIGABRT
    daemon.killed = True
    assert os.WIFSIGNALED(status) and not (telling and os.WCOREDUMP(status))
    assert not glob.glob(daemon.root + "/**/core*", recursive=True)
    harness.wait_for(lambda: not harness.is_alive(daemon.pid), what="the end of the daemon")
