"""serve(): a service from its start to its drain, with health, reflection and background work."""

import asyncio
import inspect
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_reflection.v1alpha import reflection
from structlog.typing import FilteringBoundLogger

from anneal.transport import Option
from services.common.channels import SERVER_OPTIONS
from services.common.errors import DetailEncoders, Errors
from services.common.health import Health, Probe, Watchdog
from services.common.interceptors import Chain
from services.common.listening import PortTaken, ServerSettings, Unsafe, bind, require_safe
from services.common.policies import methods_of, read_policies
from services.common.process import Fatal, StartupError

__all__ = [
    "Background",
    "BackgroundDied",
    "PortTaken",
    "ServerSettings",
    "Service",
    "Unimplemented",
    "Unsafe",
    "running",
    "serve",
]

Background = Callable[[], Awaitable[None]]
"""Work beside the calls (a relay, a consumer, a reaper): runs until it is cancelled."""

log: FilteringBoundLogger = structlog.get_logger(__name__)


class BackgroundDied(Fatal):
    """Background work ended by itself. Without it the service would only seem to work."""


class Unimplemented(StartupError):
    """A servicer lacks a method of its proto, or has it in a form that is not served."""


@dataclass(frozen=True)
class Service:
    """A servicer, the full name of its service and the generated `add_…Servicer_to_server`.

    `deadlines_s` gives unary methods (by name) another default deadline than the server's.
    """

    name: str
    add_to_server: Callable[[Any, Any], None]
    servicer: object
    deadlines_s: Mapping[str, float] = field(default_factory=dict[str, float])


async def serve(
    settings: ServerSettings,
    services: Sequence[Service],
    probes: Mapping[str, Probe],
    background: Sequence[Background] = (),
    *,
    detail_encoders: DetailEncoders | None = None,
    on_ready: Callable[[str], None] | None = None,
    options: Sequence[Option] = SERVER_OPTIONS,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains and returns.

    NOT_SERVING until every probe has answered. `on_ready` gets the bound address once it serves.
    Raises StartupError before anything is served, BackgroundDied when background work ends.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _started(
        settings, services, probes, background, detail_encoders, on_ready, options
    ) as server:
        await _first(asyncio.create_task(stop.wait()), *server.tasks)


@asynccontextmanager
async def running(
    settings: ServerSettings,
    services: Sequence[Service],
    probes: Mapping[str, Probe],
    background: Sequence[Background] = (),
    *,
    detail_encoders: DetailEncoders | None = None,
    on_ready: Callable[[str], None] | None = None,
    options: Sequence[Option] = SERVER_OPTIONS,
    wait_serving: bool = True,
) -> AsyncGenerator[str]:
    """The same server inside a test: yields the bound address, stops it at the end."""
    async with _started(
        settings, services, probes, background, detail_encoders, on_ready, options
    ) as server:
        if wait_serving:
            await _first(asyncio.create_task(server.health.wait_serving()), *server.tasks)
        yield server.address
        for task in server.tasks:
            if task.done():
                task.result()


@dataclass(frozen=True)
class _Started:
    address: str
    health: Health
    tasks: Sequence[asyncio.Task[None]]


@asynccontextmanager
async def _started(
    settings: ServerSettings,
    services: Sequence[Service],
    probes: Mapping[str, Probe],
    background: Sequence[Background],
    detail_encoders: DetailEncoders | None,
    on_ready: Callable[[str], None] | None,
    options: Sequence[Option],
) -> AsyncGenerator[_Started]:
    health = Health([service.name for service in services])
    server = _server(settings, services, Errors(detail_encoders), health, options)
    address = bind(server, settings)
    await server.start()
    log.info("server.listening", address=address)
    watchdog = Watchdog(
        health,
        probes,
        partial(_announce, address, on_ready),
        every_s=settings.probe_every_s,
        timeout_s=settings.probe_timeout_s,
    )
    tasks = [asyncio.create_task(_undying(work)) for work in (watchdog.run, *background)]
    try:
        yield _Started(address, health, tasks)
    finally:
        log.info("server.stopping", address=address)
        await health.close()
        await asyncio.sleep(settings.drain_s)
        await server.stop(settings.grace_s)
        await _cancelled(*tasks)
        log.info("server.stopped", address=address)


def _server(
    settings: ServerSettings,
    services: Sequence[Service],
    errors: Errors,
    health: Health,
    options: Sequence[Option],
) -> grpc.aio.Server:
    require_safe(settings)
    chain = Chain(
        read_policies([service.name for service in services]),
        errors,
        settings.keys(),
        default_deadline_s=settings.default_deadline_s,
        deadlines_s={
            f"/{service.name}/{method}": limit_s
            for service in services
            for method, limit_s in service.deadlines_s.items()
        },
    )
    server = grpc.aio.server(options=list(options))
    for service in services:
        _require_implemented(service)
        chain.register(service.add_to_server, service.servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if settings.reflected:
        names = [*(service.name for service in services), HEALTH_SERVICE, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
    return server


def _require_implemented(service: Service) -> None:
    wrong = [
        method.name
        for method in methods_of(service.name)
        if not _is_async(getattr(service.servicer, method.name, None), method.server_streaming)
    ]
    if wrong:
        raise Unimplemented(
            f"{type(service.servicer).__name__} must have {', '.join(wrong)} of {service.name} as "
            "async methods, those that answer with a stream as async generators"
        )


def _is_async(method: object, streams: bool) -> bool:
    return inspect.isasyncgenfunction(method) if streams else inspect.iscoroutinefunction(method)


def _announce(address: str, on_ready: Callable[[str], None] | None) -> None:
    log.info("server.ready", address=address)
    if on_ready is not None:
        on_ready(address)


async def _undying(work: Background) -> NoReturn:
    name = getattr(work, "__qualname__", repr(work))
    try:
        await work()
    except Exception as error:
        log.error("background.died", work=name, exc_info=error)
        raise BackgroundDied(f"{name} died: {error!r}") from error
    log.error("background.ended", work=name)
    raise BackgroundDied(f"{name} ended")


async def _first(wanted: asyncio.Task[Any], *others: asyncio.Task[None]) -> None:
    """Returns when `wanted` is done, raises what another raises before."""
    try:
        await asyncio.wait([wanted, *others], return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            if task.done():
                task.result()
    finally:
        await _cancelled(wanted)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
