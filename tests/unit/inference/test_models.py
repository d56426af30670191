"""Which models a caller may name."""

import pytest

from services.common.faults import InvalidArgument
from services.inference.domain.models import (
    AliasName,
    BaseModelName,
    VersionName,
    parse_model_name,
)


def test_a_base_a_version_and_an_alias_are_models() -> None:
    assert parse_model_name("baseModels/tiny", "p") == BaseModelName("tiny")
    assert parse_model_name("projects/p/models/m/versions/v-1", "p") == VersionName("p", "m", "v-1")
    assert parse_model_name("projects/p/models/m/aliases/best", "p") == AliasName("p", "m", "best")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "projects/p/models/m",
        "projects/other/models/m/versions/v-1",
        "projects/other/models/m/aliases/best",
        "projects/p/models/../versions/v-1",
        "baseModels/Tiny",
        "baseModels/tiny/x",
    ],
)
def test_everything_else_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_model_name(text, "p")

    assert caught.value.violations[0].field == "model"
