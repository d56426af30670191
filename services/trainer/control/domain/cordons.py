"""What those who run the nodes may do with them."""

from dataclasses import replace

from services.common.paging import Key, Page, PageTokens, page_size, scope_of
from services.trainer.control.domain.changes import change
from services.trainer.control.domain.errors import NodeNotFound
from services.trainer.control.domain.names import NodeName
from services.trainer.control.domain.nodes import LATELY, Node, Schedule
from services.trainer.control.domain.ports import Store, Unit
from services.trainer.control.domain.states import State

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


class Cordons:
    """The use cases of NodeService."""

    def __init__(self, store: Store, tokens: PageTokens) -> None:
        self._store = store
        self._tokens = tokens

    async def get(self, name: NodeName) -> Node:
        """Raises NodeNotFound."""
        async with self._store.reading() as unit:
            return await _found(unit, name)

    async def list(self, size: int, token: str) -> tuple[tuple[Node, ...], str]:
        """A page, by name, and the token of the next one. Raises InvalidArgument."""
        size = page_size(size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        scope = scope_of("Nodes")
        after = str(self._tokens.decode(token, scope=scope)[0]) if token else ""
        async with self._store.reading() as unit:
            since = await unit.now() - LATELY
            page = Page.cut(await unit.nodes.listed(after, size + 1, since), size, _key)
        next_token = self._tokens.encode(page.next_key, scope=scope) if page.next_key else ""
        return page.items, next_token

    async def schedule(self, name: NodeName, schedule: Schedule) -> Node:
        """The node, which gets jobs from now on or does not; one that is drained gives back those
        that it has. Raises NodeNotFound."""
        async with self._store.writing() as unit:
            await _found(unit, name)
            await unit.nodes.set_schedule(name.node, schedule)
            node = await _found(unit, name)
            if schedule is Schedule.DRAINING:
                await _empty(unit, node)
            return node


async def _empty(unit: Unit, node: Node) -> None:
    for name in node.jobs:
        job = await unit.jobs.hold(name)
        if job is not None and job.state is State.RUNNING and job.node == node.offer.node:
            await change(unit, job, replace(job, yields=True))


async def _found(unit: Unit, name: NodeName) -> Node:
    since = await unit.now() - LATELY
    node = await unit.nodes.node(name.node, since)
    if node is None:
        raise NodeNotFound(name)
    return node


def _key(node: Node) -> Key:
    return (node.offer.node,)
