"""A TCP proxy whose network can be made bad while connections live."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

_PIECE_BYTES = 64 * 1024


class FaultProxy:
    """One listening port on loopback before one upstream, a port too or a Unix socket.

        async with FaultProxy("127.0.0.1", port) as proxy:
            proxy.black_hole()      # peers hear nothing of each other, no connection closes
            proxy.heal()

    `latency_s` delays every piece; `bytes_per_s` holds each direction of a connection to a rate.
    `reset()` cuts every connection, `refuse()` also the next ones; `strand()` leaves them open, and
    nothing comes through any more, as on a router that has forgotten them.
    """

    def __init__(self, host: str, port: int, *, socket: Path | None = None) -> None:
        self._upstream = (host, port)
        self._socket = socket
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None

    @classmethod
    def to_socket(cls, path: Path) -> Self:
        return cls("", 0, socket=path)

    @property
    def address(self) -> str:
        """Where clients connect: `host:port`."""
        return f"127.0.0.1:{self.port}"

    def black_hole(self) -> None:
        """Holds every byte back."""
        self._passing.clear()

    def strand(self) -> None:
        """Holds every byte of the connections back that there are, for good; new ones pass."""
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()

    def refuse(self) -> None:
        """Cuts every connection, and new ones as soon as they are made."""
        self._refusing = True
        self.reset()

    def heal(self) -> None:
        """Passes bytes again as fast as they come, first those that were held back."""
        self.latency_s, self.bytes_per_s = 0.0, None
        self._refusing = False
        self._passing.set()

    def reset(self) -> None:
        """Cuts every connection now."""
        for connection in self._connections:
            connection.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._carry(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            if self._refusing:
                return
            up_reader, up_writer = await self._reached()
            writers.append(up_writer)
            passing = self._passing
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, up_writer, passing))
                pumps.create_task(self._pump(up_reader, writer, passing))
        except OSError:
            return  # the upstream is away, and the client learns it by the cut below
        finally:
            for one in writers:
                one.transport.abort()

    async def _reached(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._socket is not None:
            return await asyncio.open_unix_connection(self._socket)
        return await asyncio.open_connection(*self._upstream)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event
    ) -> None:
        try:
            while piece := await reader.read(_PIECE_BYTES):
                await passing.wait()
                await asyncio.sleep(self.latency_s)
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()
