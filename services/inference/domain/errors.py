"""What can go wrong when a model is asked."""

from services.common.faults import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)


class ModelNotFound(NotFound):
    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.reason = "MODEL_NOT_FOUND"


class BaseModelChanged(FailedPrecondition):
    """The hub revision that a version learnt from is no longer on the registry's list."""

    def __init__(self, version: str, base_model: str) -> None:
        super().__init__(
            "BASE_MODEL_CHANGED",
            f"{version} learnt from another revision of {base_model}; put that one on the list",
            resource=version,
            base_model=base_model,
        )


def prompt_too_long(tokens: int, limit: int) -> InvalidArgument:
    return InvalidArgument.of(
        "messages",
        f"the conversation has {tokens} tokens, and the model takes {limit}; shorten it",
        "PROMPT_TOO_LONG",
    )


class ModelUnusable(FailedPrecondition):
    """A version that answers nobody: its files do not load, or its weights diverged."""

    def __init__(self, model: str, cause: str) -> None:
        super().__init__("MODEL_UNUSABLE", f"{model} can not answer: {cause}", resource=model)


class WorkerStopped(Unavailable):
    """The worker process died; it is started again by the next request."""

    def __init__(self, cause: str) -> None:
        super().__init__("WORKER_STOPPED", f"the model's worker stopped: {cause}; try again")


class QueueFull(ResourceExhausted):
    def __init__(self, limit: int) -> None:
        super().__init__(
            "QUEUE_FULL",
            f"{limit} requests are waiting for this model; try again later",
            retry_after_s=1.0,
            limit=limit,
        )
