"""What the scenarios of faults share: a config that makes one instance fail in one way, and the look at it afterwards.

The back-off of most of them is longer than the test, so that "crashed" stands still and can be looked at; a person's "start" then
does not wait for it. With the fake the fault comes by FAKE_LLAMA_ARGS, with the real one by signals, load and broken files.
"""
import http.client
import os
import socket
import threading

import harness

STANDSTILL = {"backoff_initial": "5m", "backoff_max": "5m", "jitter": 0, "max_retries": 5}
# A probe that is soon late and soon believed, for servers that answer nothing or rubbish.
QUICK = {"health": {"start_attempts": 5, "interval": "50ms", "timeout": "300ms"}}


def one(fault="", *over, model="tiny.gguf", args=(), **more):
    """A config of one instance "a" whose fake fails in that way (the real one does not look at the variable), and what is laid
    over it."""
    config = {"restart": STANDSTILL,
              "instances": [{"name": "a", "model": model, "args": ["-c", "2048", "-np", "1", "-t", "1", *args],
                             "env": {"FAKE_LLAMA_ARGS": fault}, **more}]}
    for layer in over:
        config = harness.merged(config, layer)
    return config


def events(daemon, kind, name="a"):
    return [event for event in daemon.get("/api/v1/history").json["events"]
            if event["kind"] == kind and event["instance"] == name]


def deaths(daemon, name="a"):
    return events(daemon, "died", name)


def crashed(daemon, cause, *words, retries=1, name="a"):
    """It has died and waits; every door says so with these words, the history has the cause, `why` tells it too."""
    daemon.wait_state(name, "crashed")
    told = harness.assert_same_truth(daemon, name, status="crashed", retries=retries)
    for word in words:
        assert word in told["lastError"], told
    last = deaths(daemon, name)[-1]
    assert last["cause"] == cause and last["text"] == told["lastError"], deaths(daemon, name)
    why = daemon.cli("why", name)
    assert why.returncode == 0 and words[0] in why.stdout, why
    now = daemon.instance(name)
    assert now["pid"] is None and now["startedAt"] is None and now["uptime"] == 0 and now["nextRetryAt"], now
    return told


def alone_crashed(daemon, *args, **kwargs):
    """The same, and no process is left of it."""
    told = crashed(daemon, *args, **kwargs)
    assert daemon.children() == [], daemon.children()
    return told


def order(daemon, verb, name="a"):
    answer = daemon.api("POST", "/api/v1/instances/%s/%s" % (name, verb))
    assert answer.status in (200, 202), answer
    return answer


def start_again(daemon, name="a"):
    """A person does not wait for the back-off."""
    order(daemon, "start", name)
    return daemon.wait_state(name, "ready")


def stays(daemon, pid, name="a", deaths_before=0):
    """The same process as ever, well, and nobody says otherwise."""
    now = daemon.wait_state(name, "ready")
    assert now["pid"] == pid, now
    assert len(deaths(daemon, name)) == deaths_before, deaths(daemon, name)
    harness.assert_same_truth(daemon, name, status="ready")
    assert harness.is_alive(pid)
    return now


def socket_of(daemon, name="a"):
    return os.path.join(daemon.runtime, name + ".sock")


class Stream:
    """One streaming completion, asked of an instance directly; a thread reads it to its end."""

    def __init__(self, address, max_tokens, prompt="hello", timeout=10 * harness.PATIENCE):
        self.address, self.max_tokens, self.prompt, self.timeout = address, max_tokens, prompt, timeout
        self.text, self.error, self.began = b"", None, threading.Event()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            connection = harness.UnixConnection(self.address, self.timeout)
            body = {"messages": [{"role": "user", "content": self.prompt}], "max_tokens": self.max_tokens, "stream": True,
                    "ignore_eos": True}
            connection.request("POST", "/v1/chat/completions", harness.json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            while piece := response.read1(65536):
                self.text += piece
                self.began.set()
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            self.error = error
        self.began.set()

    def is_whole(self):
        return not self.error and b"data: [DONE]" in self.text

    def end(self, timeout=10 * harness.PATIENCE):
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "the stream does not end: %r" % self.text[-300:]
        return self


def health_is_silent(path, seconds):
    """A connection of our own to /health of that socket gets no answer within so long."""
    try:
        harness.request("unix:" + path, "GET", "/health", timeout=seconds)
        return False
    except (TimeoutError, socket.timeout):
        return True
    except (OSError, http.client.HTTPException):
        return False
