"""What a caller of a failing handler is told."""

import errno
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import structlog.testing
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status
from pydantic import BaseModel, Field

from anneal.transport import open_channel
from services.common import faults
from services.common.faults import InvalidArgument, Violation
from services.common.server import ServerSettings, running


class Refused(Exception):
    """What a caller learns of a failed call."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(f"{error.code()}: {error.details()}")
        self.code = error.code()
        self.message = error.details() or ""
        metadata = error.trailing_metadata()
        self.raw = b"".join(v if isinstance(v, bytes) else v.encode() for _, v in metadata)
        self._status = rpc_status.from_call(_Call(error))

    def detail(self, kind: type[Message]) -> Any:
        found = [any_ for any_ in self._status.details if any_.Is(kind.DESCRIPTOR)]
        assert len(found) == 1, f"{len(found)} {kind.__name__} in {self._status}"
        message = kind()
        found[0].Unpack(message)
        return message


class _Call:
    """What grpc_status reads of a call."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.details = error.code, error.details
        self.trailing_metadata = error.trailing_metadata


@pytest.fixture
def refusal(served: Any, echo: Any, pb: Any) -> Callable[..., Any]:
    """Calls Say on a handler that raises `error`, and returns what the caller learns."""

    async def call(error: BaseException, **options: Any) -> Refused:
        async def fail(text: str) -> str:
            raise error

        async with served(echo.Echo(fail), **options) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Say(pb.EchoRequest(text="hello"))
        return Refused(caught.value)

    return call


CATEGORIES = [
    (faults.InvalidArgument.of("name", "is bad", "NAME_BAD"), "INVALID_ARGUMENT", "NAME_BAD"),
    (faults.NotFound("projects/p/echoes/e"), "NOT_FOUND", "RESOURCE_NOT_FOUND"),
    (faults.AlreadyExists("projects/p/echoes/e"), "ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS"),
    (faults.FailedPrecondition("JOB_ENDED", "it has ended"), "FAILED_PRECONDITION", "JOB_ENDED"),
    (faults.Aborted("STALE_ETAG", "read again"), "ABORTED", "STALE_ETAG"),
    (faults.PermissionDenied("NO", "you may not"), "PERMISSION_DENIED", "NO"),
    (faults.Unauthenticated("WHO", "say who you are"), "UNAUTHENTICATED", "WHO"),
    (faults.ResourceExhausted("QUOTA", "wait", retry_after_s=3), "RESOURCE_EXHAUSTED", "QUOTA"),
    (faults.Unavailable("DEPENDENCY_DOWN", "again"), "UNAVAILABLE", "DEPENDENCY_DOWN"),
    (faults.DataLoss("BLOB_MISSING", "it is gone"), "DATA_LOSS", "BLOB_MISSING"),
]


@pytest.mark.parametrize(("fault", "code", "reason"), CATEGORIES, ids=lambda value: str(value)[:20])
async def test_every_category_of_fault_has_its_code_and_an_error_info(
    refusal: Any, fault: faults.Fault, code: str, reason: str
) -> None:
    refused = await refusal(fault)

    assert refused.code.name == code
    assert refused.message == fault.message
    info = refused.detail(details.ErrorInfo)
    assert (info.reason, info.domain) == (reason, "anneal")
    assert dict(info.metadata) == fault.metadata


async def test_a_fault_of_a_service_gets_the_code_of_its_category(refusal: Any) -> None:
    class StaleAttempt(faults.Aborted):
        def __init__(self, mine: int, current: int) -> None:
            super().__init__("STALE_ATTEMPT", "stop work on it", mine=mine, current=current)

    refused = await refusal(StaleAttempt(mine=1, current=2))

    assert refused.code is grpc.StatusCode.ABORTED
    assert dict(refused.detail(details.ErrorInfo).metadata) == {"mine": "1", "current": "2"}


