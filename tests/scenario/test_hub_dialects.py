# ctest: real
"""Every dialect of llama-server over a NATS hub: a gateway without instances of its own answers as the worker would, to who streams and to
who does not, in the same events and with the same members."""
import http.client
import json
import os
import shutil

import pytest

import harness
from harness import wait_for
from natswire import Server, hub

pytestmark = pytest.mark.skipif(not shutil.which("nats-server"), reason="there is no nats-server")
HEARD = 120     # workers beat every ten seconds
# Special tokens of the model, so that it fills gaps.
FIM = "tokenizer.ggml.fim_pre_token_id=int:300,tokenizer.ggml.fim_suf_token_id=int:301,tokenizer.ggml.fim_mid_token_id=int:302"
HELLO = [{"role": "user", "content": "hello"}]
DIALECTS = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 6},
    "/v1/completions": {"prompt": "hello", "max_tokens": 6},
    "/completion": {"prompt": "hello", "n_predict": 6},
    "/infill": {"input_prefix": "def a():", "input_suffix": "return b", "n_predict": 6},
    "/v1/messages": {"messages": HELLO, "max_tokens": 6},
    "/v1/responses": {"input": "hello", "max_output_tokens": 6},
}
# What is another one in each answer, or depends on what the cache held.
OWN = {"id", "item_id", "created", "created_at", "completed_at", "timings", "id_slot", "tokens_cached", "cached_tokens", "tokens_evaluated",
       "cache_read_input_tokens", "input_tokens", "total_tokens", "prompt_tokens", "stream", "stream_options"}


def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in OWN}
    return [plain(v) for v in value] if isinstance(value, list) else value


@pytest.fixture
def farm(folder, make_daemon, real_llama_server):
    """A worker that nobody can reach, and the gateway in front of it."""
    server = Server(folder).start()
    assert hub("init", *server.as_admin(), "--models", "qwen").returncode == 0

    def hubs_of(name, role, **members):
        file = os.path.join(folder, name + ".nk")
        assert hub("worker", "add", name, "--role", role, "--dir", server.dir, "--out", file).returncode == 0
        return [dict({"driver": "nats", "url": server.url, "worker": name, "credentials_file": file}, **members)]
    worker = make_daemon({"instances": [{"name": "qwen", "model": "tiny.gguf",
                                         "args": ["-np", "1", "-c", "4096", "--override-kv", FIM]}],
                          "hubs": hubs_of("gpu-1", "worker")}, server=real_llama_server)
    front = make_daemon({"hubs": hubs_of("front", "gateway", submit=True)})
    worker.wait_state("qwen", "ready")
    wait_for(lambda: any(offer["model"] == "qwen" for farm in front.get("/api/v1/farm").json["hubs"] for offer in farm["models"]),
             HEARD, lambda: front.get("/api/v1/farm").text + front.output())
    yield worker, front
    server.stop()


def stream_of(daemon, path, body):
    """Its events, as (name, value); a broken answer raises."""
    connection = http.client.HTTPConnection(daemon.address.split("//")[1], timeout=harness.PATIENCE)
    connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream"), (path, answer.status, text)
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        if not lines:
            continue
        names = [line[len("event: "):] for line in lines if line.startswith("event: ")]
        data = "\n".join(line[len("data: "):] for line in lines if line.startswith("data: "))
        events.append((names, "[DONE]" if data == "[DONE]" else plain(json.loads(data))))
    return events


def test_every_dialect_is_as_it_is_without_the_hub(farm):
    worker, front = farm
    for path, members in DIALECTS.items():
        body = {"model": "qwen", "temperature": 0, "seed": 1, **members}
        here, there = worker.api("POST", path, body), front.api("POST", path, body)
        assert here.status == there.status == 200, (path, here, there)
        assert there.headers["X-Hub-Worker"] == "gpu-1", path
        assert plain(there.json) == plain(here.json), path
        assert set(there.json) == set(here.json), path
        here, there = stream_of(worker, path, body), stream_of(front, path, body)
        assert there == here and len(here) >= 6, path
    for asked in (True, False):
        body = {"model": "qwen", "temperature": 0, "seed": 1, "return_tokens": asked, **DIALECTS["/completion"]}
        here, there = worker.api("POST", "/completion", body), front.api("POST", "/completion", body)
        assert there.json["tokens"] == here.json["tokens"] and bool(there.json["tokens"]) == asked
    records = front.get("/api/v1/requests").json["recent"]
    assert len(records) == 2 * len(DIALECTS) + 2
    assert {(r["outcome"], r["status"], r["instance"]) for r in records} == {("ok", 200, "gpu-1")}, records
    assert all(r["tokensOut"] for r in records), records
    gaps = [line for line in front.get("/metrics").text.splitlines() if "hub_gap" in line]
    assert all(line.endswith(" 0") for line in gaps), gaps


def test_what_the_model_cannot_do_is_said_at_once(farm):
    """llama-server's 501 is about the request and the model: another worker with the same model would say the same."""
    worker, front = farm
    body = {"model": "qwen", "input": "hello"}
    here, there = worker.api("POST", "/v1/embeddings", body), front.api("POST", "/v1/embeddings", {**body, "stream": True})
    assert here.status == there.status == 501, (here, there)
    assert there.json == here.json
