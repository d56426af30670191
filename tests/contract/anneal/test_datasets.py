"""client.datasets."""

from pathlib import Path
from uuid import UUID

import pytest

from anneal.client import Client
from anneal.dataset.v1.dataset_pb2 import Dataset
from anneal.dataset.v1.dataset_service_pb2 import DownloadDatasetVersionRequest
from anneal.errors import DataLoss, Unavailable
from tests.contract.anneal.scripted import VERSION_ID, World, chat_lines

PARQUET = DownloadDatasetVersionRequest.FORMAT_PARQUET


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "support.jsonl"
    path.write_bytes(chat_lines(12_000))  # more than two chunks
    return path


def test_an_upload_arrives_whole_and_tells_how_far_it_is(
    client: Client, world: World, file: Path
) -> None:
    progress: list[tuple[int, int]] = []
    version = client.datasets.upload(
        file,
        "support",
        prompt_field="q",
        on_progress=lambda sent, total: progress.append((sent, total)),
    )
    ((header, content),) = world.uploads
    assert content == file.read_bytes()
    assert version.name == f"projects/default/datasets/support/versions/{VERSION_ID}"
    assert (header.prompt_field, UUID(header.request_id).version) == ("q", 4)
    assert progress == sorted(progress)
    assert progress[-1] == (len(content), len(content))


def test_a_broken_upload_starts_again_under_the_same_request_id(
    client: Client, world: World, file: Path
) -> None:
    world.uploads_cut_off = 2
    client.datasets.upload(file, "support")
    headers = world.requests("UploadDatasetVersion")
    assert len(headers) == 3
    assert len({header.request_id for header in headers}) == 1
    assert world.uploads[0][1] == file.read_bytes()


def test_an_upload_that_always_breaks_gives_up(
    client: Client, world: World, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anneal.datasets.UPLOAD_PATIENCE_S", 0.1)
    world.uploads_cut_off = 99
    with pytest.raises(Unavailable):
        client.datasets.upload(file, "support")


def test_a_failing_progress_callback_is_not_swallowed(client: Client, file: Path) -> None:
    def fail(_sent: int, _total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.datasets.upload(file, "support", on_progress=fail)


def test_a_file_that_is_not_there_is_an_os_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.datasets.upload(tmp_path / "nope", "support")


def test_lists_go_over_all_pages(client: Client, world: World) -> None:
    world.datasets = [Dataset(name=f"projects/default/datasets/d{n}") for n in range(5)]
    assert [one.name[-2:] for one in client.datasets.list()] == ["d0", "d1", "d2", "d3", "d4"]
    assert [request.page_token for request in world.requests("ListDatasets")] == ["", "2", "4"]


def test_a_preview_stops_at_its_limit(client: Client, world: World) -> None:
    assert [one.index for one in client.datasets.preview("support", limit=3)] == [0, 1, 2]
    assert len(world.requests("PreviewDatasetVersion")) == 2
    name = "projects/default/datasets/support/versions/latest"
    assert world.requests("PreviewDatasetVersion")[0].name == name


def test_a_download_appears_whole(client: Client, file: Path, tmp_path: Path) -> None:
    client.datasets.upload(file, "support")
    target = client.datasets.download(
        "support", tmp_path / "deep" / "copy.parquet", file_format=PARQUET
    )
    assert target.read_bytes() == file.read_bytes()


def test_a_damaged_download_leaves_nothing(
    client: Client, world: World, file: Path, tmp_path: Path
) -> None:
    client.datasets.upload(file, "support")
    world.damaged = "yes"
    with pytest.raises(DataLoss, match="sha256"):
        client.datasets.download("support", tmp_path / "out" / "copy.parquet", file_format=PARQUET)
    assert list((tmp_path / "out").iterdir()) == []
