"""What can not be trained together, as far as it is known before a node has looked."""

from collections.abc import Iterator

from services.common.faults import Violation
from services.trainer.backend_limits import Asked, Lack, lacks
from services.trainer.control.domain import starts
from services.trainer.control.domain.estimation.architecture import Architecture
from services.trainer.control.domain.estimation.parameters import unknown_targets
from services.trainer.control.domain.settings import Backend, JobSettings

LEAKING_FAMILIES = frozenset(
    {
        "biogpt",
        "bloom",
        "falcon",
        "falcon_mamba",
        "mamba",
        "mpt",
        "openai-gpt",
        "opt",
        "rwkv",
        "xglm",
    }
)
"""By `model_type`: those of which an example sees the ones packed before it, however a model of
them is made. The engine tries every model, and refuses others too."""

_BACKEND = "tuning_job.backend"
_OF_THE_BACKEND = {
    "method": (_BACKEND, "BACKEND_LACKS_METHOD"),
    "base_model": (_BACKEND, "BACKEND_LACKS_MODEL"),
    "start": (starts.FIELD, "BACKEND_LACKS_SETTING"),
}
"""The field and the reason of what is said of these; of all others it is the setting's own."""


def impossible(
    settings: JobSettings, architecture: Architecture | None, *, on_texts: bool, goes_on: bool
) -> list[Violation]:
    """What the engine or the job's backend would refuse of a job. Where it is not known how the
    base model is built, they alone can tell what it lacks. What the model cannot do with any
    backend is said once."""
    found = _of_the_model(settings, architecture, on_texts=on_texts) if architecture else []
    on_encoder_decoder = architecture is not None and architecture.is_encoder_decoder
    named = {one.field for one in found}
    lacking = _of_the_backend(settings, on_encoder_decoder=on_encoder_decoder, goes_on=goes_on)
    return found + [one for one in lacking if one.field not in named]


def _of_the_model(
    settings: JobSettings, architecture: Architecture, *, on_texts: bool
) -> list[Violation]:
    found = [*unknown_targets(architecture, settings.method)]
    if architecture.is_encoder_decoder:
        found += _of_an_encoder_decoder(settings, on_texts=on_texts)
    elif settings.training.packing and architecture.model_type in LEAKING_FAMILIES:
        words = (
            f"in a model of the family {architecture.model_type} an example would see those packed "
            "before it; set packing to false"
        )
        found.append(Violation("tuning_job.training.packing", words, "MODEL_LACKS_PACKING"))
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


def _of_the_backend(
    settings: JobSettings, *, on_encoder_decoder: bool, goes_on: bool
) -> list[Violation]:
    if settings.backend is Backend.BUILTIN:
        return []
    method = settings.method
    asked = Asked(method.model_dump(), settings.training, on_encoder_decoder, goes_on)
    return [_violation(lack, method.kind) for lack in lacks(settings.backend.lower(), asked)]


def _violation(lack: Lack, method: str) -> Violation:
    """A method's settings stand in the job under the method's name."""
    own = "tuning_job." + lack.field.replace("method.", f"{method}.")
    field, reason = _OF_THE_BACKEND.get(lack.field, (own, "BACKEND_LACKS_SETTING"))
    return Violation(field, lack.words, reason)
