"""What tests/bench/load and tests/bench/chaos share: an HTTP/1.1 client that keeps many requests going and times them.

The standard library alone, so that it runs wherever somebody has a fleet. Each worker has a connection of its own, kept as long as
the server keeps it; a request is sent once and never again, so that every answer that is missing shows.
"""
import asyncio
import collections
import json
import math
import ssl
import time
import urllib.parse

Result = collections.namedtuple("Result", "began duration first status outcome tokens instance waited")
# outcome: "ok"; "refused" (a whole answer with an error status); "broken" (the answer began and did not end as it should); "lost"
# (no answer at all).


class Target:
    """Where the gateway is: "http://HOST:PORT", "https://…" or "unix:/PATH"; path prefixes are kept."""

    def __init__(self, url, key=None, insecure=False):
        self.key, self.unix, self.tls, self.prefix = key, None, None, ""
        if url.startswith("unix:"):
            self.unix, self.host = url[5:], "localhost"
            return
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SystemExit("%s: expected http://HOST:PORT, https://HOST:PORT or unix:/PATH" % url)
        self.name, self.port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self.host, self.prefix = parts.netloc.rsplit("@", 1)[-1], parts.path.rstrip("/")
        if parts.scheme == "https":
            self.tls = ssl.create_default_context()
            if insecure:
                self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    async def connect(self):
        if self.unix:
            return await asyncio.open_unix_connection(self.unix)
        return await asyncio.open_connection(self.name, self.port, ssl=self.tls)

    def head(self, method, path, length):
        lines = ["%s %s%s HTTP/1.1" % (method, self.prefix, path), "Host: " + self.host, "Content-Length: %d" % length]
        if length:
            lines.append("Content-Type: application/json")
        if self.key:
            lines.append("Authorization: Bearer " + self.key)
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection:
    def __init__(self, target):
        self.target, self.reader, self.writer = target, None, None

    async def close(self):
        if self.writer:
            self.writer.close()
            try:
                await self.writer.wait_closed()
            except (OSError, ssl.SSLError):
                pass
        self.reader = self.writer = None

    async def exchange(self, method, path, body=b"", on_data=None):
        """(status, headers, body); on_data(piece) is called as the payload comes, and then the body returned is empty. Raises
        OSError, EOFError or ValueError; .began tells whether a head had come."""
        self.began = False
        if not self.writer or self.reader.at_eof():
            await self.close()
            self.reader, self.writer = await self.target.connect()
        self.writer.write(self.target.head(method, path, len(body)) + body)
        await self.writer.drain()
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ", 2)[1])
            if status >= 200:
                break
        self.began = True
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name}
        pieces = []
        take = on_data or pieces.append
        keep = headers.get("connection", "").lower() != "close"
        if status in (204, 304):
            pass
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                size = int((await self.reader.readline()).split(b";")[0] or b"x", 16)
                piece = await self.reader.readexactly(size + 2)
                if size == 0:
                    break
                take(piece[:-2])
        elif "content-length" in headers:
            take(await self.reader.readexactly(int(headers["content-length"])))
        else:
            keep = False
            while piece := await self.reader.read(65536):
                take(piece)
        if not keep:
            await self.close()
        return status, headers, b"".join(pieces)


class Stream:
    """Watches server-sent events: when the first token came, how many there were, whether they ended as they should."""

    def __init__(self):
        self.rest, self.first, self.tokens, self.done, self.error = b"", None, 0, False, None
        self.start = b""          # of an answer that turns out to be none: its words

    def __call__(self, piece):
        self.start += piece[:1000 - len(self.start)] if len(self.start) < 1000 else b""
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            text = line[5:].strip()
            if text == b"[DONE]":
                self.done = True
                continue
            try:
                event = json.loads(text)
            except ValueError:
                self.error = "an event that is no JSON"
                continue
            if "error" in event:
                self.error = str(event["error"].get("code") or event["error"])
            elif any((choice.get("delta") or {}).get("content") or choice.get("text") for choice in event.get("choices", [])):
                self.tokens += 1
                self.first = self.first or time.monotonic()


