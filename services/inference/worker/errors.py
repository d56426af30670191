"""What the worker refuses, and goes on living."""

from pathlib import Path


class ContextExceeded(Exception):
    """The conversation has more tokens than the model takes."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"{tokens} tokens, and the model takes {limit}")
        self.tokens = tokens
        self.limit = limit


class ModelUnusable(Exception):
    """This base and version can answer nothing, whatever the conversation."""


class AdapterUnusable(ModelUnusable):
    """The adapter's files can not be loaded on top of this base."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the adapter can not be loaded: {_short(cause)}")


class NetworkUnusable(ModelUnusable):
    """The files of a whole model can not be loaded."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the model can not be loaded: {_short(cause)}")


class OutputNotFinite(ModelUnusable):
    """The model gave NaN or infinity; weights that diverged in training do."""

    def __init__(self) -> None:
        super().__init__("the model's outputs are not finite numbers; its weights have diverged")


def cause_without_place(error: Exception, directory: Path) -> str:
    """What a library says is wrong with the files in `directory`, without where on this host they
    lie, which is no caller's business."""
    return str(error).replace(f"{directory}/", "").replace(str(directory), "its directory")


def _short(cause: str) -> str:
    return " ".join(cause.split())[:300]
