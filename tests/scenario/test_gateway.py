# ctest: real asan
"""The gateway: every route of a llama-server behind one address, by model, unchanged but for what is ours; and everything that can go
wrong on the way. Against the real llama-server where its answers matter, against a peer of the test's own where bytes matter."""
import http.client
import json
import select
import socket
import threading
import time
import urllib.parse

import pytest

import harness
from peer import STREAM_END, STREAM_HEAD, Peer, chunk, reply

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@pytest.fixture
def make_peer(nothing_left):
    made = []

    def make(**kwargs):
        made.append(Peer(**kwargs))
        return made[-1]
    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def peer(make_peer):
    return make_peer()


@pytest.fixture
def gate(make_daemon, peer):
    """A daemon in front of one peer, model "m"."""
    def make(over=None, **instance):
        daemon = make_daemon(harness.merged({"instances": [dict({"name": "m", "adopt": peer.address}, **instance)]}, over or {}))
        daemon.wait_state("m", "ready")
        return daemon
    return make


def post(daemon, path, body, **kwargs):
    return daemon.api("POST", path, body, **kwargs)


def error_of(answer, status, code=None, param=None):
    assert answer.status == status, answer
    error = answer.json["error"]
    assert isinstance(error["message"], str) and error["message"] and error["type"], answer
    if code:
        assert error["code"] == code, answer
    if param:
        assert error["param"] == param, answer
    return error


# ---- every route of the real one -----------------------------------------------------------------------------------------

CHANGING = {"id", "created", "created_at", "completed_at", "timings", "item_id", "response_id"}


def steady(value):
    """Without what differs from one answer to the next."""
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if key not in CHANGING and not key.endswith("_tokens_details")
                and key not in ("cache_read_input_tokens", "input_tokens", "tokens_cached", "tokens_evaluated", "cache_n")}
    if isinstance(value, list):
        return [steady(one) for one in value]
    return value


