"""From sweeps to messages: pure."""

from google.rpc import code_pb2, error_details_pb2, status_pb2

from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_sweep_pb2 as sweep_pb
from services.common.errors import DOMAIN
from services.trainer.control import to_proto
from services.trainer.control.domain.states import State
from services.trainer.control.domain.sweeps.sweep import SweepState, Trial
from services.trainer.control.domain.sweeps.tuning_sweeps import SweepView

NO_TRIAL_SUCCEEDED = "NO_TRIAL_SUCCEEDED"


def tuning_sweep(view: SweepView) -> sweep_pb.TuningSweep:
    sweep, spec = view.sweep, view.sweep.spec
    return sweep_pb.TuningSweep(
        name=str(sweep.name),
        uid=sweep.uid,
        state=_state(sweep.state),
        tuning_job=job_pb.TuningJob(**to_proto.specified(spec.job)),
        learning_rates=spec.learning_rates,
        ranks=spec.ranks,
        reduction=spec.reduction,
        first_rung_steps=spec.first_rung_steps,
        trials=[_trial(trial, view.states[trial.job]) for trial in sweep.trials],
        winner=str(sweep.winner) if sweep.winner else "",
        model_version=sweep.model_version,
        error=_error(sweep.error) if sweep.error else None,
        create_time=to_proto.timestamp(sweep.create_time),
        end_time=to_proto.timestamp(sweep.end_time),
        etag=sweep.etag,
    )


def _state(state: SweepState) -> sweep_pb.TuningSweep.State.ValueType:
    return sweep_pb.TuningSweep.State.Value(f"STATE_{state}")


def _trial(trial: Trial, state: State) -> sweep_pb.Trial:
    return sweep_pb.Trial(
        tuning_job=str(trial.job),
        rung=trial.rung,
        learning_rate=trial.candidate.learning_rate,
        rank=trial.candidate.rank,
        steps=trial.steps,
        state=to_proto.state(state),
        validation_loss=trial.loss,
    )


def _error(words: str) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message=words)
    info = error_details_pb2.ErrorInfo(reason=NO_TRIAL_SUCCEEDED, domain=DOMAIN)
    status.details.add().Pack(info)
    return status
