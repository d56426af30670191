"""What an engine reads: fetched from the blob store, and laid out in the cache."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from services.common.directories import Directories
from services.trainer.node.lease import HubBase, Lease, LocalBase

T = TypeVar("T")


class Patient(Protocol):
    """Asks the blob store again for as long as that is of use."""

    def __call__(self, call: Callable[[], Awaitable[T]]) -> Awaitable[T]: ...


async def fetched(
    lease: Lease, directories: Directories, patiently: Patient
) -> dict[str, Path | None]:
    """The paths of a lease's job file. Raises Unavailable, NotFound and DataLoss."""
    digest = lease.dataset_digest
    return {
        "base_model_dir": await patiently(lambda: _base_model(lease, directories)),
        "dataset_file": await patiently(lambda: directories.cached_file(digest, ".parquet")),
        "start_from": await patiently(lambda: _start(lease, directories)),
    }


async def _base_model(lease: Lease, directories: Directories) -> Path:
    match lease.base:
        case LocalBase(manifest_digest):
            return await directories.cached(manifest_digest)
        case HubBase(repository, revision):
            return await directories.cached_hub_model(repository, revision)


async def _start(lease: Lease, directories: Directories) -> Path | None:
    digest = lease.start_manifest_digest
    return await directories.cached(digest) if digest else None
