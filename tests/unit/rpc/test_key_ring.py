"""The key file."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.common.auth import KeyRing, KeysInvalid, Principal, new_key
from services.common.faults import InvalidArgument, PermissionDenied, Unauthenticated
from services.common.testing.clock import FakeClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ring(path: Path, *snippets: str, clock: FakeClock | None = None) -> KeyRing:
    path.write_text("\n".join(snippets))
    return KeyRing.load(path, clock or FakeClock(NOON))


def test_a_new_key_opens_the_ring_that_its_snippet_is_added_to(tmp_path: Path) -> None:
    text, snippet = new_key("ci", permissions=["datasets.*"], projects=["a", "b"])

    principal = ring(tmp_path / "keys.toml", snippet).authenticate(f"Bearer {text}")

    assert principal == Principal("ci", frozenset({"datasets.*"}), frozenset({"a", "b"}))
    assert text.split("_", 2)[2] not in snippet


def test_two_new_keys_differ() -> None:
    assert new_key("ci")[0] != new_key("ci")[0]


@pytest.mark.parametrize("key_id", ["", "CI", "a_b", "-a", "a" * 64, 'a"\n[[key]]'])
def test_a_key_id_is_rfc_1034(key_id: str) -> None:
    with pytest.raises(InvalidArgument):
        new_key(key_id)


def test_a_key_expires(tmp_path: Path) -> None:
    text, snippet = new_key("ci")
    clock = FakeClock(NOON)
    keys = ring(tmp_path / "k", snippet + "expires = 2026-01-01T12:00:10Z\n", clock=clock)

    keys.authenticate(f"Bearer {text}")
    clock.advance(10)

    with pytest.raises(Unauthenticated, match="expired"):
        keys.authenticate(f"Bearer {text}")


def test_a_key_is_good_to_the_end_of_its_last_day(tmp_path: Path) -> None:
    text, snippet = new_key("ci")
    clock = FakeClock(NOON)
    keys = ring(tmp_path / "k", snippet + "expires = 2026-01-01\n", clock=clock)

    keys.authenticate(f"Bearer {text}")
    clock.advance(12 * 3600)

    with pytest.raises(Unauthenticated, match="expired"):
        keys.authenticate(f"Bearer {text}")


def test_a_key_of_the_wrong_id_is_not_taken(tmp_path: Path) -> None:
    text, snippet = new_key("ci")
    _, other = new_key("other")
    keys = ring(tmp_path / "k", snippet, other)

    with pytest.raises(Unauthenticated):
        keys.authenticate("Bearer " + text.replace("_ci_", "_other_"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "has no"),
        ("[[key]]\nid = 'a'\n", "key.0.sha256"),
        ("[[key]]\nid = 'A B'\nsha256 = 'x'\npermissions = []\nprojects = ['a']", "key.0.id"),
        ("[[key]]\nsecret = 'oops'", "key.0.secret"),
        ("not toml [", "cannot read"),
        (new_key("a")[1] + new_key("a")[1], "twice: a"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_told(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(KeysInvalid, match=told):
        ring(tmp_path / "keys.toml", content)


def test_a_missing_key_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeysInvalid, match=r"nothing\.toml"):
        KeyRing.load(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("granted", "allowed"),
    [
        ({"jobs.read"}, {"jobs.read"}),
        ({"jobs.*"}, {"jobs.read", "jobs.write"}),
        ({"*"}, {"jobs.read", "jobs.write", "jobsx.read", "models.read"}),
        (set(), set()),
    ],
)
def test_what_a_permission_grants(granted: set[str], allowed: set[str]) -> None:
    principal = Principal("p", frozenset(granted), frozenset())
    asked = {"jobs.read", "jobs.write", "jobsx.read", "models.read"}

    assert {one for one in asked if principal.may(one)} == allowed


def test_a_name_in_a_foreign_project_is_denied_and_says_nothing_else() -> None:
    principal = Principal("p", frozenset({"*"}), frozenset({"mine"}))
    principal.require_project_of("projects/mine/datasets/d")

    with pytest.raises(PermissionDenied, match="does not cover project 'theirs'"):
        principal.require_project_of("projects/theirs/datasets/d")
