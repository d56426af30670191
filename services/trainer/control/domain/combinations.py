"""What can not be trained together, as far as it is known before a node has looked."""

from collections.abc import Iterator

from services.common.faults import Violation
from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.parameters import unknown_targets
from services.trainer.control.domain.settings import Backend, JobSettings


def impossible(
    settings: JobSettings, architecture: Architecture | None, *, on_texts: bool
) -> list[Violation]:
    """What the engine would refuse of a job. Where it is not known how the base model is built,
    the engine alone can tell."""
    if architecture is None:
        return []
    found = [*unknown_targets(architecture, settings.method)]
    if architecture.is_encoder_decoder:
        found += _of_an_encoder_decoder(settings, on_texts=on_texts)
    return found


def _of_an_encoder_decoder(settings: JobSettings, *, on_texts: bool) -> Iterator[Violation]:
    if on_texts:
        words = (
            "holds plain texts, and the base model is an encoder–decoder, which learns from pairs: "
            "take a decoder-only base model, or a dataset of conversations"
        )
        yield Violation("tuning_job.dataset_version", words, "MODEL_LACKS_TEXTS")
    if settings.training.packing:
        words = "an encoder–decoder can not be packed"
        yield Violation("tuning_job.training.packing", words, "MODEL_LACKS_PACKING")
    if settings.backend is not Backend.BUILTIN:
        words = (
            f"{settings.backend.lower()} can not train an encoder–decoder: leave the backend unset "
            "for Anneal's own"
        )
        yield Violation("tuning_job.backend", words, "BACKEND_LACKS_MODEL")
