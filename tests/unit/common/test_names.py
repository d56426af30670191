"""Resource names: text and value are two views of one thing, and nothing else parses."""

from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.faults import InvalidArgument
from services.common.names import ProjectName, ResourceName, project_of, require_id


@dataclass(frozen=True)
class VersionName(ResourceName):
    pattern = "projects/{project}/tuningJobs/{job}/versions/{version}"
    project: str
    job: str
    version: str


ids = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(ids, ids, ids)
def test_a_name_survives_its_text(project: str, job: str, version: str):
    name = VersionName(project, job, version)

    assert VersionName.parse(str(name)) == name
    assert str(name) == f"projects/{project}/tuningJobs/{job}/versions/{version}"
    assert project_of(str(name)) == project


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text: str):
    with suppress(InvalidArgument):
        assert str(ProjectName.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "projects/p/tuningJobs/j",
        "projects/p/tuningJobs/j/versions/v/",
        "/projects/p/tuningJobs/j/versions/v",
        "projects/p/tuningJobs/j/versions/v\n",
        "projects/p/tuningJobs/../versions/v",
        "projects/P/tuningJobs/j/versions/v",
        "projects/p/tuningjobs/j/versions/v",
        "projects/p/tuningJobs/j-/versions/v",
        "projects/p/tuningJobs/1/versions/v",
        f"projects/p/tuningJobs/{'j' * 64}/versions/v",
    ],
)
def test_a_wrong_name_is_refused_and_the_form_is_told(text: str):
    with pytest.raises(InvalidArgument) as caught:
        VersionName.parse(text, field="parent")

    (violation,) = caught.value.violations
    assert violation.field == "parent"
    assert VersionName.pattern in violation.description


def test_a_huge_wrong_name_is_not_repeated_in_full():
    with pytest.raises(InvalidArgument) as caught:
        ProjectName.parse("x" * 100_000)
    assert len(caught.value.message) < 500


def test_a_value_cannot_be_made_of_a_wrong_id():
    with pytest.raises(InvalidArgument) as caught:
        VersionName("p", "No Job", "v")
    assert caught.value.violations[0].field == "job"


def test_names_of_different_resources_are_different():
    @dataclass(frozen=True)
    class OtherName(ResourceName):
        pattern = "projects/{project}"
        project: str

    assert OtherName("p") != ProjectName("p")
    assert {ProjectName("p"), ProjectName("p")} == {ProjectName("p")}


@pytest.mark.parametrize(
    ("text", "project"),
    [
        ("projects/p", "p"),
        ("projects/p/anything?/at all", "p"),
        ("projects/", None),
        ("projects/Bad/x", None),
        ("xprojects/p", None),
        ("projects/p-/x", None),
        ("", None),
    ],
)
def test_the_project_of_a_name(text: str, project: str | None):
    assert project_of(text) == project


def test_an_id_is_checked_by_itself():
    assert require_id("support-2", field="dataset_id") == "support-2"
    with pytest.raises(InvalidArgument, match="dataset_id"):
        require_id("Support 2", field="dataset_id")
