"""What a node may say, with its limits."""

from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.common.names import ID_RULE
from services.common.request_ids import require_uuid4
from services.trainer.control.domain.checkpoints import MAX_TOLD, Checkpoint
from services.trainer.control.domain.endings import (
    MAX_MESSAGE_CHARACTERS,
    Cause,
    Failure,
    Result,
)
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.node_leases import Beat, Claim
from services.trainer.control.domain.nodes import Capabilities
from services.trainer.control.domain.queue.requirements import MAX_DEVICES, LabelWord
from services.trainer.control.domain.settings import Backend

MAX_WAIT_S = 30
_ID = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"


def _printable(text: str) -> str:
    """PostgreSQL's text holds no NUL, a log line of an engine may."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="a sha256 in hex")]
Message = Annotated[str, Field(max_length=MAX_MESSAGE_CHARACTERS), AfterValidator(_printable)]
DeviceModel = Annotated[str, Field(max_length=255), AfterValidator(_printable)]
Metric = Annotated[str, Field(max_length=63), AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0)]
Speed = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NodeCall(BaseModel):
    """A call of a node, whose fields are named as in its request."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToldDevice(NodeCall):
    kind: DeviceKind
    model: DeviceModel = ""
    memory_bytes: Count = 0
    bfloat16_flops: Speed = 0.0
    float32_flops: Speed = 0.0

    def value(self) -> Device:
        return Device(**self.model_dump())


class ToldCapabilities(NodeCall):
    device_count: Count = 0
    engine_count: Count = 0
    driver_version: DeviceModel = ""
    torch_version: DeviceModel = ""
    tested_methods: tuple[DeviceModel, ...] = Field(default=(), max_length=64)
    failed_methods: tuple[DeviceModel, ...] = Field(default=(), max_length=64)
    code_version: DeviceModel = ""

    def value(self) -> Capabilities:
        return Capabilities(**self.model_dump())


class ClaimCall(NodeCall):
    node: str = Field(pattern=_ID, description=ID_RULE)
    wait: float = Field(default=0.0, ge=0, le=MAX_WAIT_S)
    request_id: Annotated[str, AfterValidator(require_uuid4)] | None = None
    device: ToldDevice | None = None
    backends: tuple[str, ...] = ()
    labels: dict[LabelWord, LabelWord] = Field(default_factory=dict[str, str], max_length=64)
    free_devices: int = Field(default=1, ge=0, le=MAX_DEVICES)
    capabilities: ToldCapabilities | None = None
    stopping: bool = False

    def claim(self) -> Claim:
        return Claim(
            node=self.node,
            request_id=self.request_id or "",
            device=self.device.value() if self.device else None,
            backends=self.offered(),
            labels=self.labels,
            free_devices=self.free_devices,
            capabilities=self.capabilities.value() if self.capabilities else None,
            stopping=self.stopping,
        )

    def offered(self) -> frozenset[Backend]:
        """Those that are known here: a newer node may have others. None told: builtin."""
        told = self.backends or (Backend.BUILTIN,)
        return frozenset(one for one in Backend if one in told)


class ToldCheckpoint(NodeCall):
    attempt: Count = 0
    step: Count = 0
    manifest_digest: Digest
    size_bytes: Count = 0
    validation_loss: Annotated[float, Field(allow_inf_nan=False)] | None = None
    job_uid: str = ""

    def value(self) -> Checkpoint:
        return Checkpoint(**self.model_dump())


class HeartbeatCall(NodeCall):
    step: Count
    checkpoint: ToldCheckpoint | None = None
    refused_checkpoints: tuple[ToldCheckpoint, ...] = Field(default=(), max_length=MAX_TOLD)

    def beat(self, attempt: int) -> Beat:
        """The checkpoint is of the attempt that tells of it."""
        told = self.checkpoint
        stored = replace(told.value(), attempt=attempt) if told else None
        return Beat(self.step, stored, tuple(one.value() for one in self.refused_checkpoints))


class CompleteCall(NodeCall):
    manifest_digest: Digest
    base_model_digest: Digest | None = None
    code_version: DeviceModel = ""
    metrics: dict[Metric, float] = Field(default_factory=dict[str, float], max_length=64)
    event_count: Count

    def ending(self) -> Result:
        return Result(
            self.manifest_digest, self.base_model_digest or "", self.code_version, self.metrics
        )


class FailCall(NodeCall):
    cause: Cause
    message: Message = ""
    event_count: Count

    def ending(self) -> Failure:
        return Failure(self.cause, self.message)
