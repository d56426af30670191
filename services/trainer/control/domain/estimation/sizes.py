"""How large a job is: what its estimates are made of, beside its settings and a device."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.common.faults import Violation
from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.remedies import in_gib, misfit
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
    engine: other backends are not judged by them."""
    there = [one for one in offers if one.device is not None and one.device.memory_bytes]
    device = largest(there)
    if device is None or settings.backend is not Backend.BUILTIN:
        return []
    devices = {one.device for one in there if one.device is not None}
    if any(misfit(sizes.proposal(settings, one)) is None for one in devices):
        return []
    fitting = misfit(sizes.proposal(settings, device)) or ()
    words = (
        f"no node has the memory for it, the largest {in_gib(device.memory_bytes)} "
        f"({device.model})",
        *fitting,
    )
    return [Violation("tuning_job.method", ". ".join(words).rstrip("."), "DOES_NOT_FIT")]
