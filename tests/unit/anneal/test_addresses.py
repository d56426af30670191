"""Where a client looks for the services."""

from pathlib import Path

import pytest

from anneal.addresses import Addresses, find_addresses


def test_without_any_word_it_is_the_ports_of_anneal_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_addresses({}) == Addresses()


def test_a_running_platform_is_found_by_its_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = Addresses(*(f"127.0.0.1:{port}" for port in range(1, 6)))
    here = tmp_path / "anneal-data"
    here.mkdir()
    (here / "addresses.json").write_text(addresses.to_json())
    assert find_addresses({"ANNEAL_DATA_DIR": str(here)}) == addresses
    monkeypatch.chdir(tmp_path)
    assert find_addresses({}) == addresses


def test_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text(Addresses(dataset="file:1").to_json())
    environment = {"ANNEAL_DATA_DIR": str(tmp_path), "ANNEAL_TRAINER_ADDRESS": "told:2"}
    found = find_addresses(environment)
    assert (found.dataset, found.trainer) == ("file:1", "told:2")


def test_addresses_survive_the_environment() -> None:
    addresses = Addresses("a:1", "b:2", "c:3", "d:4", "e:5")
    assert find_addresses(addresses.to_environment()) == addresses
