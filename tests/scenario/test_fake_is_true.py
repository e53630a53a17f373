"""The fake llama-server against the real one: the same requests, the same arguments, the same deaths.

What must be alike: status lines, names and order of header fields, keys and types of JSON, exit codes, and the lines of the log that
decide something. What need not: numbers, times, the text of a model.
"""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import harness

pytestmark = pytest.mark.real

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def both(real_llama_server, fake_llama_server, make_server, tiny_model):
    """both(ARGS…) starts the real and the fake with the same arguments, and returns them ready (or only started)."""
    def start(*args, ready=True, model=tiny_model, **kwargs):
        pair = [make_server(program, "-m", model, *args, **kwargs) for program in (real_llama_server, fake_llama_server)]
        return [server.wait_ready() for server in pair] if ready else pair
    return start


def shape(value):
    """Keys and types; of an array the shapes that occur."""
    if isinstance(value, dict):
        return {key: shape(v) for key, v in value.items()}
    if isinstance(value, list):
        return [json.loads(s) for s in sorted({json.dumps(shape(v)) for v in value})]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__
    return "number"


def raw(address, data, timeout=harness.PATIENCE, until_close=True):
    """Sends bytes, returns all bytes until the server closes."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(address.removeprefix("unix:"))
        s.sendall(data)
        got = b""
        while until_close or b"\r\n\r\n" not in got:
            piece = s.recv(65536)
            if not piece:
                break
            got += piece
        return got


def ask(address, method, path, body=None, headers=()):
    """(status line, header names in order with the values that matter, body bytes)."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = ["%s %s HTTP/1.1" % (method, path), "Host: localhost", "Connection: close", *headers]
    if body is not None:
        head += ["Content-Length: %d" % len(data), "Content-Type: application/json"]
    answer = raw(address, "\r\n".join(head).encode() + b"\r\n\r\n" + data)
    head, _, rest = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = []
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields.append(name if name in ("Content-Length", "Process-Start-Time-Unix") else line)
    return lines[0], fields, rest


def both_answer(pair, method, path, body=None, headers=()):
    """Asks both, demands equal heads and shapes; returns the two bodies."""
    real, fake = (ask(server.address, method, path, body, headers) for server in pair)
    assert fake[0] == real[0], path
    assert fake[1] == real[1], path
    if any("application/json" in field for field in real[1]) and real[2]:
        assert shape(json.loads(fake[2])) == shape(json.loads(real[2])), path
    return real[2], fake[2]


# ---- answers -----------------------------------------------------------------------------------------------------------

def test_questions_of_a_supervisor(both):
    pair = both("--alias", "tiny,tiny-chat", "--metrics", "-c", "8192", "-np", "2", "--threads-http", "20", "--sse-ping-interval",
                "2", "--cache-ram", "0", "-t", "1")
    for path in ("/health", "/v1/health", "/v1/models", "/models", "/props", "/slots", "/slots?fail_on_no_slot=1", "/metrics",
                 "/", "/nonexistent", "/v1/models/tiny", "/lora-adapters", "/health?x=1"):
        real, fake = both_answer(pair, "GET", path)
        if path in ("/health", "/nonexistent", "/slots", "/lora-adapters"):
            assert fake == real
    both_answer(pair, "HEAD", "/health")
    for method in ("POST", "PUT", "DELETE"):
        both_answer(pair, method, "/health", b"")
    both_answer(pair, "OPTIONS", CHAT)
    both_answer(pair, "GET", CHAT)

    models = [json.loads(ask(server.address, "GET", "/v1/models")[2])["data"][0] for server in pair]
    for model in models:
        model.pop("created")
    assert models[0] == models[1]
    names = [re.findall(r"^# (?:HELP|TYPE) .*$", ask(s.address, "GET", "/metrics")[2].decode(), re.M) for s in pair]
    assert names[0] == names[1] and len(names[0]) == 30


def test_slots_and_context_by_arguments(both):
    for args in ((), ("-c", "8192"), ("-c", "8192", "-np", "4"), ("-c", "8192", "-np", "4", "--kv-unified"), ("-np", "2"),
                 ("-c", "65536")):
        pair = both(*args)
        real, fake = both_answer(pair, "GET", "/slots")
        assert fake == real, args
        for server in pair:
            server.close()


