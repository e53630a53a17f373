"""What the scenarios of the feed share: node programs driven by lines, and a WebSocket made by hand, frame by frame."""
import base64
import hashlib
import json
import os
import socket
import struct
import threading
import time
import urllib.parse

import harness

NODE = os.path.join(harness.SOURCE, "tests", "node")


class Node:
    """A program of tests/node; told() is the list of what it said so far."""

    def __init__(self, script, *args):
        assert os.path.isdir(os.path.join(NODE, "node_modules")), "run scripts/test, or npm ci in tests/node"
        self.process = harness.spawn(["node", os.path.join(NODE, script), *args], stdin=harness.subprocess.PIPE,
                                     stdout=harness.subprocess.PIPE, stderr=harness.subprocess.STDOUT, text=True)
        self.said, self.changed = [], threading.Condition()
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        for line in self.process.stdout:
            try:
                one = json.loads(line)
            except ValueError:
                one = {"what": "noise", "data": line}
            with self.changed:
                self.said.append(one)
                self.changed.notify_all()
        with self.changed:
            self.said.append({"what": "exit", "data": None})
            self.changed.notify_all()

    def wait(self, what, question=lambda data: True, start=0, timeout=harness.PATIENCE):
        """The data of the first thing of this kind (from index start on) for which question(data) is true."""
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                for one in self.said[start:]:
                    if one["what"] == what and question(one["data"]):
                        return one["data"]
                assert time.monotonic() < end, "no %s within %g s; it told: %s" % (what, timeout, self.said[-10:])
                assert not (self.said and self.said[-1]["what"] == "exit"), self.said[-10:]
                self.changed.wait(0.5)

    def mark(self):
        with self.changed:
            return len(self.said)

    def count(self, what):
        with self.changed:
            return sum(one["what"] == what for one in self.said)

    def send(self, line):
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
        self.process.stdin.flush()

    def close(self):
        if not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        self.process.wait(harness.PATIENCE)
        self.thread.join(harness.PATIENCE)
        self.process.stdout.close()


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class RawWebSocket:
    """RFC 6455 by hand, so that the rules can be broken, too."""

    def __init__(self, address, path="/ws", headers=(), key="dGhlIHNhbXBsZSBub25jZQ==", behind=b"", expect=101):
        netloc = urllib.parse.urlsplit(address)
        self.socket = socket.create_connection((netloc.hostname, netloc.port), timeout=harness.PATIENCE)
        head = ["GET %s HTTP/1.1" % path, "Host: " + netloc.netloc, "Connection: Upgrade", "Upgrade: websocket",
                "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key, *headers]
        self.socket.sendall(("\r\n".join(head) + "\r\n\r\n").encode() + behind)
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        self.head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.status = int(self.head.split(b" ")[1])
        assert self.status == expect, self.head + self.buffer
        if expect == 101:
            accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
            assert b"\r\nSec-WebSocket-Accept: " + accept in self.head, self.head

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("closed by the server")
        self.buffer += data

    def exactly(self, n):
        while len(self.buffer) < n:
            self.more()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def frame(self):
        """opcode and payload of the next frame, which must be whole, plain and not masked."""
        first, length = self.exactly(2)
        assert first & 0xF0 == 0x80 and not length & 0x80, (first, length)
        if length == 126:
            length = struct.unpack("!H", self.exactly(2))[0]
        elif length == 127:
            length = struct.unpack("!Q", self.exactly(8))[0]
        return first & 15, self.exactly(length)

    def message(self, question=lambda message: True):
        """The next text message, parsed, for which question(message) is true; pings are answered."""
        while True:
            opcode, payload = self.frame()
            if opcode == PING:
                self.send(payload, PONG)
            assert opcode in (TEXT, PING), (opcode, payload)
            if opcode == TEXT and question(json.loads(payload)):
                return json.loads(payload)

    def closed(self):
        """The close code; 1006 when there was none."""
        try:
            while True:
                opcode, payload = self.frame()
                if opcode == CLOSE:
                    return struct.unpack("!H", payload[:2])[0] if payload else 1005
        except (EOFError, ConnectionResetError):
            return 1006

    def send(self, payload, opcode=TEXT, fin=True, mask=b"\x12\x34\x56\x78", rsv=0, length=None):
        """mask=None sends it plain; length overrides what the head tells."""
        payload = payload.encode() if isinstance(payload, str) else payload
        n = len(payload) if length is None else length
        head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
        masked = 0x80 if mask else 0
        if n < 126:
            head += bytes([masked | n])
        elif n < 65536:
            head += bytes([masked | 126]) + struct.pack("!H", n)
        else:
            head += bytes([masked | 127]) + struct.pack("!Q", n)
        if mask:
            head += mask
            payload = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        self.socket.sendall(head + payload)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
