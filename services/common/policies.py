"""What each RPC demands, read from its method options in the proto."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from anneal.common.v1 import options_pb2
from services.common.process import StartupError


class PolicyMissing(StartupError):
    """An RPC says not, or not correctly, who may call it."""


@dataclass(frozen=True, slots=True)
class MethodPolicy:
    """`permission` is needed to call; `resource` is the path of the request field that names the
    tenant's resource ("" = the RPC belongs to no project); `resource_of` reads that field."""

    permission: str
    resource: str
    idempotent: bool
    resource_of: Callable[[Message], str] | None


def read_policies(services: Iterable[str]) -> dict[str, MethodPolicy]:
    """The policy of every method of the services (full names), keyed by `/package.Service/Method`.

    Raises PolicyMissing naming every method without a usable one.
    """
    policies: dict[str, MethodPolicy] = {}
    problems: list[str] = []
    for service in services:
        for method in methods_of(service):
            try:
                policies[path_of(method)] = _policy(method)
            except PolicyMissing as problem:
                problems.append(str(problem))
    if problems:
        raise PolicyMissing("; ".join(problems))
    return policies


def methods_of(service: str) -> Iterable[MethodDescriptor]:
    """The methods of a service whose stubs are imported. Raises PolicyMissing if they are not."""
    try:
        descriptor = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        raise PolicyMissing(f"{service} is no service of the imported stubs") from None
    return descriptor.methods


def path_of(method: MethodDescriptor) -> str:
    """The method as HTTP/2 knows it: `/package.Service/Method`."""
    return f"/{method.containing_service.full_name}/{method.name}"


def _policy(method: MethodDescriptor) -> MethodPolicy:
    options: MethodOptions = method.GetOptions()
    policy = options.Extensions[options_pb2.policy]
    if not policy.permission:
        raise PolicyMissing(f"{method.full_name} has no permission in its policy option")
    if policy.resource and not _names_text(method.input_type, policy.resource):
        raise PolicyMissing(
            f"{method.full_name}: {policy.resource!r} is no text field of {method.input_type.name}"
        )
    return MethodPolicy(
        permission=policy.permission,
        resource=policy.resource,
        idempotent=options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN,
        resource_of=partial(_text_at, attrgetter(policy.resource)) if policy.resource else None,
    )


def _text_at(field: Callable[[Any], Any], request: Message) -> str:
    return str(field(request))


def _names_text(message: Descriptor, path: str) -> bool:
    *parents, last = path.split(".")
    for parent in parents:
        field = _field(message, parent)
        if field is None or field.message_type is None or field.is_repeated:
            return False
        message = field.message_type
    field = _field(message, last)
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


def _field(message: Descriptor, name: str) -> FieldDescriptor | None:
    fields: Mapping[str, FieldDescriptor] = message.fields_by_name
    return fields.get(name)
