"""What can be wrong with a conversation or with the chat template that renders it."""


class ChatError(Exception):
    """The parent of every error that this package raises on purpose."""


class TokenizerFilesMissing(ChatError):
    """The model directory lacks a readable tokenizer file; a fault of whoever prepared it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class TemplateUnsupported(ChatError):
    """The chat template is absent, fails to render, or hides where an assistant turn lies."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NoLabeledTokens(ChatError):
    """No token of the conversation carries loss, so training on it would teach nothing."""

    def __init__(self, *, truncated: bool, max_tokens: int) -> None:
        cause = (
            f"every trained turn lies beyond the limit of {max_tokens} tokens"
            if truncated
            else "no assistant message is marked for training"
        )
        super().__init__(cause)
        self.truncated = truncated
        self.max_tokens = max_tokens
