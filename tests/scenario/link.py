"""A link that can be cut: a TCP proxy between one program and one server, in a thread of its own."""
import asyncio

from harness import free_port
from pipes import Loop


class Link(Loop):
    """port: where whoever shall be cut off connects to; all others go to the server itself. cut(): what is open is reset, and nobody gets in
    (connections are refused) until mend(). made: connections that got through so far."""

    def __init__(self, server_port):
        super().__init__()
        self.server_port, self.port, self.door, self.writers, self.made = server_port, free_port(), None, set(), 0
        self.mend()

    def mend(self):
        async def listen():
            self.door = await asyncio.start_server(self.pass_on, "127.0.0.1", self.port)
        self.run(listen())

    def cut(self):
        async def end():
            self.door.close()
            for writer in list(self.writers):
                writer.transport.abort()
        self.run(end())

    async def pass_on(self, reader, writer):
        self.writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            self.drop(writer)
            return
        self.writers.add(far_writer)
        self.made += 1
        await asyncio.gather(self.copy(reader, far_writer), self.copy(far_reader, writer))
        self.drop(writer)
        self.drop(far_writer)

    def drop(self, writer):
        writer.transport.abort()
        self.writers.discard(writer)

    async def copy(self, source, target):
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        target.transport.abort()

    def close(self):
        self.cut()
        super().close()
