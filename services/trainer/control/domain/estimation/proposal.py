"""A job on a device: what an estimate is made of."""

from dataclasses import dataclass, replace

from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.estimation.precision import Arithmetic, arithmetic
from services.trainer.control.domain.estimation.reading import Examples, Reading, reading
from services.trainer.control.domain.methods import Method
from services.trainer.control.domain.settings import JobSettings


@dataclass(frozen=True)
class Proposal:
    """`stored_bytes` is the size of the base model's files, 0 where it is not known."""

    architecture: Architecture
    settings: JobSettings
    examples: Examples
    device: Device
    stored_bytes: int = 0

    @property
    def method(self) -> Method:
        return self.settings.method

    @property
    def numbers(self) -> Arithmetic:
        return arithmetic(self.method, self.settings.training.precision, self.device)

    @property
    def reading(self) -> Reading:
        return reading(self.architecture, self.settings.training, self.examples)

    def with_training(self, **changes: object) -> "Proposal":
        training = self.settings.training.model_copy(update=changes)
        return replace(self, settings=self.settings.model_copy(update={"training": training}))

    def with_method(self, method: Method) -> "Proposal":
        return replace(self, settings=self.settings.model_copy(update={"method": method}))
