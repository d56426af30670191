"""What a forecast of the queue is made of, read from the tables."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import cycle, islice
from typing import Any

from sqlalchemy import Executable, func, select, union_all
from sqlmodel import col

from services.common.store import Session
from services.trainer.control.adapters.tables import JobRow, in_states
from services.trainer.control.domain.queue.experience import Kind, Past
from services.trainer.control.domain.queue.forecast import A_DAY, LOOKED_BACK, Held, Queued
from services.trainer.control.domain.queue.lines import line_named
from services.trainer.control.domain.states import HELD, State

_FIRST = 50
"""Of each line, so many are looked at one by one."""
_PAST_JOBS = 1_000

_QUEUED = in_states({State.QUEUED})
_KIND = (col(JobRow.line), col(JobRow.base_model), col(JobRow.spec))


async def queued(session: Session) -> tuple[Queued, ...]:
    """All lines. Reads the index alone but for the first jobs of each."""
    lines = select(col(JobRow.line), func.count()).where(_QUEUED).group_by(col(JobRow.line))
    counts = {line: jobs for line, jobs in await _rows(session, lines)}
    in_line = func.row_number().over(
        partition_by=col(JobRow.line), order_by=(col(JobRow.create_time), col(JobRow.name))
    )
    ranked = select(col(JobRow.name).label("name"), in_line.label("place")).where(_QUEUED)
    places = ranked.subquery()
    first = (
        select(col(JobRow.name), *_KIND)
        .join(places, places.c.name == col(JobRow.name))
        .where(places.c.place <= _FIRST)
        .order_by(col(JobRow.line), places.c.place)
    )
    found: dict[str, list[tuple[str, Kind]]] = defaultdict(list)
    for name, *kind in await _rows(session, first):
        found[kind[0]].append((name, _kind(*kind)))
    return tuple(
        Queued(line_named(line), jobs, tuple(found[line])) for line, jobs in counts.items()
    )


async def held(session: Session, now: datetime) -> tuple[Held, ...]:
    columns = (JobRow.node, JobRow.claim_time, JobRow.update_time, JobRow.progress)
    rows = await _rows(session, select(*map(col, columns), *_KIND).where(in_states(HELD)))
    return tuple(
        Held(node, _kind(*kind), _seconds(claimed, now) or 0.0, _eta_s(progress, updated, now))
        for node, claimed, updated, progress, *kind in rows
    )


async def past(session: Session) -> tuple[Past, ...]:
    """The last jobs that ended."""
    columns = (JobRow.create_time, JobRow.claim_time, JobRow.end_time)
    ended = (
        select(*map(col, columns), *_KIND)
        .where(col(JobRow.end_time).is_not(None))
        .order_by(col(JobRow.end_time).desc())
        .limit(_PAST_JOBS)
    )
    return tuple(
        Past(_kind(*kind), created, _seconds(claimed, end))
        for created, claimed, end, *kind in await _rows(session, ended)
    )


async def came(
    session: Session, now: datetime, lines: Sequence[Queued], ended: Sequence[Past]
) -> tuple[Kind, ...]:
    """One for each job that came of late, wherever it is now. Those that wait are taken to be like
    the first of their lines."""
    since = now - LOOKED_BACK
    counts = (
        select(col(JobRow.line), func.count())
        .where(_QUEUED, col(JobRow.create_time) >= since)
        .group_by(col(JobRow.line))
    )
    waiting = {line: jobs for line, jobs in await _rows(session, counts)}
    running = select(*_KIND).where(in_states(HELD), col(JobRow.create_time) >= since)
    kinds = [one.kind for one in ended if one.create_time >= since]
    kinds += [_kind(*kind) for kind in await _rows(session, running)]
    for one in lines:
        like = cycle([kind for _, kind in one.first])
        kinds += islice(like, waiting.get(one.line.key, 0))
    return tuple(kinds)


async def usual_rate(session: Session, now: datetime) -> float | None:
    """Of jobs that came in a day, a second; None if nothing has come for an hour and longer."""
    since = now - A_DAY
    came = col(JobRow.create_time) >= since
    known = union_all(
        *(
            select(func.count(), func.min(JobRow.create_time)).where(came, theirs)
            for theirs in (_QUEUED, in_states(HELD), col(JobRow.end_time) >= since)
        )
    )
    counts = await _rows(session, known)
    times = [time for _, time in counts if time is not None]
    span_s = _seconds(min(times), now) if times else None
    if span_s is None or span_s < LOOKED_BACK.total_seconds():
        return None
    return sum(jobs for jobs, _ in counts) / span_s


async def _rows(session: Session, wanted: Executable) -> Sequence[Any]:
    return (await (await session.connection()).execute(wanted)).all()


def _kind(line: str, base_model: str, spec: str) -> Kind:
    method, work = _method_and_work(spec)
    return Kind(line_named(line), base_model, method, work)


@lru_cache(maxsize=8192)
def _method_and_work(spec: str) -> tuple[str, float]:
    kept: dict[str, Any] = json.loads(spec)
    settings, sizes = kept["settings"], kept.get("sizes")
    method = settings["method"]["kind"] if "method" in settings else "lora"
    if sizes is None:
        return method, 0.0
    training, examples = settings["training"], sizes["examples"]
    read = training["epochs"] * examples["count"]
    if training["max_steps"]:
        read = training["max_steps"] * training["batch_size"]
    parameters = sizes["architecture"]["parameter_count"]
    return method, read * (examples["mean_tokens"] or 1.0) * parameters


def _seconds(begin: datetime | None, end: datetime) -> float | None:
    return None if begin is None else (end - begin) / timedelta(seconds=1)


def _eta_s(progress: str, updated: datetime, now: datetime) -> float | None:
    told = json.loads(progress)["eta_s"]
    return None if told is None else told - (now - updated) / timedelta(seconds=1)
