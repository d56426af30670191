"""What a caller sees of a service that refuses."""

import socket
from pathlib import Path

import grpc
import pytest

from anneal.addresses import Addresses
from anneal.client import Client
from anneal.errors import (
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServerError,
    Unauthenticated,
    Unavailable,
    UploadRejected,
    Violation,
)
from tests.contract.anneal.scripted import World, away, bad_request, status


def test_an_error_carries_code_reason_message_metadata_and_the_log_s_id(client: Client) -> None:
    with pytest.raises(NotFound, match="there is no projects/default/datasets/nope") as failed:
        client.datasets.get("nope")
    error = failed.value
    assert (error.code, error.reason) == ("NOT_FOUND", "NOT_HERE")
    assert error.metadata == {"name": "projects/default/datasets/nope"}
    assert error.request_id == "the-log-s-id"


def test_every_violation_arrives(client: Client, world: World) -> None:
    world.refuse["CreateTuningJob"] = lambda: bad_request(
        ("tuning_job.lora.rank", "is above 512", "OUT_OF_RANGE"),
        ("tuning_job.base_model", "is not known", "BASE_MODEL_NOT_FOUND"),
    )
    with pytest.raises(InvalidArgument) as failed:
        client.jobs.create("support", "nope")
    assert failed.value.violations == (
        Violation("tuning_job.lora.rank", "is above 512", "OUT_OF_RANGE"),
        Violation("tuning_job.base_model", "is not known", "BASE_MODEL_NOT_FOUND"),
    )


def test_a_full_queue_says_when_to_come_back(client: Client, world: World) -> None:
    world.refuse["GenerateText"] = lambda: away(retry_after_s=7)
    with pytest.raises(ResourceExhausted) as failed:
        client.inference.generate("tiny-base", "hello")
    assert failed.value.retry_after_s == 7


def test_a_refused_upload_lists_its_bad_lines(client: Client, world: World, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b"{}\nnonsense\n" * 150)
    with pytest.raises(UploadRejected) as failed:
        client.datasets.upload(file, "bad")
    assert (failed.value.fault_count, failed.value.line_count) == (150, 300)
    assert len(failed.value.faults) == 100
    assert (failed.value.faults[1].line, failed.value.faults[1].code) == (4, "NOT_JSON")
    assert world.uploads == []


def test_a_code_of_nobody_s_is_the_server_s_fault(client: Client, world: World) -> None:
    world.refuse["GetTuningJob"] = lambda: status(grpc.StatusCode.INTERNAL, "INTERNAL", "error 4f")
    with pytest.raises(ServerError, match="error 4f"):
        client.jobs.get("job-1")


def test_a_missing_key_is_told_apart(client: Client, world: World) -> None:
    world.refuse["ListTuningJobs"] = lambda: status(
        grpc.StatusCode.UNAUTHENTICATED, "KEY_MISSING", "send a key"
    )
    with pytest.raises(Unauthenticated):
        list(client.jobs.list())


def test_nobody_at_the_address_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    with (
        Client(Addresses(trainer=nobody), environment={}) as client,
        pytest.raises(Unavailable, match=f"^nothing answers at {nobody}$") as failed,
    ):
        client.jobs.get("job-1")
    assert failed.value.reason == "UNREACHABLE"
    assert "refused" in failed.value.metadata["cause"]


def test_a_proxy_is_not_asked_for_the_way_to_this_machine(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    for variable in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Client(addresses, environment={}) as client:
        assert client.jobs.get("job-1").name == "projects/default/tuningJobs/job-1"


def test_calls_carry_the_key_and_a_request_id(addresses: Addresses, world: World) -> None:
    with Client(addresses, api_key="anneal_me_secret", environment={}) as client:
        client.jobs.get("job-1")
        client.jobs.get("job-1")
    (_, _, first), (_, _, second) = world.calls
    assert first["authorization"] == "Bearer anneal_me_secret"
    assert first["x-request-id"] != second["x-request-id"]


def test_a_stream_that_has_not_begun_is_asked_for_again(
    client: Client, world: World, tmp_path: Path
) -> None:
    world.refuse["DownloadModelVersion"] = lambda: status(
        grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", "try again"
    )
    client.models.download("support", tmp_path / "model")
    assert len(world.requests("DownloadModelVersion")) == 2
