"""Everything that is wrong with an experiment is said at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.abtest.domain.drafts import DraftCheck, DraftTurn, ExperimentDraft
from services.abtest.domain.experiment import Role
from services.abtest.domain.names import BaseModelName, ModelAliasName, ModelVersionName
from services.common.faults import InvalidArgument

QUESTION = [DraftTurn(Role.USER, "Where is my parcel?")]
DRAFT = ExperimentDraft(
    parent="projects/default",
    experiment_id="support",
    baseline_model="baseModels/tiny-base",
    candidate_model="projects/default/models/support/aliases/champion",
    prompts=[QUESTION],
    max_output_tokens=0,
    request_id="",
    fingerprint="",
    validate_only=False,
)


def faults(draft: ExperimentDraft) -> list[tuple[str, str]]:
    with pytest.raises(InvalidArgument) as error:
        DraftCheck(draft).result()
    return [(violation.field, violation.reason) for violation in error.value.violations]


def test_a_good_draft_takes_its_defaults() -> None:
    checked = DraftCheck(DRAFT).result()

    assert checked.max_output_tokens == 256
    assert checked.baseline == BaseModelName("tiny-base")
    assert checked.candidate == ModelAliasName("default", "support", "champion")


def test_latest_is_a_version() -> None:
    name = "projects/default/models/support/versions/latest"

    checked = DraftCheck(replace(DRAFT, candidate_model=name)).result()

    assert checked.candidate == ModelVersionName("default", "support", "latest")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"parent": "default"}, ("parent", "RESOURCE_NAME_INVALID")),
        ({"experiment_id": "Support!"}, ("experiment_id", "RESOURCE_ID_INVALID")),
        ({"baseline_model": ""}, ("experiment.baseline_model", "REQUIRED")),
        ({"candidate_model": "gpt"}, ("experiment.candidate_model", "RESOURCE_NAME_INVALID")),
        (
            {"candidate_model": "projects/other/models/m/versions/latest"},
            ("experiment.candidate_model", "OTHER_PROJECT"),
        ),
        ({"request_id": "again"}, ("request_id", "REQUEST_ID_INVALID")),
        ({"max_output_tokens": -1}, ("experiment.max_output_tokens", "OUT_OF_RANGE")),
        ({"max_output_tokens": 4097}, ("experiment.max_output_tokens", "OUT_OF_RANGE")),
        ({"prompts": []}, ("experiment.prompts", "OUT_OF_RANGE")),
        ({"prompts": [QUESTION] * 1001}, ("experiment.prompts", "OUT_OF_RANGE")),
        ({"prompts": [[]]}, ("experiment.prompts.0.messages", "OUT_OF_RANGE")),
        ({"prompts": [QUESTION * 65]}, ("experiment.prompts.0.messages", "OUT_OF_RANGE")),
        (
            {"prompts": [QUESTION, [*QUESTION, DraftTurn(Role.ASSISTANT, "Here.")]]},
            ("experiment.prompts.1.messages", "NO_USER_TURN"),
        ),
        (
            {"prompts": [[DraftTurn(None, "Hi")]]},
            ("experiment.prompts.0.messages.0.role", "UNKNOWN_ROLE"),
        ),
        (
            {"prompts": [[*QUESTION, DraftTurn(Role.SYSTEM, "Be kind."), *QUESTION]]},
            ("experiment.prompts.0.messages.1.role", "MISPLACED_ROLE"),
        ),
        (
            {"prompts": [[DraftTurn(Role.USER, "")]]},
            ("experiment.prompts.0.messages.0.content", "EMPTY"),
        ),
    ],
)
def test_each_fault_names_its_field(change: dict[str, Any], expected: tuple[str, str]) -> None:
    assert faults(replace(DRAFT, **change)) == [expected]


def test_all_faults_come_at_once() -> None:
    draft = replace(DRAFT, parent="x", baseline_model="y", prompts=[[]], max_output_tokens=5000)

    assert [field for field, _ in faults(draft)] == [
        "parent",
        "experiment.baseline_model",
        "experiment.prompts.0.messages",
        "experiment.max_output_tokens",
    ]


@pytest.mark.parametrize("size", [1, 1000])
def test_the_limits_themselves_are_allowed(size: int) -> None:
    make: Callable[[], Any] = DraftCheck(replace(DRAFT, prompts=[QUESTION] * size)).result

    assert len(make().prompts) == size
