"""Bells."""

import asyncio

from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.signals import Bell, Signals, wait

NAME = TuningJobName("p", "j")


async def test_a_ring_after_listening_is_not_lost() -> None:
    bell = Bell()
    rung = bell.listen()

    bell.ring()

    await asyncio.wait_for(rung.wait(), 1)
    assert not bell.listen().is_set()


async def test_a_ring_wakes_everybody_who_follows_the_job() -> None:
    signals = Signals()

    async def follower() -> None:
        with signals.following(NAME) as bell:
            await bell.listen().wait()

    followers = [asyncio.create_task(follower()) for _ in range(3)]
    await asyncio.sleep(0)
    assert signals.followed() == (NAME,)

    signals.changed(NAME)

    await asyncio.wait_for(asyncio.gather(*followers), 1)
    assert signals.followed() == ()


async def test_waiting_ends_with_the_time() -> None:
    await wait(Bell().listen(), 0.01)
