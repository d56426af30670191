"""What tests have in place of migrations."""

from pathlib import Path

import pytest

from services.common.migrations import check
from services.common.testing.postgres import Postgres
from services.trainer.control.__main__ import MIGRATIONS
from services.trainer.control.adapters.tables import Row
from tests import schemas


async def test_a_schema_made_again_is_the_one_that_the_code_declares(
    database_url: str,
    postgres_server: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schemas, "_scripts", {})
    await schemas.bring_up(database_url, MIGRATIONS)
    again = f"sqlite+aiosqlite:///{tmp_path / 'again.db'}"
    if database_url.startswith("postgresql"):
        again = await postgres_server.empty_database()

    await schemas.bring_up(again, MIGRATIONS)

    await check(again, MIGRATIONS, Row.metadata)
    if database_url.startswith("postgresql"):
        await postgres_server.give_back(again)
