"""The text of a PDF file. Scanned pages, which are pictures, have none."""

from collections.abc import Iterator
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import FileNotDecryptedError

from services.dataset.domain.containers.reading import Unreadable
from services.dataset.domain.flaws import FlawCode


def pieces(path: Path) -> Iterator[str]:
    """A page after the other, without a blank line between: paragraphs go on over pages. Raises
    Unreadable."""
    any_text = False
    try:
        for page in PdfReader(path).pages:
            text = _clean(page.extract_text())
            any_text = any_text or bool(text.strip())
            yield f"{text}\n"
    except FileNotDecryptedError as error:
        raise Unreadable(FlawCode.ENCRYPTED, "the PDF file is encrypted") from error
    except MemoryError:
        raise
    except Exception as error:
        # Whatever goes wrong in pypdf: a broken file may cause any exception, its `errors` say.
        text = "the PDF file is damaged, or cut off; upload the whole file"
        raise Unreadable(FlawCode.CONTAINER_DAMAGED, text) from error
    if not any_text:
        text = "the PDF file holds no text, only pictures; recognise its text first"
        raise Unreadable(FlawCode.EMPTY, text)


def _clean(text: str) -> str:
    """Fonts can map a glyph to half of a surrogate pair, and to NUL for want of a character."""
    return text.replace("\0", "").encode(errors="replace").decode()
