"""Get, List and Delete of datasets and versions, as a caller sees them."""

import pytest

from anneal.dataset.v1 import dataset_service_pb2 as pb
from tests.contract.dataset.caller import NOTHING, PARENT, Caller, Refusal, chat

PROJECT = "projects/default"


async def fill(caller: Caller, *datasets: str) -> None:
    for dataset in datasets:
        await caller.upload(chat(), parent=f"{PROJECT}/datasets/{dataset}")


async def page_of_datasets(caller: Caller, **request: object) -> tuple[list[str], str]:
    page = await caller.stub.ListDatasets(pb.ListDatasetsRequest(**{"parent": PROJECT, **request}))
    return [one.name.rpartition("/")[2] for one in page.datasets], page.next_page_token


async def page_of_versions(caller: Caller, **request: object) -> tuple[list[str], str]:
    page = await caller.stub.ListDatasetVersions(
        pb.ListDatasetVersionsRequest(**{"parent": PARENT, **request})
    )
    return [one.name for one in page.dataset_versions], page.next_page_token


async def test_a_dataset_tells_of_its_versions(caller: Caller):
    first = await caller.upload(chat())
    before = await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))
    second = await caller.upload(chat("2+2?", "4"))
    after = await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))

    assert (before.latest_version, before.version_count) == (first.name, 1)
    assert (after.latest_version, after.version_count) == (second.name, 2)
    assert before.uid == after.uid
    assert before.etag != after.etag
    assert before.create_time == before.update_time == first.create_time
    assert (after.create_time, after.update_time) == (first.create_time, second.create_time)


async def test_what_is_not_there_is_not_found(caller: Caller):
    await fill(caller, "support")
    stub, other = caller.stub, f"{PROJECT}/datasets/other"

    for call in (
        stub.GetDataset(pb.GetDatasetRequest(name=other)),
        stub.DeleteDataset(pb.DeleteDatasetRequest(name=other)),
        stub.ListDatasetVersions(pb.ListDatasetVersionsRequest(parent=other)),
    ):
        assert await caller.refused(call) == Refusal("NOT_FOUND", "DATASET_NOT_FOUND")
    for version in (f"{PARENT}/versions/v-0123456789abcdef", f"{other}/versions/latest"):
        for call in (
            stub.GetDatasetVersion(pb.GetDatasetVersionRequest(name=version)),
            stub.PreviewDatasetVersion(pb.PreviewDatasetVersionRequest(name=version)),
            caller.download(version),
            caller.download(version, 2),
        ):
            assert await caller.refused(call) == Refusal("NOT_FOUND", "DATASET_VERSION_NOT_FOUND")


@pytest.mark.parametrize("name", ["", "support", "projects/default/datasets/Support", PARENT + "/"])
async def test_a_bad_name_is_refused_by_its_field(caller: Caller, name: str):
    stub = caller.stub
    for call, field in (
        (stub.GetDataset(pb.GetDatasetRequest(name=name)), "name"),
        (stub.DeleteDataset(pb.DeleteDatasetRequest(name=name)), "name"),
        (stub.GetDatasetVersion(pb.GetDatasetVersionRequest(name=name)), "name"),
        (stub.PreviewDatasetVersion(pb.PreviewDatasetVersionRequest(name=name)), "name"),
        (stub.ListDatasets(pb.ListDatasetsRequest(parent=name)), "parent"),
        (stub.ListDatasetVersions(pb.ListDatasetVersionsRequest(parent=name)), "parent"),
        (caller.download(name), "name"),
    ):
        refused = await caller.refused(call)
        assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", (field,))


async def test_datasets_are_listed_by_name_a_page_at_a_time(caller: Caller):
    await fill(caller, "c", "a", "b-2", "b", "b1")
    await caller.upload(chat(), parent="projects/other/datasets/a")

    first, token = await page_of_datasets(caller, page_size=2)
    second, token = await page_of_datasets(caller, page_size=2, page_token=token)
    await fill(caller, "a1")
    third, end = await page_of_datasets(caller, page_size=2, page_token=token)

    everything, _ = await page_of_datasets(caller)
    assert [*first, *second, *third] == [name for name in everything if name != "a1"]
    assert sorted(everything) == ["a", "a1", "b", "b-2", "b1", "c"]
    assert end == ""


async def test_an_empty_project_has_an_empty_page(caller: Caller):
    assert await page_of_datasets(caller) == ([], "")


