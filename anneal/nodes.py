"""Nodes: the hosts that train."""

from collections.abc import Iterable, Iterator

from anneal.connection import Connection, items_of_pages
from anneal.names import Names
from anneal.trainer.v1.node_service_pb2 import (
    CordonNodeRequest,
    DrainNodeRequest,
    GetNodeRequest,
    ListNodesRequest,
    Node,
    UncordonNodeRequest,
)
from anneal.trainer.v1.node_service_pb2_grpc import NodeServiceStub


class Nodes:
    """`client.nodes`. Nodes go by their last part, and belong to no project."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = NodeServiceStub(connection.channel)

    def get(self, node: str) -> Node:
        request = GetNodeRequest(name=self._names.node(node))
        return self._connection.ask(self._rpc.GetNode, request)

    def list(self) -> Iterator[Node]:
        """Yields the nodes that ever asked for work, by name."""

        def page(token: str) -> tuple[Iterable[Node], str]:
            answer = self._connection.ask(self._rpc.ListNodes, ListNodesRequest(page_token=token))
            return answer.nodes, answer.next_page_token

        return items_of_pages(page)

    def cordon(self, node: str) -> Node:
        """Has a node get no more jobs; those that it trains go on."""
        request = CordonNodeRequest(name=self._names.node(node))
        return self._connection.ask(self._rpc.CordonNode, request)

    def drain(self, node: str) -> Node:
        """Has a node get no more jobs, and those that it trains go on elsewhere from a checkpoint:
        they have left it when its `tuning_jobs` are none."""
        request = DrainNodeRequest(name=self._names.node(node))
        return self._connection.ask(self._rpc.DrainNode, request)

    def uncordon(self, node: str) -> Node:
        """Has a cordoned or drained node get jobs again."""
        request = UncordonNodeRequest(name=self._names.node(node))
        return self._connection.ask(self._rpc.UncordonNode, request)