def test_work(both):
    pair = both("--alias", "tiny", "-np", "1", "-c", "8192", "-t", "1")
    for path, body in ((CHAT, {"messages": HELLO}), (CHAT, {"messages": HELLO, "max_tokens": 3}),
                       ("/v1/completions", {"prompt": "hi", "max_tokens": 3}), ("/completion", {"prompt": "hi", "n_predict": 3}),
                       ("/v1/messages", {"messages": HELLO, "max_tokens": 3}), ("/tokenize", {"content": "hello the quick"}),
                       ("/detokenize", {"tokens": [368, 369]}), ("/apply-template", {"messages": HELLO})):
        both_answer(pair, "POST", path, body)
    real, fake = (json.loads(ask(s.address, "POST", CHAT, {"messages": HELLO})[2]) for s in pair)
    assert fake["choices"] == real["choices"]
    assert fake["usage"]["completion_tokens"] == real["usage"]["completion_tokens"]
    both_answer(pair, "GET", "/slots")          # one of them has been used


def test_errors(both):
    pair = both("-np", "1", "-c", "2048", "-t", "1", "--no-slots")
    for path, body in ((CHAT, b"{b}"), (CHAT, b""), (CHAT, {}), ("/v1/embeddings", {"input": "hi"}),
                       ("/v1/rerank", {"query": "a", "documents": ["b"]})):
        real, fake = both_answer(pair, "POST", path, body)
        assert fake == real, path
    both_answer(pair, "POST", CHAT, {"messages": [{"role": "user", "content": "too long " * 20000}]})
    for path in ("/slots", "/metrics"):
        real, fake = both_answer(pair, "GET", path)
        assert fake == real, path
    real, fake = (raw(server.address, b"GARBAGE\r\n\r\n") for server in pair)
    assert fake == real and real.startswith(b"HTTP/1.1 400 ")


def test_images_that_nobody_can_see(both):
    pair = both()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]}
    real, fake = both_answer(pair, "POST", CHAT, body)
    assert json.loads(fake) == json.loads(real)


def test_api_key(both):
    pair = both("--api-key", "one,two", "-t", "1")
    for headers in ((), ("Authorization: Bearer wrong",), ("Authorization: Bearer two",), ("X-Api-Key: one",)):
        for path in ("/health", "/v1/models", "/props", "/nonexistent"):
            both_answer(pair, "GET", path, headers=headers)


def test_embeddings(real_llama_server, fake_llama_server, make_server, tools):
    from conftest import make_model
    path = os.path.join(tools, "embedding.gguf")
    make_model(path, "--embedding")
    try:
        pair = [make_server(p, "-m", path, "--embeddings", "-t", "1").wait_ready() for p in (real_llama_server, fake_llama_server)]
        real, fake = both_answer(pair, "POST", "/v1/embeddings", {"input": "hi"})
        assert len(json.loads(real)["data"][0]["embedding"]) == len(json.loads(fake)["data"][0]["embedding"])
    finally:
        os.unlink(path)


# ---- streams -----------------------------------------------------------------------------------------------------------

