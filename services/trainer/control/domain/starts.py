"""Whether a training can go on from the parameters of a version."""

from collections.abc import Sequence

from services.common.faults import Violation
from services.trainer.control.domain.methods import Method
from services.trainer.control.domain.ports import BaseModel, ModelVersion

FIELD = "tuning_job.start_version"


def misfits(start: ModelVersion, base_model: BaseModel, method: Method) -> Sequence[Violation]:
    """What keeps a job of `method` on `base_model` from going on from `start`.

    All settings of the method count: those that shape the parameters, and those that say what the
    parameters mean, like the scale of a low-rank update.
    """
    found = [_other_base_model(start, base_model), _other_method(start, method)]
    return [one for one in found if one is not None]


def _other_base_model(start: ModelVersion, base_model: BaseModel) -> Violation | None:
    if start.base_model_digest == base_model.digest:
        return None
    if start.base_model == str(base_model.name):
        words = f"{start.name} was made on other files than {base_model.name} has now"
    else:
        words = f"{start.name} was made on {start.base_model}; the job is on {base_model.name}"
    return Violation(FIELD, words, "OTHER_BASE_MODEL")


def _other_method(start: ModelVersion, method: Method) -> Violation | None:
    if start.method != method.kind:
        words = f"{start.name} was made by the method {start.method}; the job's is {method.kind}"
        return Violation(FIELD, words, "OTHER_METHOD")
    ours = _settings(method)
    # What an older version does not tell had no other value than today's default.
    theirs = {**_settings(type(method)()), **start.hyperparameters}
    differing = [
        f"{name} is {_shown(theirs[name])} there and {_shown(value)} here"
        for name, value in ours.items()
        if theirs[name] != value
    ]
    if not differing:
        return None
    words = f"{start.name} has other settings of {method.kind}: {', '.join(differing)}"
    return Violation(FIELD, words, "OTHER_METHOD")


def _shown(value: object) -> str:
    """The registry tells all numbers as doubles."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(method: Method) -> dict[str, object]:
    return method.model_dump(mode="json", exclude={"kind"})
