"""Makes exactly one version of every tuning job that succeeded."""

import asyncio

import structlog

from services.common.clock import Clock
from services.common.ids import NewId, content_id
from services.common.manifest import FileEntry, Manifest
from services.registry.domain.errors import ArtifactMissing, VersionTaken
from services.registry.domain.models import FinishedJob, ModelVersion
from services.registry.domain.ports import Files, Tables

_log = structlog.get_logger(__name__)


class Registrar:
    """Registers what jobs have made, once its files are proven to be there."""

    def __init__(self, files: Files, clock: Clock, new_uid: NewId) -> None:
        self._files = files
        self._clock = clock
        self._new_uid = new_uid

    async def register(self, tables: Tables, job: FinishedJob) -> None:
        """Within the caller's transaction. A job that has its version gets no second one.

        Raises DataLoss for files that are missing or no manifest, VersionTaken, Unavailable.
        """
        known = await tables.versions.of_job(job.lineage.tuning_job)
        if known is not None:
            _log.info("version.known", version=str(known), job=job.lineage.tuning_job)
            return
        artifacts = await self._proven(job)
        version = await self._next(tables, job, artifacts)
        if not await tables.versions.add(version):
            raise VersionTaken(version.name, job.lineage.tuning_job)
        _log.info("version.registered", version=str(version.name), job=job.lineage.tuning_job)

    async def _proven(self, job: FinishedJob) -> tuple[FileEntry, ...]:
        manifest = Manifest.parse(await self._files.read(job.manifest_digest))
        stored = await asyncio.gather(*(self._files.exists(one.sha256) for one in manifest.files))
        for entry, is_stored in zip(manifest.files, stored, strict=True):
            if not is_stored:
                raise ArtifactMissing(job.lineage.tuning_job, entry.path, entry.sha256)
        return manifest.files

    async def _next(
        self, tables: Tables, job: FinishedJob, artifacts: tuple[FileEntry, ...]
    ) -> ModelVersion:
        now = self._clock.now()
        name = job.model.version(content_id(job.manifest_digest))
        return ModelVersion(
            name=name,
            uid=self._new_uid(),
            ordinal=await tables.models.append(name, self._new_uid(), now),
            manifest_digest=job.manifest_digest,
            artifacts=artifacts,
            lineage=job.lineage,
            metrics=job.metrics,
            create_time=now,
        )