def events(text):
    """The events of a stream: (event, data), comments left out."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name = [line[7:] for line in lines if line.startswith("event: ")]
            data = "".join(line[6:] for line in lines if line.startswith("data: "))
            found.append((name[0] if name else None, data if data == "[DONE]" else steady(json.loads(data))))
    return found


POSTS = [
    ("/v1/chat/completions", CHAT), ("/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "the quick", "max_tokens": 4}), ("/completions", {"prompt": "the quick", "n_predict": 4}),
    ("/completion", {"prompt": "the quick", "n_predict": 4}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 5}), ("/responses", {"input": "hello", "max_output_tokens": 5}),
    ("/v1/messages", dict(CHAT)), ("/v1/messages/count_tokens", CHAT),
    ("/v1/chat/completions/input_tokens", CHAT), ("/chat/completions/input_tokens", CHAT),
    ("/v1/responses/input_tokens", {"input": "hello"}), ("/responses/input_tokens", {"input": "hello"}),
    ("/tokenize", {"content": "the quick brown"}), ("/detokenize", {"tokens": [360, 365]}), ("/apply-template", CHAT),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ("/v1/embeddings", {"input": "the quick"}), ("/embeddings", {"input": "the quick"}), ("/embedding", {"content": "the quick"}),
    ("/v1/rerank", {"query": "a", "documents": ["b"]}), ("/rerank", {"query": "a", "documents": ["b"]}),
    ("/v1/reranking", {"query": "a", "documents": ["b"]}), ("/reranking", {"query": "a", "documents": ["b"]}),
    ("/v1/audio/speech", {"input": "x"}),
]


@pytest.mark.real
def test_all_routes_answer_as_the_server_itself(make_daemon, real_llama_server):
    daemon = make_daemon({"instances": [{"name": "tiny", "model": "tiny.gguf", "args": ["-c", "2048", "-t", "1"]}]},
                         server=real_llama_server)
    endpoint = daemon.wait_state("tiny", "ready")["endpoint"]
    for path, body in POSTS:
        body = dict(body, model="tiny")
        ours, direct = post(daemon, path, body), harness.request(endpoint, "POST", path, body)
        assert ours.status == direct.status, (path, ours, direct)
        assert steady(ours.json) == steady(direct.json), path
        assert ours.headers["Content-Type"] == direct.headers["Content-Type"], path
        assert ours.headers["X-Llama-Instance"] == "tiny" and ours.headers["X-Request-Id"].startswith("req-"), ours.headers
        assert int(ours.headers["X-Queue-Wait"]) >= 0
        assert not {"Server", "Keep-Alive", "Access-Control-Allow-Origin"} & set(ours.headers), (path, ours.headers)
    for path, body in POSTS[:9]:
        if "count" in path:
            continue
        body = dict(body, model="tiny", stream=True)
        ours, direct = post(daemon, path, body), harness.request(endpoint, "POST", path, body)
        assert ours.status == direct.status == 200, (path, ours, direct)
        assert events(ours.text) == events(direct.text) and len(events(ours.text)) > 3, path
        assert ours.headers["Content-Type"].startswith("text/event-stream"), path
    for path in ("/props", "/slots"):
        assert steady(daemon.get(path + "?model=tiny").json).keys() == steady(harness.request(endpoint, "GET", path).json).keys() \
            if path == "/props" else len(daemon.get(path).json) == 4
    head = daemon.api("HEAD", "/props?model=tiny")
    assert head.status == 200 and head.body == b"" and int(head.headers["Content-Length"]) > 100
    error_of(daemon.get("/props?model=nobody"), 404, "model_not_found")
    # The whole of it is seen by its own list.
    assert daemon.get("/api/v1/models").json["models"][0]["leased"] == 0


@pytest.mark.real
def test_embeddings_and_two_models(make_daemon, real_llama_server, embedding_model):
    daemon = make_daemon({"instances": [
        {"name": "tiny", "model": "tiny.gguf", "args": ["-c", "2048", "-t", "1"], "aliases": ["gpt-4o-mini", "a/b"]},
        {"name": "vectors", "model": embedding_model, "args": ["--embeddings", "-t", "1"]}]},
        server=real_llama_server)
    for name in ("tiny", "vectors"):
        daemon.wait_state(name, "ready")
    answer = post(daemon, "/v1/embeddings", {"model": "vectors", "input": "the quick"})
    assert answer.status == 200 and len(answer.json["data"][0]["embedding"]) == 64
    assert answer.headers["X-Llama-Instance"] == "vectors"
    for name in ("tiny", "gpt-4o-mini", "a/b"):
        answer = post(daemon, "/v1/chat/completions", dict(CHAT, model=name))
        assert answer.status == 200 and answer.headers["X-Llama-Instance"] == "tiny", answer
    # Two models and no default: one must be named, in the body or in the query.
    error = error_of(post(daemon, "/v1/chat/completions", CHAT), 400, "model_missing", "model")
    assert "tiny, vectors" in error["message"]
    assert post(daemon, "/v1/chat/completions?model=tiny", CHAT).status == 200
    error = error_of(post(daemon, "/v1/chat/completions", dict(CHAT, model="tinny")), 404, "model_not_found", "model")
    assert error["type"] == "invalid_request_error" and 'did you mean "tiny"' in error["message"], error
    daemon.write_config(harness.merged(daemon.config, {"gateway": {"default_model": "gpt-4o-mini"}}))
    assert daemon.cli("reload").returncode == 0
    assert post(daemon, "/v1/chat/completions", CHAT).headers["X-Llama-Instance"] == "tiny"

    listed = daemon.get("/v1/models").json
    assert listed["object"] == "list" and [one["id"] for one in listed["data"]] == ["tiny", "vectors"]
    one = listed["data"][0]
    assert one["object"] == "model" and one["owned_by"] == "llama-supervisor" and isinstance(one["created"], int), one
    assert one["status"]["value"] == "loaded" and one["aliases"] == ["gpt-4o-mini", "a/b"] and one["meta"]["n_ctx"] == 2048, one
    assert daemon.get("/models").json == listed
    assert daemon.get("/v1/models/tiny").json == one and daemon.get("/v1/models/a/b").json == one
    error_of(daemon.get("/v1/models/none"), 404, "model_not_found")
    own = daemon.get("/api/v1/models").json["models"]
    assert own[0]["name"] == "tiny" and own[0]["instances"] == ["tiny"] and own[0]["state"] == "ready", own
    assert own[0]["slots"] == 4 and own[0]["leased"] == own[0]["queue"] == 0 and own[0]["onDemand"] is False, own


@pytest.mark.real
def test_chat_and_stats_for_people_with_curl(make_daemon, real_llama_server):
    daemon = make_daemon({"instances": [{"name": "tiny", "model": "tiny.gguf", "args": ["-c", "2048", "-t", "1"]}]},
                         server=real_llama_server)
    daemon.wait_state("tiny", "ready")
    answer = post(daemon, "/chat", {"message": "hello \"you\" \u00e4\n"})
    assert answer.status == 200 and answer.json["reply"].startswith(" the quick brown fox"), answer
    assert list(answer.json) == ["reply"]
    # As GoLlama's clients send it, and with whatever else a chat completion knows.
    answer = post(daemon, "/chat", b'{"message":"hi","max_tokens":3}', headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.json == {"reply": " the quick brown"}
    error_of(post(daemon, "/chat", {"model": "tiny"}), 400, None, "message")
    error_of(post(daemon, "/chat", {"message": 7}), 400, None, "message")
    error_of(post(daemon, "/chat", {"message": "x", "model": "none"}), 404, "model_not_found")
    stats = daemon.get("/stats").json
    assert stats["total_workers"] == 1 and list(stats["workers"]) == ["tiny"]
    worker = stats["workers"]["tiny"]
    assert worker["jobs_completed"] == 2 and worker["jobs_failed"] == 0 and worker["score"] > 0, worker
    assert {"uptime_seconds", "uptime_pretty", "start_time"} <= set(worker)


# ---- byte by byte --------------------------------------------------------------------------------------------------------

def raw(daemon, data, timeout=30):
    """Everything that comes back on a connection of its own until it is closed or nothing comes for a moment."""
    host, port = daemon.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout) as connection:
        connection.sendall(data)
        connection.settimeout(timeout)
        answer = b""
        while True:
            more = connection.recv(65536)
            if not more:
                return answer
            answer += more


def test_what_reaches_the_instance(gate, peer):
    daemon = gate()
    body = b'{ "model" : "m",\n "x":[1,2 ,{}], "messages":[] }'
    answer = post(daemon, "/v1/chat/completions?model=other&timings=1", body, headers={
        "Content-Type": "application/json", "Authorization": "Bearer of-the-client", "X-Forwarded-For": "", "Forwarded": "for=x",
        "X-Conversation-Id": "c1", "X-Api-Key": "k", "Cookie": "a=b", "Accept": "text/x-mine", "X-Own": "yes", "X-Priority": "low",
        "Connection": "keep-alive, X-Hop", "X-Hop": "1", "TE": "trailers", "Accept-Encoding": "gzip"})
    assert answer.status == 200 and answer.json == {"ok": True}
    request = peer.wait()
    assert request.body == body and request.target == "/v1/chat/completions?timings=1"
    assert request.headers["content-length"] == str(len(body)) and "transfer-encoding" not in request.headers
    assert request.headers["accept"] == "text/x-mine" and request.headers["x-own"] == "yes"
    assert request.headers["content-type"] == "application/json"
    for name in ("authorization", "x-forwarded-for", "forwarded", "x-conversation-id", "x-api-key", "cookie", "x-hop", "te",
                 "accept-encoding", "expect"):
        assert name not in request.headers, request.lines
    names = [name.lower() for name, _ in request.lines]
    assert len(names) == len(set(names)), names


def test_bodies_are_framed_anew(gate, peer):
    daemon = gate()
    body = b'{"model":"m","messages":[]}'
    pieces = b"".join(b"%x;ext=\"1\"\r\n%s\r\n" % (len(piece), piece) for piece in (body[:1], body[1:9], body[9:]))
    answer = raw(daemon, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                         b"Connection: close\r\n\r\n" + pieces + b"0\r\nTrailer: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    assert peer.wait().body == body and peer.requests[0].headers["content-length"] == str(len(body))
    host, port = daemon.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(body))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert len(peer.requests) == 1
        connection.sendall(body)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    assert peer.wait(2).body == body and "expect" not in peer.requests[1].headers


def test_answers_pass_as_they_are(gate, peer):
    daemon = gate()
    pieces = [b": ping\n\n", b'data: {"a":', b'1}\n\ndata: [DO', b"NE]\n", b"\n"]
    peer.answer = lambda request: STREAM_HEAD + b"".join(chunk(piece) for piece in pieces) + STREAM_END
    answer = post(daemon, "/v1/chat/completions", {"model": "m", "stream": True})
    assert answer.body == b"".join(pieces) and answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream" and answer.headers["X-Accel-Buffering"] == "no"
    assert "Access-Control-Allow-Origin" not in answer.headers and "Server" not in answer.headers
    peer.answer = lambda request: reply({"error": {"message": "no", "code": 400}}, "400 Bad Request",
                                        extra="X-Of-Theirs: a\r\nSet-Cookie: b=c\r\nConnection: X-Hop\r\nX-Hop: 1\r\n")
    answer = post(daemon, "/v1/chat/completions", {"model": "m"}, headers={"Origin": "http://localhost:3000"})
    assert answer.status == 400 and answer.json == {"error": {"message": "no", "code": 400}}
    assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
    assert answer.headers["X-Of-Theirs"] == "a" and answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert not {"Set-Cookie", "X-Hop", "Keep-Alive"} & set(answer.headers), answer.headers
    peer.answer = lambda request: b"HTTP/1.1 204 No Content\r\n\r\n"
    assert post(daemon, "/v1/chat/completions", {"model": "m"}).status == 204


def test_set_and_strip_and_our_own_members(gate, peer):
    daemon = gate(request={"set": {"temperature": 0.2, "x": [1]}, "strip": ["logit_bias"]})
    body = b'{"model":"m","temperature":1.5,"keep_alive":"5m","messages":[{"temperature":3}],"logit_bi\\u0061s":{},"priority":"low"}'
    assert post(daemon, "/v1/chat/completions", body).status == 200
    assert peer.wait().json == {"temperature": 0.2, "x": [1], "model": "m", "messages": [{"temperature": 3}]}
    for member, value in (("priority", "urgent"), ("priority", 1), ("keep_alive", "soon"), ("keep_alive", [])):
        error_of(post(daemon, "/v1/chat/completions", {"model": "m", member: value}), 400, "invalid_value", member)
    error_of(post(daemon, "/v1/chat/completions", {"model": "m"}, headers={"X-Priority": "first"}), 400, "invalid_value")
    assert len(peer.requests) == 1


def form(*parts, boundary=b"xyz"):
    lines = b""
    for head, data in parts:
        lines += b"--" + boundary + b"\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n"
    return lines + b"--" + boundary + b"--\r\n"


def test_forms_go_by_their_model(make_daemon, make_peer):
    one, two = make_peer(name="one"), make_peer(name="two")
    daemon = make_daemon({"instances": [{"name": "one", "adopt": one.address}, {"name": "two", "adopt": two.address}]})
    for name in ("one", "two"):
        daemon.wait_state(name, "ready")
    kind = {"Content-Type": "multipart/form-data; boundary=xyz"}
    body = form((b'name="file"; filename="a.wav"', b"RIFF\0\r\n--xy\xff"), (b'name="model"', b"two"))
    for path in ("/v1/audio/transcriptions", "/audio/transcriptions", "/v1/audio/translations"):
        assert post(daemon, path, body, headers=kind).status == 200
    assert [request.target for request in two.requests] == ["/v1/audio/transcriptions", "/audio/transcriptions",
                                                            "/v1/audio/translations"]
    assert all(request.body == body and request.headers["content-type"] == kind["Content-Type"] for request in two.requests)
    error_of(post(daemon, "/v1/audio/transcriptions", form((b'name="file"', b"x")), headers=kind), 400, "model_missing")
    error_of(post(daemon, "/v1/audio/transcriptions", body[:-4], headers=kind), 400, "invalid_form")
    error_of(post(daemon, "/v1/audio/transcriptions", form((b'name="model"', b"one"), (b'name="model"', b"two")), headers=kind),
             400, "duplicate_key", "model")
    error_of(post(daemon, "/v1/audio/transcriptions", body, headers={"Content-Type": "multipart/form-data"}), 400, "invalid_form")
    # A form on a route of JSON is no JSON; a page may send one only where it is wanted, and says who it is.
    error_of(post(daemon, "/v1/chat/completions", body, headers=kind), 400, "invalid_json")
    page = dict(kind, Origin="http://localhost:3000")
    error_of(post(daemon, "/v1/chat/completions", body, headers=page), 415)
    assert post(daemon, "/v1/audio/transcriptions", body, headers=page).status == 200
    error_of(post(daemon, "/v1/audio/transcriptions", body, headers=dict(kind, Origin="https://evil.example")), 403)
    assert one.requests == []


# ---- refused before anything is forwarded ----------------------------------------------------------------------------------

def test_broken_bodies_reach_nobody(gate, peer):
    daemon = gate({"gateway": {"body_max": "1k"}})
    for body, code, words in (
            (b"", "invalid_json", "line 1, column 1"), (b"[]", "invalid_json", "one JSON object"),
            (b'{"model":"m"', "invalid_json", "','"), (b'{"model":"m",\n "a":[1}', "invalid_json", "line 2, column 8"),
            (b'{"model":"m"} x', "invalid_json", "follows"), (b"\xef\xbb\xbf{}", "invalid_json", "column 1"),
            (b'{"model":"m","model":"n"}', "duplicate_key", "twice"),
            (b'{"model":"m","mod\\u0065l":"n"}', "duplicate_key", "twice"),
            (b'{"stream":true,"stream":false}', "duplicate_key", "stream"),
            (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "invalid_json", "deeply"),
            (b'{"model":7}', "invalid_value", "string"),
            (b'{"model":"m","n_discard":-1}', "invalid_value", "n_discard"),
            (b'{"model":"m","n_discard":4294967295}', "invalid_value", "n_discard"),
            (b'{"model":"m","n_discard":1e300}', "invalid_value", "n_discard")):
        error = error_of(post(daemon, "/v1/chat/completions", body), 400, code)
        assert words in error["message"], (body, error)
    error_of(post(daemon, "/v1/chat/completions", b'{"model":"%s"}' % (b"x" * 500)), 404, "model_not_found")
    error = error_of(post(daemon, "/v1/chat/completions", b'{"a":"' + b"x" * 1100 + b'"}'), 413, "body_too_large")
    assert "1024" in error["message"]
    big = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n" + b" " * 1025
    assert raw(daemon, big).startswith(b"HTTP/1.1 413 ")
    # Cut off: the client goes in the middle of its body.
    host, port = daemon.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"model\":")
        time.sleep(0.1)
    # Anthropic's clients are told in their own form, also by the gates in front.
    for answer, status, kind in ((post(daemon, "/v1/messages", b"{"), 400, "invalid_request_error"),
                                 (post(daemon, "/v1/messages", {"model": "none"}), 404, "not_found_error"),
                                 (daemon.get("/v1/messages"), 405, "invalid_request_error")):
        assert answer.status == status and answer.json["type"] == "error" and answer.json["error"]["type"] == kind, answer
    assert peer.requests == []
    assert post(daemon, "/v1/chat/completions", b'{"model":"m","n_discard":0}').status == 200


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("framing, body", [
    (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n" + SMUGGLED),
    (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n" + SMUGGLED),
    (b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n", b"{}" + SMUGGLED),
    (b"Content-Length: 2\r\nContent-Length: 60\r\n", b"{}" + SMUGGLED),
    (b"Content-Length: +2\r\n", b"{}" + SMUGGLED),
    (b"Content-Length: 0x2\r\n", b"{}" + SMUGGLED),
    (b"Content-Length: 2, 2\r\n", b"{}" + SMUGGLED),
    (b"Content-Length: 99999999999999999999\r\n", b"{}" + SMUGGLED),
    (b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff0\r\n{}\r\n0\r\n\r\n" + SMUGGLED),
    (b"Transfer-Encoding: chunked\r\n", b"2\n{}\n0\n\n" + SMUGGLED),
    (b"X: a\r\n Content-Length: 2\r\n", b"{}" + SMUGGLED),
    (b"X: a\nContent-Length: 2\r\n", b"{}" + SMUGGLED),
])
def test_nothing_is_smuggled_past(gate, peer, framing, body):
    daemon = gate()
    answer = raw(daemon, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n" + body)
    assert answer.split(b" ")[1] in (b"400", b"413", b"501"), answer
    assert answer.count(b"HTTP/1.1 ") == 1 and peer.requests == [], answer


def test_a_request_inside_a_body_stays_in_it(gate, peer):
    daemon = gate()
    inner = json.dumps({"model": "m", "messages": [{"content": SMUGGLED.decode()}]}).encode()
    answer = raw(daemon, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                         % len(inner) + inner)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert [(request.target, request.body) for request in peer.requests] == [("/v1/chat/completions", inner)]


def test_a_body_that_grows_over_the_bound_is_refused_alike(gate, peer):
    """Chunks tell no length, so it shows only while they come; the client is told in the same words."""
    daemon = gate({"gateway": {"body_max": "64k"}}, slots=1)
    address = urllib.parse.urlsplit(daemon.address)
    held = []
    try:
        # Nine that send 60 KB and not their end: the ninth is over eight times 64 KB.
        for _ in range(9):
            s = socket.create_connection((address.hostname, address.port), 30)
            held.append(s)
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" +
                      b"f000\r\n" + b" " * 0xf000 + b"\r\n")
        answer = b""
        while b"too many" not in answer:
            ready, _, _ = select.select(held, [], [], 30)
            assert ready, "nobody was refused"
            answer += ready[0].recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in answer and b'"too_many_bodies"' in answer, answer
    finally:
        for s in held:
            s.close()


def test_bodies_of_all_are_bounded(gate, peer):
    daemon = gate({"gateway": {"body_max": "64k"}}, slots=1)
    release = threading.Event()
    peer.answer = lambda request: release.wait(60) and reply({})
    body = json.dumps({"model": "m", "pad": "x" * 60000}).encode()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(post(daemon, "/v1/chat/completions", body, timeout=60)))
               for _ in range(12)]
    for thread in threads:
        thread.start()
    # Eight times body_max is room for eight of these.
    harness.wait_for(lambda: len(answers) == 4, what=lambda: "four refusals, not %d" % len(answers))
    for answer in answers:
        error_of(answer, 503, "too_many_bodies")
        assert answer.headers["Retry-After"] == "1"
    release.set()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status for answer in answers) == [200] * 8 + [503] * 4
    assert post(daemon, "/v1/chat/completions", body).status == 200


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"], ids=["chat", "spliced"])
def test_copies_of_bodies_count_as_bodies(gate, peer, path):
    """A body that we had to copy (into another one, or since too much was cut out of it) is held twice."""
    strip = ["cut%d" % i for i in range(40)]
    daemon = gate({"gateway": {"body_max": "64k"}}, slots=1, request={"strip": strip})
    release = threading.Event()
    peer.answer = lambda request: release.wait(60) and reply({"choices": [{"message": {"content": "hi"}}]})
    body = {"message": "hi", "model": "m"}
    for i in range(40):
        body.update({"cut%d" % i: 0, "stays%d" % i: "x" * 1400})
    body = json.dumps(body).encode()
    assert 56000 < len(body) < 65536
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(post(daemon, path, body, timeout=60))) for _ in range(10)]

    def held():
        return next(float(line.split()[-1]) for line in daemon.get("/metrics").text.splitlines()
                    if line.startswith('llama_supervisor_http_buffered_bytes{of="bodies"}'))

    assert held() == 0
    threads[0].start()
    harness.wait_for(lambda: held() > 1.9 * len(body), what=held)
    for thread in threads[1:]:
        thread.start()
    # Eight times 64 KB holds four and their copies; /chat makes a copy of its own, which is cut again: three copies in all.
    fit = 2 if path == "/chat" else 4
    harness.wait_for(lambda: len(answers) >= 10 - fit - 1, what=lambda: "%d refusals" % len(answers))
    assert held() <= 8 * 65536
    for answer in answers:
        error_of(answer, 503, "too_many_bodies")
    release.set()
    for thread in threads:
        thread.join(60)
    served = sum(answer.status == 200 for answer in answers)
    assert 1 <= served <= fit + 1, [answer.status for answer in answers]
    harness.wait_for(lambda: held() == 0, what=held)


# ---- while it waits, and when it breaks ---------------------------------------------------------------------------------------

class Stream:
    """A streamed request whose answer is read as it comes."""

    def __init__(self, daemon, path, body, **headers):
        self.connection = http.client.HTTPConnection(daemon.address.removeprefix("http://"), timeout=60)
        self.connection.request("POST", path, json.dumps(body), dict({"Content-Type": "application/json"}, **headers))
        self.text = ""

    def head(self):
        self.response = self.connection.getresponse()
        return self.response

    def until(self, word):
        while word not in self.text:
            piece = self.response.read1(65536)
            assert piece, "the stream ended without %r: %s" % (word, self.text)
            self.text += piece.decode()
        return self.text

    def rest(self):
        """All that still comes, and whether it ended as it should."""
        try:
            while True:
                piece = self.response.read1(65536)
                if not piece:
                    return self.text, self.response.isclosed()
                self.text += piece.decode()
        except http.client.IncompleteRead as cut:
            return self.text + cut.partial.decode(), False

    def close(self):
        self.connection.close()


def busy(daemon, peer, path="/v1/chat/completions"):
    """Takes the only slot of the peer; release() gives an event that ends it."""
    release = threading.Event()
    peer.answer = lambda request: release.wait(60) and reply({})
    before = len(peer.requests)
    thread = threading.Thread(target=post, args=(daemon, path, {"model": "m"}), kwargs={"timeout": 60})
    thread.start()
    peer.wait(before + 1)
    return release, thread


def test_a_client_that_waits_is_told(gate, peer):
    daemon = gate(slots=1)
    release, thread = busy(daemon, peer)
    began = time.monotonic()
    stream = Stream(daemon, "/v1/chat/completions", {"model": "m", "stream": True})
    plain = threading.Thread(target=post, args=(daemon, "/v1/chat/completions", {"model": "m"}), kwargs={"timeout": 60})
    plain.start()
    head = stream.head()
    assert 4.5 < time.monotonic() - began < 30
    assert head.status == 200 and head.getheader("Content-Type") == "text/event-stream"
    assert head.getheader("X-Request-Id").startswith("req-") and head.getheader("X-Queue-Position") == "1"
    stream.until("\n\n")
    assert stream.text.startswith(": queued position=1") and "status=ready" in stream.text, stream.text
    pieces = [b'data: {"x":1}\n\n', b"data: [DONE]\n\n"]
    peer.answer = lambda request: STREAM_HEAD + b"".join(chunk(piece) for piece in pieces) + STREAM_END \
        if b"stream" in request.body else reply({})
    release.set()
    text, whole = stream.rest()
    assert whole and text.endswith('data: {"x":1}\n\ndata: [DONE]\n\n') and ": served instance=m wait=" in text, text
    stream.close()
    thread.join(60)
    plain.join(60)


def test_a_client_is_told_while_its_model_loads(make_daemon):
    daemon = make_daemon({"instances": [{"name": "m", "model": "tiny.gguf", "on_demand": {},
                                         "env": {"FAKE_LLAMA_ARGS": "--load-ms 8000"}}]})
    listed = daemon.get("/v1/models").json["data"][0]
    assert listed["id"] == "m" and listed["status"]["value"] == "unloaded", listed
    error_of(daemon.get("/props?model=m"), 503, "not_loaded")
    stream = Stream(daemon, "/v1/chat/completions", {"model": "m", "stream": True, "messages": []})
    stream.head()
    stream.until("status=starting")
    assert daemon.get("/v1/models").json["data"][0]["status"]["value"] == "loading"
    text, whole = stream.rest()
    assert whole and text.startswith(": queued position=1") and text.endswith("data: [DONE]\n\n"), text
    stream.close()
    own = daemon.get("/api/v1/models").json["models"][0]
    assert own["onDemand"] is True and own["state"] == "ready", own


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_errors_after_the_head_are_events(gate, peer, path):
    daemon = gate({"gateway": {"queue": {"timeout": "7s"}}}, slots=1)
    release, thread = busy(daemon, peer)
    streams = [Stream(daemon, path, {"model": "m", "stream": True}) for _ in range(2)]
    for stream in streams:
        stream.head()
        text, whole = stream.rest()
        assert whole and stream.response.status == 200, text
        kind, error = events(text)[-1]
        assert kind == ("event: error"[7:] if path == "/v1/messages" else None), text
        assert error["error"]["code"] == "queue_timeout" or error["error"]["code"] == "timeout", error
        assert (error.get("type") == "error") == (path == "/v1/messages"), error
        stream.close()
    # The same without a stream is a plain answer.
    began = time.monotonic()
    answer = post(daemon, path, {"model": "m"}, timeout=60)
    error_of(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0 and time.monotonic() - began > 6
    # An instance that says no to somebody who has the head of a stream already.
    stream = Stream(daemon, path, {"model": "m", "stream": True})
    stream.head()
    peer.answer = lambda request: reply({"error": {"code": 400, "message": "too\nlong", "type": "x"}}, "400 Bad Request")
    release.set()
    text, whole = stream.rest()
    assert whole and events(text)[-1][1]["error"]["message"] == "too\nlong", text
    stream.close()
    thread.join(60)


def test_answers_that_break_look_broken(gate, peer):
    daemon = gate()

    def cut(data):
        def answer(request):
            request.socket.sendall(data)
            request.socket.shutdown(socket.SHUT_RDWR)
        return answer
    peer.answer = cut(STREAM_HEAD + chunk(b'data: {"x":1}\n\ndata: {"y"'))
    stream = Stream(daemon, "/v1/chat/completions", {"model": "m", "stream": True})
    stream.head()
    text, whole = stream.rest()
    assert not whole and text.startswith('data: {"x":1}\n\ndata: {"y"\n\ndata: {"error":'), text
    assert events(text.replace('data: {"y"\n\n', ""))[-1][1]["error"]["code"] == "upstream_broken", text
    stream.close()
    peer.answer = cut(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\":")
    with pytest.raises(http.client.IncompleteRead) as got:
        post(daemon, "/v1/chat/completions", {"model": "m"})
    assert got.value.partial == b'{"a":'
    assert len(peer.requests) == 2, "a request whose answer had begun was sent again"


def test_a_client_that_leaves_is_told_to_the_instance(gate, peer):
    daemon = gate(slots=1)
    told = []

    def answer(request):
        request.socket.sendall(STREAM_HEAD + chunk(b'data: {"x":1}\n\n') if b"stream" in request.body else b"")
        request.wait_gone()
        told.append(time.monotonic())
    peer.answer = answer
    for n, body in enumerate(({"model": "m"}, {"model": "m", "stream": True}), 1):
        stream = Stream(daemon, "/v1/chat/completions", body)
        peer.wait(n)
        if n == 2:
            stream.head()
            stream.until("data: ")
        left = time.monotonic()
        stream.connection.sock.shutdown(socket.SHUT_RDWR)
        stream.close()
        harness.wait_for(lambda n=n: len(told) == n)
        assert told[-1] - left < 1
    # One that waits: it never gets there, and its place is free.
    release, thread = busy(daemon, peer)
    waiting = Stream(daemon, "/v1/chat/completions", {"model": "m", "marked": True})
    harness.wait_for(lambda: daemon.get("/api/v1/models").json["models"][0]["queue"] == 1)
    waiting.connection.sock.shutdown(socket.SHUT_RDWR)
    waiting.close()
    harness.wait_for(lambda: daemon.get("/api/v1/models").json["models"][0]["queue"] == 0)
    release.set()
    thread.join(60)
    assert not any(b"marked" in request.body for request in peer.requests)


def test_a_slow_reader_slows_its_instance_alone(gate, peer):
    daemon = gate()
    sent = [0]
    piece = chunk(b"data: " + b"x" * 32000 + b"\n\n")

    def answer(request):
        request.socket.sendall(STREAM_HEAD)
        for _ in range(2000):
            request.socket.sendall(piece)
            sent[0] += len(piece)
        request.socket.sendall(STREAM_END)
    peer.answer = lambda request: answer(request) if b"stream" in request.body else reply({})
    stream = Stream(daemon, "/v1/chat/completions", {"model": "m", "stream": True})
    stream.head()
    # 64 MB are on offer; what is taken is what the sockets and our bounds hold.
    seen = [-1]

    def stands_still():
        before, seen[0] = seen[0], sent[0]
        time.sleep(0.5)
        return before == sent[0]
    harness.wait_for(stands_still, what="the instance is paused")
    assert sent[0] < 24e6, sent
    assert post(daemon, "/v1/chat/completions", {"model": "m"}).status == 200
    length = len(stream.text)
    while more := stream.response.read1(65536):
        length += len(more)
    assert stream.response.isclosed() and length == 2000 * (32000 + 8)
    stream.close()


# ---- direct access ---------------------------------------------------------------------------------------------------------

def test_upstream_is_the_instance_itself(gate, peer):
    daemon = gate()
    answer = post(daemon, "/upstream/m/slots/0?action=save&model=x%20y", b'{"filename": "a"', headers={"Content-Type": "text/plain"})
    assert answer.status == 200 and answer.headers["X-Llama-Instance"] == "m"
    request = peer.wait()
    assert (request.method, request.target, request.body) == ("POST", "/slots/0?action=save&model=x%20y", b'{"filename": "a"')
    assert daemon.get("/upstream/m/").status == 200 and peer.wait(2).target == "/"
    assert daemon.get("/upstream/m/a%20b/c?d").status == 200 and peer.wait(3).target == "/a%20b/c?d"
    assert daemon.api("DELETE", "/upstream/m/v1/stream/1").status == 200 and peer.wait(4).method == "DELETE"
    for count, method in enumerate(("PUT", "PATCH"), 5):
        assert daemon.api(method, "/upstream/m/x", b"12", headers={"Content-Type": "application/json"}).status == 200
        request = peer.wait(count)
        assert (request.method, request.target, request.body) == (method, "/x", b"12")
    answer = daemon.api("OPTIONS", "/upstream/m/x")
    assert answer.headers["Allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    error_of(daemon.get("/upstream/nobody/health"), 404, "instance_not_found")
    error_of(daemon.get("/upstream/m/a%2fb"), 400)
    error_of(daemon.get("/upstream/m/../x"), 400)
    assert len(peer.requests) == 6
    daemon.write_config(harness.merged(daemon.config, {"auth": {"anonymous": ["read", "infer"]}}))
    assert daemon.cli("reload").returncode == 0
    error_of(daemon.get("/upstream/m/health"), 403)
    assert post(daemon, "/v1/chat/completions", {"model": "m"}).status == 200


def test_upstream_of_a_model_with_replicas_names_them(make_daemon, fake_llama_server):
    daemon = make_daemon({"instances": [{"name": "q", "model": "tiny.gguf", "replicas": 3, "aliases": ["other"]}]}, server=fake_llama_server)
    for name in ("q", "other"):
        answer = daemon.get("/upstream/%s/health" % name)
        error_of(answer, 404, "instance_not_found")
        assert "name one of its instances (q-0, q-1, q-2)" in answer.json["error"]["message"], answer.body


def test_an_answer_does_not_lead_past_us(gate, peer):
    """What an instance says of its own address and its own keys is not the client's."""
    daemon = gate()
    port = peer.address.rsplit(":", 1)[1]
    fields = ("WWW-Authenticate: Basic realm=\"x\"\r\nAlt-Svc: h2=\":1\"\r\nRefresh: 0; url=http://evil/\r\nLocation: %s\r\n"
              "Content-Location: /c\r\nX-Theirs: 1\r\n")
    for location, ours, direct in (("/v1/x/1", "/v1/x/1", "/upstream/m/v1/x/1"),
                                   ("http://127.0.0.1:%s/v1/x/1" % port, "/v1/x/1", "/upstream/m/v1/x/1"),
                                   ("x/1", "x/1", "x/1"), ("http://127.0.0.1:1/v1/x/1", None, None), ("//evil/", None, None)):
        peer.answer = lambda request, to=location: reply({}, "401 Unauthorized", extra=fields % to)
        for answer, expected, c in ((post(daemon, "/v1/chat/completions", {"model": "m"}), ours, "/c"),
                                    (post(daemon, "/upstream/m/v1/x", {}), direct, "/upstream/m/c")):
            assert answer.status == 401 and answer.headers["X-Theirs"] == "1"
            assert answer.headers.get("Location") == expected and answer.headers["Content-Location"] == c, (location, answer.headers)
            assert not {"WWW-Authenticate", "Alt-Svc", "Refresh"} & set(answer.headers), answer.headers


