"""gRPC ⇄ domain."""

from collections.abc import AsyncGenerator

from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from anneal.trainer.v1.node_lease_service_pb2_grpc import NodeLeaseServiceServicer
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceServicer
from services.common.errors import Context
from services.trainer.control import estimate_to_proto, from_proto, to_proto
from services.trainer.control.domain.estimation.estimates import Estimates
from services.trainer.control.domain.lookups import Lookups
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.node_leases import NodeLeases
from services.trainer.control.domain.queue.forecasts import Forecasts
from services.trainer.control.domain.recommendation.recommendations import Recommendations
from services.trainer.control.domain.tuning_jobs import TuningJobs
from services.trainer.control.domain.watching import Watching


class TuningJobServicer(TuningJobServiceServicer):
    """What callers see."""

    def __init__(
        self,
        jobs: TuningJobs,
        lookups: Lookups,
        forecasts: Forecasts,
        watching: Watching,
        estimates: Estimates,
        recommendations: Recommendations,
    ) -> None:
        self._jobs = jobs
        self._lookups = lookups
        self._forecasts = forecasts
        self._watching = watching
        self._estimates = estimates
        self._recommendations = recommendations

    async def CreateTuningJob(
        self, request: service_pb.CreateTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        return to_proto.tuning_job(await self._jobs.create(from_proto.new_job(request)))

    async def GetTuningJob(
        self, request: service_pb.GetTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        job = await self._lookups.get(TuningJobName.parse(request.name))
        return to_proto.placed(job, await self._forecasts.of(job))

    async def ListTuningJobs(
        self, request: service_pb.ListTuningJobsRequest, context: Context
    ) -> service_pb.ListTuningJobsResponse:
        jobs, next_page_token = await self._jobs.list(from_proto.listing(request))
        return service_pb.ListTuningJobsResponse(
            tuning_jobs=[to_proto.tuning_job(job) for job in jobs],
            next_page_token=next_page_token,
        )

    async def CancelTuningJob(
        self, request: service_pb.CancelTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        name = TuningJobName.parse(request.name)
        return to_proto.tuning_job(await self._jobs.cancel(name, request.etag))

    async def PauseTuningJob(
        self, request: service_pb.PauseTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        name = TuningJobName.parse(request.name)
        return to_proto.tuning_job(await self._jobs.pause(name, request.etag))

    async def ResumeTuningJob(
        self, request: service_pb.ResumeTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        name = TuningJobName.parse(request.name)
        return to_proto.tuning_job(await self._jobs.resume(name, request.etag))

    async def RetryTuningJob(
        self, request: service_pb.RetryTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        return to_proto.tuning_job(await self._jobs.retry(from_proto.retry(request)))

    async def ListTuningJobAttempts(
        self, request: service_pb.ListTuningJobAttemptsRequest, context: Context
    ) -> service_pb.ListTuningJobAttemptsResponse:
        page = await self._jobs.attempts(from_proto.attempt_listing(request))
        return service_pb.ListTuningJobAttemptsResponse(
            attempts=[to_proto.attempt(one, page.now) for one in page.attempts],
            next_page_token=page.next_token,
        )

    async def WatchTuningJob(
        self, request: service_pb.WatchTuningJobRequest, context: Context
    ) -> AsyncGenerator[service_pb.WatchTuningJobResponse]:
        name = TuningJobName.parse(request.name)
        async for entry in self._watching.watch(name, request.after_sequence):
            yield service_pb.WatchTuningJobResponse(event=to_proto.event(entry))

    async def EstimateTuningJob(
        self, request: service_pb.EstimateTuningJobRequest, context: Context
    ) -> service_pb.EstimateTuningJobResponse:
        estimates, device = await self._estimates.of(from_proto.estimate(request))
        return estimate_to_proto.answer(estimates, device)

    async def RecommendMethod(
        self, request: service_pb.RecommendMethodRequest, context: Context
    ) -> service_pb.RecommendMethodResponse:
        methods, device = await self._recommendations.of(from_proto.recommendation(request))
        return estimate_to_proto.recommended(methods, device)


class NodeLeaseServicer(NodeLeaseServiceServicer):
    """What nodes see."""

    def __init__(self, leases: NodeLeases) -> None:
        self._leases = leases

    async def ClaimTuningJob(
        self, request: lease_pb.ClaimTuningJobRequest, context: Context
    ) -> lease_pb.ClaimTuningJobResponse:
        call = from_proto.claim(request)
        lease = await self._leases.claim(call.claim(), call.wait)
        message = to_proto.lease(lease, self._leases.policy.lease) if lease else None
        return lease_pb.ClaimTuningJobResponse(lease=message)

    async def HeartbeatTuningJob(
        self, request: lease_pb.HeartbeatTuningJobRequest, context: Context
    ) -> lease_pb.HeartbeatTuningJobResponse:
        name = TuningJobName.parse(request.name)
        beat = from_proto.heartbeat(request).beat(request.attempt)
        return to_proto.heartbeat_answer(await self._leases.heartbeat(name, request.attempt, beat))

    async def CompleteTuningJob(
        self, request: lease_pb.CompleteTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        name = TuningJobName.parse(request.name)
        call = from_proto.completion(request)
        job = await self._leases.end(name, request.attempt, call.ending(), call.event_count)
        return to_proto.tuning_job(job)

    async def FailTuningJob(
        self, request: lease_pb.FailTuningJobRequest, context: Context
    ) -> job_pb.TuningJob:
        name = TuningJobName.parse(request.name)
        call = from_proto.failure(request)
        job = await self._leases.end(name, request.attempt, call.ending(), call.event_count)
        return to_proto.tuning_job(job)
