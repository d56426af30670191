"""The text of a web page."""

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_SILENT = frozenset(("script", "style", "template", "noscript", "svg", "head"))
_PARAGRAPH = re.compile(
    "address|article|aside|blockquote|body|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|"
    "header|hr|li|main|nav|ol|p|pre|section|table|tr|ul"
)
_SPACE = re.compile(r"[ \t\r\n\f]+")


class _Page(HTMLParser):
    """Gathers text; whoever feeds it takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered: list[str] = []
        self._silent: list[str] = []
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag == "body":
            self._silent.clear()
        if tag in _HEADINGS:
            self.gathered.append(f"\n\n{_HEADINGS[tag]} ")
        elif _PARAGRAPH.fullmatch(tag):
            self.gathered.append("\n\n- " if tag == "li" else "\n\n")
        elif tag in ("br", "td", "th"):
            self.gathered.append("\n" if tag == "br" else "\t")
        self._verbatim += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._silent and self._silent[-1] == tag:
            self._silent.pop()
        if tag in _HEADINGS or _PARAGRAPH.fullmatch(tag):
            self.gathered.append("\n\n")
        self._verbatim -= tag == "pre" and self._verbatim > 0

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.gathered.append(data if self._verbatim else _SPACE.sub(" ", data))


def pieces(source: Iterable[str]) -> Iterator[str]:
    """The text between the tags, without scripts and the page's head. A paragraph ends with a blank
    line."""
    page = _Page()
    for piece in source:
        page.feed(piece)
        yield _taken(page)
    page.close()
    yield _taken(page)


_BREAKS = re.compile(r" *\n *\n\s*")


def _taken(page: _Page) -> str:
    text = "".join(page.gathered)
    page.gathered.clear()
    return _BREAKS.sub("\n\n", text)
