"""Experiments, answers and votes as rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, func, literal, or_, true, union_all
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import col, delete, select, update

from services.abtest.adapters.tables import AnswerRow, ExperimentRow, PromptRow, VoteRow
from services.abtest.domain.experiment import Arm, Experiment, Failure, Prompt, Role, State, Turn
from services.abtest.domain.names import ExperimentName
from services.abtest.domain.ports import MissingAnswer
from services.abtest.domain.voting import Choice, Judgement
from services.common.columns import EPOCH
from services.common.names import ProjectName
from services.common.paging import Key
from services.common.requests import Requests
from services.common.store import Session, insert_new


class SqlExperiments:
    """ExperimentRows over one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, experiment: Experiment, prompts: Sequence[Prompt]) -> bool:
        if not await insert_new(self._session, ExperimentRow, _values(experiment)):
            return False
        self._session.add_all(
            PromptRow(experiment_uid=experiment.uid, prompt_index=index, turns=_turns(prompt))
            for index, prompt in enumerate(prompts)
        )
        await self._session.flush()
        return True

    async def find(self, name: ExperimentName) -> Experiment | None:
        found = await self._session.exec(select(ExperimentRow).where(*_is(name)))
        row = found.one_or_none()
        return None if row is None else _experiment(row)

    async def lock(self, uid: str) -> Experiment | None:
        rows = select(ExperimentRow).where(col(ExperimentRow.uid) == uid).with_for_update()
        row = (await self._session.exec(rows)).one_or_none()
        return None if row is None else _experiment(row)

    async def change(self, experiment: Experiment) -> None:
        error = experiment.error
        await self._session.exec(
            update(ExperimentRow)
            .where(col(ExperimentRow.uid) == experiment.uid)
            .values(
                state=experiment.state,
                ready_count=experiment.ready_count,
                error_code=error and error.code,
                error_reason=error and error.reason,
                error_message=error and error.message,
                updated_at=experiment.update_time,
            )
        )

    async def page(
        self, project: ProjectName, after: Key | None, limit: int
    ) -> Sequence[Experiment]:
        created_at, uid = col(ExperimentRow.created_at), col(ExperimentRow.uid)
        rows = select(ExperimentRow).where(col(ExperimentRow.project) == project.project)
        if after is not None:
            time, last_uid = EPOCH + timedelta(microseconds=int(after[0])), str(after[1])
            rows = rows.where(or_(created_at < time, and_(created_at == time, uid < last_uid)))
        rows = rows.order_by(created_at.desc(), uid.desc()).limit(limit)
        return [_experiment(row) for row in await self._session.exec(rows)]

    async def delete(self, name: ExperimentName) -> bool:
        result = await self._session.exec(delete(ExperimentRow).where(*_is(name)))
        return result.rowcount == 1

    async def prompts(self, experiment: Experiment) -> tuple[Prompt, ...]:
        rows = (
            select(PromptRow)
            .where(col(PromptRow.experiment_uid) == experiment.uid)
            .order_by(col(PromptRow.prompt_index))
        )
        return tuple(_prompt(row) for row in await self._session.exec(rows))

    async def prompt(self, experiment: Experiment, index: int) -> Prompt:
        row = await self._session.get_one(PromptRow, (experiment.uid, index))
        return _prompt(row)


