"""Which version a job can go on from."""

from dataclasses import replace

import pytest

from services.trainer.control.domain.job import ManifestSource
from services.trainer.control.domain.methods import (
    AdapterMethod,
    FullMethod,
    LoraMethod,
    Method,
    Placement,
    PrefixMethod,
    QloraMethod,
)
from services.trainer.control.domain.names import BaseModelName, ModelVersionName
from services.trainer.control.domain.ports import BaseModel, ModelVersion
from services.trainer.control.domain.starts import misfits

TINY = BaseModel(BaseModelName("tiny-base"), "ee" * 32, ManifestSource("ee" * 32))
METHODS: list[Method] = [
    FullMethod(),
    LoraMethod(rank=4, target_modules=("q_proj", "v_proj")),
    QloraMethod(bits=8),
    PrefixMethod(prefix_length=7),
    AdapterMethod(placement=Placement.HOULSBY),
]
OTHERS: list[tuple[Method, str]] = [
    (LoraMethod(rank=8, target_modules=("q_proj", "v_proj")), "rank is 4 there and 8 here"),
    (LoraMethod(rank=4, target_modules=("q_proj",)), "target_modules is ['q_proj', 'v_proj']"),
    (LoraMethod(rank=4, target_modules=("q_proj", "v_proj"), alpha=8), "alpha is 16 there and 8 "),
    (LoraMethod(rank=4, target_modules=("q_proj", "v_proj"), dora=True), "dora is False there"),
    (QloraMethod(), "bits is 8 there and 4 here"),
    (PrefixMethod(prefix_length=7, projection_size=9), "projection_size is 0 there and 9 here"),
    (AdapterMethod(), "placement is HOULSBY there and PFEIFFER here"),
    (AdapterMethod(placement=Placement.HOULSBY, adapter_size=8), "adapter_size is 64 there"),
]


def made_by(method: Method) -> ModelVersion:
    """A version as the registry tells it: numbers as doubles, the training's settings beside."""
    settings = method.model_dump(mode="json", exclude={"kind"})
    told = {name: float(value) if type(value) is int else value for name, value in settings.items()}
    return ModelVersion(
        ModelVersionName("default", "support", "v-1"),
        "cd" * 32,
        str(TINY.name),
        TINY.digest,
        method.kind,
        {**told, "learning_rate": 0.5, "schedule": "COSINE", "seed": 7.0},
    )


def version_like(method: Method) -> ModelVersion:
    return made_by(next(one for one in METHODS if one.kind == method.kind))


def kind_of(value: object) -> str | None:
    return str(getattr(value, "kind", None) or value)[:40]


@pytest.mark.parametrize("method", METHODS, ids=kind_of)
def test_a_job_of_the_same_method_and_base_model_goes_on(method: Method) -> None:
    assert not misfits(version_like(method), TINY, method)


@pytest.mark.parametrize(("method", "words"), OTHERS, ids=kind_of)
def test_another_setting_of_the_method_is_named_with_both_values(
    method: Method, words: str
) -> None:
    (fault,) = misfits(version_like(method), TINY, method)

    assert (fault.field, fault.reason) == ("tuning_job.start_version", "OTHER_METHOD")
    assert words in fault.description


def test_another_method_is_refused() -> None:
    (fault,) = misfits(made_by(LoraMethod()), TINY, QloraMethod())

    assert fault.reason == "OTHER_METHOD"
    assert "was made by the method lora; the job's is qlora" in fault.description


def test_a_method_that_is_not_known_yet_is_another_one() -> None:
    (fault,) = misfits(replace(made_by(LoraMethod()), method="later"), TINY, LoraMethod())
    assert fault.reason == "OTHER_METHOD"


def test_a_setting_that_an_older_version_lacked_had_its_default() -> None:
    start = replace(made_by(LoraMethod()), hyperparameters={"rank": 8.0})

    assert not misfits(start, TINY, LoraMethod())
    assert misfits(start, TINY, LoraMethod(rslora=True))


@pytest.mark.parametrize(
    ("base_model", "words"),
    [
        ("baseModels/other", "was made on baseModels/other; the job is on baseModels/tiny-base"),
        ("baseModels/tiny-base", "was made on other files than baseModels/tiny-base has now"),
    ],
)
def test_another_base_model_is_refused(base_model: str, words: str) -> None:
    start = replace(made_by(FullMethod()), base_model=base_model, base_model_digest="00" * 32)

    (fault,) = misfits(start, TINY, FullMethod())

    assert (fault.field, fault.reason) == ("tuning_job.start_version", "OTHER_BASE_MODEL")
    assert words in fault.description


def test_all_that_does_not_fit_is_told_at_once() -> None:
    start = replace(made_by(FullMethod()), base_model_digest="00" * 32)
    assert len(misfits(start, TINY, LoraMethod())) == 2
