"""What a tuning job would take, and whether it fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, TypeAdapter

from services.common.faults import FailedPrecondition, InvalidArgument, Violation
from services.common.names import ProjectName
from services.trainer.control.domain import automatic
from services.trainer.control.domain.checks import checked
from services.trainer.control.domain.combinations import impossible
from services.trainer.control.domain.drafts import (
    Draft,
    Findings,
    Resolved,
    Specification,
    examples_of,
)
from services.trainer.control.domain.estimation.architecture import (
    Architecture,
    checked_architecture,
)
from services.trainer.control.domain.estimation.devices import (
    Calibration,
    Corrections,
    Device,
    DeviceKind,
    Devices,
)
from services.trainer.control.domain.estimation.footprint import (
    PeakMemory,
    least_memory,
    peak_memory,
)
from services.trainer.control.domain.estimation.parameters import parameters
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.remedies import remedies
from services.trainer.control.domain.estimation.sizes import Sizes
from services.trainer.control.domain.estimation.throughput import duration_s
from services.trainer.control.domain.frozen import Frozen
from services.trainer.control.domain.methods import METHODS
from services.trainer.control.domain.node_calls import DeviceModel, Speed

_SECONDS_AN_HOUR = 3600
_NO_CORRECTION = Corrections()
_ONE_METHOD = Violation(
    "tuning_job.start_version", "goes on by one method: set tuning_job.method too", "NO_METHOD"
)


@dataclass(frozen=True)
class TuningEstimate:
    """As the proto of this name says."""

    method: str
    total_parameters: int
    trainable_parameters: int
    peak_memory: PeakMemory
    least_memory_bytes: int
    total_steps: int
    tokens: int
    duration_s: float | None
    cost: float | None
    fits: bool
    remedies: Sequence[str]
    calibrating_runs: int


class GivenDevice(Frozen):
    """A device that a caller asks about."""

    kind: DeviceKind
    model: DeviceModel = ""
    memory_bytes: Annotated[int, Field(ge=1, le=2**60)]
    bfloat16_flops: Speed = 0.0
    float32_flops: Speed = 0.0

    def value(self) -> Device:
        return Device(**self.model_dump())


class Circumstances(Frozen):
    """What a caller says beside the job, 0 where it is not said."""

    mean_example_tokens: Annotated[float, Field(ge=0, le=1_048_576)] = 0.0
    price_per_hour: Annotated[float, Field(ge=0, le=1e9)] = 0.0


_DEVICE: TypeAdapter[GivenDevice] = TypeAdapter(GivenDevice)
_CIRCUMSTANCES: TypeAdapter[Circumstances] = TypeAdapter(Circumstances)


@dataclass(frozen=True)
class EstimateCall:
    """An EstimateTuningJob, unchecked. Without a `device` or an `architecture`, what nodes and the
    registry say; `circumstances` has the fields of `Circumstances` that are set."""

    parent: str
    draft: Draft
    device: Mapping[str, object] | None
    architecture: Mapping[str, object] | None
    circumstances: Mapping[str, object]


@dataclass(frozen=True)
class Question:
    """An EstimateCall, checked: one proposal for each method, all on the same device."""

    proposals: Sequence[Proposal]
    device: Device
    price_per_hour: float


def estimate(
    proposal: Proposal, corrections: Corrections = _NO_CORRECTION, price_per_hour: float = 0.0
) -> TuningEstimate:
    counts = parameters(proposal.architecture, proposal.method)
    peak = peak_memory(proposal).times(corrections.peak_ratio)
    seconds = duration_s(proposal)
    if seconds is not None:
        seconds *= corrections.duration_ratio
    reading = proposal.reading
    fits = peak.total_bytes <= proposal.device.memory_bytes
    return TuningEstimate(
        method=proposal.method.kind,
        total_parameters=counts.total,
        trainable_parameters=counts.trained,
        peak_memory=peak,
        least_memory_bytes=min(least_memory(proposal).total_bytes, peak.total_bytes),
        total_steps=reading.steps,
        tokens=reading.tokens,
        duration_s=seconds,
        cost=_cost(seconds, price_per_hour),
        fits=fits,
        remedies=[] if fits else remedies(proposal, corrections.peak_ratio),
        calibrating_runs=corrections.runs,
    )


def _cost(seconds: float | None, price_per_hour: float) -> float | None:
    if seconds is None or not price_per_hour:
        return None
    return seconds / _SECONDS_AN_HOUR * price_per_hour


class Estimates:
    """The use case of EstimateTuningJob."""

    def __init__(
        self, specification: Specification, devices: Devices, calibration: Calibration
    ) -> None:
        self._specification = specification
        self._devices = devices
        self._calibration = calibration

    async def of(self, call: EstimateCall) -> tuple[Sequence[TuningEstimate], Device]:
        """By method, in the order of METHODS, those that the job's backend trains, and the device
        that they are for.

        Raises InvalidArgument with every violation, FailedPrecondition ARCHITECTURE_UNKNOWN and
        DEVICE_UNKNOWN, Unavailable.
        """
        question = await self.question(call, Findings())
        return await self.answers(question), question.device

    async def answers(self, question: Question) -> Sequence[TuningEstimate]:
        """In the order of the proposals. Raises Unavailable."""
        return [
            estimate(proposal, await self._corrections(proposal), question.price_per_hour)
            for proposal in question.proposals
        ]

    async def question(self, call: EstimateCall, findings: Findings) -> Question:
        """Raises as `of`, with the violations found before among the others."""
        project = ProjectName.parse(call.parent, "parent").project
        told = _checked(call, findings)
        resolved = await self._specification.resolved(project, _with_method(call.draft), findings)
        architecture = told.architecture or resolved.base_model.architecture
        if architecture is None:
            raise _unknown_architecture(resolved)
        device = told.device or await self._devices.largest()
        if device is None:
            raise _unknown_device()
        version = resolved.version
        sizes = Sizes(
            architecture,
            stored_bytes=0 if told.architecture else resolved.base_model.size_bytes,
            examples=examples_of(version, told.circumstances.mean_example_tokens),
        )
        settings = automatic.resolved(resolved.settings, architecture, sizes.examples)
        if violations := impossible(
            settings,
            architecture,
            on_texts=version.are_texts,
            goes_on=resolved.start is not None,
        ):
            raise InvalidArgument(violations)
        first = sizes.proposal(settings, device)
        proposals = [first] if "method" in call.draft.settings else _of_each_method(first)
        return Question(proposals, device, told.circumstances.price_per_hour)

    async def _corrections(self, proposal: Proposal) -> Corrections:
        return await self._calibration.of(proposal.method.kind, proposal.device.model)


@dataclass(frozen=True)
class _Told:
    device: Device | None
    architecture: Architecture | None
    circumstances: Circumstances


def _checked(call: EstimateCall, findings: Findings) -> _Told:
    """What a finding was made of is left out."""
    device = architecture = None
    if (given := call.device) is not None:
        device = findings.of(lambda: checked(_DEVICE, given, "device").value())
    if (model := call.architecture) is not None:
        architecture = findings.of(lambda: checked_architecture(model))
    said = findings.of(lambda: checked(_CIRCUMSTANCES, call.circumstances, ""))
    if said is not None and 0 < said.mean_example_tokens < 1:
        description = "must be 1 or more, or 0 to have it guessed"
        findings.violations.append(Violation("mean_example_tokens", description, "OUT_OF_RANGE"))
    if call.draft.start_version and "method" not in call.draft.settings:
        findings.violations.append(_ONE_METHOD)
    return _Told(device, architecture, said or Circumstances())


def _with_method(draft: Draft) -> Draft:
    """A job is checked with some method."""
    settings = {"method": {"kind": METHODS[0]().kind}, **draft.settings}
    start = draft.start_version if "method" in draft.settings else ""
    return replace(draft, settings=settings, start_version=start)


def _of_each_method(proposal: Proposal) -> Sequence[Proposal]:
    """Of those that the job's backend trains."""
    backend = proposal.settings.backend
    methods = [kind() for kind in METHODS]
    return [proposal.with_method(one) for one in methods if backend.trains(one.kind)]


def _unknown_architecture(resolved: Resolved) -> FailedPrecondition:
    name = resolved.base_model.name
    return FailedPrecondition(
        "ARCHITECTURE_UNKNOWN",
        f"the registry does not know how {name} is built: give its architecture",
        base_model=name,
    )


def _unknown_device() -> FailedPrecondition:
    return FailedPrecondition(
        "DEVICE_UNKNOWN", "no node has told of its memory lately: give a device, or start a node"
    )