class SqlAnswers:
    """AnswerRows over one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def missing(self, skip: frozenset[str], limit: int) -> Sequence[MissingAnswer]:
        arms = union_all(*(select(literal(arm.value).label("arm")) for arm in Arm)).subquery()
        uid, index = col(PromptRow.experiment_uid), col(PromptRow.prompt_index)
        answered = and_(
            col(AnswerRow.experiment_uid) == uid,
            col(AnswerRow.prompt_index) == index,
            col(AnswerRow.arm) == arms.c.arm,
        )
        rows = (
            select(ExperimentRow, PromptRow, arms.c.arm)
            .join(PromptRow, uid == col(ExperimentRow.uid))
            .join(arms, true())
            .outerjoin(AnswerRow, answered)
            .where(
                col(ExperimentRow.state) == State.GENERATING,
                col(ExperimentRow.uid).not_in(skip),
                col(AnswerRow.arm).is_(None),
            )
            .order_by(col(ExperimentRow.created_at), col(ExperimentRow.uid), index, arms.c.arm)
            .limit(limit)
        )
        found = await self._session.exec(rows)
        return [
            MissingAnswer(_experiment(row), prompt.prompt_index, Arm(arm), _prompt(prompt))
            for row, prompt, arm in found
        ]

    async def add(self, experiment: Experiment, prompt_index: int, arm: Arm, text: str) -> None:
        row: dict[str, object] = {
            "experiment_uid": experiment.uid,
            "prompt_index": prompt_index,
            "arm": arm.value,
            "text": text.encode(),
        }
        await insert_new(self._session, AnswerRow, row)

    async def of_prompt(self, experiment: Experiment, prompt_index: int) -> dict[Arm, str]:
        rows = select(AnswerRow).where(
            col(AnswerRow.experiment_uid) == experiment.uid,
            col(AnswerRow.prompt_index) == prompt_index,
        )
        return {Arm(row.arm): row.text.decode() for row in await self._session.exec(rows)}

    async def ready_prompts(self, experiment: Experiment) -> frozenset[int]:
        index = col(AnswerRow.prompt_index)
        rows = (
            select(index)
            .where(col(AnswerRow.experiment_uid) == experiment.uid)
            .group_by(index)
            .having(func.count() == len(Arm))
        )
        return frozenset(await self._session.exec(rows))


class SqlVotes:
    """VoteRows over one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def cast(self, experiment: Experiment, judgement: Judgement) -> bool:
        key = {
            "experiment_uid": experiment.uid,
            "prompt_index": judgement.prompt,
            "voter": judgement.voter,
        }
        vote = {
            "choice": judgement.choice.value,
            "left_arm": judgement.left.value,
            "voted_at": judgement.time,
        }
        first = {"first_at": judgement.first_time}
        if await insert_new(self._session, VoteRow, {**key, **vote, **first}):
            return False
        await self._session.exec(update(VoteRow).filter_by(**key).values(**vote))
        return True

    async def judged(self, experiment: Experiment, voter: str) -> frozenset[int]:
        rows = select(col(VoteRow.prompt_index)).where(
            col(VoteRow.experiment_uid) == experiment.uid, col(VoteRow.voter) == voter
        )
        return frozenset(await self._session.exec(rows))

    async def all(self, experiment: Experiment) -> Sequence[Judgement]:
        rows = select(VoteRow).where(col(VoteRow.experiment_uid) == experiment.uid)
        return [_judgement(row) for row in await self._session.exec(rows)]


@dataclass(frozen=True)
class SqlTables:
    """One transaction."""

    experiments: SqlExperiments
    answers: SqlAnswers
    votes: SqlVotes
    requests: Requests


def tables_of(session: Session) -> SqlTables:
    return SqlTables(
        SqlExperiments(session), SqlAnswers(session), SqlVotes(session), Requests(session)
    )


def _is(name: ExperimentName) -> tuple[ColumnElement[bool], ...]:
    return (
        col(ExperimentRow.project) == name.project,
        col(ExperimentRow.experiment) == name.experiment,
    )


def _values(experiment: Experiment) -> dict[str, object]:
    return {
        "uid": experiment.uid,
        "project": experiment.name.project,
        "experiment": experiment.name.experiment,
        "state": experiment.state.value,
        "baseline": experiment.baseline,
        "candidate": experiment.candidate,
        "max_output_tokens": experiment.max_output_tokens,
        "prompt_count": experiment.prompt_count,
        "ready_count": experiment.ready_count,
        "secret": experiment.secret,
        "created_at": experiment.create_time,
        "updated_at": experiment.update_time,
    }


def _experiment(row: ExperimentRow) -> Experiment:
    return Experiment(
        name=ExperimentName(row.project, row.experiment),
        uid=row.uid,
        state=State(row.state),
        baseline=row.baseline,
        candidate=row.candidate,
        max_output_tokens=row.max_output_tokens,
        prompt_count=row.prompt_count,
        ready_count=row.ready_count,
        secret=row.secret,
        error=_failure(row),
        create_time=row.created_at,
        update_time=row.updated_at,
    )


def _failure(row: ExperimentRow) -> Failure | None:
    if row.error_code is None:
        return None
    return Failure(row.error_code, row.error_reason or "", row.error_message or "")


def _turns(prompt: Prompt) -> list[list[str]]:
    return [[turn.role.value, turn.content] for turn in prompt]


def _prompt(row: PromptRow) -> Prompt:
    return tuple(Turn(Role(role), content) for role, content in row.turns)


def _judgement(row: VoteRow) -> Judgement:
    return Judgement(
        prompt=row.prompt_index,
        voter=row.voter,
        choice=Choice(row.choice),
        left=Arm(row.left_arm),
        first_time=row.first_at,
        time=row.voted_at,
    )
