"""A server of the test's own behind the gateway: it writes down what it is asked, byte by byte, and answers what the test says.

The daemon adopts it: {"name": …, "adopt": peer.address}. It answers the daemon's own questions (/health, /v1/models, /props, …) as a
llama-server does; everything else is recorded, and answered by peer.answer(request), which returns the raw bytes of the answer, or
None to answer later, or to be handed the socket: peer.answer = lambda request: request.socket.sendall(…).
"""
import json
import socket
import threading


class Request:
    def __init__(self, raw_head, body, connection):
        self.raw_head, self.body, self.socket = raw_head, body, connection
        lines = raw_head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ")
        self.lines = [tuple(line.split(": ", 1)) for line in lines[1:] if line]
        self.headers = {name.lower(): value for name, value in self.lines}
        self.gone = threading.Event()

    @property
    def json(self):
        return json.loads(self.body)

    def wait_gone(self, timeout=30):
        """The other side has closed."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass


def reply(body, status="200 OK", content_type="application/json", extra=""):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return ("HTTP/1.1 %s\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: *\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n"
            "Keep-Alive: timeout=5, max=100\r\n\r\n" % (status, content_type, extra, len(body))).encode() + body


STREAM_HEAD = (b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nX-Accel-Buffering: no\r\n"
               b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n")
STREAM_END = b"0\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class Peer:
    def __init__(self, slots=4, name="peer"):
        self.slots, self.name = slots, name
        self.requests, self.answer = [], lambda request: reply({"ok": True})
        self.changed = threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.open, self.closing = set(), False
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def close(self):
        self.closing = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(30)
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.open.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        kept = b""
        try:
            while True:
                while b"\r\n\r\n" not in kept:
                    more = connection.recv(65536)
                    if not more:
                        return
                    kept += more
                head, kept = kept.split(b"\r\n\r\n", 1)
                request = Request(head, b"", connection)
                length = int(request.headers.get("content-length", "0"))
                while len(kept) < length:
                    more = connection.recv(65536)
                    if not more:
                        return
                    kept += more
                request.body, kept = kept[:length], kept[length:]
                if not self.serve_daemon(request):
                    with self.changed:
                        self.requests.append(request)
                        self.changed.notify_all()
                    raw = self.answer(request)
                    if raw is None:
                        return
                    connection.sendall(raw)
        except OSError:
            pass

    def serve_daemon(self, request):
        path = request.target.split("?")[0]
        if request.method != "GET" or "x-request-id" in request.headers:
            return False
        told = {"/health": {"status": "ok"},
                "/v1/models": {"object": "list", "data": [{"id": self.name, "object": "model", "meta": {}}]},
                "/props": {"total_slots": self.slots, "default_generation_settings": {"n_ctx": 2048}},
                "/slots": []}.get(path)
        request.socket.sendall(reply(told) if told is not None else
                               reply({"error": {"message": "File Not Found"}}, "404 Not Found"))
        return True

    def wait(self, n=1, timeout=30):
        """The nth request (from 1), when it is there."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= n, timeout), "only %d requests came" % len(self.requests)
            return self.requests[n - 1]
