"""What callers may do with tuning jobs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.common.etags import require_match
from services.common.faults import InvalidArgument
from services.common.filters import ENUM, MAP, TEXT, TIME, FieldKind, parse
from services.common.ids import NewId
from services.common.names import ProjectName, require_id
from services.common.paging import Key, Page, PageTokens, page_size, scope_of
from services.common.request_ids import RequestKey, require_uuid4
from services.trainer.control.domain.attempts import Told, told
from services.trainer.control.domain.changes import change, enter
from services.trainer.control.domain.deadlines import require_future
from services.trainer.control.domain.drafts import Draft, Findings, Specification
from services.trainer.control.domain.errors import TuningJobExists, existing
from services.trainer.control.domain.job import JobSpec, TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import JobQuery, Store, Unit
from services.trainer.control.domain.queue.claims import join
from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.states import State
from services.trainer.control.domain.sweeps.sweep import TRIAL_PREFIX
from services.trainer.control.domain.sweeps.trials import hold_to_end, tell_sweep

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_CREATE = "CreateTuningJob"
_RETRY = "RetryTuningJob"

FILTER_FIELDS: Mapping[str, FieldKind] = {
    "state": ENUM([state.value for state in State]),
    "base_model": TEXT,
    "dataset_version": TEXT,
    "model": TEXT,
    "node": TEXT,
    "tuning_sweep": TEXT,
    "priority": ENUM([priority.value for priority in Priority]),
    "create_time": TIME,
    "labels": MAP,
}


@dataclass(frozen=True)
class NewJob:
    """A CreateTuningJob, unchecked. `fingerprint` tells it from another one with its id."""

    parent: str
    job_id: str
    draft: Draft
    request_id: str
    fingerprint: str
    validate_only: bool


@dataclass(frozen=True)
class Listing:
    """A ListTuningJobs, unchecked."""

    parent: str
    page_size: int
    page_token: str
    filter: str


@dataclass(frozen=True)
class Retry:
    """A RetryTuningJob; `job_id` and `request_id` are unchecked."""

    name: TuningJobName
    job_id: str
    request_id: str
    fingerprint: str
    deadline_time: datetime | None


@dataclass(frozen=True)
class AttemptListing:
    """A ListTuningJobAttempts, unchecked."""

    parent: str
    page_size: int
    page_token: str


@dataclass(frozen=True)
class AttemptPage:
    """Attempts as they stood at `now`, and the token of the next page."""

    attempts: Sequence[Told]
    next_token: str
    now: datetime


@dataclass(frozen=True)
class Ids:
    """Where the ids of new jobs come from."""

    job_id: NewId
    uid: NewId


class TuningJobs:
    """The use cases of TuningJobService, apart from watching."""

    def __init__(
        self,
        store: Store,
        specification: Specification,
        tokens: PageTokens,
        ids: Ids,
    ) -> None:
        self._store = store
        self._specification = specification
        self._tokens = tokens
        self._ids = ids

    async def create(self, new: NewJob) -> TuningJob:
        """The job, QUEUED; or as it now is, if a call with this request_id made it before.

        Raises InvalidArgument with every violation, TuningJobExists, Unavailable.
        """
        project = ProjectName.parse(new.parent, "parent").project
        request = RequestKey(project, _CREATE, new.request_id)
        findings = Findings()
        findings.of(lambda: new.request_id and require_uuid4(new.request_id))
        name = findings.of(lambda: self._name(project, new.job_id))
        if not findings.violations and not new.validate_only:
            made = await self._made_by(request, new.fingerprint)
            if made is not None:
                return made
        spec = await self._specification.of(project, new.draft, findings)
        if name is None:
            raise InvalidArgument(findings.violations)
        if new.validate_only:
            return await self._as_if_entered(name, spec)
        return await self._entered(name, spec, request, new.fingerprint)

    async def list(self, listing: Listing) -> tuple[tuple[TuningJob, ...], str]:
        """A page, newest first, and the token of the next one. Raises InvalidArgument."""
        project = ProjectName.parse(listing.parent, "parent").project
        size = page_size(listing.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        scope = scope_of("TuningJobs", listing.parent, listing.filter)
        token = listing.page_token
        after = _place(self._tokens.decode(token, scope=scope)) if token else None
        wanted = JobQuery(project, parse(listing.filter, FILTER_FIELDS), after, size + 1)
        async with self._store.reading() as unit:
            page = Page.cut(await unit.jobs.newest(wanted), size, _key)
        next_token = self._tokens.encode(page.next_key, scope=scope) if page.next_key else ""
        return page.items, next_token

    async def cancel(self, name: TuningJobName, etag: str) -> TuningJob:
        """Raises TuningJobNotFound, WrongState, Aborted STALE_ETAG."""
        return await self._moved(name, etag, TuningJob.cancelled)

    async def pause(self, name: TuningJobName, etag: str) -> TuningJob:
        """Raises as `cancel`."""
        return await self._moved(name, etag, TuningJob.paused)

    async def resume(self, name: TuningJobName, etag: str) -> TuningJob:
        """Raises as `cancel`, QueueQuotaReached and QueueLinesReached: it enters the queue as a new
        one does."""
        return await self._moved(name, etag, TuningJob.resumed)

    async def _moved(
        self, name: TuningJobName, etag: str, move: Callable[[TuningJob, datetime], TuningJob]
    ) -> TuningJob:
        async with self._store.writing() as unit:
            job = await hold_to_end(unit, name)
            require_match(etag, job.etag)
            after = move(job, await unit.now())
            if after is job:
                return job
            if after.state is State.QUEUED:
                await join(unit, after)
            await change(unit, job, after)
            return await tell_sweep(unit, after, None)

    async def retry(self, retry: Retry) -> TuningJob:
        """The new job, QUEUED; or as it now is, if a call with this request_id made it before.

        Raises InvalidArgument with every violation, TuningJobNotFound, TuningJobExists, WrongState,
        AlreadyRetried, TrialOfSweep.
        """
        project = retry.name.project
        request = RequestKey(project, _RETRY, retry.request_id)
        findings = Findings()
        findings.of(lambda: retry.request_id and require_uuid4(retry.request_id))
        name = findings.of(lambda: self._name(project, retry.job_id))
        if name is None or findings.violations:
            raise InvalidArgument(findings.violations)
        async with self._store.writing() as unit:
            made = await unit.requests.reserve(request, retry.fingerprint)
            if made is not None:
                return await _named(unit, made)
            job = await self._retried(unit, name, retry)
            await unit.requests.settle(request, str(name))
        return job

    async def attempts(self, listing: AttemptListing) -> AttemptPage:
        """A page, the first attempts first. Raises InvalidArgument, TuningJobNotFound."""
        name = TuningJobName.parse(listing.parent, "parent")
        size = page_size(listing.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        scope = scope_of("TuningJobAttempts", listing.parent)
        token = listing.page_token
        after = int(self._tokens.decode(token, scope=scope)[0]) if token else 0
        async with self._store.reading() as unit:
            existing(name, await unit.jobs.find(name))
            all_told, now = told(await unit.attempts.all_of(name)), await unit.now()
        wanted = [one for one in all_told if one.attempt.number > after][: size + 1]
        page = Page.cut(wanted, size, _number)
        next_token = self._tokens.encode(page.next_key, scope=scope) if page.next_key else ""
        return AttemptPage(page.items, next_token, now)

    async def _retried(self, unit: Unit, name: TuningJobName, retry: Retry) -> TuningJob:
        now = await unit.now()
        require_future(retry.deadline_time, now, "deadline_time")
        failed = existing(retry.name, await unit.jobs.hold(retry.name))
        job = failed.retried(name, self._ids.uid(), retry.deadline_time, now)
        await join(unit, job)
        await enter(unit, job)
        await change(unit, failed, replace(failed, retried_as=name))
        if job.origins:
            await unit.checkpoints.take_over(failed, job)
        return job

    def _name(self, project: str, job_id: str) -> TuningJobName:
        if job_id:
            _require_free_id(job_id)
        return TuningJobName(project, job_id or self._ids.job_id())

    async def _made_by(self, request: RequestKey, fingerprint: str) -> TuningJob | None:
        """Asked before other services are: a repetition needs none of them."""
        if not request.request_id:
            return None
        async with self._store.reading() as unit:
            made = await unit.requests.find(request, fingerprint)
            return None if made is None else await _named(unit, made)

    async def _as_if_entered(self, name: TuningJobName, spec: JobSpec) -> TuningJob:
        async with self._store.reading() as unit:
            if await unit.jobs.find(name) is not None:
                raise TuningJobExists(name)
            return await self._queued(unit, name, spec)

    async def _entered(
        self, name: TuningJobName, spec: JobSpec, request: RequestKey, fingerprint: str
    ) -> TuningJob:
        async with self._store.writing() as unit:
            made = await unit.requests.reserve(request, fingerprint)
            if made is not None:
                return await _named(unit, made)
            job = await self._queued(unit, name, spec)
            await join(unit, job)
            await enter(unit, job)
            await unit.requests.settle(request, str(name))
        return job

    async def _queued(self, unit: Unit, name: TuningJobName, spec: JobSpec) -> TuningJob:
        now = await unit.now()
        require_future(spec.settings.deadline_time, now, "tuning_job.deadline_time")
        return TuningJob(
            name=name,
            uid=self._ids.uid(),
            spec=spec,
            create_time=now,
            update_time=now,
            ready_time=now,
            event_count=1,  # the first is its way into the queue
        )


def _require_free_id(job_id: str) -> None:
    """The ids of a sweep's trials can be told in advance: nobody may take one before the sweep."""
    require_id(job_id, field="tuning_job_id")
    if job_id.startswith(TRIAL_PREFIX):
        text = f"ids that begin with {TRIAL_PREFIX} are those of sweeps' trials; choose another"
        raise InvalidArgument.of("tuning_job_id", text, "RESERVED_ID")


async def _named(unit: Unit, text: str) -> TuningJob:
    name = TuningJobName.parse(text)
    return existing(name, await unit.jobs.find(name))


def _key(job: TuningJob) -> Key:
    return (job.create_time.isoformat(), str(job.name))


def _number(told: Told) -> Key:
    return (told.attempt.number,)


def _place(key: Key) -> tuple[datetime, str]:
    return datetime.fromisoformat(str(key[0])), str(key[1])
