"""What callers may do with sweeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.etags import require_match
from services.common.faults import InvalidArgument
from services.common.names import ProjectName, require_id
from services.common.paging import Key, Page, PageTokens, page_size, scope_of
from services.common.request_ids import RequestKey, require_uuid4
from services.trainer.control.domain.changes import change
from services.trainer.control.domain.drafts import Findings, Specification
from services.trainer.control.domain.errors import existing
from services.trainer.control.domain.names import TuningJobName, TuningSweepName
from services.trainer.control.domain.ports import Store, SweepQuery, Unit
from services.trainer.control.domain.queue.claims import require_line
from services.trainer.control.domain.queue.lines import line_of
from services.trainer.control.domain.states import State
from services.trainer.control.domain.sweeps.drafts import SweepDraft, specified
from services.trainer.control.domain.sweeps.errors import TuningSweepExists, existing_sweep
from services.trainer.control.domain.sweeps.sweep import Sweep, SweepSpec
from services.trainer.control.domain.sweeps.trials import enter_trials
from services.trainer.control.domain.tuning_jobs import Ids

MAX_PAGE_SIZE = 50
"""A sweep comes with all its trials, and a message has at most 4 MiB."""
_CREATE = "SweepTuningJob"


@dataclass(frozen=True)
class NewSweep:
    """A SweepTuningJob, unchecked. `fingerprint` tells it from another one with its id."""

    parent: str
    sweep_id: str
    draft: SweepDraft
    request_id: str
    fingerprint: str
    validate_only: bool


@dataclass(frozen=True)
class SweepListing:
    """A ListTuningSweeps, unchecked."""

    parent: str
    page_size: int
    page_token: str


@dataclass(frozen=True)
class SweepView:
    """A sweep, and where the jobs of its trials stand."""

    sweep: Sweep
    states: Mapping[TuningJobName, State]


class TuningSweeps:
    """The use cases of TuningSweepService. `ids.job_id` gives the ids of sweeps."""

    def __init__(
        self, store: Store, specification: Specification, tokens: PageTokens, ids: Ids
    ) -> None:
        self._store = store
        self._specification = specification
        self._tokens = tokens
        self._ids = ids

    async def create(self, new: NewSweep) -> SweepView:
        """The sweep with the trials of its first rung QUEUED; or as it now is, if a call with this
        request_id made it before.

        Raises InvalidArgument with every violation, TuningSweepExists, QueueLinesReached,
        Unavailable.
        """
        project = ProjectName.parse(new.parent, "parent").project
        request = RequestKey(project, _CREATE, new.request_id)
        findings = Findings()
        findings.of(lambda: new.request_id and require_uuid4(new.request_id))
        name = findings.of(lambda: self._name(project, new.sweep_id))
        if not findings.violations and not new.validate_only:
            made = await self._made_by(request, new.fingerprint)
            if made is not None:
                return made
        spec = await specified(self._specification, project, new.draft, findings)
        if name is None:
            raise InvalidArgument(findings.violations)
        if new.validate_only:
            return await self._as_if_entered(name, spec)
        return await self._entered(name, spec, request, new.fingerprint)

    async def get(self, name: TuningSweepName) -> SweepView:
        """Raises TuningSweepNotFound."""
        async with self._store.reading() as unit:
            return await _found(unit, name)

    async def list(self, listing: SweepListing) -> tuple[Sequence[SweepView], str]:
        """A page, newest first, and the token of the next one. Raises InvalidArgument."""
        project = ProjectName.parse(listing.parent, "parent").project
        size = page_size(listing.page_size, default=MAX_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        scope = scope_of("TuningSweeps", listing.parent)
        token = listing.page_token
        after = _place(self._tokens.decode(token, scope=scope)) if token else None
        async with self._store.reading() as unit:
            rows = await unit.sweeps.newest(SweepQuery(project, after, size + 1))
            page = Page.cut(rows, size, _key)
            states = await unit.sweeps.trial_states([sweep.name for sweep in page.items])
        next_token = self._tokens.encode(page.next_key, scope=scope) if page.next_key else ""
        return [SweepView(sweep, states) for sweep in page.items], next_token

    async def cancel(self, name: TuningSweepName, etag: str) -> SweepView:
        """Stops its trials too. Raises TuningSweepNotFound, WrongState, Aborted STALE_ETAG."""
        async with self._store.writing() as unit:
            sweep = existing_sweep(name, await unit.sweeps.hold(name))
            require_match(etag, sweep.etag)
            after = sweep.cancelled(await unit.now())
            if after is not sweep:
                await unit.sweeps.replace(after)
                await _cancel_trials(unit, after)
            return await _viewed(unit, after)

    def _name(self, project: str, sweep_id: str) -> TuningSweepName:
        if sweep_id:
            require_id(sweep_id, field="tuning_sweep_id")
        return TuningSweepName(project, sweep_id or self._ids.job_id())

    async def _made_by(self, request: RequestKey, fingerprint: str) -> SweepView | None:
        """Asked before other services are: a repetition needs none of them."""
        if not request.request_id:
            return None
        async with self._store.reading() as unit:
            made = await unit.requests.find(request, fingerprint)
            return None if made is None else await _found(unit, TuningSweepName.parse(made))

    async def _as_if_entered(self, name: TuningSweepName, spec: SweepSpec) -> SweepView:
        async with self._store.reading() as unit:
            if await unit.sweeps.find(name) is not None:
                raise TuningSweepExists(name)
            sweep = self._begun(name, spec, await unit.now())
        return SweepView(sweep, {trial.job: State.QUEUED for trial in sweep.trials})

    async def _entered(
        self, name: TuningSweepName, spec: SweepSpec, request: RequestKey, fingerprint: str
    ) -> SweepView:
        async with self._store.writing() as unit:
            made = await unit.requests.reserve(request, fingerprint)
            if made is not None:
                return await _found(unit, TuningSweepName.parse(made))
            now = await unit.now()
            sweep = self._begun(name, spec, now)
            await unit.queue.hold(name.project)
            await require_line(unit, line_of(name.project, spec.job.settings))
            await unit.sweeps.add(sweep)
            await enter_trials(unit, sweep, 0, now)
            await unit.requests.settle(request, str(name))
            return await _viewed(unit, sweep)

    def _begun(self, name: TuningSweepName, spec: SweepSpec, now: datetime) -> Sweep:
        return Sweep(name=name, uid=self._ids.uid(), spec=spec, create_time=now).begun()


async def _cancel_trials(unit: Unit, sweep: Sweep) -> None:
    """Held in one order, so that no two transactions wait in a circle."""
    for name in sorted((trial.job for trial in sweep.trials if trial.outcome is None), key=str):
        job = existing(name, await unit.jobs.hold(name))
        stopped = job.cancelled(await unit.now())
        if stopped is not job:
            await change(unit, job, stopped, f"{sweep.name} was cancelled")


async def _found(unit: Unit, name: TuningSweepName) -> SweepView:
    return await _viewed(unit, existing_sweep(name, await unit.sweeps.find(name)))


async def _viewed(unit: Unit, sweep: Sweep) -> SweepView:
    return SweepView(sweep, await unit.sweeps.trial_states([sweep.name]))


def _key(sweep: Sweep) -> Key:
    return (sweep.create_time.isoformat(), str(sweep.name))


def _place(key: Key) -> tuple[datetime, str]:
    return datetime.fromisoformat(str(key[0])), str(key[1])
