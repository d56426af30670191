"""Tokens as text that can be shown."""

import re

from tokenizers import Tokenizer

from services.chat.mask import TokenizedText

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_text(tokenizer: Tokenizer, tokenized: TokenizedText, index: int) -> str:
    """What a token stands for in the text. Of one that holds only a part of a character its bytes,
    as `\\xf0`; of one that stands for nothing there the name that the tokenizer has for it."""
    start, end = tokenized.starts[index], tokenized.ends[index]
    name = tokenizer.id_to_token(tokenized.token_ids[index]) or ""
    if start == end:
        return name
    if _shares_a_character(tokenized, index):
        return _bytes_of(name).decode("utf-8", "backslashreplace")
    return tokenized.text[start:end]


def _shares_a_character(tokenized: TokenizedText, index: int) -> bool:
    starts, ends = tokenized.starts, tokenized.ends
    with_last = index > 0 and ends[index - 1] > starts[index]
    return with_last or (index + 1 < len(starts) and starts[index + 1] < ends[index])


def _bytes_of(name: str) -> bytes:
    """The bytes of a token by its name, which says them in one of two ways."""
    if found := _BYTE.fullmatch(name):
        return bytes.fromhex(found[1])
    try:
        return bytes(_BYTE_LEVEL[character] for character in name)
    except KeyError:
        return name.encode()


def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level()
