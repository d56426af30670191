"""gRPC ⇄ domain, of sweeps."""

from anneal.trainer.v1 import tuning_sweep_pb2 as sweep_pb
from anneal.trainer.v1 import tuning_sweep_service_pb2 as service_pb
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import TuningSweepServiceServicer
from services.common.errors import Context
from services.trainer.control import sweep_from_proto
from services.trainer.control.domain.names import TuningSweepName
from services.trainer.control.domain.sweeps.tuning_sweeps import TuningSweeps
from services.trainer.control.sweep_to_proto import tuning_sweep


class TuningSweepServicer(TuningSweepServiceServicer):
    """What callers see."""

    def __init__(self, sweeps: TuningSweeps) -> None:
        self._sweeps = sweeps

    async def SweepTuningJob(
        self, request: service_pb.SweepTuningJobRequest, context: Context
    ) -> sweep_pb.TuningSweep:
        return tuning_sweep(await self._sweeps.create(sweep_from_proto.new_sweep(request)))

    async def GetTuningSweep(
        self, request: service_pb.GetTuningSweepRequest, context: Context
    ) -> sweep_pb.TuningSweep:
        return tuning_sweep(await self._sweeps.get(TuningSweepName.parse(request.name)))

    async def ListTuningSweeps(
        self, request: service_pb.ListTuningSweepsRequest, context: Context
    ) -> service_pb.ListTuningSweepsResponse:
        views, next_page_token = await self._sweeps.list(sweep_from_proto.listing(request))
        return service_pb.ListTuningSweepsResponse(
            tuning_sweeps=[tuning_sweep(view) for view in views],
            next_page_token=next_page_token,
        )

    async def CancelTuningSweep(
        self, request: service_pb.CancelTuningSweepRequest, context: Context
    ) -> sweep_pb.TuningSweep:
        name = TuningSweepName.parse(request.name)
        return tuning_sweep(await self._sweeps.cancel(name, request.etag))
