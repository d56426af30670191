"""Model directories without weights, in the manner of model families: a tokenizer and a template.

The templates are our own. So are the tokenizers: one of bytes, as GPT-2, Llama 3 and Qwen have
them, and one of characters with a way back to bytes, as Llama 2, Mistral, Gemma and T5.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from services.chat.conversation import Conversation, Message, Role, ToolCall

TEMPLATES = Path(__file__).parent / "templates"
CORPUS = [
    "What is the capital of France? The capital of France is Paris. assistant user system tool",
    '{"type": "function", "function": {"name": "area", "parameters": {"type": "object"}}} Hello!',
]
IM = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Family:
    """`of_bytes` is the tokenizer's kind, `has_tools` whether the template knows tools."""

    name: str
    special_tokens: Sequence[str]
    eos: str
    of_bytes: bool = True
    has_tools: bool = False
    encoder_decoder: bool = False

    def directory(self, parent: Path) -> Path:
        """Writes a model directory; its first two special tokens begin and end a text."""
        directory = parent / self.name
        directory.mkdir(parents=True)
        make = _bytes_tokenizer if self.of_bytes else _characters_tokenizer
        make(self.special_tokens).save(str(directory / "tokenizer.json"))
        named = {"bos_token": self.special_tokens[0], "eos_token": self.eos}
        (directory / "tokenizer_config.json").write_text(json.dumps(named))
        config = {"is_encoder_decoder": self.encoder_decoder}
        (directory / "config.json").write_text(json.dumps(config))
        template = TEMPLATES / f"{self.name}.jinja"
        if template.exists():
            (directory / "chat_template.jinja").write_text(template.read_text())
        return directory


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_SPEAKERS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_TOOL_WORDS = ("AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS", "INST")
_BRACKETS = tuple(f"[{slash}{word}]" for word in _TOOL_WORDS for slash in ("", "/"))
_TURNS = ("<start_of_turn>", "<end_of_turn>")
FAMILIES = {
    family.name: family
    for family in (
        Family("llama2", ["<s>", "</s>"], "</s>", of_bytes=False),
        Family("llama3", ["<|begin|>", "<|end_of_text|>", *_HEADERS], "<|eot_id|>", has_tools=True),
        Family("qwen", ["<|endoftext|>", *IM], "<|im_end|>", has_tools=True),
        Family("chatml", ["<s>", "</s>", *IM], "</s>"),
        Family("chatml_tagged", ["<s>", "</s>", *IM], "<|im_end|>"),
        Family("gemma", ["<bos>", "<eos>", *_TURNS], "<eos>", of_bytes=False),
        Family("mistral", ["<s>", "</s>", *_BRACKETS], "</s>", of_bytes=False, has_tools=True),
        Family("phi", ["<s>", "<|endoftext|>", *_SPEAKERS], "<|endoftext|>"),
        Family("zephyr", ["<s>", "</s>"], "</s>", of_bytes=False),
        Family("dialogpt", ["<|endoftext|>"], "<|endoftext|>"),
        Family("vicuna", ["<s>", "</s>"], "</s>", of_bytes=False),
        Family("t5", ["<pad>", "</s>"], "</s>", of_bytes=False, encoder_decoder=True),
    )
}
BROKEN = {
    name: Family(name, ["<s>", "</s>", *IM], "</s>")
    for name in ("broken_endless", "broken_greedy", "broken_mute", "broken_deaf")
}


def _bytes_tokenizer(special_tokens: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def _characters_tokenizer(special_tokens: Sequence[str]) -> Tokenizer:
    names = [*special_tokens, *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [*"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!:{}\"'"]
    merges = [
        ("▁", "t"),
        ("▁t", "h"),
        ("▁th", "e"),
        ("▁", "c"),
        ("i", "s"),
        ("▁", "is"),
        ("a", "r"),
    ]
    names += ["".join(pair) for pair in merges]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def user(text: str) -> Message:
    return Message(Role.USER, text)


def answer(text: str, train: bool = True, weight: float = 1.0) -> Message:
    return Message(Role.ASSISTANT, text, train, weight)


SYSTEM = Message(Role.SYSTEM, "Answer in one word, and never in two.")
_CALL = ToolCall("area", '{"side": 3, "unit": "m"}', "call_1")
_TOOLS = json.dumps(
    [{"type": "function", "function": {"name": "area", "parameters": {"type": "object"}}}]
)
CONVERSATIONS: dict[str, Conversation] = {
    "one turn": Conversation.of(user("What is the capital of France?"), answer("Paris.")),
    "three turns": Conversation.of(
        user("Hi"), answer("Hello!"), user("2 + 2?"), answer("4"), user("sure?"), answer("Yes")
    ),
    "system": Conversation.of(SYSTEM, user("Hi"), answer("Hello!"), user("Paris"), answer("Paris")),
    "weights": Conversation.of(
        user("a"), answer("Hello!", weight=0.25), user("b"), answer("Paris", weight=3.0)
    ),
    "an answer that is not learnt": Conversation.of(
        user("a"), answer("wrong", train=False), user("b"), answer("right")
    ),
    "the words of the question again": Conversation.of(
        user("Paris"), answer("Paris"), user("Paris"), answer("Paris")
    ),
    "many scripts": Conversation.of(user("é 日本 🎉"), answer("🎉 日本 é")),
    "line breaks and quotes": Conversation.of(user('say "a\nb"\n'), answer('"a\nb"')),
}
WITH_TOOLS: dict[str, Conversation] = {
    "a call and its answer": Conversation(
        (
            SYSTEM,
            user("How large is it?"),
            Message(Role.ASSISTANT, "", True, tool_calls=(_CALL,)),
            Message(Role.TOOL, '{"area": "9 m²"}', tool_call_id="call_1"),
            answer("It is 9 m²."),
        ),
        _TOOLS,
    ),
    "tools that are not called": Conversation((user("Hi"), answer("Hello!")), _TOOLS),
}


def conversations_for(family: Family) -> dict[str, Conversation]:
    return {**CONVERSATIONS, **(WITH_TOOLS if family.has_tools else {})}
