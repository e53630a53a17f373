# ctest: real serial
"""The clients that people use, unmodified, through the gateway to real llama-servers: openai, @anthropic-ai/sdk, curl, a browser."""
import functools
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import urllib.parse

import pytest

import conftest
import feeds
import harness

pytestmark = pytest.mark.real
TEXT = " the quick brown fox jumps over a lazy dog"


@pytest.fixture(scope="session")
def embedding_model(tools):
    return conftest.make_model(os.path.join(tools, "embedding.gguf"), "--embedding")


@pytest.fixture
def fleet(make_daemon, real_llama_server, tiny_model, embedding_model):
    """A daemon with a chat model (two replicas) and an embedding model, both ready; more configuration may be given."""
    def make(**config):
        daemon = make_daemon(harness.merged({
            "instances": [{"name": "chat", "model": tiny_model, "replicas": 2, "aliases": ["gpt-4o-mini"], "args": ["-c", "4096"]},
                          {"name": "vectors", "model": embedding_model, "args": ["--embedding"]}],
            "gateway": {"default_model": "chat"}}, config), server=real_llama_server)
        for name in ("chat-0", "chat-1", "vectors"):
            daemon.wait_state(name, "ready")
        return daemon
    return make


def run_node(script, *args):
    """What the program told: {what: data}."""
    node = feeds.Node(script, *args)
    try:
        node.wait("end", timeout=4 * harness.PATIENCE)
        return {one["what"]: one["data"] for one in node.said}
    finally:
        node.close()


def busy_slots(daemon):
    return sum(daemon.instance(name)["inFlight"] for name in ("chat-0", "chat-1"))


def test_openai(fleet):
    daemon = fleet()
    told = run_node("openai.mjs", daemon.address, "gpt-4o-mini", "vectors")
    assert {"chat", "vectors"} <= set(told["models"])
    assert told["chat"]["role"] == "assistant" and TEXT.startswith(told["chat"]["text"][:10])
    assert told["chat"]["usage"]["completion_tokens"] == 8
    assert TEXT in told["stream"]["text"] and told["stream"]["pieces"] > 10
    assert told["stream"]["finish"] == "stop" and told["stream"]["usage"]["completion_tokens"] > 10
    assert "failed" not in told["tools"], told["tools"]
    assert isinstance(told["completions"], str) and told["completions"]
    assert "failed" not in told["responses"] and told["responses"]["text"], told["responses"]
    assert told["embeddings"] == [64, 64]
    assert told["unknown"]["status"] == 404 and "chat" in told["unknown"]["message"], told["unknown"]
    assert told["unknown"]["code"] == "model_not_found"
    # The request that was aborted runs no more, although it would have run for 100,000 tokens.
    assert 3 <= told["abort"]["pieces"] < 50000         # those that had come already are still handed out
    harness.wait_for(lambda: busy_slots(daemon) == 0, what="the aborted request to be given up")


def test_openai_needs_the_key(fleet):
    daemon = fleet(auth={"anonymous": ["read"], "keys_file": "keys.json"})
    made = daemon.cli("key", "add", "somebody", "--scope", "infer,read", "--config", daemon.config_file, socket_option=False)
    assert made.returncode == 0, made.stderr
    told = run_node("openai.mjs", daemon.address, "chat", "vectors", "wrong")
    assert told["chat"]["failed"] == "AuthenticationError" and told["chat"]["status"] == 401
    key = made.stdout.strip()
    harness.wait_for(lambda: harness.request(daemon.address, "GET", "/v1/models",
                                             headers={"Authorization": "Bearer " + key}).status == 200,
                     what="the new key to be known")
    told = run_node("openai.mjs", daemon.address, "chat", "vectors", key)
    assert TEXT in told["stream"]["text"]


def test_anthropic(fleet):
    daemon = fleet()
    told = run_node("anthropic.mjs", daemon.address, "chat")
    assert told["messages"]["role"] == "assistant" and TEXT.startswith(told["messages"]["text"][:10])
    assert told["messages"]["usage"]["output_tokens"] == 8
    assert told["stream"]["text"] == told["stream"]["whole"] and told["stream"]["text"].startswith(TEXT[:10])
    assert told["count"] > 0
    assert told["unknown"]["status"] == 404 and told["unknown"]["type"] == "not_found_error", told["unknown"]


def test_curl(fleet):
    daemon = fleet()

    def curl(*args):
        done = subprocess.run(["curl", "-sS", "-N", "--max-time", "60", *args], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()
    url = daemon.address
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4})
    answer = json.loads(curl(url + "/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body))
    assert answer["choices"][0]["message"]["content"]
    # curl sends Expect: 100-continue with a big body, and chunks with a body from a pipe.
    big = json.dumps({"messages": [{"role": "user", "content": "hello " * 600}], "max_tokens": 1, "filler": "x" * 2_000_000})
    path = daemon.path("big.json")
    with open(path, "w") as f:
        f.write(big)
    for args in (["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]):
        answer = json.loads(curl(url + "/v1/chat/completions", "-H", "Content-Type: application/json", *args,
                                 "--data-binary", "@" + path))
        assert answer["choices"][0]["message"]["content"], answer
    lines = [line for line in curl(url + "/v1/chat/completions", "-H", "Content-Type: application/json", "-d",
                                   json.dumps({**json.loads(body), "stream": True})).splitlines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert json.loads(curl(url + "/chat", "-H", "Content-Type: application/json", "-d", '{"message":"hello"}'))["reply"]
    assert curl(url + "/v1/models", "-o", "/dev/null", "-w", "%{http_code}") == "200"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        self.server.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()


@pytest.fixture
def web():
    """The origin of somebody else's page; what the page tells comes back by its queue."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=feeds.NODE))
    server.told = queue.Queue()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def browse(daemon, web, host="localhost"):
    """What the page told, in a real browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "no chromium: run scripts/test"
    query = urllib.parse.urlencode({"gateway": daemon.address, "model": "chat"})
    os.mkdir(daemon.path("tmp"))                # it is killed in the end, and would leave what it made in /tmp
    browser = harness.spawn([program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                             "--user-data-dir=" + daemon.path("browser"), "--remote-debugging-port=0",
                             "http://%s:%d/page.html?%s" % (host, web.server_port, query)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                            env={**os.environ, "TMPDIR": daemon.path("tmp")})
    try:
        return web.told.get(timeout=4 * harness.PATIENCE)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait(harness.PATIENCE)


def test_browser(fleet, web):
    """A page of an allowed origin may ask; its simple form may not, and neither may anything of another origin."""
    daemon = fleet(gateway={"allowed_origins": ["http://localhost:%d" % web.server_port]})
    told = browse(daemon, web)
    assert isinstance(told["chat"], str) and told["chat"], told
    assert told["stream"] == {"type": "text/event-stream", "done": True}
    assert told["simple"] == 415


def test_browser_of_a_foreign_origin(fleet, web):
    daemon = fleet()
    told = browse(daemon, web, "lsv.localhost")
    assert all("failed" in str(told[name]) for name in ("chat", "stream", "simple")), told
    assert busy_slots(daemon) == 0