def test_methods_and_options(gate, peer):
    daemon = gate()
    answer = daemon.get("/v1/chat/completions")
    error_of(answer, 405)
    assert answer.headers["Allow"] == "POST, OPTIONS"
    answer = daemon.api("OPTIONS", "/v1/chat/completions", headers={
        "Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"})
    assert answer.status == 204 and answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert answer.headers["Access-Control-Allow-Headers"] == "x-api-key"
    for asked in ("x-stainless-os,anthropic-version, x-priority", "bad header", "a" * 700):
        answer = daemon.api("OPTIONS", "/v1/messages", headers={
            "Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked})
        assert answer.status == 204 and (answer.headers["Access-Control-Allow-Headers"] == asked) == ("stainless" in asked), answer.headers
    for origin in ("https://evil.example", "null"):
        error_of(post(daemon, "/v1/chat/completions", {"model": "m"}, headers={"Origin": origin}), 403)
    error_of(post(daemon, "/v1/chat/completions", b"{}", headers={"Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"}), 415)
    assert peer.requests == []


def test_work_that_goes_straight_to_an_instance_is_seen(gate, peer):
    """It does not wait for a slot, but takes one that others then wait for; a question takes none."""
    daemon = gate(slots=1)
    release = threading.Event()
    peer.answer = lambda request: release.wait(60) and reply({})
    answers = []

    def start(path, n=1):
        threads = [threading.Thread(target=lambda: answers.append((path, post(daemon, path, {"model": "m"}, timeout=60)))) for _ in range(n)]
        for thread in threads:
            thread.start()
        return threads

    def figure(name):
        return next(float(line.split()[-1]) for line in daemon.get("/metrics").text.splitlines()
                    if line.startswith("llama_supervisor_" + name + "{"))

    threads = start("/upstream/m/v1/chat/completions", 2)
    harness.wait_for(lambda: figure("instance_leases") == 2 and daemon.instance("m")["inFlight"] == 2)
    assert [r["instance"] for r in daemon.get("/api/v1/requests").json["running"]] == ["m", "m"]
    threads += start("/v1/chat/completions")
    harness.wait_for(lambda: figure("model_queue") == 1)
    # Questions take no slot and are counted, whichever way they come (their bound: unit/fleet/dispatch).
    threads += start("/upstream/m/tokenize", 12) + start("/upstream/m/slots/0", 4) + start("/tokenize", 48)
    harness.wait_for(lambda: figure("instance_questions") == 64)
    assert figure("instance_leases") == 2 and len(answers) == 0
    release.set()
    for thread in threads:
        thread.join(60)
    assert [answer.status for _, answer in answers] == [200] * 67
    assert figure("instance_leases") == 0 and figure("instance_questions") == 0
