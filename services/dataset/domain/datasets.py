"""Datasets and their versions as a catalogue: get, list, delete."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from services.common.etags import require_match
from services.common.names import ProjectName
from services.common.paging import Key, Page, PageTokens, page_size, scope_of
from services.dataset.domain.errors import DatasetNotFound, DatasetVersionNotFound
from services.dataset.domain.names import LATEST, DatasetName, VersionName
from services.dataset.domain.ports import DatasetRows, Store
from services.dataset.domain.resources import Dataset, DatasetVersion

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A page as the caller sees it. `next_page_token` is empty on the last one."""

    items: tuple[T, ...]
    next_page_token: str


class Datasets:
    """The catalogue."""

    def __init__(self, store: Store, tokens: PageTokens) -> None:
        self._store = store
        self._tokens = tokens

    async def get(self, name: DatasetName) -> Dataset:
        """Raises DatasetNotFound."""
        async with self._store.reading() as tables:
            return await require_dataset(tables.datasets, name)

    async def list(self, parent: ProjectName, size: int, token: str) -> Listing[Dataset]:
        """The datasets of a project by id. Raises InvalidArgument for a bad size or token."""
        scope = scope_of("datasets", str(parent))
        size = page_size(size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        after = self._after(token, scope)
        async with self._store.reading() as tables:
            rows = await tables.datasets.page(parent.project, after=after, limit=size + 1)
        page = Page[Dataset].cut(rows, size, lambda dataset: (dataset.name.dataset,))
        return self._listing(page, scope)

    async def delete(self, name: DatasetName, etag: str) -> None:
        """Deletes a dataset with its versions. Raises DatasetNotFound, Aborted STALE_ETAG.

        The rows go, the blobs stay: they are content-addressed, so another dataset may have the
        same examples, and a job that trains on them is not disturbed.
        """
        async with self._store.writing() as tables:
            dataset = await require_dataset(tables.datasets, name)
            require_match(etag, dataset.etag)
            await tables.datasets.delete(name)

    async def get_version(self, name: VersionName) -> DatasetVersion:
        """A version by its id or as `latest`. Raises DatasetVersionNotFound."""
        async with self._store.reading() as tables:
            return await require_version(tables.datasets, name)

    async def list_versions(
        self, parent: DatasetName, size: int, token: str
    ) -> Listing[DatasetVersion]:
        """The versions of a dataset, newest first. Raises DatasetNotFound, and InvalidArgument for
        a bad size or token."""
        scope = scope_of("versions", str(parent))
        size = page_size(size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        after = self._after(token, scope)
        async with self._store.reading() as tables:
            await require_dataset(tables.datasets, parent)
            rows = await tables.datasets.version_page(parent, after=after, limit=size + 1)
        page = Page[DatasetVersion].cut(rows, size, lambda version: (version.name.version,))
        return self._listing(page, scope)

    def _after(self, token: str, scope: str) -> str:
        key: Key = self._tokens.decode(token, scope=scope) if token else ("",)
        return str(key[0])

    def _listing(self, page: Page[T], scope: str) -> Listing[T]:
        if page.next_key is None:
            return Listing(page.items, "")
        return Listing(page.items, self._tokens.encode(page.next_key, scope=scope))


async def require_dataset(rows: DatasetRows, name: DatasetName) -> Dataset:
    """Raises DatasetNotFound."""
    dataset = await rows.find(name)
    if dataset is None:
        raise DatasetNotFound(name)
    return dataset


async def require_version(rows: DatasetRows, name: VersionName) -> DatasetVersion:
    """A version by its id or as `latest`. Raises DatasetVersionNotFound."""
    own_name = name
    if name.version == LATEST:
        dataset = await rows.find(name.parent)
        own_name = dataset.latest_version if dataset else name
    version = await rows.find_version(own_name)
    if version is None:
        raise DatasetVersionNotFound(name)
    return version
