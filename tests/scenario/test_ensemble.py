# ctest: asan
"""Ensembles: several instances are asked, one combined answer comes back. The members are peers of the test's own, so that it is the
test that says who answers what, and when."""
import json
import threading
import time

import pytest

import harness
from peer import STREAM_END, STREAM_HEAD, Peer, chunk, reply

PATH = "/v1/chat/completions"


def completion(text, tokens=3, **message):
    return reply({"choices": [{"finish_reason": "stop", "index": 0, "message": dict({"role": "assistant", "content": text}, **message)}],
                  "object": "chat.completion", "usage": {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}})


@pytest.fixture
def three(make_daemon):
    """A daemon in front of three peers: models "a" (weight 1), "b" (1), "c" (3)."""
    peers = [Peer(name=name, slots=1) for name in "abc"]
    daemon = make_daemon({"instances": [{"name": peer.name, "adopt": peer.address, "weight": 3 if peer.name == "c" else 1,
                                         "request": {"set": {"who": peer.name}}} for peer in peers]})
    for peer in peers:
        daemon.wait_state(peer.name, "ready")
    yield daemon, peers
    for peer in peers:
        peer.close()


def ask(daemon, timeout=60, headers=None, **wish):
    stream = wish.pop("stream", False)
    wish.setdefault("models", ["a", "b", "c"])
    return daemon.api("POST", PATH, {"model": "a", "messages": [], "stream": stream, "ensemble": wish}, headers, timeout)


def content(answer):
    assert answer.status == 200, answer
    return answer.json["choices"][0]["message"]["content"]


def says(peers, *texts, tokens=(3, 3, 3)):
    for peer, text, n in zip(peers, texts, tokens):
        peer.answer = lambda request, text=text, n=n: completion(text, n) if text is not None else \
            reply({"error": {"message": "Compute error", "code": 500}}, "500 Internal Server Error")


def never(peers, told):
    """Members that answer only by telling when they were cancelled."""
    def answer(request):
        request.wait_gone()
        told.append(request)
    for peer in peers:
        peer.answer = answer


def test_vote(three):
    daemon, peers = three
    says(peers, "No", "Yes.", "yes ")
    answer = ask(daemon, n=3)
    assert content(answer) in ("Yes.", "yes ")
    told = answer.json["ensemble"]
    assert told["n"] == 3 and told["combine"] == "vote" and told["answers"] in (2, 3), told
    top = told["votes"][0]
    assert top["votes"] == 2 and sorted(top["members"]) == [1, 2] and told["winner"] in (1, 2), told
    assert [member["instance"] for member in told["members"]] == ["a", "b", "c"], told
    assert answer.headers["X-Llama-Instance"] == "abc"[told["winner"]] and answer.headers["X-Request-Id"].startswith("req-")
    assert answer.json["usage"]["completion_tokens"] == 3 and answer.json["object"] == "chat.completion"
    # Each got the request as its entry wants it, without what is ours.
    for peer in peers:
        assert peer.wait().json == {"who": peer.name, "model": "a", "messages": [], "stream": False}
    ran = [one for one in daemon.get("/api/v1/requests").json["recent"] if one["source"] == "ensemble"]
    assert sorted(one["model"] for one in ran) == ["a", "b", "c"], ran


def test_weighted_and_longest(three):
    daemon, peers = three
    says(peers, "no", "no", "yes")
    answer = ask(daemon, n=3, combine="weighted")
    assert content(answer) == "yes" and answer.json["ensemble"]["votes"][0]["weight"] == 3
    says(peers, "short", "of many tokens", "middle", tokens=(2, 9, 5))
    answer = ask(daemon, n=3, combine="longest")
    assert content(answer) == "of many tokens" and answer.json["ensemble"]["usage"] == {"prompt_tokens": 30, "completion_tokens": 16}


def test_what_is_decided_is_not_waited_for(three):
    daemon, peers = three
    told = []
    says(peers[:2], "Yes", "yes!")
    never(peers[2:], told)
    answer = ask(daemon, n=3)
    assert content(answer) in ("Yes", "yes!")
    assert [member["outcome"] for member in answer.json["ensemble"]["members"]] == ["ok", "ok", "cancelled"]
    harness.wait_for(lambda: told, what="the third is cancelled")
    assert all(one["leased"] == 0 for one in daemon.get("/api/v1/models").json["models"])


