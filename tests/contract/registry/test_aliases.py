"""Aliases move by compare-and-set, and within their model only."""

import asyncio
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from anneal.registry.v1 import registry_service_pb2 as pb

MODEL = "projects/default/models/support"


async def test_an_alias_is_made_moved_and_seen_on_its_version(caller: Any, clock: Any) -> None:
    first, second = await caller.registered("first"), await caller.registered("second")

    made = await caller.point("champion", first.name)
    assert (made.name, made.version) == (f"{MODEL}/aliases/champion", first.name)
    assert await caller.alias("champion") == made
    assert (await caller.version(first.name)).aliases == ["champion"]

    clock.advance(1)
    moved = await caller.point("champion", second.name, made.etag)
    assert (moved.version, moved.etag != made.etag) == (second.name, True)
    assert moved.update_time.seconds == made.update_time.seconds + 1
    assert not (await caller.version(first.name)).aliases
    assert (await caller.version(second.name)).aliases == ["champion"]


async def test_a_stale_etag_moves_nothing(caller: Any) -> None:
    first, second = await caller.registered("first"), await caller.registered("second")
    stale = (await caller.point("champion", first.name)).etag
    await caller.point("champion", second.name)
    back = await caller.point("champion", first.name)

    refusal = await caller.refusal(caller.point("champion", second.name, stale))

    assert (refusal.code, refusal.reason) == ("ABORTED", "STALE_ETAG")
    assert await caller.alias("champion") == back


async def test_of_movers_at_the_same_time_with_one_etag_one_wins(caller: Any) -> None:
    versions = [await caller.registered(f"job-{number}") for number in range(5)]
    etag = (await caller.point("champion", versions[0].name)).etag

    results = await asyncio.gather(
        *(caller.point("champion", version.name, etag) for version in versions[1:]),
        return_exceptions=True,
    )

    winners = [result for result in results if not isinstance(result, Exception)]
    assert len(winners) == 1
    assert await caller.alias("champion") == winners[0]


@pytest.mark.parametrize("word", ["latest", "v-0123456789abcdef"])
async def test_what_always_stands_for_a_version_is_no_alias(caller: Any, word: str) -> None:
    version = await caller.registered()

    refusal = await caller.refusal(caller.point(word, version.name))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "ALIAS_RESERVED")


async def test_moving_it_to_where_it_is_is_no_move(caller: Any, clock: Any) -> None:
    version = await caller.registered()
    made = await caller.point("champion", version.name)
    clock.advance(5)

    assert await caller.point("champion", f"{MODEL}/versions/latest") == made


async def test_it_must_be_there_unless_it_may_be_missing(caller: Any) -> None:
    version = await caller.registered()

    refusal = await caller.refusal(caller.point("champion", version.name, allow_missing=False))
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_ALIAS_NOT_FOUND")
    refusal = await caller.refusal(caller.point("champion", version.name, '"0123"'))
    assert (refusal.code, refusal.reason) == ("ABORTED", "STALE_ETAG")


async def test_it_points_to_versions_that_exist_only(caller: Any) -> None:
    refusal = await caller.refusal(caller.point("champion", f"{MODEL}/versions/v-0000000000000000"))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_VERSION_NOT_FOUND")


async def test_all_that_is_wrong_with_a_move_is_told_at_once(caller: Any) -> None:
    other = "projects/default/models/other/versions/v-1"
    mask = FieldMask(paths=["version", "etag"])

    refusal = await caller.refusal(caller.point("champion", other, update_mask=mask))
    assert [(v.field, v.reason) for v in refusal.violations] == [
        ("update_mask", "UNKNOWN_PATH"),
        ("model_alias.version", "OTHER_MODEL"),
    ]
    assert "'etag'" in refusal.violations[0].description

    refusal = await caller.refusal(caller.point("Champion!", "v1"))
    assert [v.field for v in refusal.violations] == ["model_alias.name", "model_alias.version"]


@pytest.mark.parametrize("paths", [["version"], ["*"], []])
async def test_these_masks_are_taken(caller: Any, paths: list[str]) -> None:
    version = await caller.registered()

    moved = await caller.point("champion", version.name, update_mask=FieldMask(paths=paths))

    assert moved.version == version.name


async def test_a_repeated_request_answers_with_the_alias_as_it_now_is(caller: Any) -> None:
    first, second = await caller.registered("first"), await caller.registered("second")
    request_id = str(uuid.uuid4())
    await caller.point("champion", first.name, request_id=request_id)
    now = await caller.point("champion", second.name)

    assert await caller.point("champion", first.name, request_id=request_id) == now

    refusal = await caller.refusal(caller.point("other", first.name, request_id=request_id))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


async def test_a_hundred_repetitions_move_it_once(caller: Any) -> None:
    version = await caller.registered()
    request_id = str(uuid.uuid4())

    answers = await asyncio.gather(
        *(caller.point("champion", version.name, request_id=request_id) for _ in range(100))
    )

    assert len({answer.SerializeToString() for answer in answers}) == 1


async def test_deleted_by_etag(caller: Any) -> None:
    version = await caller.registered()
    made = await caller.point("champion", version.name)

    async def delete(etag: str = "") -> None:
        request = pb.DeleteModelAliasRequest(name=made.name, etag=etag)
        await caller.stub.DeleteModelAlias(request)

    assert (await caller.refusal(delete('"0123"'))).reason == "STALE_ETAG"
    await delete(made.etag)
    assert (await caller.refusal(delete())).reason == "MODEL_ALIAS_NOT_FOUND"
    assert (await caller.refusal(caller.alias("champion"))).reason == "MODEL_ALIAS_NOT_FOUND"

    anew = await caller.point("champion", version.name)
    assert anew.etag != made.etag


async def test_aliases_are_listed_by_name(caller: Any) -> None:
    version = await caller.registered()
    for alias in ("stable", "champion", "next"):
        await caller.point(alias, version.name)

    listed, token = [], ""
    for _ in range(2):
        request = pb.ListModelAliasesRequest(parent=MODEL, page_size=2, page_token=token)
        page = await caller.stub.ListModelAliases(request)
        listed += [alias.name.rpartition("/")[2] for alias in page.model_aliases]
        token = page.next_page_token

    assert listed == ["champion", "next", "stable"]
    assert token == ""
    unknown = pb.ListModelAliasesRequest(parent="projects/default/models/unknown")
    refusal = await caller.refusal(caller.stub.ListModelAliases(unknown))
    assert refusal.reason == "MODEL_NOT_FOUND"
