"""The data directory of `anneal up`, its ports and its log lines."""

import socket
import stat
from pathlib import Path

import pytest

from anneal.up import data_dir as module
from anneal.up.data_dir import DataDir
from anneal.up.failures import PlatformError
from anneal.up.logbook import Logbook, readable
from anneal.up.ports import Ports


def test_the_page_secret_stays_and_is_ours_alone(tmp_path: Path) -> None:
    secret = DataDir(tmp_path).page_secret()
    assert DataDir(tmp_path).page_secret() == secret
    assert len(bytes.fromhex(secret)) == 32
    assert stat.S_IMODE((tmp_path / "page-secret").stat().st_mode) == 0o600


def test_two_platforms_cannot_share_a_directory(tmp_path: Path) -> None:
    said = r"another `anneal up` \(process \d+\) runs on"
    with DataDir(tmp_path).locked(), pytest.raises(PlatformError, match=said):
        DataDir(tmp_path).locked().__enter__()
    with DataDir(tmp_path).locked():
        pass


def test_a_directory_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match="cannot use"):
        DataDir(tmp_path / "file" / "inside")


def test_taken_ports_are_all_named() -> None:
    ports = Ports.free()
    ports.require_free()
    with (
        socket.create_server(("127.0.0.1", ports.trainer)),
        socket.create_server(("127.0.0.1", ports.nats)),
        pytest.raises(PlatformError) as failed,
    ):
        ports.require_free()
    assert f"port {ports.trainer} (trainer), {ports.nats} (nats)" in str(failed.value)


def test_the_usual_ports() -> None:
    assert Ports.from_base() == Ports(7401, 7402, 7403, 7404, 7405, 7422)


def test_logs_are_appended_and_a_large_one_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ["first", "second"]:
        logbook = Logbook(DataDir(tmp_path))
        logbook.line("dataset", text)
        logbook.close()
    log = tmp_path / "logs" / "dataset.log"
    assert log.read_text() == "first\nsecond\n"
    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 5)
    logbook = Logbook(DataDir(tmp_path))
    logbook.line("dataset", "third")
    logbook.close()
    assert log.read_text() == "third\n"
    assert log.with_suffix(".log.1").read_text() == "first\nsecond\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"event": "server.ready", "level": "info", "timestamp": "now", "address": "h:1"}',
            "info server.ready address=h:1",
        ),
        ("[1] 2026 [INF] Server is ready", "[1] 2026 [INF] Server is ready"),
        ('{"other": 1}', '{"other": 1}'),
        ("[]", "[]"),
    ],
)
def test_log_lines_are_shown_in_words(line: str, shown: str) -> None:
    assert readable(line) == shown
