"""The models that jobs may start from: the operator's list, and the files behind it."""

import asyncio
import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, assert_never

import structlog

from services.common.bus import retry_delays
from services.common.faults import Aborted, Unavailable
from services.common.paging import Key, Page
from services.registry.domain.architecture import ModelArchitecture
from services.registry.domain.errors import BaseModelNotFound, BaseModelNotReady
from services.registry.domain.names import BaseModelName

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class HubRevision:
    """A repository of a model hub, `owner/name`, at one commit: 40 hex digits."""

    repository: str
    revision: str


@dataclass(frozen=True)
class StoredFiles:
    """A manifest whose files are blobs. `size_bytes` counts the files."""

    manifest_digest: str
    size_bytes: int


@dataclass(frozen=True)
class AllowedModel:
    """An entry of the operator's list: a directory of this machine or a hub's revision."""

    name: BaseModelName
    source: Path | HubRevision


@dataclass(frozen=True)
class BaseModel:
    """A model to start from. Its digest identifies its files. `architecture` is how it is built, or
    None where that cannot be told."""

    name: BaseModelName
    digest: str
    source: StoredFiles | HubRevision
    architecture: ModelArchitecture | None = None


class Intake(Protocol):
    """Takes models in."""

    async def directory(self, name: BaseModelName, directory: Path) -> StoredFiles:
        """Stores the files that may be stored; repeated, it finds them stored.

        Raises Unavailable, and OSError if the directory cannot be read."""
        ...

    async def architecture(self, directory: Path) -> ModelArchitecture | None:
        """How the model in the directory is built; None where that cannot be told.

        Raises OSError if the directory cannot be read."""
        ...

    def hub_digest(self, revision: HubRevision) -> str:
        """The digest that stands for a hub's model."""
        ...


class BaseModels:
    """The list. Directories appear on it when their files are stored."""

    def __init__(self, allowed: Sequence[AllowedModel], intake: Intake) -> None:
        self._allowed = {entry.name: entry for entry in allowed}
        self._intake = intake
        self._ready: dict[BaseModelName, BaseModel] = {}

    async def run(self) -> None:
        """Takes in the whole list, then waits until it is cancelled. Waits out outages."""
        for entry in self._allowed.values():
            await self._take_in(entry)
        await asyncio.Event().wait()

    def get(self, name: BaseModelName) -> BaseModel:
        """Raises BaseModelNotFound, BaseModelNotReady."""
        if name not in self._allowed:
            raise BaseModelNotFound(name)
        if name not in self._ready:
            raise BaseModelNotReady(name)
        return self._ready[name]

    def is_encoder_decoder(self, name: str) -> bool:
        """Whether the base model of this name is known to be one."""
        model = self._ready.get(BaseModelName.parse(name))
        built = model.architecture if model else None
        return built is not None and built.is_encoder_decoder

    def page(self, after: Key | None, size: int) -> Page[BaseModel]:
        """By name; those that are ready."""
        found = sorted(self._ready.values(), key=_text)
        start = 0 if after is None else bisect.bisect_right(found, str(after[0]), key=_text)
        return Page[BaseModel].cut(found[start : start + size + 1], size, lambda one: (_text(one),))

    async def _take_in(self, entry: AllowedModel) -> None:
        for delay_s in retry_delays():
            try:
                model = await self._stored(entry)
            except (Unavailable, Aborted) as fault:
                _log.warning("base_model.waits", base_model=str(entry.name), reason=fault.reason)
                await asyncio.sleep(delay_s)
            else:
                self._ready[entry.name] = model
                _log.info("base_model.ready", base_model=str(entry.name), digest=model.digest)
                return

    async def _stored(self, entry: AllowedModel) -> BaseModel:
        match entry.source:
            case Path():
                files = await self._intake.directory(entry.name, entry.source)
                architecture = await self._intake.architecture(entry.source)
                return BaseModel(entry.name, files.manifest_digest, files, architecture)
            case HubRevision():
                digest = self._intake.hub_digest(entry.source)
                return BaseModel(entry.name, digest, entry.source)
            case _:
                assert_never(entry.source)


def _text(model: BaseModel) -> str:
    return str(model.name)