def words_of(body):
    """What an answer with an error says, in one line."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(body[:200].decode("utf-8", "replace").split()) or "no words"


class Load:
    """`concurrency` workers that ask one after the other until `requests` are asked, `until` has come, or stop() is called."""

    def __init__(self, target, path, body, concurrency, requests=math.inf, seconds=math.inf, deadline=120, on_result=None):
        self.target, self.path, self.body, self.concurrency = target, path, body, concurrency
        self.left, self.seconds, self.deadline = requests, seconds, deadline
        self.results, self.on_result, self.stopped, self.asked = [], on_result, False, 0
        self.reasons = collections.Counter()          # why those that did not end well did not

    def stop(self):
        self.stopped = True

    async def one(self, connection):
        self.asked += 1
        body = self.body(self.asked)
        stream = Stream() if json.loads(body).get("stream") else None
        began, status, headers, tokens, reason = time.monotonic(), 0, {}, 0, None
        connection.began = False
        try:
            status, headers, answer = await asyncio.wait_for(
                connection.exchange("POST", self.path, body, stream), self.deadline)
            outcome = "ok" if status < 400 else "refused"
            if status >= 400:
                reason = "%d: %s" % (status, words_of(stream.start if stream else answer))
            if stream and status < 400:
                outcome, tokens = "ok" if stream.done and not stream.error else "broken", stream.tokens
                if outcome != "ok":
                    reason = stream.error or "the stream ended without [DONE]"
            elif status < 400:
                tokens = (json.loads(answer).get("usage") or {}).get("completion_tokens", 0)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError, ssl.SSLError) as error:
            outcome = "broken" if connection.began else "lost"
            reason = "no whole answer within %g s" % self.deadline if isinstance(error, asyncio.TimeoutError) else str(error)
            await connection.close()
        if reason and (reason in self.reasons or len(self.reasons) < 100):
            self.reasons[reason] += 1
        now = time.monotonic()
        first = stream.first - began if stream and stream.first else None
        self.results.append(Result(began, now - began, first, status, outcome, tokens, headers.get("x-llama-instance", ""),
                                   int(headers.get("x-queue-wait", 0) or 0) / 1000))
        if self.on_result:
            self.on_result(self.results[-1])

    async def worker(self):
        connection = Connection(self.target)
        try:
            while not self.stopped and self.left > 0 and time.monotonic() < self.end:
                self.left -= 1
                await self.one(connection)
                if self.results[-1].outcome == "lost":
                    await asyncio.sleep(0.1)        # nobody is there: no busy loop
        finally:
            await connection.close()

    async def run(self):
        self.start = time.monotonic()
        self.end = self.start + self.seconds
        await asyncio.gather(*(self.worker() for _ in range(self.concurrency)))
        self.elapsed = time.monotonic() - self.start
        return self.results


def percentile(values, p):
    """The nearest-rank percentile of sorted values."""
    return values[max(0, min(len(values) - 1, math.ceil(len(values) * p / 100) - 1))]


def spread(values):
    """{"min","avg","p50","p95","p99","max"} in milliseconds, {} of nothing."""
    values = sorted(v for v in values if v is not None)
    if not values:
        return {}
    return {"min": values[0] * 1e3, "avg": sum(values) / len(values) * 1e3, "p50": percentile(values, 50) * 1e3,
            "p95": percentile(values, 95) * 1e3, "p99": percentile(values, 99) * 1e3, "max": values[-1] * 1e3}


def summary(load):
    good = [r for r in load.results if r.outcome == "ok"]
    tokens = sum(r.tokens for r in good)
    return {
        "requests": len(load.results), "concurrency": load.concurrency, "seconds": round(load.elapsed, 3),
        "outcomes": dict(collections.Counter(r.outcome for r in load.results)),
        "statuses": {str(s): n for s, n in sorted(collections.Counter(r.status for r in load.results).items())},
        "reasons": dict(load.reasons.most_common(5)),
        "instances": dict(sorted(collections.Counter(r.instance for r in good if r.instance).items())),
        "requests_per_second": len(good) / load.elapsed if load.elapsed else 0,
        "latency_ms": spread(r.duration for r in good), "first_token_ms": spread(r.first for r in good),
        "queued_ms": spread(r.waited for r in good),
        "tokens": tokens, "tokens_per_second": tokens / load.elapsed if load.elapsed else 0,
        "tokens_per_second_per_request": (sum(r.tokens / r.duration for r in good) / len(good)) if good else 0,
    }


def show(told):
    def line(name, figures):
        if figures:
            print("%-16s" % name + "  ".join("%s %.1f ms" % (k, v) for k, v in figures.items()))
    total = told["requests"] or 1
    print("%-16s%d in %.1f s, %d at a time, %.1f/s" % ("requests", told["requests"], told["seconds"], told["concurrency"],
                                                     told["requests_per_second"]))
    print("%-16s%.2f %%  (%s)" % ("success", 100 * told["outcomes"].get("ok", 0) / total,
                                  ", ".join("%s %d" % one for one in sorted(told["outcomes"].items())) or "none"))
    print("%-16s%s" % ("statuses", "  ".join("%s×%d" % (s if s != "0" else "none", n) for s, n in told["statuses"].items())))
    for reason, n in told["reasons"].items():
        print("%-16s%d× %s" % ("", n, reason[:200]))
    line("latency", told["latency_ms"])
    line("first token", told["first_token_ms"])
    line("queued", told["queued_ms"])
    if told["tokens"]:
        print("%-16s%d, %.1f/s in all, %.1f/s a request" % ("tokens", told["tokens"], told["tokens_per_second"],
                                                            told["tokens_per_second_per_request"]))
    if told["instances"]:
        print("%-16s%s" % ("instances", "  ".join("%s %d" % one for one in told["instances"].items())))


def body_maker(model, prompt, max_tokens, stream):
    """Body number i; each has a text of its own, so that a prompt cache does not answer for the model."""
    def make(i):
        body = {"messages": [{"role": "user", "content": "%s (%d)" % (prompt, i)}], "max_tokens": max_tokens, "stream": stream}
        if model:
            body["model"] = model
        return json.dumps(body).encode()
    return make


def add_arguments(parser):
    parser.add_argument("--url", default="http://127.0.0.1:8077", help="the gateway (default %(default)s), or unix:/PATH")
    parser.add_argument("--model", help="model id to ask for (default: the gateway's own)")
    parser.add_argument("--prompt", default="Tell me about the quick brown fox")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer (default %(default)s)")
    parser.add_argument("--no-stream", action="store_true", help="whole answers instead of streams")
    parser.add_argument("--concurrency", "-c", type=int, default=4, help="requests under way at a time (default %(default)s)")
    parser.add_argument("--deadline", type=float, default=120, help="seconds after which a request counts as lost (default %(default)g)")
    parser.add_argument("--key-file", help="file with an API key")
    parser.add_argument("--no-verify", action="store_true", help="https without looking at the certificate")
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def read_key(path):
    if not path:
        return None
    try:
        with open(path) as f:
            return f.read().strip()
    except OSError as error:
        raise SystemExit("--key-file %s: %s" % (path, error.strerror)) from None
