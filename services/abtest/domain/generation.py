"""Generates the answers of all experiments, in the background."""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from services.abtest.domain.experiment import Arm, Experiment, Failure, State
from services.abtest.domain.ports import (
    GenerationFailed,
    Inference,
    InferenceBusy,
    MissingAnswer,
    Storage,
)
from services.common.bus import retry_delays
from services.common.clock import Clock
from services.common.faults import Aborted, Unavailable
from services.common.names import ProjectName

CONCURRENCY = 4
POLL_S = 2.0

_log = structlog.get_logger()
_Key = tuple[str, int, Arm]


class Generator:
    """Asks for every answer that is missing, a few at a time, and stores each as it comes.

    What is missing is read from the rows, so a restart goes on where the last process was. An
    outage of the inference service is waited out, for ever; any other failure ends the
    experiment. Replicas may generate the same answer twice, at the cost of time only: answers
    are greedy, and the first one stays.
    """

    def __init__(
        self,
        storage: Storage,
        inference: Inference,
        clock: Clock,
        *,
        concurrency: int = CONCURRENCY,
        poll_s: float = POLL_S,
        delays: Callable[[], Iterator[float]] = retry_delays,
    ) -> None:
        self._storage = storage
        self._inference = inference
        self._clock = clock
        self._poll_s = poll_s
        self._delays = delays
        self._free = asyncio.Semaphore(concurrency)
        self._candidates = concurrency + 1
        self._awake = asyncio.Event()
        self._in_flight: set[_Key] = set()
        self._paused: set[str] = set()
        self._backoffs: dict[str, Iterator[float]] = {}

    def wake(self) -> None:
        """There may be new work."""
        self._awake.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._free.acquire()
                self._awake.clear()
                missing = await self._next()
                if missing is None:
                    self._free.release()
                    await self._sleep()
                else:
                    self._in_flight.add(_key(missing))
                    group.create_task(self._generate(missing))

    async def _next(self) -> MissingAnswer | None:
        in_flight = frozenset(self._in_flight)  # as of before the snapshot that we read
        try:
            async with self._storage.reading() as tables:
                found = await tables.answers.missing(frozenset(self._paused), self._candidates)
        except Unavailable as fault:
            _log.warning("generator.paused", reason=fault.reason)
            return None
        return next((one for one in found if _key(one) not in in_flight), None)

    async def _sleep(self) -> None:
        """Until there may be work, or until it is time to look for that of other replicas."""
        try:
            async with asyncio.timeout(self._poll_s):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _generate(self, missing: MissingAnswer) -> None:
        try:
            await self._answer(missing)
        except (Unavailable, Aborted) as fault:
            self._pause(missing.experiment, fault.reason)
        finally:
            self._in_flight.discard(_key(missing))
            self._free.release()
            self.wake()

    async def _answer(self, missing: MissingAnswer) -> None:
        experiment = missing.experiment
        try:
            text = await self._inference.answer(
                ProjectName(experiment.name.project),
                experiment.model_of(missing.arm),
                missing.prompt,
                experiment.max_output_tokens,
            )
        except InferenceBusy as busy:
            self._pause(experiment, str(busy))
        except GenerationFailed as error:
            await self._fail(experiment, error.failure)
        else:
            await self._store(missing, text)
            self._backoffs.pop(experiment.uid, None)

    async def _store(self, missing: MissingAnswer, text: str) -> None:
        async with self._storage.writing() as tables:
            experiment = await tables.experiments.lock(missing.experiment.uid)
            if experiment is None or experiment.state is not State.GENERATING:
                return
            await tables.answers.add(experiment, missing.prompt_index, missing.arm, text)
            ready = len(await tables.answers.ready_prompts(experiment))
            experiment = experiment.with_ready(ready, self._clock.now())
            await tables.experiments.change(experiment)
        if experiment.state is State.READY:
            _log.info("experiment.ready", experiment=str(experiment.name))

    async def _fail(self, failing: Experiment, failure: Failure) -> None:
        async with self._storage.writing() as tables:
            experiment = await tables.experiments.lock(failing.uid)
            if experiment is None or experiment.state is not State.GENERATING:
                return
            await tables.experiments.change(experiment.failed(failure, self._clock.now()))
        _log.warning("experiment.failed", experiment=str(failing.name), reason=failure.reason)

    def _pause(self, experiment: Experiment, reason: str) -> None:
        """Lets this experiment rest, longer each time, while the others go on."""
        if experiment.uid in self._paused:
            return
        delay_s = next(self._backoffs.setdefault(experiment.uid, self._delays()))
        self._paused.add(experiment.uid)
        asyncio.get_running_loop().call_later(delay_s, self._resume, experiment.uid)
        _log.info(
            "generation.paused", experiment=str(experiment.name), reason=reason, delay_s=delay_s
        )

    def _resume(self, uid: str) -> None:
        self._paused.discard(uid)
        self.wake()


def _key(missing: MissingAnswer) -> _Key:
    return (missing.experiment.uid, missing.prompt_index, missing.arm)
