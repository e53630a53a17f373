"""A Convex backend with llama-farm's worker functions, as far as a worker can tell: the sync WebSocket, the HTTP API, jobs, and the memory of
which (session, requestId) was done already. Written from the recorded conversation (tests/scenario/convex-frames.jsonl) and from what the
real functions do; the real npm client works with it as well (test_convex.py)."""
import asyncio
import base64
import json
import struct

import websockets

from pipes import Loop


class Refused(Exception):
    pass


class Connection:
    def __init__(self, ws):
        self.ws, self.session, self.version, self.ts, self.queries = ws, None, 0, 0, {}

    def state(self):
        return {"querySet": self.version, "identity": 0, "ts": base64.b64encode(struct.pack("<Q", self.ts)).decode()}


class ConvexDouble(Loop):
    """keys: who may work. add_job() queues; jobs[id] is what became of it. frames: all that was said, in order."""

    def __init__(self, keys=("k1",), chains=True, redact=False):
        super().__init__()
        self.keys, self.chains, self.redact = set(keys), chains, redact
        self.jobs, self.frames, self.done, self.calls = {}, [], {}, []
        self.connections, self.transports, self.clock, self.number = set(), set(), 1000, 0
        self.refuse_upgrades = False    # no WebSocket: HTTP alone
        self.http_status = None         # of everything over HTTP
        self.cut = None                 # cut(msg) true: the mutation is done, and the connection dies before its answer
        self.lie_null = False           # giveMeWork says null though there is work
        self.bad_transition = False
        self.give_tried = True          # a job may come back to who has failed it; the real ones do so in one of ten cases
        self.run(self.start())

    async def start(self):
        self.inner = await websockets.serve(self.on_socket, "127.0.0.1", 0, max_size=None, compression=None, ping_interval=None)
        self.inner_port = self.inner.sockets[0].getsockname()[1]
        self.outer = await asyncio.start_server(self.on_front, "127.0.0.1", 0)
        self.port = self.outer.sockets[0].getsockname()[1]
        self.url = "http://127.0.0.1:%d" % self.port

    def close(self):
        async def end():
            self.outer.close()
            self.drop_now()
            self.inner.close()
            await self.inner.wait_closed()
        self.run(end())
        super().close()

    # -- the two doors of one port

    async def on_front(self, reader, writer):
        self.transports.add(writer.transport)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST "):
                await self.on_http(head, reader, writer)
            elif self.refuse_upgrades:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
            else:
                await self.splice(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.transports.discard(writer.transport)
            writer.close()

    async def splice(self, head, reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.inner_port)
        inner_writer.write(head)

        async def copy(source, target):
            try:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            except ConnectionError:
                pass
            target.close()
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async def on_http(self, head, reader, writer):
        lines = head.decode().split("\r\n")
        path = lines[0].split()[1]
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        assert headers["convex-client"].startswith("llama-supervisor-") and body["format"] == "json"
        status, answer = 200, {}
        if self.http_status:
            status, answer = self.http_status, {"code": "Overloaded", "message": "later"}
        else:
            try:
                answer = {"status": "success", "value": self.call(body["path"], body["args"]), "logLines": []}
            except Refused as refused:
                answer = {"status": "error", "errorMessage": self.words(refused), "logLines": []}
        self.frames.append({"dir": "HTTP " + path, "msg": {"req": body, "res": answer}})
        if self.cut and self.cut(body):
            self.cut = None
            writer.transport.abort()
            return
        text = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(text)) + text)
        await writer.drain()
        await self.publish()

    # -- the sync protocol

    async def on_socket(self, ws, path):
        c = Connection(ws)
        self.frames.append({"dir": "OPEN", "msg": path})
        self.connections.add(c)
        try:
            async for text in ws:
                message = json.loads(text)
                self.frames.append({"dir": "C->S", "msg": message})
                await getattr(self, "on_" + message["type"])(c, message)
        except websockets.ConnectionClosed:
            pass
        finally:
            self.connections.discard(c)
            self.frames.append({"dir": "CLOSE", "msg": str(ws.close_code)})

    async def send(self, c, message):
        self.frames.append({"dir": "S->C", "msg": message})
        try:
            await c.ws.send(json.dumps(message))
        except websockets.ConnectionClosed:
            pass

    async def transition(self, c, modifications, version=None, ts=None):
        start = c.state()
        c.version = c.version if version is None else version
        self.clock += 1
        c.ts = max(self.clock, ts or 0)
        if self.bad_transition:
            self.bad_transition = False
            start["querySet"] += 7
        await self.send(c, {"type": "Transition", "startVersion": start, "endVersion": c.state(), "modifications": modifications})

    async def fatal(self, c, error):
        await self.send(c, {"type": "FatalError", "error": error})
        await c.ws.close()

    async def on_Connect(self, c, message):
        c.session = message["sessionId"]

    async def on_Event(self, c, message):
        pass

    async def on_ModifyQuerySet(self, c, message):
        if message["baseVersion"] != c.version or message["newVersion"] != c.version + 1:
            await self.fatal(c, "BaseVersionMismatch")
            return
        told = []
        for m in message["modifications"]:
            if m["type"] == "Add":
                assert m["udfPath"].replace(".js", "") == "workers:isThereWork" and m["args"] == [{}], m
                value = self.is_there_work()
                c.queries[m["queryId"]] = value
                told.append({"type": "QueryUpdated", "queryId": m["queryId"], "value": value, "logLines": [], "journal": None})
            else:
                c.queries.pop(m["queryId"])
                told.append({"type": "QueryRemoved", "queryId": m["queryId"]})
        await self.transition(c, told, version=message["newVersion"])

    async def on_Mutation(self, c, message):
        identity = (c.session, message["requestId"])
        if identity in self.done:
            answer = dict(self.done[identity])
        else:
            self.clock += 1
            answer = {"type": "MutationResponse", "requestId": message["requestId"], "logLines": []}
            try:
                answer.update(success=True, result=self.call(message["udfPath"].replace(".js", ""), message["args"][0]))
                answer["ts"] = base64.b64encode(struct.pack("<Q", self.clock)).decode()
                self.done[identity] = answer
            except Refused as refused:
                answer.update(success=False, result=self.words(refused), ts=None)
        if self.cut and self.cut(message):
            self.cut = None
            self.drop_now()
            return
        await self.send(c, answer)
        await self.publish(always=c)

    async def publish(self, always=None):
        """Who asks is told what changed."""
        value = self.is_there_work()
        for c in list(self.connections):
            changed = [q for q, told in c.queries.items() if told != value]
            if changed or c is always:
                c.queries.update(dict.fromkeys(changed, value))
                await self.transition(c, [{"type": "QueryUpdated", "queryId": q, "value": value, "logLines": [], "journal": None}
                                          for q in changed])

    def drop_now(self):
        for transport in list(self.transports):
            transport.abort()

    def drop(self):
        """Every connection dies without a word."""
        async def now():
            self.drop_now()
        self.run(now())

    # -- the worker's functions

    def words(self, refused):
        return "[Request ID: 0123456789abcdef] Server Error" + ("" if self.redact else "\nUncaught Error: %s\n  at handler" % refused)

    def call(self, path, args):
        if path == "workers:isThereWork":
            return self.is_there_work()
        self.calls.append((path, {k: v for k, v in args.items() if k != "apiKey"}))
        if args["apiKey"] not in self.keys:
            raise Refused("Invalid API key")
        return {"workers:giveMeWork": self.give, "workers:imStillWorking": self.beat, "workers:submitWork": self.submit}[path](args)

    def is_there_work(self):
        return any(job["status"] == "pending" for job in self.jobs.values())

    def give(self, args):
        if self.lie_null:
            return None
        for name, job in self.jobs.items():
            if job["status"] == "pending" and (self.give_tried or args["apiKey"] not in job["tried"]):
                job.update(status="inProgress", worker=args["apiKey"], claims=job["claims"] + 1)
                given = {"jobId": name, "stream": job["stream"], "messages": job["messages"]}
                if job["model"]:
                    given["model"] = job["model"]
                return given
        return None

    def mine(self, args):
        job = self.jobs.get(args["jobId"])
        if not job or job["worker"] != args["apiKey"]:
            raise Refused("Job is not assigned to this worker")
        if job["status"] != "inProgress":
            raise Refused("Job is not in progress: " + job["status"])
        return job

    def beat(self, args):
        self.mine(args)["beats"] += 1

    def submit(self, args):
        job = self.mine(args)
        job["text"] += args["message"]
        if args["state"] == "streaming":
            job["pieces"].append(args["message"])
            return None
        if args["state"] == "success":
            job["status"] = "success"
        else:
            job["tried"].add(args["apiKey"])
            job.update(status="pending" if job["claims"] < 3 else "failed", worker=None)
        return self.give(args) if self.chains else None

    # -- the test's own hand

    def add_job(self, text="hi", model="llama3", stream=True):
        async def add():
            self.number += 1
            name = "%028djobs" % self.number
            self.jobs[name] = {"status": "pending", "messages": [{"content": text, "role": "user"}], "model": model, "stream": stream,
                               "worker": None, "tried": set(), "text": "", "pieces": [], "claims": 0, "beats": 0}
            await self.publish()
            return name
        return self.run(add())

    def ping(self):
        async def send():
            for c in list(self.connections):
                await self.send(c, {"type": "Ping"})
        self.run(send())

    def said(self, direction="C->S"):
        return [f["msg"] for f in list(self.frames) if f["dir"] == direction]
