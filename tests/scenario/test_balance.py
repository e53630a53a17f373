# ctest: real
"""Which instance gets a request: the rules of gateway.balance, weights, and what a conversation finds again."""
import collections
import concurrent.futures
import json
import os
import signal

import pytest

import harness


def fleet(make_daemon, balance, replicas=3, server=harness.FAKE, gateway=None, **entry):
    daemon = make_daemon({"instances": [{"name": "qwen", "model": "tiny.gguf", "replicas": replicas, **entry}],
                          "gateway": {"balance": balance, "slow_start": "0s", **(gateway or {})}}, server=server)
    for i in range(replicas):
        daemon.wait_state("qwen-%d" % i, "ready")
    return daemon


def ask(daemon, text="hello", model="qwen", **more):
    """The instance that answered, and the answer."""
    answer = harness.request(daemon.address, "POST", "/v1/chat/completions", {
        "model": model, "max_tokens": 2, "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}],
        **more})
    assert answer.status == 200, answer
    return answer.headers["X-Llama-Instance"], answer.json


def shares(daemon, n, **more):
    return collections.Counter(ask(daemon, **more)[0] for _ in range(n))


def test_round_robin(make_daemon):
    daemon = fleet(make_daemon, "round-robin")
    assert shares(daemon, 30) == {"qwen-0": 10, "qwen-1": 10, "qwen-2": 10}


def test_random_meets_all(make_daemon):
    daemon = fleet(make_daemon, "random")
    got = shares(daemon, 90)
    assert set(got) == {"qwen-0", "qwen-1", "qwen-2"} and min(got.values()) >= 10, got


def test_least_loaded_takes_the_free_one(make_daemon):
    """Three at once on three instances with one slot each: none waits."""
    daemon = fleet(make_daemon, "least-loaded", args=["--parallel", "1", "--tok-s", "20"], slots=1)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: ask(daemon, max_tokens=10)[0], range(3)))
    assert sorted(found) == ["qwen-0", "qwen-1", "qwen-2"]


@pytest.mark.real
def test_a_conversation_finds_its_cache(make_daemon, real_llama_server):
    """Every turn of a conversation meets the instance, and so the KV cache, of the turn before."""
    daemon = fleet(make_daemon, "prefix-affinity", server=real_llama_server, args=["-c", "8192"])
    homes = set()
    for talk in range(8):
        messages = [{"role": "system", "content": "you are number %d" % talk}, {"role": "user", "content": "tell me about %d" % talk}]
        where, cached = set(), []
        for _ in range(4):
            instance, answer = ask(daemon, messages=messages)
            where.add(instance)
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            messages += [answer["choices"][0]["message"], {"role": "user", "content": "and then?"}]
        assert len(where) == 1, where
        assert cached[1] > 0 and cached[3] > cached[1], cached
        homes |= where
    assert len(homes) > 1, "all conversations went to one instance"


def test_affinity_yields_to_load(make_daemon):
    """The home of a conversation is not overrun: what it cannot take goes elsewhere at once."""
    daemon = fleet(make_daemon, "prefix-affinity", args=["--parallel", "1", "--tok-s", "20"], slots=1)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: ask(daemon, max_tokens=10)[0], range(3)))
    assert len(set(found)) == 3, found


def test_the_rule_changes_live(make_daemon):
    daemon = fleet(make_daemon, "round-robin", replicas=2)
    pids = {name: one["pid"] for name, one in daemon.instances().items()}
    daemon.write_config(harness.merged(daemon.config, {"gateway": {"balance": "prefix-affinity"}}))
    plan = daemon.cli("reload", "--json")
    assert plan.returncode == 0 and not json.loads(plan.stdout)["restart"], plan
    assert len(shares(daemon, 10)) == 1
    assert pids == {name: one["pid"] for name, one in daemon.instances().items()}


WEIGHTS = [6, 2, 1]


@pytest.mark.parametrize("balance", ["least-loaded", "round-robin", "random", "prefix-affinity"])
def test_weights_of_replicas(make_daemon, balance):
    """Under load each replica has its share of the requests, whatever the rule."""
    daemon = fleet(make_daemon, balance, weight=WEIGHTS, slots=16, args=["--parallel", "16", "--tok-s", "200"])
    assert [daemon.instance("qwen-%d" % i)["weight"] for i in range(3)] == WEIGHTS
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        got = collections.Counter(pool.map(lambda i: ask(daemon, text="talk %d" % i)[0], range(450)))
    # Of 450: 300, 100 and 50; the rules know when a request ends, and it is chance in which order they do.
    assert 230 <= got["qwen-0"] <= 370 and 50 <= got["qwen-1"] <= 160 and 15 <= got["qwen-2"] <= 100, got


def sharing(make_daemon, balance="least-loaded", gateway=None, **more):
    """Three entries with one alias, and weights of 3, 2 and 1."""
    entries = [{"name": name, "model": "tiny.gguf", "aliases": ["gpt"], "weight": weight, **more} for name, weight in (("a", 3), ("b", 2), ("c", 1))]
    daemon = make_daemon({"instances": entries, "gateway": {"balance": balance, "slow_start": "0s", **(gateway or {})}})
    for name in "abc":
        daemon.wait_state(name, "ready")
    return daemon


