"""Tables and migrations."""

from services.common.migrations import check
from services.trainer.control.__main__ import MIGRATIONS
from services.trainer.control.adapters.tables import Row


async def test_migrations_make_the_tables_that_the_code_declares(database_url: str) -> None:
    await check(database_url, MIGRATIONS, Row.metadata)
