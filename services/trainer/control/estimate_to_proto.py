"""From estimates to messages of the wire: pure."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from anneal.trainer.v1 import estimate_pb2
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.estimation.estimates import TuningEstimate
from services.trainer.control.domain.estimation.footprint import PeakMemory
from services.trainer.control.domain.recommendation.ranking import Recommendation


def answer(estimates: Sequence[TuningEstimate], on: Device) -> service_pb.EstimateTuningJobResponse:
    return service_pb.EstimateTuningJobResponse(
        estimates=[estimate(one) for one in estimates], device=device(on)
    )


def recommended(
    methods: Sequence[Recommendation], on: Device
) -> service_pb.RecommendMethodResponse:
    return service_pb.RecommendMethodResponse(
        recommendations=[
            estimate_pb2.MethodRecommendation(estimate=estimate(one.estimate), reasons=one.reasons)
            for one in methods
        ],
        device=device(on),
    )


def estimate(made: TuningEstimate) -> estimate_pb2.TuningEstimate:
    return estimate_pb2.TuningEstimate(
        method=made.method,
        total_parameters=made.total_parameters,
        trainable_parameters=made.trainable_parameters,
        peak_memory=_peak_memory(made.peak_memory),
        least_memory_bytes=made.least_memory_bytes,
        total_steps=made.total_steps,
        tokens=made.tokens,
        duration=_duration(made.duration_s),
        cost=made.cost,
        fits=made.fits,
        remedies=made.remedies,
        calibrating_runs=made.calibrating_runs,
    )


def device(of: Device) -> estimate_pb2.Device:
    return estimate_pb2.Device(
        kind=estimate_pb2.Device.Kind.Value(f"KIND_{of.kind}"),
        model=of.model,
        memory_bytes=of.memory_bytes,
        bfloat16_flops=of.bfloat16_flops,
        float32_flops=of.float32_flops,
    )


def _peak_memory(peak: PeakMemory) -> estimate_pb2.PeakMemory:
    return estimate_pb2.PeakMemory(**asdict(peak), total_bytes=peak.total_bytes)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message
