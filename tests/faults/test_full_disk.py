"""R8: a disk that is full. Each program has one of its own, as large as the test wants."""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anneal import Client
from anneal.errors import AnnealError, ResourceExhausted, Unavailable
from tests.faults.site import Site, can_mount

pytestmark = [
    pytest.mark.fault("R8"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(not can_mount(), reason="this system lets nobody mount a small disk"),
]

DISK_BYTES = 3_000_000


@contextmanager
def serving(directory: Path) -> Generator[tuple[Site, Client]]:
    """A dataset service, all of whose files are on a small disk."""
    disk = directory / "disk"
    disk.mkdir()
    with Site(directory / "site", services=("dataset",)) as site:
        site.start(
            "dataset",
            disk=(disk, DISK_BYTES),
            ANNEAL_DATABASE_URL=f"sqlite+aiosqlite:///{disk / 'rows.db'}",
            ANNEAL_BLOBS_URL=(disk / "blobs").as_uri(),
            ANNEAL_SPOOL_DIR=str(disk),
        )
        site.await_serving("dataset")
        with Client(site.addresses, environment={}) as client:
            yield site, client


def examples(directory: Path, seed: int, count: int) -> Path:
    """Lines that no compression makes short."""
    chance = random.Random(seed)
    path = directory / f"{seed}.jsonl"
    with path.open("w") as file:
        for _ in range(count):
            text = chance.randbytes(500).hex()
            file.write(f'{{"prompt": "{text}", "completion": "{text[:8]}"}}\n')
    return path


def test_an_upload_that_does_not_fit_leaves_nothing(
    tmp_path: Path, tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anneal.datasets.UPLOAD_PATIENCE_S", 0.5)
    with serving(tmp_path) as (site, client):
        first = client.datasets.upload(examples(tmp_path, 1, 300), "kept")
        with pytest.raises((Unavailable, ResourceExhausted)) as refused:
            client.datasets.upload(examples(tmp_path, 2, 8000), "too-large")
        assert [one.name for one in client.datasets.list()] == [first.name.split("/versions")[0]]

        names, error = [first.name], None
        for seed in range(3, 40):
            try:
                names.append(client.datasets.upload(examples(tmp_path, seed, 300), "kept").name)
            except AnnealError as caught:
                error = caught
                break
        assert isinstance(error, Unavailable | ResourceExhausted), error
        assert sorted(one.name for one in client.datasets.versions("kept")) == sorted(names)
        for name in names:
            whole = client.datasets.download(name, tmp_path / "copy.jsonl")
            assert len(whole.read_text().splitlines()) == 300
        tell("R8", what="disk full on upload", said=refused.value.reason, half_visible=0)
        assert "Traceback" not in site.log("dataset")
