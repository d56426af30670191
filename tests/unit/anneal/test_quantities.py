"""Sizes and times as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from anneal.cli.quantities import bytes_of, time_of

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("80GB", 80_000_000_000),
        ("80 GiB", 80 * 2**30),
        ("1.5kB", 1500),
        ("24gb", 24_000_000_000),
        ("1TiB", 2**40),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert bytes_of(text) == size_bytes


@pytest.mark.parametrize("text", ["80", "GB", "80GBs", "-1GB", "80XB", "1e9B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size: say for example 80GB"):
        bytes_of(text)


def test_a_size_that_does_not_fit_its_field_is_refused() -> None:
    with pytest.raises(ValueError, match="more than any device has"):
        bytes_of("9223373TB")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", NOW + timedelta(hours=2)),
        ("90m", NOW + timedelta(minutes=90)),
        ("1d12h", NOW + timedelta(hours=36)),
        ("1.5h30s", NOW + timedelta(minutes=90, seconds=30)),
        ("2026-12-01T08:00Z", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-12-01T08:00+02:00", datetime(2026, 12, 1, 6, tzinfo=UTC)),
        ("2026-12-01 08:00:30", datetime(2026, 12, 1, 8, 0, 30).astimezone()),
    ],
)
def test_times(text: str, time: datetime) -> None:
    assert time_of(text, NOW) == time
    assert time_of(text, NOW).tzinfo is not None


@pytest.mark.parametrize("text", ["", "2", "soon", "h", "30m2h", "2026-13-01", "99999999999999d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: say for example 2h"):
        time_of(text, NOW)
