"""What can go wrong when a model is asked."""

from services.common.faults import InvalidArgument, NotFound, ResourceExhausted, Unavailable


class ModelNotFound(NotFound):
    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.reason = "MODEL_NOT_FOUND"


def prompt_too_long(tokens: int, limit: int) -> InvalidArgument:
    return InvalidArgument.of(
        "messages",
        f"the conversation has {tokens} tokens, and the model takes {limit}; shorten it",
        "PROMPT_TOO_LONG",
    )


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
