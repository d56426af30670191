"""The contract's own rules, which no linter that we can run knows (AIPs, DESIGN D5)."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

import anneal
from anneal.common.v1 import options_pb2

NOT_RESOURCES = {"google.protobuf.Empty"}
PERMISSION = re.compile(r"[a-z][A-Za-z]*\.[a-z]+")


def files() -> list[FileDescriptor]:
    root = Path(anneal.__path__[0])
    names = [
        f"anneal.{path.parent.parent.name}.v1.{path.stem}" for path in root.glob("*/v1/*_pb2.py")
    ]
    return [importlib.import_module(name).DESCRIPTOR for name in sorted(names)]


def methods() -> list[MethodDescriptor]:
    return [
        method
        for file in files()
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def messages() -> Iterator[Descriptor]:
    def nested(message: Descriptor) -> Iterator[Descriptor]:
        yield message
        for inner in message.nested_types:
            yield from nested(inner)

    for file in files():
        for message in file.message_types_by_name.values():
            yield from nested(message)


def verb_of(method: MethodDescriptor) -> tuple[str, str]:
    verb = re.match(r"[A-Z][a-z]+", method.name)
    assert verb is not None
    return verb[0], method.name[len(verb[0]) :]


def method_id(method: MethodDescriptor) -> str:
    return method.full_name


def policy_of(method: MethodDescriptor) -> options_pb2.MethodPolicy:
    return method.GetOptions().Extensions[options_pb2.policy]


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    head, _, rest = path.partition(".")
    field = message.fields_by_name[head]
    return field_at(field.message_type, rest) if rest else field


every_method = pytest.mark.parametrize("method", methods(), ids=method_id)


def test_every_service_of_the_design_has_a_contract() -> None:
    services = {name for file in files() for name in file.services_by_name}

    assert services == {
        "DatasetService",
        "TuningJobService",
        "TuningSweepService",
        "NodeLeaseService",
        "NodeService",
        "QueueService",
        "RegistryService",
        "InferenceService",
        "ABTestService",
    }


@every_method
def test_a_method_says_who_may_call_it(method: MethodDescriptor) -> None:
    policy = policy_of(method)

    assert PERMISSION.fullmatch(policy.permission)
    if policy.resource:
        field = field_at(method.input_type, policy.resource)
        assert field.type == FieldDescriptor.TYPE_STRING


@every_method
def test_a_method_says_what_a_retry_does(method: MethodDescriptor) -> None:
    assert method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN


@every_method
def test_reading_needs_no_more_than_a_reading_permission(method: MethodDescriptor) -> None:
    reads = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    writes = policy_of(method).permission.endswith(".write")

    assert not (reads and writes)


@every_method
def test_a_request_belongs_to_one_method(method: MethodDescriptor) -> None:
    assert method.input_type.name == f"{method.name}Request"


@every_method
def test_standard_methods_have_the_fields_of_their_aip(method: MethodDescriptor) -> None:
    verb, noun = verb_of(method)
    fields = method.input_type.fields_by_name
    answer = method.output_type

    match verb:
        case "Get":
            assert "name" in fields
            assert answer.name == noun
        case "List":
            assert {"page_size", "page_token"} <= set(fields)
            assert "next_page_token" in answer.fields_by_name
            assert answer.fields[0].is_repeated
            assert not method.server_streaming
        case "Create":
            assert {"parent", "request_id", "validate_only"} <= set(fields)
            assert answer.name == noun
        case "Update":
            assert {"update_mask", "request_id"} <= set(fields)
            assert answer.name == noun
        case "Delete" | "Cancel":
            assert "name" in fields
        case _:
            assert answer.full_name not in NOT_RESOURCES


@every_method
def test_a_stream_answers_with_messages_of_its_own(method: MethodDescriptor) -> None:
    if method.server_streaming:
        assert method.output_type.name == f"{method.name}Response"


def test_times_and_states_are_named_by_the_book() -> None:
    faults = [
        field.full_name
        for message in messages()
        for field in message.fields
        if field.name.endswith("_at") or (field.enum_type and field.name == "status")
    ]

    assert faults == []


def test_timestamps_are_called_time() -> None:
    faults = [
        field.full_name
        for message in messages()
        for field in message.fields
        if field.message_type
        and field.message_type.full_name == "google.protobuf.Timestamp"
        and not (field.name == "time" or field.name.endswith("_time"))
    ]

    assert faults == []


def test_zero_is_never_a_meaning() -> None:
    enums = [enum for file in files() for enum in file.enum_types_by_name.values()]
    enums += [enum for message in messages() for enum in message.enum_types]

    faults = [enum.full_name for enum in enums if not enum.values[0].name.endswith("UNSPECIFIED")]
    assert faults == []
