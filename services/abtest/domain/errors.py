"""What callers of this service can be told."""

from services.abtest.domain.names import ExperimentName, PairName
from services.common.faults import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Violation,
)


class ExperimentNotFound(NotFound):
    """There is no such experiment."""

    def __init__(self, name: ExperimentName) -> None:
        super().__init__(name)
        self.reason = "EXPERIMENT_NOT_FOUND"


class ExperimentExists(AlreadyExists):
    """The name is taken."""

    def __init__(self, name: ExperimentName) -> None:
        super().__init__(name)
        self.reason = "EXPERIMENT_EXISTS"


class PairNotFound(NotFound):
    """This pair was never served."""

    def __init__(self, name: PairName) -> None:
        super().__init__(name)
        self.reason = "PAIR_NOT_FOUND"


class PairOfAnotherVoter(InvalidArgument):
    """The pair was served, but not to this voter."""

    def __init__(self, name: PairName, voter: str) -> None:
        description = f"{name} was not served to {voter}; ask NextPair for a pair of its own"
        super().__init__([Violation("name", description, "PAIR_OF_ANOTHER_VOTER")])


class NoPairLeft(FailedPrecondition):
    """The voter has judged every prompt."""

    def __init__(self, name: ExperimentName) -> None:
        super().__init__(
            "NO_PAIR_LEFT", "you have judged every prompt of this experiment", resource=name
        )


class AnswersPending(FailedPrecondition):
    """Nothing to judge yet."""

    def __init__(self, name: ExperimentName) -> None:
        super().__init__(
            "ANSWERS_PENDING",
            "the next answers are being generated; try again in a moment",
            resource=name,
        )


class ExperimentFailed(FailedPrecondition):
    """There will be no answers."""

    def __init__(self, name: ExperimentName, cause: str) -> None:
        super().__init__(
            "EXPERIMENT_FAILED",
            "the answers could not be generated; GetExperiment says why",
            resource=name,
            cause=cause,
        )


class DependencyDown(Unavailable):
    """A service that this one needs does not answer."""

    def __init__(self, service: str) -> None:
        super().__init__(
            "DEPENDENCY_DOWN", f"{service} does not answer; try again", service=service
        )
