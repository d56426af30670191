"""What a log line holds, and what it never does."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from services.common import logs
from services.common.auth import new_key


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def stream() -> io.StringIO:
    out = io.StringIO()
    logs.configure(stream=out)
    return out


def test_an_event_is_one_line_with_its_fields(stream: io.StringIO) -> None:
    structlog.contextvars.bind_contextvars(request_id="r-1")

    structlog.get_logger().info("job.claimed", job="j-1", attempt=3)

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "job.claimed", "level": "info", "request_id": "r-1", "job": "j-1", "attempt": 3,
    }  # fmt: skip


def test_below_the_level_nothing_is_written(stream: io.StringIO) -> None:
    structlog.get_logger().debug("noise")

    assert stream.getvalue() == ""


def test_keys_and_passwords_are_blotted_out_at_any_depth(stream: io.StringIO) -> None:
    key, _ = new_key("ci")
    secret = key.split("_", 2)[2]

    structlog.get_logger().info(
        "connecting",
        url="postgresql://anneal:hunter2@db/anneal",
        password="hunter2",
        headers={"authorization": f"Bearer {key}", "x": [f"key={key}"]},
    )

    assert "hunter2" not in stream.getvalue()
    assert secret not in stream.getvalue()
    line = json.loads(stream.getvalue())
    assert line["url"] == "postgresql://[redacted]@db/anneal"
    assert line["headers"]["x"] == ["key=anneal_ci_[redacted]"]


def test_a_secret_in_a_traceback_is_blotted_out(stream: io.StringIO) -> None:
    key, _ = new_key("ci")
    try:
        raise ValueError(f"bad key {key}")
    except ValueError:
        structlog.get_logger().exception("failed")

    assert key not in stream.getvalue()
    assert "bad key anneal_ci_[redacted]" in json.loads(stream.getvalue())["exception"]


def test_libraries_are_logged_in_the_same_form_from_warning_up(stream: io.StringIO) -> None:
    library = logging.getLogger("nats.aio.client")
    library.info("chatter")
    library.error("lost %s", "nats://user:hunter2@host:4222")

    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("lost nats://[redacted]@host:4222", "error")
    assert line["logger"] == "nats.aio.client"


def test_people_get_text() -> None:
    out = io.StringIO()
    logs.configure(stream=out, readable=True)

    structlog.get_logger().info("job.claimed", job="j-1", token="t")

    assert "job.claimed" in out.getvalue()
    assert "job=j-1" in out.getvalue()
    assert "token=[redacted]" in out.getvalue()
