"""What is refused before a node has to find out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from services.common.faults import InvalidArgument, Violation
from services.trainer.control.domain.combinations import LEAKING_FAMILIES, impossible
from services.trainer.control.domain.drafts import Draft, Findings, Specification
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.settings import checked_settings
from tests.contract.trainer_control.world import (
    LLAMA,
    known_base_models,
    known_datasets,
    known_model_versions,
)
from tests.unit.trainer_control.proposals import llama

T5 = llama().model_copy(update={"decoder_layer_count": 16})
TARGETS = {"kind": "lora", "target_modules": ("q_proj", "c_attn")}
NO_LAYER = {"tuning_job.lora.target_modules.1": "NO_SUCH_LAYER"}


def found(
    asked: Mapping[str, Any], model: Any = T5, *, on_texts: bool = False, goes_on: bool = False
) -> list[Violation]:
    settings = checked_settings({"method": {"kind": "lora"}, **asked})
    return impossible(settings, model, on_texts=on_texts, goes_on=goes_on)


def reasons(asked: Mapping[str, Any], model: Any = T5, **circumstances: bool) -> dict[str, str]:
    violations = found(asked, model, **circumstances)
    by_field = {one.field: one.reason for one in violations}
    assert len(by_field) == len(violations), "one a field"
    return by_field


@pytest.mark.parametrize(
    ("asked", "on_texts", "expected"),
    [
        ({}, False, {}),
        ({}, True, {"tuning_job.dataset_version": "MODEL_LACKS_TEXTS"}),
        (
            {"training": {"packing": True}},
            False,
            {"tuning_job.training.packing": "MODEL_LACKS_PACKING"},
        ),
        ({"backend": "UNSLOTH"}, False, {"tuning_job.backend": "BACKEND_LACKS_MODEL"}),
        ({"backend": "AXOLOTL"}, False, {"tuning_job.backend": "BACKEND_LACKS_MODEL"}),
        ({"method": TARGETS}, False, NO_LAYER),
    ],
)
def test_an_encoder_decoder_has_its_limits(
    asked: dict[str, Any], on_texts: bool, expected: dict[str, str]
) -> None:
    assert reasons(asked, on_texts=on_texts) == expected


def test_a_decoder_has_none_of_them_and_of_an_unknown_model_nothing_is_said() -> None:
    asked = {"training": {"packing": True}, "method": TARGETS}
    assert reasons(asked, llama(), on_texts=True) == NO_LAYER
    assert reasons(asked, None, on_texts=True) == {}


@pytest.mark.parametrize("model", [llama(), None])
@pytest.mark.parametrize("backend", ["UNSLOTH", "AXOLOTL"])
@pytest.mark.parametrize(
    ("asked", "field", "reason"),
    [
        ({"method": {"kind": "prefix"}}, "backend", "BACKEND_LACKS_METHOD"),
        ({"method": {"kind": "adapter"}}, "backend", "BACKEND_LACKS_METHOD"),
        ({"training": {"packing": True}}, "training.packing", "BACKEND_LACKS_SETTING"),
        ({"training": {"batch_tokens": 512}}, "training.batch_tokens", "BACKEND_LACKS_SETTING"),
        (
            {"training": {"early_stopping_patience": 2}},
            "training.early_stopping_patience",
            "BACKEND_LACKS_SETTING",
        ),
    ],
)
def test_what_no_other_backend_can_do_is_refused_for_it_alone(
    asked: dict[str, Any], field: str, reason: str, backend: str, model: Any
) -> None:
    (violation,) = found({**asked, "backend": backend}, model)
    assert (violation.field, violation.reason) == (f"tuning_job.{field}", reason)
    assert violation.description.startswith(f"{backend.lower()} cannot ")
    assert violation.description.endswith("; the backend builtin can")
    assert found(asked, model) == []


@pytest.mark.parametrize(
    ("backend", "method", "field"),
    [
        ("AXOLOTL", {"kind": "lora", "alpha": 8.5}, "lora.alpha"),
        ("AXOLOTL", {"kind": "qlora", "alpha": 8.5}, "qlora.alpha"),
        ("UNSLOTH", {"kind": "lora", "dora": True}, "lora.dora"),
        ("UNSLOTH", {"kind": "qlora", "double_quantization": False}, "qlora.double_quantization"),
    ],
)
def test_what_one_backend_alone_cannot_do_is_refused_for_it(
    backend: str, method: dict[str, Any], field: str
) -> None:
    expected = {f"tuning_job.{field}": "BACKEND_LACKS_SETTING"}
    assert reasons({"method": method, "backend": backend}, llama()) == expected
    (other,) = {"AXOLOTL", "UNSLOTH"} - {backend}
    assert reasons({"method": method, "backend": other}, llama()) == {}


@pytest.mark.parametrize("backend", ["UNSLOTH", "AXOLOTL"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_other_backends_train_what_they_can(method: str, backend: str) -> None:
    asked = {"method": {"kind": method}, "backend": backend}
    assert reasons(asked, llama()) == {}
    assert reasons(asked, llama(), goes_on=True) == {
        "tuning_job.start_version": "BACKEND_LACKS_SETTING"
    }


def test_what_neither_model_nor_backend_can_do_is_said_of_the_model() -> None:
    asked = {"backend": "UNSLOTH", "training": {"packing": True}}
    assert reasons(asked) == {
        "tuning_job.backend": "BACKEND_LACKS_MODEL",
        "tuning_job.training.packing": "MODEL_LACKS_PACKING",
    }


@pytest.mark.parametrize("family", sorted(LEAKING_FAMILIES))
def test_a_family_that_leaks_between_packed_examples_is_not_packed(family: str) -> None:
    model = llama().model_copy(update={"model_type": family})
    asked = {"training": {"packing": True}}
    assert reasons(asked, model) == {"tuning_job.training.packing": "MODEL_LACKS_PACKING"}
    assert reasons({}, model) == {}
    assert reasons(asked, llama()) == {}, "all others are left to the engine"


class NoNodes:
    async def there(self) -> list[Offer]:
        return []


async def test_a_job_is_refused_with_all_of_it_at_once() -> None:
    t5 = LLAMA.model_copy(update={"decoder_layer_count": 16})
    models, datasets = known_base_models(), known_datasets()
    name = "baseModels/llama"
    models.models[name] = replace(models.models[name], architecture=t5)
    datasets.versions = {
        name: replace(one, are_texts=True) for name, one in datasets.versions.items()
    }
    specification = Specification(datasets, models, known_model_versions(), NoNodes())
    settings: dict[str, object] = {"method": TARGETS, "training": {"packing": True}}
    version = "projects/default/datasets/support/versions/latest"
    draft = Draft(name, version, "projects/other/models/m", settings)

    with pytest.raises(InvalidArgument) as fault:
        await specification.of("default", draft, Findings())

    assert {one.field: one.reason for one in fault.value.violations} == NO_LAYER | {
        "tuning_job.model": "OTHER_PROJECT",
        "tuning_job.dataset_version": "MODEL_LACKS_TEXTS",
        "tuning_job.training.packing": "MODEL_LACKS_PACKING",
    }


async def test_no_method_learns_from_preferences() -> None:
    models, datasets = known_base_models(), known_datasets()
    datasets.versions = {
        name: replace(one, are_preferences=True) for name, one in datasets.versions.items()
    }
    specification = Specification(datasets, models, known_model_versions(), NoNodes())
    version = "projects/default/datasets/support/versions/latest"
    draft = Draft("baseModels/tiny-base", version, "", {"method": {"kind": "lora"}})

    with pytest.raises(InvalidArgument) as fault:
        await specification.of("default", draft, Findings())

    assert {one.field: one.reason for one in fault.value.violations} == {
        "tuning_job.dataset_version": "PREFERENCES_UNLEARNT"
    }


async def test_a_backend_s_limits_are_told_beside_a_base_model_that_is_not_there() -> None:
    catalogs = known_datasets(), known_base_models(), known_model_versions()
    specification = Specification(*catalogs, NoNodes())
    settings: dict[str, object] = {
        "method": {"kind": "lora"},
        "training": {"packing": True},
        "backend": "AXOLOTL",
    }
    version = "projects/default/datasets/support/versions/latest"

    with pytest.raises(InvalidArgument) as fault:
        await specification.of(
            "default", Draft("baseModels/none", version, "", settings), Findings()
        )

    assert {one.field: one.reason for one in fault.value.violations} == {
        "tuning_job.base_model": "BASE_MODEL_NOT_FOUND",
        "tuning_job.training.packing": "BACKEND_LACKS_SETTING",
    }
