"""The scripted trainer: jobs, sweeps, nodes, quotas."""

from collections.abc import Iterator
from typing import Any

import grpc

from anneal.trainer.v1 import node_service_pb2 as nodes
from anneal.trainer.v1 import tuning_job_service_pb2 as trainer
from anneal.trainer.v1 import tuning_sweep_service_pb2 as sweeping
from anneal.trainer.v1.node_service_pb2 import Node
from anneal.trainer.v1.node_service_pb2_grpc import NodeServiceServicer
from anneal.trainer.v1.queue_service_pb2 import Quota
from anneal.trainer.v1.queue_service_pb2_grpc import QueueServiceServicer
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceServicer
from anneal.trainer.v1.tuning_sweep_pb2 import TuningSweep
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import TuningSweepServiceServicer
from tests.contract.anneal.scripted import Context, World, abort, not_found, page_of


class ScriptedJobs(TuningJobServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def CreateTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("CreateTuningJob", request, context)
        job = TuningJob()
        job.CopyFrom(request.tuning_job)
        job.name = f"{request.parent}/tuningJobs/{request.tuning_job_id or 'job-1'}"
        job.state = TuningJob.STATE_QUEUED
        return job

    def GetTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("GetTuningJob", request, context)
        if request.name != self.world.job.name:
            abort(context, not_found(request.name))
        return self.world.job

    def ListTuningJobs(self, request: Any, context: Context) -> Any:
        self.world.heard("ListTuningJobs", request, context)
        return trainer.ListTuningJobsResponse(tuning_jobs=[self.world.job])

    def EstimateTuningJob(
        self, request: Any, context: Context
    ) -> trainer.EstimateTuningJobResponse:
        self.world.heard("EstimateTuningJob", request, context)
        return self.world.estimated

    def RecommendMethod(self, request: Any, context: Context) -> trainer.RecommendMethodResponse:
        self.world.heard("RecommendMethod", request, context)
        return self.world.recommended

    def CancelTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("CancelTuningJob", request, context)
        return TuningJob(name=request.name, state=TuningJob.STATE_CANCELLING)

    def PauseTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("PauseTuningJob", request, context)
        return TuningJob(name=request.name, state=TuningJob.STATE_PAUSING)

    def ResumeTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("ResumeTuningJob", request, context)
        return TuningJob(name=request.name, state=TuningJob.STATE_QUEUED)

    def RetryTuningJob(self, request: Any, context: Context) -> TuningJob:
        self.world.heard("RetryTuningJob", request, context)
        name = f"projects/default/tuningJobs/{request.tuning_job_id or 'job-2'}"
        return TuningJob(name=name, state=TuningJob.STATE_QUEUED, retry_of=request.name)

    def ListTuningJobAttempts(self, request: Any, context: Context) -> Any:
        self.world.heard("ListTuningJobAttempts", request, context)
        items, token = page_of(self.world.attempts, request.page_token)
        return trainer.ListTuningJobAttemptsResponse(attempts=items, next_page_token=token)

    def WatchTuningJob(self, request: Any, context: Context) -> Iterator[Any]:
        self.world.heard("WatchTuningJob", request, context)
        behave = self.world.watches.pop(0) if self.world.watches else iter
        try:
            for event in behave(self.world.events[request.after_sequence :]):
                yield trainer.WatchTuningJobResponse(event=event)
        except ConnectionError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


class ScriptedSweeps(TuningSweepServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def SweepTuningJob(self, request: Any, context: Context) -> TuningSweep:
        self.world.heard("SweepTuningJob", request, context)
        return self.world.sweeps[0]

    def GetTuningSweep(self, request: Any, context: Context) -> TuningSweep:
        self.world.heard("GetTuningSweep", request, context)
        if request.name != self.world.sweeps[0].name:
            abort(context, not_found(request.name))
        return self.world.sweeps.pop(0) if len(self.world.sweeps) > 1 else self.world.sweeps[0]

    def ListTuningSweeps(self, request: Any, context: Context) -> Any:
        items, token = page_of(self.world.sweeps, request.page_token)
        return sweeping.ListTuningSweepsResponse(tuning_sweeps=items, next_page_token=token)

    def CancelTuningSweep(self, request: Any, context: Context) -> TuningSweep:
        self.world.heard("CancelTuningSweep", request, context)
        return TuningSweep(name=request.name, state=TuningSweep.STATE_CANCELLED)


class ScriptedNodes(NodeServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def GetNode(self, request: Any, context: Context) -> Node:
        self.world.heard("GetNode", request, context)
        return self._found(request.name, context)

    def ListNodes(self, request: Any, context: Context) -> Any:
        items, token = page_of(self.world.nodes, request.page_token)
        return nodes.ListNodesResponse(nodes=items, next_page_token=token)

    def CordonNode(self, request: Any, context: Context) -> Node:
        return self._moved(request.name, Node.STATE_CORDONED, context)

    def DrainNode(self, request: Any, context: Context) -> Node:
        return self._moved(request.name, Node.STATE_DRAINING, context)

    def UncordonNode(self, request: Any, context: Context) -> Node:
        return self._moved(request.name, Node.STATE_READY, context)

    def _moved(self, name: str, state: Node.State.ValueType, context: Context) -> Node:
        node = self._found(name, context)
        node.state = state
        return node

    def _found(self, name: str, context: Context) -> Node:
        found = [node for node in self.world.nodes if node.name == name]
        if not found:
            abort(context, not_found(name))
        return found[0]


class ScriptedQueue(QueueServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def GetQuota(self, request: Any, context: Context) -> Quota:
        self.world.heard("GetQuota", request, context)
        return self._of(request.name)

    def UpdateQuota(self, request: Any, context: Context) -> Quota:
        self.world.heard("UpdateQuota", request, context)
        request.update_mask.MergeMessage(request.quota, self.world.quota)
        return self._of(request.quota.name)

    def _of(self, name: str) -> Quota:
        quota = Quota(name=name)
        quota.MergeFrom(self.world.quota)
        return quota
