"""The little service of notes.py on each database."""

from collections.abc import AsyncGenerator

import pytest

from services.common.store import Store, open_engine
from tests.contract.common.notes import Row, Tables, tables


@pytest.fixture
async def store(database_url: str) -> AsyncGenerator[Store[Tables]]:
    """A store with empty tables, on each database."""
    engine = open_engine(database_url)
    store = Store(engine, tables)
    async with engine.begin() as connection:
        await connection.run_sync(Row.metadata.create_all)
    yield store
    await store.close()