def test_first_is_a_hedged_request(three):
    daemon, peers = three
    told = []
    says(peers, "x", "fast", "x")
    never((peers[0], peers[2]), told)
    answer = ask(daemon, combine="first")
    assert content(answer) == "fast" and answer.headers["X-Llama-Instance"] == "b"
    assert answer.json["ensemble"]["winner"] == 1 and answer.json["ensemble"]["answers"] == 1
    harness.wait_for(lambda: len(told) == 2, what="the losers are cancelled")


def test_first_streams_from_whose_first_token_comes_first(three):
    daemon, peers = three
    told, release = [], threading.Event()

    def pings(request):
        # The head and pings of a server that is stuck are no answer.
        request.socket.sendall(STREAM_HEAD + chunk(b":\n\n"))
        request.wait_gone()
        told.append(request)
    pieces = [b'data: {"x":1}\n\n', b": ping\n\n", b"data: [DONE]\n\n"]

    def answer(request):
        assert release.wait(60)
        return STREAM_HEAD + chunk(b":\n\n") + b"".join(chunk(piece) for piece in pieces) + STREAM_END
    peers[0].answer = peers[2].answer = pings
    peers[1].answer = answer
    got = []
    thread = threading.Thread(target=lambda: got.append(ask(daemon, combine="first", stream=True)))
    thread.start()
    for peer in peers:
        peer.wait()
    time.sleep(0.3)
    release.set()
    thread.join(60)
    text = got[0].body
    assert text.endswith(b"".join(pieces)) and text.replace(b":\n\n", b"") == b"".join(pieces), text
    assert got[0].headers["X-Llama-Instance"] == "b" and got[0].headers["Content-Type"] == "text/event-stream"
    harness.wait_for(lambda: len(told) == 2, what="the losers are cancelled")


def test_members_that_fail_are_tolerated(three):
    daemon, peers = three
    says(peers, None, "alone", None)
    answer = ask(daemon, n=3, combine="longest")        # which waits for all
    assert content(answer) == "alone"
    members = answer.json["ensemble"]["members"]
    assert [member["outcome"] for member in members] == ["failed", "ok", "failed"] and "500" in members[0]["error"], members
    peers[0].answer = lambda request: request.socket.close()
    peers[2].answer = lambda request: reply([1, 2])
    assert content(ask(daemon, n=3)) == "alone"
    # When all do, it is told what the first one said.
    says(peers, None, None, None)
    answer = ask(daemon, n=3)
    assert answer.status == 500 and answer.json["error"]["message"] == "Compute error", answer
    assert answer.headers["X-Llama-Instance"] and answer.headers["X-Request-Id"], "it is the instance's own answer"
    answer = ask(daemon, combine="first", stream=True)
    assert answer.status == 500 and answer.json["error"]["message"], answer
    for peer in peers:
        peer.answer = lambda request: reply({"not": "a completion"})
    assert ask(daemon, n=3).json["error"]["code"] == "bad_answer"


def test_calls_of_tools_are_votes_too(three):
    daemon, peers = three

    def call(n, arguments):
        return lambda request: completion(None, tool_calls=[{"id": "call-%d" % n, "type": "function",
                                                             "function": {"name": "f", "arguments": arguments}}])
    for n, (peer, arguments) in enumerate(zip(peers, ('{"x":2}', '{"x":1}', '{"x":1}'))):
        peer.answer = call(n, arguments)
    answer = ask(daemon, n=3)
    assert answer.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"x":1}', answer


