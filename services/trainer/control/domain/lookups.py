"""Finding jobs for many callers at once."""

import asyncio

from services.trainer.control.domain.errors import existing
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import Store

_Answer = asyncio.Future[TuningJob | None]


class Lookups:
    """One query at a time: whoever asks while it runs shares the next one. So an answer is never
    older than its question, and a thousand callers cost little more than one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: dict[TuningJobName, _Answer] = {}
        self._somebody_asked = asyncio.Event()

    async def get(self, name: TuningJobName) -> TuningJob:
        """Waits for `run`. Raises TuningJobNotFound, Unavailable."""
        answer = self._asked.get(name)
        if answer is None:
            answer = self._asked[name] = asyncio.get_running_loop().create_future()
            self._somebody_asked.set()
        return existing(name, await asyncio.shield(answer))

    async def run(self) -> None:
        """Answers until it is cancelled."""
        while True:
            await self._somebody_asked.wait()
            self._somebody_asked.clear()
            asked, self._asked = self._asked, {}
            await self._answer(asked)

    async def _answer(self, asked: dict[TuningJobName, _Answer]) -> None:
        try:
            async with self._store.reading() as unit:
                found = await unit.jobs.find_all(list(asked))
        except Exception as error:  # it is theirs who asked, whatever it is
            for answer in asked.values():
                answer.set_exception(error)
                answer.exception()  # all who asked may have left
        else:
            for name, answer in asked.items():
                answer.set_result(found.get(name))
