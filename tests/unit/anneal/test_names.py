"""Short names and full ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal.names import Names, id_from

NAMES = Names()
V = "v-0123456789abcdef"
IDS = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("tiny-base", "baseModels/tiny-base"),
        ("baseModels/tiny-base", "baseModels/tiny-base"),
        ("support@champion", "projects/default/models/support/aliases/champion"),
        ("support@latest", "projects/default/models/support/versions/latest"),
        (f"support/{V}", f"projects/default/models/support/versions/{V}"),
        (f"support@{V}", f"projects/default/models/support/versions/{V}"),
        ("projects/p/models/m/aliases/a", "projects/p/models/m/aliases/a"),
    ],
)
def test_what_answers(short: str, full: str) -> None:
    assert NAMES.answering_model(short) == full


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("support", "projects/default/models/support/versions/latest"),
        ("support@champion", "projects/default/models/support/aliases/champion"),
        (f"support/{V}", f"projects/default/models/support/versions/{V}"),
        (f"projects/p/models/m/versions/{V}", f"projects/p/models/m/versions/{V}"),
        ("projects/p/models/m", "projects/p/models/m/versions/latest"),
        ("projects/p/models/m/aliases/a", "projects/p/models/m/aliases/a"),
    ],
)
def test_a_version_or_an_alias(short: str, full: str) -> None:
    assert NAMES.model_version_or_alias(short) == full


@pytest.mark.parametrize("short", ["support", "support@latest", "support/latest"])
def test_a_version_is_the_newest_by_default(short: str) -> None:
    assert NAMES.dataset_version(short) == "projects/default/datasets/support/versions/latest"


def test_a_full_dataset_name_stands_for_its_newest_version() -> None:
    name = "projects/other/datasets/support"
    assert NAMES.dataset_version(name) == f"{name}/versions/latest"
    assert NAMES.dataset_version(f"{name}/versions/{V}") == f"{name}/versions/{V}"


@given(member=IDS, alias=IDS)
def test_short_names_lead_back(member: str, alias: str) -> None:
    for full, expand in [
        (NAMES.dataset(member), NAMES.dataset),
        (NAMES.tuning_job(member), NAMES.tuning_job),
        (f"{NAMES.model(member)}/versions/{V}", NAMES.answering_model),
        (f"{NAMES.dataset(member)}/versions/{V}", NAMES.dataset_version),
        (NAMES.base_model(member), NAMES.answering_model),
    ]:
        assert expand(NAMES.short(full)) == full
    if alias != "latest":
        full = NAMES.model_alias(member, alias)
        assert NAMES.answering_model(NAMES.short(full)) == full


def test_a_node_is_of_no_project() -> None:
    assert NAMES.node("node-a") == NAMES.node("nodes/node-a") == "nodes/node-a"
    assert NAMES.short("nodes/node-a") == "node-a"


def test_names_of_another_project_are_not_shortened() -> None:
    assert NAMES.short("projects/other/datasets/d") == "projects/other/datasets/d"
    assert Names("other").short("projects/other/datasets/d") == "d"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("support", "support"),
        ("GSM8K Train (v2)", "gsm8k-train-v2"),
        ("2024_data", "dataset-2024-data"),
        ("___", "dataset"),
        ("é", "dataset"),
        ("x" * 99, "x" * 63),
    ],
)
def test_an_id_is_made_of_any_file_name(text: str, made: str) -> None:
    assert id_from(text, "dataset") == made


@given(st.text())
def test_a_made_id_is_always_a_good_one(text: str) -> None:
    import re

    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", id_from(text, "dataset"))