def test_replicas_of_one_model_are_spread(make_daemon):
    # At random, so that only the members' avoiding each other can spread them.
    daemon = make_daemon({"instances": [{"name": "m", "model": "tiny.gguf", "replicas": 3}], "gateway": {"balance": "random"}})
    for n in range(3):
        daemon.wait_state("m-%d" % n, "ready")
    for _ in range(10):
        answer = daemon.api("POST", PATH, {"messages": [], "ensemble": {"n": 3, "combine": "longest"}})
        told = answer.json["ensemble"]
        assert sorted(member["instance"] for member in told["members"]) == ["m-0", "m-1", "m-2"], told
        assert told["votes"][0]["votes"] == 3
    # More members than instances or slots: the rest waits, and all of them answer.
    answer = daemon.api("POST", PATH, {"messages": [], "ensemble": {"n": 16, "combine": "longest"}})
    assert answer.status == 200 and answer.json["ensemble"]["answers"] == 16


def test_a_client_that_leaves_cancels_all(three):
    daemon, peers = three
    told = []
    never(peers, told)
    thread = threading.Thread(target=lambda: pytest.raises(OSError, ask, daemon, timeout=1, n=3))
    thread.start()
    thread.join(60)
    harness.wait_for(lambda: len(told) == 3, what="all are cancelled")


def test_answers_are_bounded(three):
    daemon, peers = three
    says(peers, "x" * 600000, "short", "short")
    answer = ask(daemon, combine="longest", n=3)
    assert content(answer) == "short"
    assert "too long" in answer.json["ensemble"]["members"][0]["error"]


@pytest.mark.parametrize("wish, words", [
    ({"n": 0}, "1 to 16"), ({"n": 17}, "1 to 16"), ({"n": 2.5}, "1 to 16"), ({"n": 2}, "below the number"),
    ({"n": 3, "combine": "majority"}, "combine"), ({"combine": 7}, "combine"), ({"models": []}, "models"),
    ({"models": ["a", 7]}, "models"), ({"models": "a"}, "models"), ({"n": 3, "seed": 1}, "not known"),
    ({"n": 3, "stream": True}, "can stream"), ({"n": 3, "combine": "longest", "stream": True}, "can stream"),
])
def test_wrong_wishes_are_refused(three, wish, words):
    daemon, peers = three
    answer = ask(daemon, **wish)
    assert answer.status == 400 and answer.json["error"]["param"] == "ensemble", answer
    assert words in answer.json["error"]["message"], answer
    assert all(peer.requests == [] for peer in peers)


def test_only_chats_and_known_models(three):
    daemon, peers = three
    for path in ("/v1/completions", "/v1/embeddings", "/v1/messages"):
        answer = daemon.api("POST", path, {"model": "a", "ensemble": {"n": 2}})
        assert answer.status == 400 and answer.json["error"]["param"] == "ensemble", (path, answer)
    answer = ask(daemon, models=["a", "none"])
    assert answer.status == 404 and answer.json["error"]["code"] == "model_not_found"
    assert daemon.api("POST", PATH, {"model": "a", "ensemble": [3]}).status == 400
    assert daemon.api("POST", PATH, {"model": "a", "messages": [], "ensemble": None}).status == 200
    assert peers[0].wait().json == {"who": "a", "model": "a", "messages": []} and len(peers[0].requests) == 1
    assert json.loads(peers[0].requests[0].body)


def test_an_ensemble_takes_of_the_key_what_its_members_are(make_daemon):
    daemon = make_daemon({"instances": [{"name": "m", "model": "tiny.gguf"}], "auth": {"keys_file": "keys.json"}}, start=False)
    made = daemon.cli("key", "add", "two", "--scope", "infer", "--concurrency", "2", "--config", daemon.config_file,
                      socket_option=False)
    assert made.returncode == 0, made
    daemon.start()
    daemon.wait_state("m", "ready")
    key = {"Authorization": "Bearer " + made.stdout.strip()}
    for n, status in ((3, 429), (2, 200), (3, 429), (2, 200)):      # what was taken is given back, of refused ones too
        answer = daemon.api("POST", PATH, {"messages": [], "ensemble": {"n": n}}, headers=key)
        assert answer.status == status, (n, answer)
    # Who may infer alone may list the models, and no more.
    assert daemon.get("/v1/models", headers=key).status == daemon.get("/api/v1/models", headers=key).status == 200
    assert daemon.get("/api/v1/instances", headers=key).status == 403