async def test_a_full_disk_is_told_to_the_caller_and_to_the_log(refusal: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        refused = await refusal(OSError(errno.ENOSPC, "No space left on device"))

    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.detail(details.ErrorInfo).reason == "DISK_FULL"
    assert [log["log_level"] for log in logs if log["event"] == "disk.full"] == ["error"]


async def test_every_violation_is_told_at_once(refusal: Any) -> None:
    violations = [Violation("name", "is empty", "EMPTY"), Violation("rows.3.text", "is too long")]

    refused = await refusal(InvalidArgument(violations))

    told = refused.detail(details.BadRequest).field_violations
    assert [(v.field, v.description, v.reason) for v in told] == [
        ("name", "is empty", "EMPTY"),
        ("rows.3.text", "is too long", "INVALID"),
    ]


async def test_what_pydantic_rejects_is_told_field_by_field(refusal: Any) -> None:
    class Inner(BaseModel):
        rank: int = Field(ge=1)

    class Spec(BaseModel):
        epochs: int
        lora: list[Inner]

    with pytest.raises(ValueError) as invalid:
        Spec.model_validate({"epochs": "many", "lora": [{"rank": 8}, {"rank": 0}]})
    refused = await refusal(invalid.value)

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    told = {v.field: v for v in refused.detail(details.BadRequest).field_violations}
    assert set(told) == {"epochs", "lora.1.rank"}
    assert told["lora.1.rank"].reason == "GREATER_THAN_EQUAL"
    assert "greater than or equal to 1" in told["lora.1.rank"].description


async def test_an_unexpected_exception_is_told_by_an_id_and_logged_with_its_text(
    refusal: Any, events: Any
) -> None:
    refused = await refusal(ValueError("cannot open /etc/anneal/private.pem"))

    assert refused.code is grpc.StatusCode.INTERNAL
    assert "private" not in refused.message
    assert b"private" not in refused.raw
    assert "ValueError" not in refused.message
    error_id = refused.detail(details.ErrorInfo).metadata["error_id"]
    assert error_id in refused.message
    logged = [event for event in events() if event["event"] == "rpc.failed"]
    assert [event["error_id"] for event in logged] == [error_id]
    assert "cannot open /etc/anneal/private.pem" in logged[0]["exception"]
    assert logged[0]["request_id"]


async def test_a_retry_delay_is_told(refusal: Any) -> None:
    refused = await refusal(faults.Unavailable("DEPENDENCY_DOWN", "again", retry_after_s=2.5))

    assert refused.detail(details.RetryInfo).retry_delay.ToMilliseconds() == 2500


async def test_a_precondition_is_told_as_such(refusal: Any) -> None:
    refused = await refusal(faults.FailedPrecondition("JOB_ENDED", "it has ended", resource="j"))

    [violation] = refused.detail(details.PreconditionFailure).violations
    assert (violation.type, violation.subject) == ("JOB_ENDED", "j")


async def test_a_payload_travels_as_the_detail_that_its_encoder_makes(
    refusal: Any, pb: Any
) -> None:
    fault = faults.InvalidArgument([Violation("lines", "2 are bad")], payload=frozenset({7, 9}))
    encoders = {frozenset: lambda lines: pb.EchoResponse(text=f"bad lines {sorted(lines)}")}

    refused = await refusal(fault, detail_encoders=encoders)

    assert refused.detail(pb.EchoResponse).text == "bad lines [7, 9]"


async def test_an_encoder_that_fails_hides_nothing_from_the_log_and_all_from_the_caller(
    refusal: Any, events: Any
) -> None:
    def broken(payload: frozenset[int]) -> Message:
        raise ValueError("private text of the encoder")

    fault = faults.Aborted("STALE", "read again", payload=frozenset({1}))
    refused = await refusal(fault, detail_encoders={frozenset: broken})

    assert refused.code is grpc.StatusCode.INTERNAL
    assert b"private" not in refused.raw
    [logged] = [event for event in events() if event["event"] == "rpc.failed"]
    assert "private text of the encoder" in logged["exception"]
    assert "read again" in logged["exception"]


async def test_a_thousand_violations_are_cut_to_what_any_client_can_take(refusal: Any) -> None:
    violations = [Violation(f"rows.{i}", "x" * 100) for i in range(1000)]

    refused = await refusal(InvalidArgument(violations))

    told = refused.detail(details.BadRequest).field_violations
    left_out = int(refused.detail(details.ErrorInfo).metadata["entries_left_out"])
    assert told[0].field == "rows.0"
    assert len(told) > 20
    assert len(told) + left_out == 1000


async def test_a_client_of_ours_gets_more_of_them(
    echo: Any, pb: Any, stub: Any, events: Any
) -> None:
    async def fail(text: str) -> str:
        raise InvalidArgument([Violation(f"rows.{i}", "x" * 100) for i in range(300)])

    async with (
        running(ServerSettings(drain_s=0), [echo.echo_service(echo.Echo(fail))], {}) as address,
        open_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).Say(pb.EchoRequest())

    assert len(Refused(caught.value).detail(details.BadRequest).field_violations) == 300


async def test_a_payload_too_big_for_the_client_keeps_its_first_entries(
    refusal: Any, pb: Any
) -> None:
    fault = faults.FailedPrecondition("FULL", "too many", payload=range(500))
    encoders = {
        range: lambda numbers: details.QuotaFailure(
            violations=[details.QuotaFailure.Violation(subject=f"quota-{n}") for n in numbers]
        )
    }

    refused = await refusal(fault, detail_encoders=encoders)

    kept = refused.detail(details.QuotaFailure).violations
    assert kept[0].subject == "quota-0"
    assert 100 < len(kept) < 500


async def test_text_that_utf8_cannot_hold_does_not_hide_the_error(refusal: Any) -> None:
    refused = await refusal(InvalidArgument.of("text", "has \ud800 in it"))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.detail(details.BadRequest).field_violations[0].description == "has ? in it"


async def test_the_one_fault_in_a_group_is_told(refusal: Any) -> None:
    group = ExceptionGroup("of a task group", [faults.NotFound("projects/p/echoes/e")])

    assert (await refusal(group)).code is grpc.StatusCode.NOT_FOUND


async def test_a_service_that_is_down_behind_ours_is_unavailable(
    served: Any, echo: Any, pb: Any, stub: Any
) -> None:
    async def ask(text: str) -> str:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            return (await stub(channel).Say(pb.EchoRequest(text=text))).text

    async with served(echo.Echo(ask)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.Say(pb.EchoRequest())

    refused = Refused(caught.value)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.detail(details.ErrorInfo).reason == "DEPENDENCY_DOWN"


async def test_a_stream_that_fails_half_way_keeps_its_messages_and_tells_the_error(
    served: Any, echo: Any, pb: Any
) -> None:
    texts = iter(["one", "two"])

    async def answer(text: str) -> str:
        try:
            return next(texts)
        except StopIteration:
            raise faults.DataLoss("BLOB_MISSING", "it is gone") from None

    got: list[str] = []

    async def collect(messages: Any) -> None:
        async for message in messages:
            got.append(message.text)

    async with served(echo.Echo(answer)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(stub.Watch(pb.EchoRequest()))

    assert got == ["one", "two"]
    assert Refused(caught.value).detail(details.ErrorInfo).reason == "BLOB_MISSING"


async def test_a_context_that_the_handler_aborted_stays_as_it_is(
    served: Any, echo: Any, pb: Any
) -> None:
    class Aborting(echo.Echo):
        async def Say(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "in its own words")

    async with served(Aborting()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(pb.EchoRequest())

    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert caught.value.details() == "in its own words"
