"""A hub of three servers (R3) under load, and the server that leads the queue dies of kill -9: what was accepted is done, once."""
import json
import os
import shutil
import threading
import time

import pytest

import harness
from harness import wait_for
from nats_history import History
from natswire import Denied, Wire, hub, results_stream

pytestmark = pytest.mark.skipif(not shutil.which("nats-server"), reason="there is no nats-server")

PROMPT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}


class Node:
    def __init__(self, folder, name, port, route, routes):
        self.name, self.port, self.process = name, port, None
        self.folder = os.path.join(folder, name)
        os.mkdir(self.folder)
        self.config = os.path.join(self.folder, "nats.conf")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write('server_name: %s\nlisten: "127.0.0.1:%d"\njetstream { store_dir: "%s/store" }\n'
                       'cluster { name: farm, listen: "127.0.0.1:%d", routes: [%s] }\n' % (
                           name, port, self.folder, route, ", ".join('"nats://127.0.0.1:%d"' % r for r in routes)))

    @property
    def url(self):
        return "nats://127.0.0.1:%d" % self.port

    def start(self):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = harness.spawn(["nats-server", "-c", self.config], stdout=log, stderr=log)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(harness.PATIENCE)


class Cluster:
    def __init__(self, folder):
        ports = [harness.free_port() for _ in range(6)]
        self.nodes = [Node(folder, "n%d" % i, ports[i], ports[3 + i], ports[3:]) for i in range(3)]
        for node in self.nodes:
            node.start()

    def close(self):
        for node in self.nodes:
            node.end()

    def wire(self):
        """To any that lives."""
        for node in self.nodes:
            if node.process.poll() is None:
                try:
                    return Wire(node.port)
                except (OSError, Denied):
                    continue
        raise OSError("no server lives")

    def ask(self, subject, data=b""):
        """An answer of the API, whoever gives it; none while a leader is elected."""
        try:
            wire = self.wire()
        except OSError:
            return {}
        try:
            answer = wire.request("$JS.API." + subject, data, timeout=5)
            return json.loads(answer.data) if answer.data else {}
        except (AssertionError, OSError, Denied):
            return {}
        finally:
            wire.close()

    def leader(self, stream="JOBS"):
        name = wait_for(lambda: self.ask("STREAM.INFO." + stream).get("cluster", {}).get("leader"), what="a leader of " + stream)
        return next(n for n in self.nodes if n.name == name)


@pytest.fixture
def cluster(folder):
    c = Cluster(folder)
    yield c
    c.close()


class Patient:
    """The API through whichever server lives, for the proof."""

    def __init__(self, cluster):
        self.cluster = cluster

    def api(self, subject, data=b""):
        return wait_for(lambda: self.cluster.ask(subject, data), what="an answer to " + subject, step=0.1)


def hand_in(cluster, history, name, **members):
    """As a producer must: again under the same id until JetStream says that it has the job."""
    def accepted():
        try:
            with cluster.wire() as wire:
                data = wire.request("llm.jobs.q.lo", {**PROMPT, **members}, {"Nats-Msg-Id": name, "Llm-Job": name}, timeout=5).data
        except (AssertionError, OSError, Denied):
            return None
        answer = json.loads(data) if data else {"error": "nobody leads"}
        return None if "error" in answer else answer
    history.accepted(name, wait_for(accepted, what=name + " is accepted", step=0.1)["seq"])


def test_the_leader_dies_under_load(cluster, make_daemon):
    urls = [n.url for n in cluster.nodes]
    wait_for(lambda: hub("init", "--url", urls[0], "--models", "q", "--replicas", "3", "--lease", "5s").returncode == 0, step=0.5,
             what=lambda: hub("init", "--url", urls[0], "--models", "q", "--replicas", "3").stderr)
    assert cluster.ask("STREAM.INFO." + results_stream())["config"]["num_replicas"] == 3
    workers = [make_daemon({
        "instances": [{"name": "q", "model": "tiny.gguf", "args": ["-np", "2", "-c", "4096", "--tok-s", "100"]}],
        "hubs": [{"driver": "nats", "name": "lab", "worker": name, "url": urls[i], "more_urls": [u for u in urls if u != urls[i]]}]})
        for i, name in enumerate(("one", "two"))]
    for worker in workers:
        worker.wait_state("q", "ready")
    with History(cluster.wire, forgets=True) as history:
        names = ["job-%02d" % i for i in range(40)]
        producers = [threading.Thread(target=lambda part=names[k::4]: [hand_in(cluster, history, n) for n in part]) for k in range(4)]
        for producer in producers:
            producer.start()
        wait_for(lambda: len(history.jobs) >= 8)
        victim = cluster.leader()
        victim.end()
        for producer in producers:
            producer.join()
        assert len(history.jobs) == 40
        results = history.prove(Patient(cluster))
        assert {r["worker"] for r in results.values()} <= {"one", "two"}
        # It comes back, and the leader of the results dies.
        victim.start()
        wait_for(lambda: all(peer.get("current") for peer in cluster.ask("STREAM.INFO." + results_stream()).get("cluster", {}).get("replicas", [{}])),
                 what=lambda: cluster.ask("STREAM.INFO." + results_stream()), step=0.2)
        leader = cluster.leader(results_stream())
        more = ["more-%d" % i for i in range(10)]
        for name in more:
            hand_in(cluster, history, name, max_tokens=400)     # 4 s; four at once
        leader.end()
        died = time.monotonic()
        history.prove(Patient(cluster))
        # Some of them were not stored before: they were handed in when it was dead. (Who saw none of the offers of a job, listened there.)
        assert [n for n in more if history.jobs[n].offered and history.jobs[n].offered[0][0] > died], {n: history.jobs[n].offered for n in more}
        for worker in workers:
            journal = os.path.join(worker.state, "hubs", "lab", "claims")
            wait_for(lambda j=journal: not os.listdir(j), what=worker.output)   # a result whose answer was lost is handed in again
