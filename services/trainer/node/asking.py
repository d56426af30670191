"""Asks programs of this host for what they know."""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence


class NoAnswer(Exception):
    """A program did not tell what it was asked for. The text says why."""


async def answer_of(program: Sequence[str], limit_s: float) -> bytes:
    """What a program prints before it ends well. Raises NoAnswer; leaves no process behind."""
    try:
        process = await asyncio.create_subprocess_exec(
            *program, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
    except OSError as error:
        raise NoAnswer(str(error)) from error
    try:
        async with asyncio.timeout(limit_s):
            printed, complaints = await process.communicate()
    except TimeoutError:
        raise NoAnswer(f"it did not answer within {limit_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = complaints.decode(errors="replace").strip().splitlines()[-1:]
        raise NoAnswer(f"it left with status {process.returncode}: {' '.join(last)}")
    return printed
