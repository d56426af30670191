"""The models that are trained, and how much work a token of them is."""

from dataclasses import dataclass

VOCABULARY = 8192
LORA_RANK = 8
LORA_ALPHA = 16
PACKED_ROW_TOKENS = 452


@dataclass(frozen=True, slots=True)
class Size:
    """A Llama with tied embeddings, and a batch of on average the same number of tokens in each of
    the three ways to form one: so many examples, so many tokens with padding, so many packed rows
    of 452 tokens."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    examples_a_step: int
    tokens_a_step: int
    packed_rows_a_step: int


SIZES = {
    size.name: size
    for size in (
        Size("14m", 384, 1024, 6, 6, examples_a_step=8, tokens_a_step=1035, packed_rows_a_step=2),
        Size("110m", 768, 2048, 15, 12, examples_a_step=4, tokens_a_step=560, packed_rows_a_step=1),
    )
}


def useful_flops(size: Size, labeled_share: float, mean_context: float) -> float:
    """Floating-point operations that training LoRA on one token cannot do without.

    A frozen weight costs two operations forward and two for the gradient of its input, which the
    first layer's q, k and v do not need; a LoRA weight two more for its own. The head is needed for
    the `labeled_share` of the tokens. Attention to the `mean_context` positions that a token sees:
    2·2·hidden·context forward, twice that backward.
    """
    h, i = size.hidden, size.intermediate
    frozen = size.layers * (4 * h * h + 3 * h * i)
    lora = size.layers * LORA_RANK * (4 * 2 * h + 3 * (h + i))
    first_inputs = 3 * h * h + 3 * h * LORA_RANK
    head = h * VOCABULARY * labeled_share
    attention = size.layers * h * mean_context
    return 4 * frozen + 6 * lora - 2 * first_inputs + 4 * head + 12 * attention
