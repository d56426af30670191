"""The small values: ids, etags, faults, manifests, the settable clock."""

import re
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.clock import SystemClock
from services.common.etags import etag, require_match
from services.common.faults import (
    Aborted,
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    NotFound,
    Unavailable,
    Violation,
)
from services.common.ids import content_id, new_uid, random_id
from services.common.manifest import FileEntry, Manifest, ManifestInvalid
from services.common.names import require_id
from services.common.testing.clock import FakeClock

DIGEST = "0123456789abcdef" * 4


def test_ids_are_resource_ids():
    assert require_id(random_id("job"), field="id") != require_id(random_id("job"), field="id")
    assert require_id(content_id(DIGEST), field="id") == "v-0123456789abcdef"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-.{12}", new_uid())


@pytest.mark.parametrize("digest", ["", "abc", DIGEST.upper(), DIGEST + "\n"])
def test_a_content_id_comes_from_a_sha256_only(digest: str):
    with pytest.raises(ValueError, match="sha256"):
        content_id(digest)


def test_an_etag_is_quoted_and_changes_with_every_part():
    assert re.fullmatch(r'"[0-9a-f]{16}"', etag("a", 1))
    assert len({etag("a", 1), etag("a", 2), etag("b", 1), etag("a", "1"), etag("a1")}) == 5


def test_a_stale_etag_is_aborted_and_an_empty_one_is_not_checked():
    require_match("", etag(1))
    require_match(etag(1), etag(1))
    with pytest.raises(Aborted) as caught:
        require_match(etag(1), etag(2))
    assert caught.value.reason == "STALE_ETAG"


def test_a_fault_repeats_its_varying_parts_in_its_metadata():
    class StaleAttempt(Aborted):
        def __init__(self, job: str, mine: int) -> None:
            super().__init__("STALE_ATTEMPT", f"attempt {mine} is over", job=job, mine=mine)

    fault = StaleAttempt("projects/p/tuningJobs/j", 2)

    assert fault.metadata == {"job": "projects/p/tuningJobs/j", "mine": "2"}
    assert str(fault) == fault.message == "attempt 2 is over"


def test_an_invalid_argument_names_its_first_violation_and_counts_the_others():
    violations = [Violation("a.b", "too small", "RANGE"), Violation("c", "missing")]

    fault = InvalidArgument(violations)

    assert fault.message == "a.b: too small (and 1 more)"
    assert fault.reason == "RANGE"
    assert InvalidArgument.of("a", "wrong").reason == "INVALID_ARGUMENT"
    assert InvalidArgument([*violations, Violation("d", "x", "OTHER")]).reason == "INVALID_ARGUMENT"


def test_an_invalid_argument_without_a_violation_is_a_mistake():
    with pytest.raises(ValueError):
        InvalidArgument([])


def test_what_is_not_there_and_what_is_there_already_are_named():
    assert NotFound("projects/p").metadata == {"resource": "projects/p"}
    assert "projects/p" in AlreadyExists("projects/p").message
    assert Unavailable("X", "y").retry_after_s == 1.0


def entry(path: str, size_bytes: int = 1, sha256: str = DIGEST) -> FileEntry:
    return FileEntry(path, size_bytes, sha256)


def test_a_manifest_is_canonical():
    one = Manifest((entry("b"), entry("a/c")), {"y": 1, "x": ["é", None]})
    other = Manifest((entry("a/c"), entry("b")), {"x": ["é", None], "y": 1})

    assert one.to_bytes() == other.to_bytes()
    assert one.digest == other.digest != Manifest((entry("b"),), {}).digest
    assert Manifest.parse(one.to_bytes()) == one
    assert one.size_bytes == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4))
def test_a_manifest_survives_its_bytes(meta: dict[str, object]):
    manifest = Manifest((entry("weights.safetensors", 2**40),), meta)

    assert Manifest.parse(manifest.to_bytes()).digest == manifest.digest


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "a\nb",
        "a\\b",
        "x" * 1025,
    ],
)
def test_a_path_that_could_leave_its_directory_is_refused(path: str):
    with pytest.raises(ManifestInvalid):
        entry(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"files": [{"path": "a"}], "meta": {}}',
        b'{"files": [{"path": "../a", "sha256": "' + DIGEST.encode() + b'", "size_bytes": 1}]}',
        b'{"files": 3, "meta": {}}',
        b'{"files": [], "meta": 3}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes):
    with pytest.raises(DataLoss):
        Manifest.parse(content)


def test_a_path_cannot_occur_twice():
    with pytest.raises(ManifestInvalid, match="twice"):
        Manifest((entry("a"), entry("a", 2)))


def test_a_fake_clock_moves_only_when_told():
    clock = FakeClock()
    start = clock.now()

    clock.advance(1.5)

    assert clock.now() - start == timedelta(seconds=1.5)
    assert clock.now().tzinfo is UTC
    assert SystemClock().now() > start
