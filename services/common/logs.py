"""Logs: one event with fields per line, no secrets.

    log = structlog.get_logger(__name__)
    log.info("job.claimed", job=name, attempt=3)

A call's request id is added to every line written on its behalf; `structlog.contextvars.
bind_contextvars(project=…, job=…)` adds more.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
_SECRET_FIELDS = frozenset(
    {"api_key", "authorization", "credential", "password", "secret", "secret_key", "token"}
)
_API_KEY = re.compile(r"(anneal_[a-z0-9-]+_)[\w-]{16,}")
_URL_LOGIN = re.compile(r"(://)[^\s/@]+(?=@)")


def configure(
    level: str = "info", stream: TextIO | None = None, *, readable: bool | None = None
) -> None:
    """Sends our events and those of the libraries to `stream` (stderr).

    `readable` chooses `key=value` text over JSON lines; it defaults to whether the stream is a
    terminal.
    """
    out = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    for_people = out.isatty() if readable is None else readable
    renderer = _readable(out) if for_people else _json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(cast(Any, out)),
    )
    _route_libraries(shared, renderer, out, max(threshold, logging.WARNING))


def _route_libraries(
    shared: list[Processor], renderer: Processor, stream: TextIO, threshold: int
) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:-1], structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Blots out fields with a secret's name, our API keys and passwords in URLs, at any depth."""
    for name, value in event.items():
        event[name] = REDACTED if name in _SECRET_FIELDS else _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value).items()
        return {k: REDACTED if k in _SECRET_FIELDS else _redacted(v) for k, v in items}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in cast(list[Any], value)]
    return value


def redacted_text(text: str) -> str:
    """The text with API keys (`anneal_<id>_…`) and passwords in URLs blotted out."""
    if "anneal_" not in text and "://" not in text:
        return text
    text = _API_KEY.sub(rf"\1{REDACTED}", text)
    return _URL_LOGIN.sub(rf"\1{REDACTED}", text)


def _json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return orjson.dumps(event, default=lambda value: redacted_text(repr(value))).decode()


def _readable(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
