"""The use cases of a voter: the next pair, a vote, the report."""

import asyncio
from dataclasses import dataclass

from services.abtest.domain.blinding import Blinding
from services.abtest.domain.errors import (
    AnswersPending,
    ExperimentFailed,
    ExperimentNotFound,
    NoPairLeft,
    PairNotFound,
    PairOfAnotherVoter,
)
from services.abtest.domain.experiment import Experiment, Prompt, State
from services.abtest.domain.names import ExperimentName, PairName
from services.abtest.domain.ports import Storage, Tables
from services.abtest.domain.voting import CastVote, Choice, Judgement, Report, report, reveal
from services.common.clock import Clock


@dataclass(frozen=True)
class Pair:
    """Two answers side by side; nothing in it tells which arm is which."""

    name: PairName
    prompt: Prompt
    left_text: str
    right_text: str
    remaining_count: int


class Ballots:
    """Serves pairs blind and takes votes. Voters are checked names."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def next_pair(self, name: ExperimentName, voter: str) -> Pair:
        """The next pair in the voter's own order; the same one until it is voted on.

        Raises ExperimentNotFound, ExperimentFailed, NoPairLeft, AnswersPending.
        """
        async with self._storage.reading() as tables:
            experiment = await _find(tables, name)
            if experiment.state is State.FAILED:
                raise ExperimentFailed(name, experiment.error.message if experiment.error else "")
            judged = await tables.votes.judged(experiment, voter)
            if len(judged) == experiment.prompt_count:
                raise NoPairLeft(name)
            open_prompts = await tables.answers.ready_prompts(experiment) - judged
            if not open_prompts:
                raise AnswersPending(name)
            prompt = Blinding(experiment).order(voter, open_prompts)[0]
            return await _pair(tables, experiment, voter, prompt, len(judged))

    async def cast(self, name: PairName, voter: str, choice: Choice) -> CastVote:
        """Takes a judgement, or another one in its place, and reveals the models.

        Raises PairNotFound, PairOfAnotherVoter.
        """
        async with self._storage.writing() as tables:
            experiment = await tables.experiments.find(name.in_experiment())
            if experiment is None:
                raise PairNotFound(name)
            prompt = _judged_prompt(experiment, name, voter)
            sides = Blinding(experiment).sides(voter, prompt)
            now = self._clock.now()
            judgement = Judgement(prompt, voter, choice, sides.left, first_time=now, time=now)
            replaced = await tables.votes.cast(experiment, judgement)
        left, right = reveal(experiment, sides)
        return CastVote(name, voter, choice, left, right, replaced, now)

    async def report(self, name: ExperimentName) -> Report:
        """What the votes say so far. Raises ExperimentNotFound."""
        async with self._storage.reading() as tables:
            experiment = await _find(tables, name)
            judgements = await tables.votes.all(experiment)
        return await asyncio.to_thread(report, experiment, judgements)  # 0.1 s of numpy at most


async def _find(tables: Tables, name: ExperimentName) -> Experiment:
    experiment = await tables.experiments.find(name)
    if experiment is None:
        raise ExperimentNotFound(name)
    return experiment


async def _pair(
    tables: Tables, experiment: Experiment, voter: str, prompt: int, judged: int
) -> Pair:
    blinding = Blinding(experiment)
    sides = blinding.sides(voter, prompt)
    texts = await tables.answers.of_prompt(experiment, prompt)
    return Pair(
        name=experiment.name.pair(blinding.pair_id(voter, prompt)),
        prompt=await tables.experiments.prompt(experiment, prompt),
        left_text=texts[sides.left],
        right_text=texts[sides.right],
        remaining_count=experiment.prompt_count - judged,
    )


def _judged_prompt(experiment: Experiment, name: PairName, voter: str) -> int:
    blinding = Blinding(experiment)
    if not blinding.issued(name.pair):
        raise PairNotFound(name)
    prompt = blinding.prompt_of(name.pair, voter, experiment.prompt_count)
    if prompt is None:
        raise PairOfAnotherVoter(name, voter)
    return prompt
