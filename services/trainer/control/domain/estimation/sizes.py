"""How large a job is: what its estimates are made of, beside its settings and a device."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.common.faults import Violation
from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.precision import computes_in_bfloat16
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.remedies import can_train, in_gib, what_fits
from services.trainer.control.domain.methods import FullMethod
from services.trainer.control.domain.nodes import Offer, largest
from services.trainer.control.domain.settings import Backend, JobSettings


@dataclass(frozen=True)
class Sizes:
    """As known when the job was created. `stored_bytes` is the size of the base model's files, 0
    where it is not known."""

    architecture: Architecture
    stored_bytes: int
    examples: Examples

    def proposal(self, settings: JobSettings, device: Device) -> Proposal:
        return Proposal(self.architecture, settings, self.examples, device, self.stored_bytes)


def too_large(sizes: Sizes, settings: JobSettings, offers: Iterable[Offer]) -> list[Violation]:
    """That no node could train the job however it is computed. The formulas are of Anneal's own
    engine and of one device: other backends are not judged by them, nor what is spread over
    several."""
    there = list(offers)
    device = largest(there)
    if device is None or settings.backend is not Backend.BUILTIN or not _all_known(there):
        return []
    if settings.requirements.device_count > 1 and isinstance(settings.method, FullMethod):
        return []
    if any(can_train(sizes.proposal(settings, one)) for one in _to_be_tried(settings, there)):
        return []
    largest_of_all = in_gib(device.memory_bytes) + (f" ({device.model})" if device.model else "")
    words = (
        f"no node has the memory for it, the largest {largest_of_all}",
        *what_fits(sizes.proposal(settings, device)),
    )
    return [Violation("tuning_job.method", ". ".join(words).rstrip("."), "DOES_NOT_FIT")]


def _all_known(offers: Sequence[Offer]) -> bool:
    """Whether each node has told of its memory: one that has not may be large enough."""
    return all(one.device is not None and one.device.memory_bytes for one in offers)


def _to_be_tried(settings: JobSettings, offers: Sequence[Offer]) -> Iterable[Device]:
    """What a job needs goes by what computes and in which type alone: of the devices that are alike
    in that, the one of most memory."""
    precision = settings.training.precision
    most: dict[tuple[DeviceKind, bool], Device] = {}
    for device in (one.device for one in offers if one.device is not None):
        alike = device.kind, computes_in_bfloat16(precision, device)
        if alike not in most or device.memory_bytes > most[alike].memory_bytes:
            most[alike] = device
    return most.values()
