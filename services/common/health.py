"""Health (grpc.health.v1): serving while every dependency answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.typing import FilteringBoundLogger

from services.common.errors import Context

Probe = Callable[[], Awaitable[None]]
"""Asks one dependency. Returns if it answers, raises if it does not."""

PROBE_TIMEOUT_S = 5.0
PROBE_EVERY_S = 2.0
FAILURES_TO_LOSE = 2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

log: FilteringBoundLogger = structlog.get_logger(__name__)


class Health(health_pb2_grpc.HealthServicer):
    """The state of the whole server, under "" and under each service's name. Starts NOT_SERVING.

    Unlike grpcio's own servicer it ends its watches when it closes, so that a watching load
    balancer does not hold up a graceful stop.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._names = frozenset({"", *services})
        self._serving = False
        self._closed = False
        self._changed = asyncio.Condition()

    @property
    def serving(self) -> bool:
        """Whether a check answers SERVING now."""
        return self._serving and not self._closed

    async def set(self, serving: bool) -> None:
        """Tells every watcher. Ignored after `close`."""
        async with self._changed:
            self._serving = serving
            self._changed.notify_all()

    async def close(self) -> None:
        """NOT_SERVING for good; watches end with it."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def wait_serving(self) -> None:
        """Returns once the server serves."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.serving)

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,
    ) -> health_pb2.HealthCheckResponse:
        """NOT_FOUND for a service that is not one of this server's."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._response(request.service)

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state now, then each change of it."""
        told = self._response(request.service)
        yield told
        while not self._closed:
            await self._change(request.service, told)
            if (now := self._response(request.service)) != told:
                told = now
                yield told

    async def _change(self, service: str, told: health_pb2.HealthCheckResponse) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._response(service) != told)

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in self._names:
            return health_pb2.HealthCheckResponse(status=_UNKNOWN)
        return health_pb2.HealthCheckResponse(status=_SERVING if self.serving else _NOT_SERVING)


class Watchdog:
    """Probes every dependency over and over and sets the health from the answers.

    All of them must answer once before the server serves. After that `FAILURES_TO_LOSE` failures in
    a row of one of them end it, and one success brings it back. `announce` is called when the
    server serves for the first time.
    """

    def __init__(
        self,
        health: Health,
        probes: Mapping[str, Probe],
        announce: Callable[[], None],
        *,
        every_s: float = PROBE_EVERY_S,
        timeout_s: float = PROBE_TIMEOUT_S,
    ) -> None:
        self._health = health
        self._probes = probes
        self._announce = announce
        self._announced = False
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._failures = dict.fromkeys(probes, FAILURES_TO_LOSE)

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            await asyncio.gather(*(self._ask(name) for name in self._probes))
            await self._judge()
            await asyncio.sleep(self._every_s)

    async def _ask(self, name: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._probes[name]()
        except Exception as error:  # whatever it is, the dependency did not answer
            self._failures[name] += 1
            reason = _first_line(error.__cause__)
            log.warning("health.probe_failed", probe=name, error=repr(error), reason=reason)
        else:
            self._failures[name] = 0

    async def _judge(self) -> None:
        lost = [name for name, failures in self._failures.items() if failures >= FAILURES_TO_LOSE]
        if self._health.serving and lost:
            log.error("health.lost", probes=lost)
            await self._health.set(False)
        elif not self._health.serving and not lost:
            log.info("health.serving")
            await self._health.set(True)
            if not self._announced:
                self._announced = True
                self._announce()


def _first_line(cause: BaseException | None) -> str:
    """What a driver says, of which the rest may be pages; "" without a cause."""
    return str(cause).partition("\n")[0] if cause else ""
