"""The parts of the control plane, put together on a store, a bus, blobs and three catalogs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from anneal.trainer.v1.node_lease_service_pb2_grpc import add_NodeLeaseServiceServicer_to_server
from anneal.trainer.v1.node_service_pb2_grpc import add_NodeServiceServicer_to_server
from anneal.trainer.v1.queue_service_pb2_grpc import add_QueueServiceServicer_to_server
from anneal.trainer.v1.tuning_job_service_pb2_grpc import add_TuningJobServiceServicer_to_server
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import (
    add_TuningSweepServiceServicer_to_server,
)
from services.common.blobs import Blobs
from services.common.bus import Bus
from services.common.ids import new_uid, random_id
from services.common.leftovers import removing_leftovers
from services.common.outbox import Relay
from services.common.paging import PageTokens
from services.common.server import Background, Service
from services.common.store import Store
from services.trainer.control.adapters.demand import Demand
from services.trainer.control.adapters.hints import WorkHints
from services.trainer.control.adapters.sql import TrainerTables
from services.trainer.control.adapters.telemetry import TelemetryConsumer
from services.trainer.control.domain.cordons import Cordons
from services.trainer.control.domain.deadlines import Deadlines
from services.trainer.control.domain.departures import Departures
from services.trainer.control.domain.drafts import Specification
from services.trainer.control.domain.estimation.estimates import Estimates
from services.trainer.control.domain.fleet import Fleet
from services.trainer.control.domain.lookups import Lookups
from services.trainer.control.domain.node_leases import LeasePolicy, NodeLeases
from services.trainer.control.domain.queue.forecasts import Forecasts
from services.trainer.control.domain.queue.latecomers import Latecomers
from services.trainer.control.domain.queue.preemption import Preemption
from services.trainer.control.domain.queue.quotas import Quotas
from services.trainer.control.domain.recommendation.recommendations import Recommendations
from services.trainer.control.domain.releases import Releases
from services.trainer.control.domain.signals import Signals
from services.trainer.control.domain.sweeps.tuning_sweeps import TuningSweeps
from services.trainer.control.domain.tuning_jobs import Ids, TuningJobs
from services.trainer.control.domain.watching import Watching
from services.trainer.control.queue_servicer import NodeServicer, QueueServicer
from services.trainer.control.servicer import NodeLeaseServicer, TuningJobServicer
from services.trainer.control.sweep_servicer import TuningSweepServicer

_CLAIM_DEADLINE_S = 40.0
IDS = Ids(job_id=partial(random_id, "job"), uid=new_uid)
SWEEP_IDS = Ids(job_id=partial(random_id, "sweep"), uid=new_uid)


@dataclass(frozen=True)
class Parts:
    """What the control plane stands on. The store's units ring the bells of `signals`."""

    store: Store[TrainerTables]
    bus: Bus
    blobs: Blobs
    signals: Signals
    specification: Specification
    tokens: PageTokens


@dataclass(frozen=True)
class Control:
    """What is to be served, and what is to run beside it."""

    services: Sequence[Service]
    background: Sequence[Background]


def control(parts: Parts, policy: LeasePolicy, watch_poll_s: float) -> Control:
    jobs = TuningJobs(parts.store, parts.specification, parts.tokens, IDS)
    sweeps = TuningSweeps(parts.store, parts.specification, parts.tokens, SWEEP_IDS)
    fleet = Fleet(parts.store)
    estimates = Estimates(parts.specification, devices=fleet, calibration=fleet)
    recommendations = Recommendations(estimates)
    lookups = Lookups(parts.store)
    forecasts = Forecasts(parts.store)
    leases = NodeLeases(parts.store, parts.signals, policy)
    watching = Watching(parts.store, parts.signals, watch_poll_s)
    hints = WorkHints(parts.bus, parts.signals)
    telemetry = TelemetryConsumer(parts.bus, parts.store)
    return Control(
        services=(
            Service(
                "anneal.trainer.v1.TuningJobService",
                add_TuningJobServiceServicer_to_server,
                TuningJobServicer(jobs, lookups, forecasts, watching, estimates, recommendations),
            ),
            Service(
                "anneal.trainer.v1.TuningSweepService",
                add_TuningSweepServiceServicer_to_server,
                TuningSweepServicer(sweeps),
            ),
            Service(
                "anneal.trainer.v1.QueueService",
                add_QueueServiceServicer_to_server,
                QueueServicer(Quotas(parts.store)),
            ),
            Service(
                "anneal.trainer.v1.NodeService",
                add_NodeServiceServicer_to_server,
                NodeServicer(Cordons(parts.store, parts.tokens)),
            ),
            Service(
                "anneal.trainer.v1.NodeLeaseService",
                add_NodeLeaseServiceServicer_to_server,
                NodeLeaseServicer(leases),
                deadlines_s={"ClaimTuningJob": _CLAIM_DEADLINE_S},
            ),
        ),
        background=(
            Relay(parts.store, parts.bus).run,
            telemetry.run,
            leases.run_reaper,
            Deadlines(parts.store).run,
            Preemption(parts.store).run,
            Latecomers(parts.store).run,
            Releases(parts.store, parts.blobs).run,
            Departures(parts.store).run,
            partial(removing_leftovers, parts.blobs),
            lookups.run,
            watching.run,
            hints.send,
            hints.listen,
            Demand(parts.store, parts.bus).show,
        ),
    )
