"""A TCP proxy that stands between a client and a server and breaks the connection at a chosen moment.

Knows nothing of the protocol: faults are chosen by bytes seen on the way.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field


@dataclass
class TcpProxy:
    """`on_request` / `on_answer` look at each chunk; returning False cuts the connection before it passes."""

    target_port: int
    port: int = 0
    on_request: Callable[[bytes], bool] = lambda _: True
    on_answer: Callable[[bytes], bool] = lambda _: True
    cuts: int = 0
    answers_pass: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: what the server says is held back until it is set again."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _left: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut_once(self, *, request: bytes | None = None, answer: bytes | None = None) -> None:
        """Cut when these bytes pass, one time; what carried them does not arrive."""

        def armed(needle: bytes, disarm: Callable[[], None]) -> Callable[[bytes], bool]:
            def look(chunk: bytes) -> bool:
                if needle not in chunk:
                    return True
                disarm()
                self.cuts += 1
                return False

            return look

        if request is not None:
            self.on_request = armed(request, lambda: setattr(self, "on_request", lambda _: True))
        if answer is not None:
            self.on_answer = armed(answer, lambda: setattr(self, "on_answer", lambda _: True))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        tasks = {
            asyncio.create_task(self._pump(reader, far_writer, False)),
            asyncio.create_task(self._pump(far_reader, writer, True)),
        }
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for side in pair:
            side.transport.abort()
        self._writers -= pair
        async with self._left:
            self._left.notify_all()

    async def unused(self) -> None:
        """Until nobody is connected through it."""
        async with self._left:
            await self._left.wait_for(lambda: not self._writers)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                if answers:
                    await self.answers_pass.wait()
                if not (self.on_answer if answers else self.on_request)(chunk):
                    return
                sink.write(chunk)
                await sink.drain()


@contextlib.asynccontextmanager
async def tcp_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    """A proxy on a free port of 127.0.0.1 that passes everything until told otherwise."""
    proxy = TcpProxy(target_port)
    proxy.answers_pass.set()
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        for writer in list(proxy._writers):
            writer.transport.abort()
