"""The text of a Word document (.docx): a ZIP archive with its paragraphs in one XML file."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from services.dataset.domain.containers.reading import Unreadable
from services.dataset.domain.flaws import FlawCode

_MAIN_PART = "word/document.xml"
_PIECE_BYTES = 64 * 1024
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_TEXT, _PARAGRAPH, _STYLE = f"{_W}t", f"{_W}p", f"{_W}pStyle"
_MARKS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_UNREADABLE = (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, NotImplementedError)
"""The last is how zipfile says that it does not know a file's compression or encryption."""


class _Paragraphs:
    """Gathers text; whoever parses takes it away."""

    def __init__(self) -> None:
        self.gathered: list[str] = []
        self._in_text = False
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = _refuse_doctype

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._in_text = name == _TEXT
        if name == _STYLE:
            level = attributes.get(f"{_W}val", "").lower().removeprefix("heading")
            if level in tuple("123456"):
                self.gathered.append("#" * int(level) + " ")
        self.gathered.append(_MARKS.get(name, ""))

    def _end(self, name: str) -> None:
        self._in_text = False
        if name == _PARAGRAPH:
            self.gathered.append("\n\n")

    def _characters(self, text: str) -> None:
        if self._in_text:
            self.gathered.append(text)


def pieces(path: Path) -> Iterator[str]:
    """Paragraphs with a blank line between them, those of tables too. Raises Unreadable."""
    paragraphs = _Paragraphs()
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_MAIN_PART) as part:
            while piece := part.read(_PIECE_BYTES):
                paragraphs.parser.Parse(piece)
                yield "".join(paragraphs.gathered)
                paragraphs.gathered.clear()
            paragraphs.parser.Parse(b"", True)
    except KeyError as error:
        text = "it is a ZIP archive, but no Word document; unpack it"
        raise Unreadable(FlawCode.UNKNOWN_CONTAINER, text) from error
    except RuntimeError as error:
        raise Unreadable(FlawCode.ENCRYPTED, "the document is encrypted") from error
    except _UNREADABLE as error:
        text = "the Word document is damaged, or cut off; upload the whole file"
        raise Unreadable(FlawCode.CONTAINER_DAMAGED, text) from error


def _refuse_doctype(*declared: object) -> NoReturn:
    """Word writes none; they are how small XML files become large ones."""
    text = "the Word document declares entities, which Word never does"
    raise Unreadable(FlawCode.CONTAINER_DAMAGED, text)
