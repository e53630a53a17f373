#!/usr/bin/env python3
"""A stub that looks like llama-supervisor from outside, to test the harness: one instance, "a", on all five doors.

STUB_LIE=door makes that door (CLI, REST, WebSocket, SSE, Socket.IO) tell another cause than the others. STUB_LEAVE=1 leaves a
process behind at the end, STUB_CODE=N ends with that code."""
import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys

LIE = os.environ.get("STUB_LIE")


def data(door):
    return {"status": "crashed", "lastError": "nobody knows" if LIE == door else "exited with code 3", "retries": 2}


def message(door):
    return json.dumps({"type": "llama_status", "instance": "a", "seq": 1, "timestamp": 1, "data": data(door)})


def head(status, kind, length):
    return ("HTTP/1.1 %d X\r\nContent-Type: %s\r\nConnection: close\r\n%s\r\n" % (
        status, kind, "" if length is None else "Content-Length: %d\r\n" % length)).encode()


async def serve(reader, writer):
    try:
        request = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = request[0].split()
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in request[1:])}
        body = (await reader.readexactly(int(fields.get("content-length", 0)))).decode()
        path, _, query = target.partition("?")
        if path == "/ws":
            key = (fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
            accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
            text = message("WebSocket").encode()
            writer.write(("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n" %
                          accept).encode() + b"\x81\x7e" + len(text).to_bytes(2, "big") + text)
            await reader.read(1)                # the client closes: the first thing it says
            writer.write(b"\x88\x02\x03\xe8")
        elif path == "/api/v1/events":
            writer.write(head(200, "text/event-stream", None) + b": hello\n\ndata: " + message("SSE").encode() + b"\n\n")
            await reader.read()
        elif path == "/socket.io/":
            if method == "POST":
                answer = "ok"
                assert body in ("40", "1", "3"), body
            elif "sid=" not in query:
                answer = '0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
            else:
                await asyncio.sleep(0.05)
                assert "instance=a" in query
                answer = '40{"sid":"y"}\x1e42["llamaStatus",%s]\x1e2' % message("Socket.IO")
            writer.write(head(200, "text/plain", len(answer)) + answer.encode())
        else:
            one = {"name": "a", **data("REST")}
            known = {"/health": {"status": "ok"}, "/api/v1/instances": {"instances": [one]}, "/api/v1/instances/a": one}
            answer = json.dumps(known.get(path, {"error": {}})).encode()
            writer.write(head(200 if path in known else 404, "application/json", len(answer)) + answer)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def run(config):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    path = os.path.join(config["runtime_dir"], "listen.json")
    with open(path + ".new", "w") as f:
        json.dump({"listen": ["http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]]}, f)
    os.rename(path + ".new", path)
    await end.wait()
    if os.environ.get("STUB_LEAVE"):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    os._exit(int(os.environ.get("STUB_CODE", "0")))


if sys.argv[1] == "run":
    with open(sys.argv[sys.argv.index("--config") + 1]) as config_file:
        asyncio.run(run(json.load(config_file)))
elif sys.argv[1] == "status":
    print(json.dumps({"instances": [{"name": "a", **data("CLI")}]}))
else:
    sys.exit(2)
