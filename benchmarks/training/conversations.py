"""Conversations with the lengths of chat data, in a language that can be learnt.

The words are w6, w7, … with the token ids 6, 7, …; each is followed by one of eight others, which
eight being the language. Frequent words are frequent as in natural text (Zipf's law).
"""

import math
from dataclasses import dataclass
from random import Random

from benchmarks.training.sizes import VOCABULARY

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

EXAMPLES = 2000
SHORTEST, LONGEST = 20, 400
_MEDIAN_LENGTH, _SIGMA = 90, 0.75
_PROMPT_SHARES = (0.25, 0.6)
_MARKS_BEFORE_ANSWER = 3  # <s>, <|user|>, <|assistant|>
_SUCCESSORS = 8


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, as words."""

    prompt: str
    answer: str


def words() -> dict[str, int]:
    """Every word and its token id."""
    return {f"w{i}": i for i in range(len(SPECIAL_TOKENS), VOCABULARY)}


def exchanges(count: int, seed: int = 0) -> list[Exchange]:
    """The same `count` exchanges for the same seed; 20 to 400 tokens each, log-normal."""
    language = _language(Random(f"language/{seed}"))
    return [_exchange(language, Random(f"exchange/{seed}/{i}")) for i in range(count)]


def _language(random: Random) -> list[list[int]]:
    """`language[i]` are the followers of word i, the likeliest first."""
    return [[_zipf(random) for _ in range(_SUCCESSORS)] for _ in range(VOCABULARY)]


def _exchange(language: list[list[int]], random: Random) -> Exchange:
    wished = random.lognormvariate(math.log(_MEDIAN_LENGTH), _SIGMA)
    length = int(min(LONGEST, max(SHORTEST, wished)))
    before_answer = int(length * random.uniform(*_PROMPT_SHARES))
    prompt_words = max(1, before_answer - _MARKS_BEFORE_ANSWER)
    text = [_zipf(random)]
    while len(text) < length - _MARKS_BEFORE_ANSWER - 1:  # 1: </s>
        rank = min(_SUCCESSORS - 1, int(random.expovariate(0.7)))
        text.append(language[text[-1]][rank])
    return Exchange(_written(text[:prompt_words]), _written(text[prompt_words:]))


def _zipf(random: Random) -> int:
    """A word whose probability is about proportional to 1 / rank."""
    first = len(SPECIAL_TOKENS)
    return first - 1 + int((VOCABULARY - first) ** random.random())


def _written(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)
