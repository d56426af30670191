"""From messages about sweeps to values of the domain: pure, and nothing is judged here."""

from anneal.trainer.v1 import tuning_sweep_service_pb2 as service_pb
from services.common.request_ids import fingerprint
from services.trainer.control import from_proto
from services.trainer.control.domain.sweeps.drafts import SweepDraft
from services.trainer.control.domain.sweeps.tuning_sweeps import NewSweep, SweepListing


def new_sweep(request: service_pb.SweepTuningJobRequest) -> NewSweep:
    sweep = request.tuning_sweep
    return NewSweep(
        parent=request.parent,
        sweep_id=request.tuning_sweep_id,
        draft=SweepDraft(
            job=from_proto.draft(sweep.tuning_job),
            learning_rates=tuple(sweep.learning_rates),
            ranks=tuple(sweep.ranks),
            reduction=sweep.reduction,
            first_rung_steps=sweep.first_rung_steps,
        ),
        request_id=request.request_id,
        fingerprint=fingerprint(request.SerializeToString(deterministic=True)),
        validate_only=request.validate_only,
    )


def listing(request: service_pb.ListTuningSweepsRequest) -> SweepListing:
    return SweepListing(request.parent, request.page_size, request.page_token)
