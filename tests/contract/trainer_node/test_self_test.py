"""A node's test of itself, with the program that it really starts."""

from services.trainer.engine.self_test import METHODS
from services.trainer.node.capabilities import SelfTest


async def test_a_node_finds_out_which_methods_work_on_its_host() -> None:
    test = SelfTest(threads=1, limit_s=120)
    test.begin()
    await test.ended()
    assert (test.tested, test.failed) == (METHODS, ())
