"""A llama-server of one answer, that keeps the headers of what it was asked."""
import contextlib
import http.server
import json
import threading

import harness


class Recorder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.say({"/health": {"status": "ok"}, "/v1/models": {"object": "list", "data": [{"id": "tiny"}]},
                  "/slots": [{"id": 0, "is_processing": False}]}.get(path, {"total_slots": 1}))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append({key.lower(): value for key, value in self.headers.items()})
        self.say({"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
                  "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def recording():
    """A server whose .asked are the headers of each POST, in lower case, and whose .url is its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.daemon_threads, server.asked, server.url = True, [], "http://127.0.0.1:%d" % server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(harness.PATIENCE)