def events_of(answer):
    """(head fields, chunk sizes well-formed and ended, the events as shapes)."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        n = int(size, 16)
        if n == 0:
            assert rest == b"\r\n"
            break
        assert rest[n:n + 2] == b"\r\n"
        body += rest[:n]
        rest = rest[n + 2:]
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        for line in block.split("\n"):
            events.append(shape(json.loads(line[6:])) if line.startswith("data: {") else line)
    return head.decode().split("\r\n"), events


@pytest.mark.parametrize("path,body", [
    (CHAT, {"messages": HELLO, "max_tokens": 3}),
    (CHAT, {"messages": HELLO, "stream_options": {"include_usage": True}}),
    (CHAT, {"messages": HELLO, "max_tokens": 2, "timings_per_token": True}),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 2}),
    ("/completion", {"prompt": "hi", "n_predict": 3}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 3}),
])
def test_streams(both, path, body):
    pair = both("--alias", "tiny", "-np", "1", "-t", "1")
    data = json.dumps({**body, "stream": True}).encode()
    real, fake = (events_of(raw(server.address, b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(), len(data), data))) for server in pair)
    assert fake[0] == real[0]
    assert fake[1] == real[1]
    assert ("data: [DONE]" in real[1]) == path.startswith(("/v1/chat", "/v1/completions"))


# ---- connections -------------------------------------------------------------------------------------------------------

def test_keep_alive(both):
    pair = both("-t", "1")
    for server in pair:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(harness.PATIENCE)
            s.connect(server.socket)
            ends = []
            for i in range(100):
                s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b'{"status":"ok"}'):
                    answer += s.recv(4096)
                ends.append(b"Connection: close" in answer)
            assert ends == [False] * 99 + [True], server.args[0]
            assert s.recv(1) == b""

    def idle_time(server, result):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(harness.PATIENCE)
            s.connect(server.socket)
            s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            began = time.monotonic()
            while s.recv(4096):
                pass
            result.append(time.monotonic() - began)
    times = [[], []]
    threads = [threading.Thread(target=idle_time, args=(server, times[i])) for i, server in enumerate(pair)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(4.5 < t[0] < 9 for t in times), times


def test_busy_slots_and_cancel(real_llama_server, fake_llama_server, make_server, slow_model, tiny_model):
    """A slot is busy while a client waits, fail_on_no_slot says so, and a client that leaves frees it."""
    pair = [make_server(real_llama_server, "-m", slow_model, "-np", "1", "-c", "4096", "-t", "1"),
            make_server(fake_llama_server, "-m", tiny_model, "-np", "1", "-c", "4096", "-t", "1", "--tok-s", "20")]
    pair = [server.wait_ready() for server in pair]
    body = json.dumps({"messages": HELLO, "max_tokens": 2000, "ignore_eos": True, "stream": True}).encode()
    for server in pair:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(harness.PATIENCE)
            s.connect(server.socket)
            s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body))
            assert s.recv(12) == b"HTTP/1.1 200"
            both_answer([server, server], "GET", "/slots?fail_on_no_slot=1")
    for server in pair:                          # the clients are gone
        harness.wait_for(lambda s=server: s.answers(200, "/slots?fail_on_no_slot=1"), what="a free slot")
        assert "cancel task, id_task = " in server.log(), server.log()


# ---- starting ----------------------------------------------------------------------------------------------------------

def lines_of(text):
    """The log without its times."""
    return [re.sub(r"^\d+\.\d\d\.\d\d\d\.\d\d\d ", "", line) for line in text.splitlines()]


def run(program, *args, env=None, cwd=None):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LLAMA_", "AIP_"))}
    result = subprocess.run([program, *args], capture_output=True, text=True, timeout=harness.PATIENCE, check=False, cwd=cwd,
                            stdin=subprocess.DEVNULL, env={**environment, **(env or {})})
    return result.returncode, result.stdout, lines_of(result.stderr)


def test_log_of_a_start(both):
    pair = both("--alias", "tiny", "-np", "2", "-c", "8192", "-t", "1", "--cache-ram", "0")
    logs = [[line.replace(server.socket, "SOCKET") for line in lines_of(server.log())] for server in pair]
    assert logs[1] == logs[0]
    assert logs[0][-1] == "I srv  llama_server: listening on unix://SOCKET"
    assert all(re.match(r"\d+\.\d\d\.\d\d\d\.\d\d\d [IWE] ", line) for server in pair for line in server.log().splitlines())


@pytest.mark.parametrize("args", [
    ["--version"], ["--list-devices"], ["--bogus-flag"], ["-c", "abc"], ["-np"], ["--port", "x"], ["--device", "CUDA0"], ["-m"],
    ["-c", "1", "--bogus", "--help"],
])
def test_arguments(real_llama_server, fake_llama_server, args):
    assert run(fake_llama_server, *args) == run(real_llama_server, *args)


def test_environment(real_llama_server, fake_llama_server, both):
    env = {"LLAMA_ARG_CTX_SIZE": "many"}
    assert run(fake_llama_server, "--port", "0", env=env) == run(real_llama_server, "--port", "0", env=env)
    pair = both("-np", "1", env={"LLAMA_ARG_CTX_SIZE": "1024", "LLAMA_ARG_N_PARALLEL": "3"})
    real, fake = both_answer(pair, "GET", "/slots")
    assert fake == real and json.loads(real)[0]["n_ctx"] == 1024
    warning = "warn: LLAMA_ARG_N_PARALLEL environment variable is set, but will be overwritten by command line argument -np"
    assert all(warning in server.log() for server in pair)


def test_help_is_an_excerpt(real_llama_server, fake_llama_server):
    """Every line of the fake's help is one of the real one's, in its order: whoever reads flags out of one reads the other."""
    real, fake = (run(program, "--help")[1].splitlines() for program in (real_llama_server, fake_llama_server))
    rest = iter(real)
    for line in fake:
        assert line in rest, line
    for flag in ("--metrics", "--alias", "--threads-http", "--sse-ping-interval", "--cache-ram", "--slots", "--host", "--port",
                 "--parallel", "--ctx-size", "--api-key", "--gpu-layers", "--hf-repo"):
        assert any(flag in line.split("  ")[0] or flag in line for line in fake), flag


def broken_models(folder, tiny_model):
    with open(tiny_model, "rb") as f:
        whole = f.read()
    contents = {"missing": None, "empty": b"", "junk": b"junk" * 100, "magic": b"GGUF", "header": whole[:20],
                "pairs": whole[:1000], "tensors": whole[:13000], "tail": whole[:-1000]}
    for name, content in contents.items():
        path = os.path.join(folder, name + ".gguf")
        if content is not None:
            with open(path, "wb") as f:
                f.write(content)
        yield path
    yield folder


def test_models_that_do_not_load(real_llama_server, fake_llama_server, folder, tiny_model):
    for path in broken_models(folder, tiny_model):
        sock = os.path.join(folder, "x.sock")
        answers = []
        for program in (real_llama_server, fake_llama_server):
            answers.append(run(program, "-m", path, "--host", sock))
            os.unlink(sock)                      # left behind: whoever starts the next one has to remove it
        assert answers[0] == answers[1], path
        assert answers[0][0] == 1 and answers[0][2][-1] == "E srv  llama_server: exiting due to model loading error"


def test_addresses_that_cannot_be_bound(real_llama_server, fake_llama_server, folder, tiny_model):
    stale = os.path.join(folder, "stale.sock")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(stale)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for args in (["--host", "127.0.0.1", "--port", port], ["--host", stale], ["--host", "no.such.host.invalid"],
                     ["--host", os.path.join(folder, "none", "x.sock")], ["--host", os.path.join(folder, "x" * 100 + ".sock")]):
            real, fake = (run(p, "-m", tiny_model, *args) for p in (real_llama_server, fake_llama_server))
            assert fake == real, args
            assert real[0] == 1 and any("couldn't bind HTTP server socket" in line for line in real[2]), real


def test_a_free_port_and_both_kinds_at_once(both):
    """Port 0 takes a free one and tells it after the load; a list listens on all."""
    for server in both("--port", "0", host="127.0.0.1"):
        port = re.search(r"listening on http://127\.0\.0\.1:(\d+)$", server.log(), re.M).group(1)
        assert harness.request("http://127.0.0.1:" + port, "GET", "/health").status == 200


def test_log_jsonl_is_not_pretended(fake_llama_server):
    """The fake knows the option but does not write JSON: whoever needs that needs the real one."""
    assert run(fake_llama_server, "--log-jsonl", "--version")[0] == 0


# ---- stopping ----------------------------------------------------------------------------------------------------------

def test_loading(real_llama_server, fake_llama_server, make_server, slow_model, tiny_model):
    """While it loads every path but / is 503, and SIGTERM simply kills."""
    pair = [make_server(real_llama_server, "-m", slow_model, "-t", "1", "-c", "4096", "-np", "1").wait_loading(),
            make_server(fake_llama_server, "-m", tiny_model, "--load-ms", "20000").wait_loading()]
    for path in ("/health", "/v1/models", "/nonexistent", "/"):
        real, fake = both_answer(pair, "GET", path)
        assert fake == real, path
    assert [server.end(signal.SIGTERM) for server in pair] == [-signal.SIGTERM, -signal.SIGTERM]


def test_sigterm_when_idle(both):
    for signo in (signal.SIGTERM, signal.SIGINT):
        for server in both("-t", "1"):
            with socket.socket(socket.AF_UNIX) as idle:
                idle.connect(server.socket)
                assert server.end(signo) == 0, server.log()
            assert lines_of(server.log())[-1] == "I srv    operator(): operator(): cleaning up before exit..."
            assert os.path.exists(server.socket), "the socket file stays"


@pytest.mark.parametrize("signo", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT])
def test_signals_that_kill(both, signo):
    assert [server.end(signo) for server in both("-t", "1")] == [-signo, -signo]


def busy_pair(make_server, real, fake, slow_model, tiny_model, *args):
    pair = [make_server(real, "-m", slow_model, "-np", "1", "-c", "4096", "-t", "1", *args),
            make_server(fake, "-m", tiny_model, "-np", "1", "-c", "4096", "-t", "1", "--tok-s", "16", *args)]
    return [server.wait_ready() for server in pair]


def begin(server, stream):
    """A request under way: its slot is busy, of a stream the first bytes are there."""
    body = json.dumps({"messages": HELLO, "max_tokens": 2000, "ignore_eos": True, "stream": stream}).encode()
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(harness.PATIENCE)
    s.connect(server.socket)
    s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body))
    harness.wait_for(lambda: server.answers(503, "/slots?fail_on_no_slot=1"), what="a busy slot")
    if stream:
        assert s.recv(12) == b"HTTP/1.1 200"
    time.sleep(0.5)                              # past the prompt: a batch of it would be finished first
    return s


def test_sigterm_with_a_stream(real_llama_server, fake_llama_server, make_server, slow_model, tiny_model):
    """It ends at the next ping, with a truncated body. (With an interval of 1 s, and with a longer one on a busy machine, the
    real one may end at once, without a ping.)"""
    for server in busy_pair(make_server, real_llama_server, fake_llama_server, slow_model, tiny_model, "--sse-ping-interval", "2"):
        with begin(server, True) as client:
            server.process.send_signal(signal.SIGTERM)
            got = b""
            while piece := client.recv(65536):
                got += piece
            assert got.endswith(b"\n\n\r\n"), got[-100:]
            if server.args[0] == fake_llama_server:
                assert got.endswith(b"3\r\n:\n\n\r\n"), got[-100:]
            assert b"[DONE]" not in got
        assert server.end() == 0


def test_sigterm_with_a_whole_answer(real_llama_server, fake_llama_server, make_server, slow_model, tiny_model):
    """It does not end until the client leaves; a second signal ends it at once with 1."""
    for leave in (True, False):
        for server in busy_pair(make_server, real_llama_server, fake_llama_server, slow_model, tiny_model):
            with begin(server, False) as client:
                assert server.end(signal.SIGTERM, timeout=2) == "still there"
                if leave:
                    client.close()
                    assert server.end() == 0
                else:
                    assert server.end(signal.SIGTERM) == 1
                    assert "Received second interrupt, terminating immediately." in server.log()


def test_sigterm_with_half_a_request(both):
    for server in both("-t", "1"):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(server.socket)
            s.sendall(b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
            time.sleep(0.3)
            assert server.end(signal.SIGTERM, timeout=2) == "still there"
            assert server.end(signal.SIGTERM) == 1


def test_a_leaked_router_variable_ends_it(both):
    """Why a supervisor must clean the environment: with stdin at its end such a child leaves right after the load."""
    for server in both("-t", "1", env={"LLAMA_SERVER_ROUTER_PORT": "1"}, ready=False):
        assert server.end() == 1
        assert "EOF on stdin detected, forcing shutdown..." in server.log()


def test_no_model_is_router_mode(real_llama_server, fake_llama_server, make_server, folder):
    """Why a supervisor must refuse an empty model path: /health is fine, and nothing is there."""
    env = {"LLAMA_CACHE": folder, "HF_HOME": folder, "HOME": folder}
    pair = [make_server(program, env=env).wait_ready() for program in (real_llama_server, fake_llama_server)]
    for path in ("/health", "/props", "/models"):
        real, fake = both_answer(pair, "GET", path)
        assert fake == real or path != "/health"
    for server in pair:
        assert "starting server in router mode" in server.log()
        assert server.end(signal.SIGTERM) == 0


# ---- the fake is cheap -------------------------------------------------------------------------------------------------

def test_a_fake_is_small(fake_llama_server, make_server, tiny_model):
    """A benchmark starts a thousand of them."""
    if "asan" in os.path.basename(harness.BUILD):
        pytest.skip("a sanitizer's shadow is not the fake's memory")
    server = make_server(fake_llama_server, "-m", tiny_model).wait_ready()
    for path in ("/health", "/props", "/v1/models", "/slots"):
        assert server.answers(200, path)
    with open("/proc/%d/smaps_rollup" % server.process.pid) as f:
        private = sum(int(line.split()[1]) for line in f if line.startswith("Private_"))
    assert private < 1500, "%d kB" % private
