"""A GoLlama hub as its workers meet it, written from the captured conversations (docs/HUB.md "GoLlama"): it dials its workers over kept
connections without a time limit, drops whoever is refused, answers anything but 200, or says a word that it takes for an error, tries at most
three, and never takes one back that has not registered again. Errors are text/plain, one line."""
import http.client
import json
import threading
import urllib.parse

from pipes import HttpServer

TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.x"


class GollamaDouble(HttpServer):
    def __init__(self, users=None, **kwargs):
        self.users = users or {"admin": "password"}
        self.workers, self.registered, self.turn = {}, [], 0
        self.lock = threading.Lock()
        self.kept = threading.local()
        super().__init__({"/auth/token": self.on_token, "/connectWorker": self.on_connect, "/stats": self.on_stats,
                          "/health": self.on_health, "/chat": self.on_chat}, **kwargs)

    @staticmethod
    def plain(handler, status, words):
        handler.answer(status, words.encode() + b"\n", Content_Type="text/plain; charset=utf-8", X_Content_Type_Options="nosniff")

    @staticmethod
    def json(handler, value):
        handler.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def on_token(self, handler, body):
        if handler.command != "POST":
            return self.plain(handler, 405, "Method not allowed")
        try:
            asked = json.loads(body)
        except ValueError:
            return self.plain(handler, 400, "Invalid request")
        if not all(asked.get(key) for key in ("worker_id", "url", "username", "password")):
            return self.plain(handler, 400, "Missing worker_id, url, username, or password")
        if self.users.get(asked["username"]) != asked["password"]:
            return self.plain(handler, 401, "Invalid credentials")
        self.json(handler, {"token": TOKEN})

    def on_connect(self, handler, body):
        asked = json.loads(body)
        assert handler.headers["Authorization"] == "Bearer " + TOKEN and asked["model"]
        with self.lock:
            self.registered.append(asked["url"])
            self.workers.setdefault(asked["url"], {"jobs_completed": 0, "jobs_failed": 0, "score": 0})
        self.json(handler, {"status": "registered", "url": asked["url"]})

    def on_stats(self, handler, body):
        with self.lock:
            self.json(handler, {"total_workers": len(self.workers), "workers": dict(self.workers)})

    def on_health(self, handler, body):
        self.json(handler, {"status": 200, "workers": len(self.workers)})

    def on_chat(self, handler, body):
        if not self.workers:
            return self.plain(handler, 503, "No workers available")
        self.json(handler, {"reply": self.chat(json.loads(body)["message"])})

    def drop(self, url):
        with self.lock:
            self.workers.pop(url, None)

    def execute(self, url, body):
        """What the hub does with one worker: its text, or None: the worker is dropped."""
        address = urllib.parse.urlsplit(url).netloc
        connection = getattr(self.kept, "connection", None)
        for fresh in (False, True):
            try:
                if fresh or not connection:
                    connection = self.kept.connection = http.client.HTTPConnection(address, timeout=120)
                connection.request("POST", "/execute", body, {"User-Agent": "Go-http-client/1.1", "Content-Type": "application/json",
                                                              "Accept-Encoding": "gzip"})
                answer = connection.getresponse()
                status, text = answer.status, answer.read()
                break
            except OSError:
                if fresh:
                    return None
            except http.client.HTTPException:
                if fresh:
                    return None
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, TypeError):
            return None
        if status != 200 or len(content) > 5 and content.startswith(("Error", "error", "Worker")):
            return None
        return content

    def chat(self, message):
        body = json.dumps({"body": {"messages": [{"role": "user", "content": message}], "max_tokens": 100},
                           "endpoint": "/v1/chat/completions"})
        for _ in range(3):
            with self.lock:
                if not self.workers:
                    return "Error: No available workers for retry"
                self.turn += 1
                url = sorted(self.workers)[self.turn % len(self.workers)]
            content = self.execute(url, body)
            if content is not None:
                with self.lock:
                    if url in self.workers:
                        self.workers[url]["jobs_completed"] += 1
                return content
            self.drop(url)
        return "Error: max retries"
