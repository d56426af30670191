"""What surrounds every call: request id and access log → errors → auth → deadline → handler.

gRPC's own interceptors see no request and cost every call a look-up. So the handlers are wrapped
once, when a servicer is registered.
"""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message
from structlog.typing import FilteringBoundLogger

from services.common.auth import ANONYMOUS, KeyRing, Principal, authorize, authorize_request
from services.common.errors import Context, DeadlineExceeded, Errors
from services.common.ids import NewId, random_id
from services.common.policies import MethodPolicy, PolicyMissing

REQUEST_ID = "x-request-id"
AUTHORIZATION = "authorization"
DEFAULT_DEADLINE_S = 30.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OUR_FAULT = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
_ON_ITS_WAY_S = 0.25

# grpc's classes are generic in their stubs only, hence the quotes.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Proceed = Callable[[], Awaitable[Any]]
Around = Callable[[Context, Proceed], Awaitable[Any]]
Inspect = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class Call:
    """The call that is being answered. `ends_at` is on the monotonic clock; None = no deadline."""

    request_id: str
    method: str
    principal: Principal = ANONYMOUS
    ends_at: float | None = None

    def remaining_s(self) -> float | None:
        """Seconds until the caller gives up, None if it never does."""
        return None if self.ends_at is None else max(0.0, self.ends_at - monotonic())


_current: ContextVar[Call | None] = ContextVar("anneal_call", default=None)


def current_call() -> Call:
    """The call of this task. Raises LookupError outside of one."""
    call = _current.get()
    if call is None:
        raise LookupError("no call is being answered in this task")
    return call


def find_call() -> Call | None:
    """The call of this task, None outside of one."""
    return _current.get()


def wrap(handler: Handler, around: Around, inspect_request: Inspect) -> Handler:
    """The same kind of handler, run inside `around`, with its first request inspected before it.

    The handler of a client stream starts when the first message is there. Server streams are async
    generators, closed as soon as the client is gone.
    """
    if handler.request_streaming:
        behaviour = partial(_stream_in, _behaviour(handler), around, inspect_request)
    else:
        behaviour = partial(_unary_in, _behaviour(handler), around, inspect_request)
    return _MAKERS[handler.request_streaming, handler.response_streaming](
        behaviour, handler.request_deserializer, handler.response_serializer
    )


_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


async def _unary_in(
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    around: Around,
    inspect_request: Inspect,
    request: Message,
    context: Context,
) -> Any:
    def proceed() -> Awaitable[Any]:
        inspect_request(request)
        return behaviour(request, context)

    return await around(context, proceed)


async def _stream_in(
    behaviour: Callable[[Any, Context], Awaitable[Any]],
    around: Around,
    inspect_request: Inspect,
    requests: AsyncIterator[Message],
    context: Context,
) -> Any:
    async def proceed() -> Any:
        first = await anext(requests, None)
        if first is not None:
            inspect_request(first)
        return await behaviour(_with_first(first, requests), context)

    return await around(context, proceed)


async def _with_first(
    first: Message | None, rest: AsyncIterator[Message]
) -> AsyncIterator[Message]:
    if first is None:
        return
    yield first
    async for message in rest:
        yield message


def _behaviour(handler: Handler) -> Callable[[Any, Context], Awaitable[Any]]:
    behaviour: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if not handler.response_streaming:
        return behaviour
    if not inspect.isasyncgenfunction(behaviour):
        raise TypeError(f"{behaviour!r} answers with a stream: write it as an async generator")
    return partial(_written, behaviour)


async def _written(
    behaviour: Callable[[Any, Context], Any], request: Any, context: Context
) -> None:
    async with aclosing(behaviour(request, context)) as messages:
        async for message in messages:
            await context.write(message)


