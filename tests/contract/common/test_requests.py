"""request_id: sent twice, carried out once."""

import asyncio
import uuid
from datetime import timedelta

import pytest
import structlog.testing

from services.common.faults import InvalidArgument
from services.common.requests import RequestKey, fingerprint
from services.common.retention import Retention, sweep, sweeping
from services.common.store import Store, open_engine
from tests.contract.common.notes import Tables, tables

BODY = fingerprint(b"make it so")
ID = "6f1a1d5e-7c3b-4b43-9a39-0b6f6b8f4d11"
KEY = RequestKey("default", "CreateNote", ID)


async def create(store: Store[Tables], key: RequestKey, text: str, body: str = BODY) -> str:
    """What a mutation looks like: reserve, effect and settle in one transaction."""
    async with store.writing() as db:
        settled = await db.requests.reserve(key, body)
        if settled is None:
            await db.add_note(text)
            await db.requests.settle(key, text)
        return settled or text


async def notes_of(store: Store[Tables]) -> list[str]:
    async with store.reading() as db:
        return await db.notes()


async def test_a_repetition_gets_the_first_answer_and_has_no_effect(store: Store[Tables]):
    assert await create(store, KEY, "first") == "first"
    assert await create(store, KEY, "second") == "first"

    assert await notes_of(store) == ["first"]


async def test_a_thousand_concurrent_requests_with_one_id_have_one_effect(store: Store[Tables]):
    answers = await asyncio.gather(*(create(store, KEY, f"note {n}") for n in range(1000)))

    assert await notes_of(store) == [answers[0]]
    assert set(answers) == {answers[0]}


async def test_another_body_under_the_same_id_is_refused(store: Store[Tables]):
    await create(store, KEY, "first")

    with pytest.raises(InvalidArgument) as caught:
        await create(store, KEY, "second", fingerprint(b"something else"))

    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert [violation.field for violation in caught.value.violations] == ["request_id"]


async def test_the_same_id_in_another_project_or_method_is_another_request(store: Store[Tables]):
    await create(store, KEY, "one")
    await create(store, RequestKey("other", "CreateNote", ID), "two")
    await create(store, RequestKey("default", "DeleteNote", ID), "three")

    assert len(await notes_of(store)) == 3


async def test_a_request_that_failed_may_be_repeated(store: Store[Tables]):
    async def fail() -> None:
        async with store.writing() as db:
            await db.requests.reserve(KEY, BODY)
            raise ValueError("no such parent")

    with pytest.raises(ValueError, match="no such parent"):
        await fail()

    assert await create(store, KEY, "now") == "now"


async def test_a_twin_waits_for_the_first_and_goes_on_if_it_fails(store: Store[Tables]):
    reserved, twin_waits = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with store.writing() as db:
            await db.requests.reserve(KEY, BODY)
            reserved.set()
            await twin_waits.wait()
            raise ValueError

    failing = asyncio.create_task(first())
    await reserved.wait()
    twin = asyncio.create_task(create(store, KEY, "twin"))
    await asyncio.sleep(0.05)
    assert not twin.done()
    twin_waits.set()

    assert await twin == "twin"
    await asyncio.gather(failing, return_exceptions=True)


async def test_a_look_finds_what_was_settled_and_reserves_nothing(store: Store[Tables]):
    async with store.reading() as db:
        assert await db.requests.find(KEY, BODY) is None
        assert not await db.requests.is_known(KEY)
    await create(store, KEY, "first")

    async with store.reading() as db:
        assert await db.requests.find(KEY, BODY) == "first"
        assert await db.requests.is_known(KEY)
        with pytest.raises(InvalidArgument, match="another request"):
            await db.requests.find(KEY, fingerprint(b"something else"))


async def test_without_a_request_id_every_call_counts(store: Store[Tables]):
    anonymous = RequestKey("default", "CreateNote", "")
    await create(store, anonymous, "one")
    await create(store, anonymous, "two")

    assert await notes_of(store) == ["one", "two"]


@pytest.mark.parametrize(
    "request_id", ["1", "not-a-uuid", str(uuid.UUID(int=0)), "{" + ID + "}", ID.replace("-", "")]
)
async def test_what_is_no_uuid4_is_refused(store: Store[Tables], request_id: str):
    with pytest.raises(InvalidArgument, match="UUID4"):
        await create(store, RequestKey("default", "CreateNote", request_id), "note")


async def test_sweeping_goes_on_through_an_outage():
    lost = Store(open_engine("postgresql+asyncpg://postgres@127.0.0.1:9/none"), tables)
    with structlog.testing.capture_logs() as logs, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await sweeping(lost, every_s=0.02)

    assert len([log for log in logs if log["event"] == "sweep.skipped"]) > 1


async def test_old_records_are_forgotten_and_young_ones_kept(store: Store[Tables]):
    await create(store, KEY, "first")

    await sweep(store.sharing(lambda session: session), Retention())
    assert await create(store, KEY, "second") == "first"

    await sweep(store.sharing(lambda session: session), Retention(requests=timedelta(0)))
    assert await create(store.sharing(tables), KEY, "second") == "second"
