"""Sweeps as rows, changed by whoever holds them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import and_, or_
from sqlmodel import col, select, update
from sqlmodel.sql.expression import SelectOfScalar

from services.common.store import Session, insert_new
from services.trainer.control.adapters.rows import Values, job_spec, spec_text
from services.trainer.control.adapters.tables import JobRow, SweepRow
from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.names import TuningJobName, TuningSweepName
from services.trainer.control.domain.ports import SweepQuery
from services.trainer.control.domain.states import State
from services.trainer.control.domain.sweeps.errors import TuningSweepExists
from services.trainer.control.domain.sweeps.sweep import (
    Candidate,
    Outcome,
    Scored,
    Sweep,
    SweepSpec,
    SweepState,
    Trial,
    Unscored,
)

_FRESH = {"populate_existing": True}
_DIRECT = {"synchronize_session": False}


class SqlSweeps:
    """The sweeps of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, sweep: Sweep) -> None:
        values = _fixed_values(sweep) | _changing_values(sweep)
        if not await insert_new(self._session, SweepRow, values):
            raise TuningSweepExists(sweep.name)

    async def find(self, name: TuningSweepName) -> Sweep | None:
        return await self._one(_named(name))

    async def hold(self, name: TuningSweepName) -> Sweep | None:
        """SQLite has one writer, who needs no lock on a row."""
        return await self._one(_named(name).with_for_update())

    async def replace(self, after: Sweep) -> None:
        row = update(SweepRow).where(col(SweepRow.name) == str(after.name))
        await self._session.exec(row.values(_changing_values(after)), execution_options=_DIRECT)

    async def newest(self, query: SweepQuery) -> Sequence[Sweep]:
        wanted = select(SweepRow).where(col(SweepRow.project) == query.project)
        if query.after is not None:
            time, name = query.after
            older = col(SweepRow.create_time) < time
            beside = and_(col(SweepRow.create_time) == time, col(SweepRow.name) < name)
            wanted = wanted.where(or_(older, beside))
        wanted = wanted.order_by(col(SweepRow.create_time).desc(), col(SweepRow.name).desc())
        rows = await self._session.exec(wanted.limit(query.limit))
        return [_sweep(row) for row in rows]

    async def trial_states(self, names: Sequence[TuningSweepName]) -> Mapping[TuningJobName, State]:
        wanted = select(JobRow.name, JobRow.state).where(
            col(JobRow.tuning_sweep).in_([str(name) for name in names])
        )
        rows = await self._session.exec(wanted)
        return {TuningJobName.parse(name): State(state) for name, state in rows}

    async def _one(self, wanted: SelectOfScalar[SweepRow]) -> Sweep | None:
        row = (await self._session.exec(wanted, execution_options=_FRESH)).one_or_none()
        return None if row is None else _sweep(row)


def _named(name: TuningSweepName) -> SelectOfScalar[SweepRow]:
    return select(SweepRow).where(col(SweepRow.name) == str(name))


def _fixed_values(sweep: Sweep) -> Values:
    """The columns that never change."""
    spec = sweep.spec
    search = {
        "learning_rates": spec.learning_rates,
        "ranks": spec.ranks,
        "reduction": spec.reduction,
        "first_rung_steps": spec.first_rung_steps,
    }
    return {
        "name": str(sweep.name),
        "uid": sweep.uid,
        "project": sweep.name.project,
        "base_model": str(spec.job.base_model),
        "dataset_version": str(spec.job.dataset_version),
        "model": str(spec.job.model),
        "spec": spec_text(spec.job),
        "search": json.dumps(search),
        "create_time": sweep.create_time,
    }


def _changing_values(sweep: Sweep) -> Values:
    return {
        "state": sweep.state.value,
        "trials": json.dumps([_trial_values(trial) for trial in sweep.trials]),
        "winner": str(sweep.winner) if sweep.winner else "",
        "model_version": sweep.model_version,
        "error": sweep.error,
        "end_time": sweep.end_time,
    }


def _sweep(row: SweepRow) -> Sweep:
    search = json.loads(row.search)
    return Sweep(
        name=TuningSweepName.parse(row.name),
        uid=row.uid,
        spec=SweepSpec(
            job=job_spec(row.base_model, row.dataset_version, row.model, row.spec),
            learning_rates=tuple(search["learning_rates"]),
            ranks=tuple(search["ranks"]),
            reduction=search["reduction"],
            first_rung_steps=search["first_rung_steps"],
        ),
        create_time=row.create_time,
        state=SweepState(row.state),
        trials=tuple(_trial(one) for one in json.loads(row.trials)),
        winner=TuningJobName.parse(row.winner) if row.winner else None,
        model_version=row.model_version,
        error=row.error,
        end_time=row.end_time,
    )


def _trial_values(trial: Trial) -> Values:
    return asdict(trial) | {"job": str(trial.job)}


def _trial(kept: Values) -> Trial:
    return Trial(
        job=TuningJobName.parse(kept["job"]),
        uid=kept["uid"],
        rung=kept["rung"],
        candidate=Candidate(**kept["candidate"]),
        steps=kept["steps"],
        outcome=_outcome(kept["outcome"]),
    )


def _outcome(kept: Values | None) -> Outcome | None:
    if kept is None:
        return None
    if "cause" in kept:
        return Unscored(kept["cause"])
    return Scored(kept["loss"], Result(**kept["result"]))
