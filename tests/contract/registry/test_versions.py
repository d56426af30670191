"""A job that succeeded becomes exactly one version, and says where it comes from."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from anneal.registry.v1 import registry_service_pb2 as pb
from services.common.blobs import ObstoreBlobs
from services.common.migrations import check
from services.registry.__main__ import MIGRATIONS
from services.registry.adapters.tables import Row

MODEL = "projects/default/models/support"


async def ordinals(caller: Any, model: str = MODEL) -> list[int]:
    request = pb.ListModelVersionsRequest(parent=model)
    return [one.ordinal for one in (await caller.stub.ListModelVersions(request)).model_versions]


async def test_the_migrations_make_what_the_tables_declare(database_url: str) -> None:
    await check(database_url, MIGRATIONS, Row.metadata)


async def test_a_job_becomes_a_version_with_its_whole_lineage(caller: Any) -> None:
    version = await caller.registered("first")

    assert version.ordinal == 1
    assert version.name == f"{MODEL}/versions/v-{version.manifest_digest[:16]}"
    assert [file.path for file in version.artifacts] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "empty.txt",
        "job.txt",
    ]
    assert [file.size_bytes for file in version.artifacts] == [8, 2_100_000, 0, 5]
    lineage = version.lineage
    assert lineage.tuning_job == "projects/default/tuningJobs/first"
    assert lineage.dataset_version == "projects/default/datasets/support/versions/v-1"
    assert (lineage.dataset_digest, lineage.base_model_digest) == ("c" * 64, "d" * 64)
    assert (lineage.base_model, lineage.method) == ("baseModels/tiny-base", "lora")
    assert lineage.code_version == "0.1.0"
    assert lineage.hyperparameters["rank"] == 8
    assert lineage.hyperparameters["learning_rate"] == 0.0002
    assert lineage.hyperparameters["seed"] == str(2**60)
    assert version.metrics["training_loss"] == 0.5
    assert version.metrics["validation_loss"] != version.metrics["validation_loss"]  # NaN


async def test_a_version_says_which_one_it_was_continued_from(caller: Any) -> None:
    first = await caller.registered("first")
    event = await caller.finished("second")
    event.job.start_version = first.name
    await caller.announce(event)
    while len(await ordinals(caller)) < 2:
        await asyncio.sleep(0.02)

    second = await caller.version(f"{MODEL}/versions/latest")

    assert (first.lineage.start_version, second.lineage.start_version) == ("", first.name)


async def test_the_model_is_made_with_its_first_version(caller: Any, clock: Any) -> None:
    refusal = await caller.refusal(caller.stub.GetModel(pb.GetModelRequest(name=MODEL)))
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")

    first = await caller.registered("first")
    created = await caller.stub.GetModel(pb.GetModelRequest(name=MODEL))
    clock.advance(60)
    second = await caller.registered("second")
    updated = await caller.stub.GetModel(pb.GetModelRequest(name=MODEL))

    assert (created.latest_version, created.version_count) == (first.name, 1)
    assert (updated.latest_version, updated.version_count) == (second.name, 2)
    assert updated.uid == created.uid
    assert updated.create_time == created.create_time == first.create_time
    assert updated.update_time.seconds - created.update_time.seconds == 60


async def test_the_same_event_again_makes_no_second_version(caller: Any) -> None:
    event = await caller.finished("first")
    await caller.registered("first")

    await caller.announce(event, "the same job under another message id")
    await caller.registered("second")

    assert await ordinals(caller) == [2, 1]


async def test_jobs_that_finish_together_get_ordinals_without_a_gap(
    start: Any, database_url: str
) -> None:
    async with start() as one, start() as other:
        callers = [one, other] * 6
        await asyncio.gather(*(c.registered(f"job-{n}") for n, c in enumerate(callers)))

        assert await ordinals(one) == list(range(12, 0, -1))


@pytest.mark.parametrize("manifest_is_there", [False, True])
async def test_a_job_whose_files_are_not_there_yet_waits_for_them(
    caller: Any, manifest_is_there: bool
) -> None:
    elsewhere = replace(caller, blobs=ObstoreBlobs.open("memory://"))
    event = await elsewhere.finished("first")
    if manifest_is_there:
        await caller.blobs.put(await elsewhere.blobs.read(event.manifest_digest))

    await caller.announce(event)
    await caller.registered("second")
    assert await ordinals(caller) == [1]

    await caller.finished("first")  # now its files are stored
    while len(await ordinals(caller)) < 2:
        await asyncio.sleep(0.02)


async def test_latest_is_the_version_registered_last(caller: Any) -> None:
    await caller.registered("first")
    second = await caller.registered("second")

    assert await caller.version(f"{MODEL}/versions/latest") == second


@pytest.mark.parametrize("version", ["latest", "v-0000000000000000"])
async def test_a_version_that_is_not_there(caller: Any, version: str) -> None:
    name = f"{MODEL}/versions/{version}"

    for call in (
        caller.version(name),
        caller.stub.GetModelCard(pb.GetModelCardRequest(name=f"{name}/card")),
        _downloaded(caller, name),
    ):
        refusal = await caller.refusal(call)
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_VERSION_NOT_FOUND")


async def test_versions_come_newest_first_page_by_page(caller: Any) -> None:
    for number in range(5):
        await caller.registered(f"job-{number}")

    listed, token = [], ""
    for _ in range(3):
        request = pb.ListModelVersionsRequest(parent=MODEL, page_size=2, page_token=token)
        page = await caller.stub.ListModelVersions(request)
        listed += [version.ordinal for version in page.model_versions]
        token = page.next_page_token

    assert listed == [5, 4, 3, 2, 1]
    assert token == ""


async def test_versions_can_be_filtered(caller: Any, clock: Any) -> None:
    await caller.registered("first")
    clock.advance(3600)
    await caller.registered("second")

    async def found(filter: str) -> list[int]:
        request = pb.ListModelVersionsRequest(parent=MODEL, filter=filter)
        return [v.ordinal for v in (await caller.stub.ListModelVersions(request)).model_versions]

    assert await found('tuning_job = "projects/default/tuningJobs/first"') == [1]
    assert await found('method = lora AND base_model = "baseModels/tiny-base"') == [2, 1]
    assert await found('create_time > "2026-01-01T00:30:00Z"') == [2]
    assert await found('dataset_version : "other"') == []
    assert (await caller.refusal(found("loss < 1"))).reason == "FILTER_INVALID"


async def test_a_page_token_is_good_for_its_own_list_only(caller: Any) -> None:
    await caller.registered("first")
    await caller.registered("second")
    request = pb.ListModelVersionsRequest(parent=MODEL, page_size=1)
    token = (await caller.stub.ListModelVersions(request)).next_page_token

    for foreign in (
        caller.stub.ListModelVersions(
            pb.ListModelVersionsRequest(parent=MODEL, filter="method = lora", page_token=token)
        ),
        caller.stub.ListModels(pb.ListModelsRequest(parent="projects/default", page_token=token)),
    ):
        assert (await caller.refusal(foreign)).reason == "PAGE_TOKEN_INVALID"


async def test_models_are_listed_by_name_and_by_project(caller: Any) -> None:
    for number, model in enumerate(("zeta", "alpha", "mid")):
        await caller.registered(f"job-{number}", f"projects/default/models/{model}")
    await caller.registered("job-3", "projects/other/models/theirs")

    listed, token = [], ""
    for _ in range(2):
        request = pb.ListModelsRequest(parent="projects/default", page_size=2, page_token=token)
        page = await caller.stub.ListModels(request)
        listed += [model.name.rpartition("/")[2] for model in page.models]
        token = page.next_page_token

    assert listed == ["alpha", "mid", "zeta"]
    assert token == ""


async def test_versions_of_an_unknown_model_cannot_be_listed(caller: Any) -> None:
    request = pb.ListModelVersionsRequest(parent=MODEL)

    refusal = await caller.refusal(caller.stub.ListModelVersions(request))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def _downloaded(caller: Any, name: str, *paths: str) -> list[tuple[str, bytes]]:
    request = pb.DownloadModelVersionRequest(name=name, paths=paths)
    return [(one.path, one.chunk) async for one in caller.stub.DownloadModelVersion(request)]


async def test_a_download_brings_every_file_whole_by_path(caller: Any) -> None:
    await caller.registered("first")

    pieces = await _downloaded(caller, f"{MODEL}/versions/latest")

    assert all(len(chunk) <= 1024 * 1024 for _, chunk in pieces)
    files: dict[str, bytes] = {}
    for path, chunk in pieces:
        files[path] = files.get(path, b"") + chunk
    assert list(files.items()) == [
        ("adapter_config.json", b'{"r": 8}'),
        ("adapter_model.safetensors", b"weights" * 300_000),
        ("empty.txt", b""),
        ("job.txt", b"first"),
    ]


async def test_a_download_brings_the_asked_files_only(caller: Any) -> None:
    version = await caller.registered("first")

    pieces = await _downloaded(caller, version.name, "job.txt", "empty.txt", "job.txt")

    assert pieces == [("empty.txt", b""), ("job.txt", b"first")]


@pytest.mark.parametrize("path", ["../job.txt", "nowhere.txt"])
async def test_a_download_of_an_unknown_file_is_refused(caller: Any, path: str) -> None:
    version = await caller.registered("first")

    refusal = await caller.refusal(_downloaded(caller, version.name, "job.txt", path))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "ARTIFACT_NOT_FOUND")


async def test_the_card_names_version_data_and_files(caller: Any) -> None:
    version = await caller.registered("first")
    await caller.point("champion", version.name)

    request = pb.GetModelCardRequest(name=f"{MODEL}/versions/latest/card")
    card = await caller.stub.GetModelCard(request)

    assert card.name == f"{version.name}/card"
    for text in ("# support, version 1", version.name, "champion", "| rank | 8 |", "job.txt"):
        assert text in card.markdown
