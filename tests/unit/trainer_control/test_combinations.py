"""What is refused before a node has to find out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from services.common.faults import InvalidArgument
from services.trainer.control.domain.combinations import impossible
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


def reasons(asked: Mapping[str, Any], model: Any = T5, *, on_texts: bool = False) -> dict[str, str]:
    settings = checked_settings({"method": {"kind": "lora"}, **asked})
    found = impossible(settings, model, on_texts=on_texts)
    return {one.field: one.reason for one in found}


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
    asked = {"backend": "UNSLOTH", "training": {"packing": True}, "method": TARGETS}
    assert reasons(asked, llama(), on_texts=True) == NO_LAYER
    assert reasons(asked, None, on_texts=True) == {}


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