@dataclass(frozen=True)
class _Registrar:
    """What generated code takes for the server: passes the handlers on, wrapped."""

    wrap: Callable[[str, Handler], Handler]
    server: grpc.aio.Server

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Registers every method of a service by its name."""
        wrapped = {
            name: self.wrap(f"/{service_name}/{name}", handler)
            for name, handler in method_handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service_name, wrapped)
        self.server.add_generic_rpc_handlers((generic,))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: object) -> None:
        """The same handlers again, in a form that hides their names: not needed."""


class Chain:
    """The layers around every method; a method without a policy cannot be registered.

    `keys` None means that every caller is `Principal.LOCAL`. A unary method without a deadline of
    the client's gets `deadlines_s[method]` or `default_deadline_s`; streams get none.
    """

    def __init__(
        self,
        policies: Mapping[str, MethodPolicy],
        errors: Errors,
        keys: KeyRing | None = None,
        *,
        default_deadline_s: float = DEFAULT_DEADLINE_S,
        deadlines_s: Mapping[str, float] | None = None,
        new_request_id: NewId = lambda: random_id("r"),
    ) -> None:
        self._policies = policies
        self._errors = errors
        self._keys = keys
        self._default_deadline_s = default_deadline_s
        self._deadlines_s = deadlines_s or {}
        self._new_request_id = new_request_id
        self._log: FilteringBoundLogger = structlog.get_logger("rpc").bind()

    def register(
        self, add_to_server: Callable[[Any, Any], None], servicer: object, server: grpc.aio.Server
    ) -> None:
        """Does what the generated `add_…Servicer_to_server` does, with the layers around."""
        add_to_server(servicer, _Registrar(self._wrap, server))

    def _wrap(self, method: str, handler: Handler) -> Handler:
        policy = self._policies.get(method)
        if policy is None:
            raise PolicyMissing(f"{method} is of no declared service")
        around: Around = _through
        if not (handler.request_streaming or handler.response_streaming):
            limit_s = self._deadlines_s.get(method, self._default_deadline_s)
            around = partial(_limited, around, limit_s)
        around = partial(self._authorized, around, policy)
        around = partial(self._answered, around, method)
        around = partial(self._logged, around, method)
        return wrap(handler, around, partial(_inspect, policy))

    async def _logged(self, inner: Around, method: str, context: Context, proceed: Proceed) -> Any:
        request_id = _accepted(_metadatum(context, REQUEST_ID)) or self._new_request_id()
        _current.set(Call(request_id, method, ANONYMOUS, _ends_at(context.time_remaining())))
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = perf_counter()
        code = "UNKNOWN"
        try:
            result = await inner(context, proceed)
            code = "OK"
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if _is_late(context.time_remaining()) else "CANCELLED"
            raise
        else:
            return result
        finally:
            write = self._log.error if code in _OUR_FAULT else self._log.info
            write(
                "rpc",
                method=method,
                code=code,
                duration_ms=round((perf_counter() - started) * 1000, 3),
                principal=current_call().principal.id,
            )

    async def _answered(
        self, inner: Around, method: str, context: Context, proceed: Proceed
    ) -> Any:
        try:
            return await inner(context, proceed)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await self._errors.answer(context, error, method)

    async def _authorized(
        self, inner: Around, policy: MethodPolicy, context: Context, proceed: Proceed
    ) -> Any:
        keys = self._keys
        principal = (
            Principal.LOCAL
            if keys is None
            else keys.authenticate(_metadatum(context, AUTHORIZATION))
        )
        call = current_call()
        _current.set(Call(call.request_id, call.method, principal, call.ends_at))
        authorize(principal, policy)
        return await inner(context, proceed)


async def _limited(inner: Around, limit_s: float, context: Context, proceed: Proceed) -> Any:
    call = current_call()
    if call.ends_at is not None:
        return await inner(context, proceed)
    _current.set(Call(call.request_id, call.method, call.principal, monotonic() + limit_s))
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await inner(context, proceed)
    except TimeoutError as error:
        if limit.expired():
            raise DeadlineExceeded from error
        raise


async def _through(context: Context, proceed: Proceed) -> Any:
    return await proceed()


def _inspect(policy: MethodPolicy, request: Message) -> None:
    authorize_request(current_call().principal, policy, request)


def _is_late(remaining: float | None) -> bool:
    """Whether a call that its client cancelled had run into its deadline, of which so many seconds
    remain. The client's clock for it is ahead of ours by the time that the call was on its way."""
    return remaining is not None and remaining < _ON_ITS_WAY_S


def _ends_at(remaining_s: float | None) -> float | None:
    return None if remaining_s is None else monotonic() + remaining_s


def _metadatum(context: Context, key: str) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return ""


def _accepted(request_id: str) -> str:
    return request_id if _REQUEST_ID.fullmatch(request_id) else ""