@pytest.mark.parametrize("balance", ["least-loaded", "round-robin", "random", "prefix-affinity"])
def test_weights_of_entries_that_share_a_name(make_daemon, balance):
    daemon = sharing(make_daemon, balance, slots=16, args=["--parallel", "16", "--tok-s", "200"])
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        got = collections.Counter(pool.map(lambda i: ask(daemon, text="talk %d" % i, model="gpt")[0], range(450)))
    assert 150 <= got["a"] <= 300 and 90 <= got["b"] <= 220 and 30 <= got["c"] <= 130, got
    assert sum(got.values()) == 450


def test_a_shared_name_and_its_entries(make_daemon):
    """What is told of a name that several entries have, and what each of them still is by itself."""
    daemon = sharing(make_daemon, gateway={"default_model": "gpt"}, slots=1, args=["--parallel", "1", "--tok-s", "20"])
    told = daemon.get("/api/v1/models").json
    assert told["shared"] == [{"name": "gpt", "models": ["a", "b", "c"], "queue": 0, "shedding": False}]
    assert [m["aliases"] for m in told["models"]] == [["gpt"]] * 3
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        held = [pool.submit(ask, daemon, model=model, max_tokens=60) for model in ("gpt", "", "gpt")]
        harness.wait_for(lambda: sum(one["inFlight"] for one in daemon.instances().values()) == 3)
        waiting = [pool.submit(ask, daemon, model="gpt", max_tokens=2), pool.submit(ask, daemon, model="b", max_tokens=2)]
        harness.wait_for(lambda: daemon.get("/api/v1/models").json["shared"][0]["queue"] == 1 and daemon.instance("b")["queue"] == 2)
        running = daemon.get("/api/v1/requests").json["running"]
        assert sorted(r["model"] for r in running) == ["b", "gpt", "gpt", "gpt", "gpt"], running
        assert 'llama_supervisor_model_queue{model="gpt"} 1' in daemon.get("/metrics").text
        assert sorted(f.result()[0] for f in held) == ["a", "b", "c"]
        assert waiting[0].result()[0] in "abc" and waiting[1].result()[0] == "b"
    assert shares(daemon, 4, model="c") == {"c": 4}
    metrics = daemon.get("/metrics").text
    assert 'llama_supervisor_requests_total{model="gpt",outcome="ok"} 4' in metrics
    assert 'llama_supervisor_requests_total{model="c",outcome="ok"} 4' in metrics
    answer = daemon.control_api("POST", "/api/v1/models/gpt/unload")
    assert answer.status == 409 and "alias of several models" in answer.text, answer


def test_one_of_a_shared_name_dies(make_daemon):
    """The others answer for it; and an ensemble meets instances of all."""
    daemon = sharing(make_daemon, "round-robin")
    pid = daemon.instance("a")["pid"]
    daemon.write_config(harness.merged(daemon.config, {"restart": {"backoff_initial": "5m", "backoff_max": "5m"}}))
    assert daemon.cli("reload").returncode == 0
    answer = harness.request(daemon.address, "POST", "/v1/chat/completions", {
        "model": "gpt", "messages": [{"role": "user", "content": "hi"}], "ensemble": {"n": 3, "combine": "longest"}})
    assert sorted(m["instance"] for m in answer.json["ensemble"]["members"]) == ["a", "b", "c"], answer
    os.kill(pid, signal.SIGKILL)
    daemon.wait_state("a", "crashed")
    got = shares(daemon, 12, model="gpt")
    assert set(got) == {"b", "c"} and got["b"] > got["c"], got


def test_weights_change_live(make_daemon):
    daemon = fleet(make_daemon, "round-robin", replicas=2, weight=[3, 1])
    pids = {name: one["pid"] for name, one in daemon.instances().items()}
    assert shares(daemon, 16) == {"qwen-0": 12, "qwen-1": 4}
    entry = {**daemon.config["instances"][0], "weight": [1, 3]}
    daemon.write_config({**daemon.config, "instances": [entry]})
    plan = json.loads(daemon.cli("reload", "--json").stdout)
    assert plan["update"] == ["qwen-0", "qwen-1"] and not plan["restart"] and plan["applied"], plan
    shares(daemon, 4)  # what was owed by the old weights
    assert shares(daemon, 16) == {"qwen-0": 4, "qwen-1": 12}
    assert pids == {name: one["pid"] for name, one in daemon.instances().items()}
    assert "weight" in daemon.cli("status", "qwen-1").stdout
    daemon.write_config({**daemon.config, "instances": [{**entry, "weight": [1, 2, 3]}]})
    refused = daemon.cli("reload")
    assert refused.returncode == 1 and "instances[0].weight: has 3 weights for 2 replicas" in refused.stdout + refused.stderr, refused
    assert shares(daemon, 16) == {"qwen-0": 4, "qwen-1": 12}
