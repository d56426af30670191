"""Proto ⇄ domain."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from anneal.abtest.v1 import ab_test_service_pb2, experiment_pb2
from anneal.common.v1 import conversation_pb2
from services.abtest.domain.ballots import Pair
from services.abtest.domain.drafts import DraftTurn, ExperimentDraft
from services.abtest.domain.experiment import Experiment, Failure, Prompt, Role, State
from services.abtest.domain.experiments import ExperimentWithPrompts
from services.abtest.domain.names import PairName
from services.abtest.domain.statistics import METHOD
from services.abtest.domain.voting import CastVote, Choice, Report, Verdict, voter_violations
from services.common.errors import DOMAIN
from services.common.faults import InvalidArgument, Violation
from services.common.request_ids import fingerprint

_ROLES = {
    conversation_pb2.ROLE_SYSTEM: Role.SYSTEM,
    conversation_pb2.ROLE_USER: Role.USER,
    conversation_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_ROLES_SENT = {role: sent for sent, role in _ROLES.items()}
_STATES = {
    State.GENERATING: experiment_pb2.Experiment.STATE_GENERATING,
    State.READY: experiment_pb2.Experiment.STATE_READY,
    State.FAILED: experiment_pb2.Experiment.STATE_FAILED,
}
_CHOICES = {
    experiment_pb2.Vote.CHOICE_LEFT: Choice.LEFT,
    experiment_pb2.Vote.CHOICE_RIGHT: Choice.RIGHT,
    experiment_pb2.Vote.CHOICE_TIE: Choice.TIE,
    experiment_pb2.Vote.CHOICE_BOTH_BAD: Choice.BOTH_BAD,
}
_CHOICES_SENT = {choice: sent for sent, choice in _CHOICES.items()}
_VERDICTS = {
    Verdict.INCONCLUSIVE: experiment_pb2.ExperimentReport.VERDICT_INCONCLUSIVE,
    Verdict.CANDIDATE_BETTER: experiment_pb2.ExperimentReport.VERDICT_CANDIDATE_BETTER,
    Verdict.BASELINE_BETTER: experiment_pb2.ExperimentReport.VERDICT_BASELINE_BETTER,
}


def draft(request: ab_test_service_pb2.CreateExperimentRequest) -> ExperimentDraft:
    experiment = request.experiment
    return ExperimentDraft(
        parent=request.parent,
        experiment_id=request.experiment_id,
        baseline_model=experiment.baseline_model,
        candidate_model=experiment.candidate_model,
        prompts=[
            [DraftTurn(_ROLES.get(turn.role), turn.content) for turn in prompt.messages]
            for prompt in experiment.prompts
        ],
        max_output_tokens=experiment.max_output_tokens,
        request_id=request.request_id,
        fingerprint=fingerprint(request.SerializeToString(deterministic=True)),
        validate_only=request.validate_only,
    )


def voter(text: str) -> str:
    """Raises InvalidArgument."""
    violations = list(voter_violations(text))
    if violations:
        raise InvalidArgument(violations)
    return text


def vote(request: ab_test_service_pb2.CastVoteRequest) -> tuple[PairName, str, Choice]:
    """Raises InvalidArgument with all violations."""
    violations = list(voter_violations(request.voter))
    choice = _CHOICES.get(request.choice)
    if choice is None:
        violations.append(
            Violation("choice", "must be left, right, tie or both bad", "UNKNOWN_CHOICE")
        )
    try:
        name = PairName.parse(request.name)
    except InvalidArgument as fault:
        raise InvalidArgument([*fault.violations, *violations]) from fault
    if violations or choice is None:
        raise InvalidArgument(violations)
    return name, request.voter, choice


def experiment_message(experiment: Experiment) -> experiment_pb2.Experiment:
    """Without its prompts."""
    message = experiment_pb2.Experiment(
        name=str(experiment.name),
        uid=experiment.uid,
        state=_STATES[experiment.state],
        baseline_model=experiment.baseline,
        candidate_model=experiment.candidate,
        max_output_tokens=experiment.max_output_tokens,
        prompt_count=experiment.prompt_count,
        ready_count=experiment.ready_count,
        create_time=_timestamp(experiment.create_time),
        update_time=_timestamp(experiment.update_time),
    )
    if experiment.error is not None:
        message.error.CopyFrom(_status(experiment.error))
    return message


def whole_message(whole: ExperimentWithPrompts) -> experiment_pb2.Experiment:
    message = experiment_message(whole.experiment)
    for prompt in whole.prompts:
        message.prompts.add(messages=_turns(prompt))
    return message


def pair_message(pair: Pair) -> experiment_pb2.Pair:
    return experiment_pb2.Pair(
        name=str(pair.name),
        messages=_turns(pair.prompt),
        left_text=pair.left_text,
        right_text=pair.right_text,
        remaining_count=pair.remaining_count,
    )


def vote_message(cast: CastVote) -> experiment_pb2.Vote:
    return experiment_pb2.Vote(
        pair=str(cast.pair),
        voter=cast.voter,
        choice=_CHOICES_SENT[cast.choice],
        left_model=cast.left_model,
        right_model=cast.right_model,
        replaced=cast.replaced,
        create_time=_timestamp(cast.time),
    )


def report_message(report: Report) -> experiment_pb2.ExperimentReport:
    return experiment_pb2.ExperimentReport(
        name=str(report.name),
        baseline_model=report.baseline,
        candidate_model=report.candidate,
        wins=report.wins,
        losses=report.losses,
        ties=report.ties,
        both_bad=report.both_bad,
        win_rate=report.win_rate,
        interval=experiment_pb2.Interval(
            lower=report.interval.lower,
            upper=report.interval.upper,
            confidence=report.interval.confidence,
            method=METHOD,
        ),
        verdict=_VERDICTS[report.verdict],
        prompt_count=report.prompt_count,
        voter_count=report.voter_count,
        left_rate=report.left_rate,
    )


def _turns(prompt: Prompt) -> list[conversation_pb2.ChatMessage]:
    return [
        conversation_pb2.ChatMessage(role=_ROLES_SENT[turn.role], content=turn.content)
        for turn in prompt
    ]


def _status(failure: Failure) -> status_pb2.Status:
    status = status_pb2.Status(code=failure.code, message=failure.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN))
    return status


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
