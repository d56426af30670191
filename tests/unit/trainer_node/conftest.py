"""What the tests of attempts have in common."""

from pathlib import Path

import pytest

from services.common.manifest import FileEntry, Manifest
from tests.unit.trainer_node.attempts import AwayBlobs, World


@pytest.fixture
async def world(tmp_path: Path) -> World:
    blobs = AwayBlobs.open((tmp_path / "blobs").as_uri())
    config = await blobs.put(b"{}")
    base = Manifest((FileEntry("config.json", config.size_bytes, config.digest),))
    dataset = await blobs.put(b"examples")
    await blobs.put(base.to_bytes())
    return World(tmp_path, blobs, base.digest, dataset.digest)
