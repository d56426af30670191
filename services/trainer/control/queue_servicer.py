"""gRPC ⇄ domain, of quotas and nodes."""

from dataclasses import asdict

from anneal.trainer.v1 import estimate_pb2, node_lease_service_pb2
from anneal.trainer.v1 import node_service_pb2 as node_pb
from anneal.trainer.v1 import queue_service_pb2 as queue_pb
from anneal.trainer.v1.node_service_pb2_grpc import NodeServiceServicer
from anneal.trainer.v1.queue_service_pb2_grpc import QueueServiceServicer
from anneal.trainer.v1.tuning_job_pb2 import Backend
from services.common.errors import Context
from services.trainer.control import from_proto, to_proto
from services.trainer.control.domain.cordons import Cordons
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.names import NodeName, QuotaName
from services.trainer.control.domain.nodes import Node, Schedule
from services.trainer.control.domain.queue.quotas import Quotas, QuotaView


class QueueServicer(QueueServiceServicer):
    """What each project may take."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    async def GetQuota(self, request: queue_pb.GetQuotaRequest, context: Context) -> queue_pb.Quota:
        return _quota(await self._quotas.get(QuotaName.parse(request.name)))

    async def UpdateQuota(
        self, request: queue_pb.UpdateQuotaRequest, context: Context
    ) -> queue_pb.Quota:
        return _quota(await self._quotas.update(from_proto.quota_change(request)))


class NodeServicer(NodeServiceServicer):
    """The nodes, for those who run them."""

    def __init__(self, cordons: Cordons) -> None:
        self._cordons = cordons

    async def GetNode(self, request: node_pb.GetNodeRequest, context: Context) -> node_pb.Node:
        return _node(await self._cordons.get(NodeName.parse(request.name)))

    async def ListNodes(
        self, request: node_pb.ListNodesRequest, context: Context
    ) -> node_pb.ListNodesResponse:
        nodes, token = await self._cordons.list(request.page_size, request.page_token)
        return node_pb.ListNodesResponse(nodes=map(_node, nodes), next_page_token=token)

    async def CordonNode(
        self, request: node_pb.CordonNodeRequest, context: Context
    ) -> node_pb.Node:
        return await self._scheduled(request.name, Schedule.CORDONED)

    async def DrainNode(self, request: node_pb.DrainNodeRequest, context: Context) -> node_pb.Node:
        return await self._scheduled(request.name, Schedule.DRAINING)

    async def UncordonNode(
        self, request: node_pb.UncordonNodeRequest, context: Context
    ) -> node_pb.Node:
        return await self._scheduled(request.name, Schedule.OPEN)

    async def _scheduled(self, name: str, schedule: Schedule) -> node_pb.Node:
        return _node(await self._cordons.schedule(NodeName.parse(name), schedule))


def _quota(view: QuotaView) -> queue_pb.Quota:
    share = view.share
    return queue_pb.Quota(
        name=str(view.name),
        **asdict(share.quota),
        running_jobs=view.running_jobs,
        queued_jobs=view.queued_jobs,
        device_hours_today=share.used_on(view.now) / 3600,
        device_hours=share.used_s / 3600,
    )


def _node(node: Node) -> node_pb.Node:
    offer = node.offer
    device, known = offer.device, offer.capabilities
    return node_pb.Node(
        name=str(NodeName(offer.node)),
        state=node_pb.Node.State.Value(f"STATE_{node.state}"),
        device=_device(device) if device else None,
        backends=sorted(Backend.Value(f"BACKEND_{one}") for one in offer.backends),
        labels=offer.labels,
        capabilities=node_lease_service_pb2.NodeCapabilities(**asdict(known)) if known else None,
        tuning_jobs=map(str, node.jobs),
        claim_time=to_proto.timestamp(offer.time),
    )


def _device(device: Device) -> estimate_pb2.Device:
    return estimate_pb2.Device(
        kind=estimate_pb2.Device.Kind.Value(f"KIND_{device.kind}"),
        model=device.model,
        memory_bytes=device.memory_bytes,
        bfloat16_flops=device.bfloat16_flops,
        float32_flops=device.float32_flops,
    )