async def test_versions_are_listed_newest_first_a_page_at_a_time(caller: Caller):
    uploaded = [(await caller.upload(chat(str(number)))).name for number in range(5)]

    first, token = await page_of_versions(caller, page_size=2)
    await caller.upload(chat("newer"))
    second, token = await page_of_versions(caller, page_size=2, page_token=token)
    third, end = await page_of_versions(caller, page_size=2, page_token=token)

    assert [*first, *second, *third] == uploaded[::-1]
    assert end == ""


async def test_a_page_size_has_a_default_and_is_not_negative(caller: Caller):
    await fill(caller, *[f"d{number:02}" for number in range(51)])

    assert len((await page_of_datasets(caller))[0]) == 50
    assert len((await page_of_datasets(caller, page_size=2_000_000_000))[0]) == 51
    stub = caller.stub
    for call in (
        stub.ListDatasets(pb.ListDatasetsRequest(parent=PROJECT, page_size=-1)),
        stub.ListDatasetVersions(
            pb.ListDatasetVersionsRequest(parent=f"{PROJECT}/datasets/d00", page_size=-1)
        ),
        stub.PreviewDatasetVersion(
            pb.PreviewDatasetVersionRequest(
                name=f"{PROJECT}/datasets/d00/versions/latest", page_size=-1
            )
        ),
    ):
        refused = await caller.refused(call)
        assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", ("page_size",))


async def test_a_token_is_good_for_its_own_list_only(caller: Caller):
    await fill(caller, "a", "b")
    _, token = await page_of_datasets(caller, page_size=1)
    stub, a = caller.stub, f"{PROJECT}/datasets/a"

    for call in (
        stub.ListDatasets(pb.ListDatasetsRequest(parent="projects/other", page_token=token)),
        stub.ListDatasets(pb.ListDatasetsRequest(parent=PROJECT, page_token=token[:-1] + "A")),
        stub.ListDatasets(pb.ListDatasetsRequest(parent=PROJECT, page_token="2")),
        stub.ListDatasetVersions(pb.ListDatasetVersionsRequest(parent=a, page_token=token)),
        stub.PreviewDatasetVersion(
            pb.PreviewDatasetVersionRequest(name=f"{a}/versions/latest", page_token=token)
        ),
    ):
        assert await caller.refused(call) == Refusal(
            "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", ("page_token",)
        )


async def test_a_deleted_dataset_is_gone_with_its_versions(caller: Caller):
    version = await caller.upload(chat())
    await caller.upload(chat(), parent=f"{PROJECT}/datasets/other")
    before = await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))

    await caller.stub.DeleteDataset(pb.DeleteDatasetRequest(name=PARENT, etag=before.etag))

    assert await page_of_datasets(caller) == (["other"], "")
    get = pb.GetDatasetVersionRequest(name=version.name)
    refused = await caller.refused(caller.stub.GetDatasetVersion(get))
    assert refused.reason == "DATASET_VERSION_NOT_FOUND"
    assert (await caller.kept())["dataset_versions"] == 1

    await caller.upload(chat())
    again = await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))
    assert again.uid != before.uid
    assert again.etag != before.etag


async def test_a_stale_etag_deletes_nothing(caller: Caller):
    await caller.upload(chat())
    seen = await caller.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))
    await caller.upload(chat("2+2?", "4"))

    delete = pb.DeleteDatasetRequest(name=PARENT, etag=seen.etag)
    refused = await caller.refused(caller.stub.DeleteDataset(delete))

    assert refused == Refusal("ABORTED", "STALE_ETAG")
    assert (await caller.kept())["dataset_versions"] == 2


async def test_permission_and_project_are_checked_before_anything_else(reader: Caller):
    for foreign in (
        reader.stub.GetDataset(pb.GetDatasetRequest(name="projects/other/datasets/support")),
        reader.stub.ListDatasets(pb.ListDatasetsRequest(parent="projects/other")),
        reader.download("projects/other/datasets/support/versions/latest"),
        reader.stub.DeleteDataset(pb.DeleteDatasetRequest(name=PARENT)),
        reader.upload(chat()),
        reader.upload(b"x", parent="projects/other/datasets/support"),
    ):
        assert (await reader.refused(foreign)).code == "PERMISSION_DENIED"
    own = reader.stub.GetDataset(pb.GetDatasetRequest(name=PARENT))
    assert (await reader.refused(own)).code == "NOT_FOUND"
    assert await reader.kept() == NOTHING
