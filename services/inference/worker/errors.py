"""What the worker refuses, and goes on living."""


class ContextExceeded(Exception):
    """The conversation has more tokens than the model takes."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"{tokens} tokens, and the model takes {limit}")
        self.tokens = tokens
        self.limit = limit


class ModelUnusable(Exception):
    """This base and adapter can answer nothing, whatever the conversation."""


class AdapterUnusable(ModelUnusable):
    """The adapter's files can not be loaded on top of this base."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the adapter can not be loaded: {' '.join(cause.split())[:300]}")


class OutputNotFinite(ModelUnusable):
    """The model gave NaN or infinity; weights that diverged in training do."""

    def __init__(self) -> None:
        super().__init__("the model's outputs are not finite numbers; its weights have diverged")
