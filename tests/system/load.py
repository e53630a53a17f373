"""Requests from several threads against the gateway of a machine. Each answer is looked at: whole, lost, or wrong."""
import http.client
import json
import threading
import time

from machine import Connection

BODY = {"stream": True, "messages": [{"role": "user", "content": "hi"}]}


class Load:
    """with Load(machine, model) as load: … load.answers (whole ones), load.lost (connections that broke or were refused),
    load.wrong (whatever else there was, as texts)."""

    def __init__(self, machine, model, workers=4, port=8077, keep_alive=False):
        self.machine, self.model, self.port, self.keep_alive = machine, model, port, keep_alive
        self.answers, self.lost, self.wrong, self.lock = 0, [], [], threading.Lock()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(workers)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads), "a request never ends"

    def __repr__(self):
        return "%d answers, %d lost (%s), %d wrong (%s)" % (self.answers, len(self.lost), self.lost[-3:], len(self.wrong),
                                                           self.wrong[:3])

    def work(self):
        body = json.dumps({"model": self.model, **BODY}).encode()
        while not self.stopping.is_set():
            try:
                self.one(body)
            except (OSError, http.client.HTTPException) as error:
                with self.lock:
                    self.lost.append("%s: %s" % (type(error).__name__, error))
                time.sleep(0.01)

    def one(self, body):
        connection = Connection(lambda: self.machine.tcp(self.port, 60), 60)
        try:
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        finally:
            connection.close()
        with self.lock:
            if response.status == 200 and text.rstrip().endswith("data: [DONE]"):
                self.answers += 1
            elif response.status == 200:
                # chunked: a body that was cut raises IncompleteRead, so this one was ended on purpose
                self.wrong.append("200, but: ..." + text[-300:])
            else:
                self.wrong.append("%d %s" % (response.status, text[:300]))
