"""The text that the tiny base model learns from: what every Python installation carries.

Sources: docstrings and comments of the standard library (read with `ast` and `tokenize`, never
imported), docstrings of the modules compiled into the interpreter, the language reference in
`pydoc_data.topics`, and the licence. Python's documentation is under the PSF licence.
"""

import ast
import importlib
import io
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages"}
    | {"test", "tests", "turtledemo"}
)
MAX_SUMMARY_CHARS = 160
COMMENT_CODE_LINES = 3
PLAIN_SENTENCE = re.compile(r"[A-Z][\w ,;:'\"()/-]{20,140}[.!?]?")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Entry:
    """One documented thing: `name` is fully qualified, `summary` one sentence with its stop."""

    kind: str
    name: str
    module: str
    summary: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snippet:
    """A comment and the lines of code right below it."""

    comment: str
    code: str


@dataclass(frozen=True)
class Sentence:
    """A sentence of a docstring or comment, and the top-level module that says it."""

    module: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Everything read: `prose` are whole documents, the rest is raw material for questions."""

    prose: list[str] = field(default_factory=list[str])
    entries: list[Entry] = field(default_factory=list[Entry])
    sentences: list[Sentence] = field(default_factory=list[Sentence])
    snippets: list[Snippet] = field(default_factory=list[Snippet])
    topics: dict[str, str] = field(default_factory=dict[str, str])


def read_corpus() -> Corpus:
    """Reads the running interpreter's own text; the same interpreter gives the same corpus."""
    corpus = Corpus()
    for path in _library_files():
        _read_module(path, corpus)
    for module in sorted(sys.builtin_module_names):
        _read_compiled_module(module, corpus)
    reference: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    corpus.topics.update(reference)
    corpus.prose.extend(reference.values())
    licence = _library() / "LICENSE.txt"
    if licence.exists():
        corpus.prose.append(licence.read_text(encoding="utf-8"))
    return corpus


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _library_files() -> list[Path]:
    """Public standard library sources; folders that some distributions leave out are skipped."""
    found: list[Path] = []
    for path in sorted(_library().rglob("*.py")):
        parts = path.relative_to(_library()).parts
        generated = path.name.startswith("_sysconfigdata") or parts[0].startswith("config-")
        if not generated and not SKIPPED_FOLDERS.intersection(parts):
            found.append(path)
    return found


def _read_module(path: Path, corpus: Corpus) -> None:
    source = path.read_text(encoding="utf-8")
    parts = path.relative_to(_library()).with_suffix("").parts
    module = ".".join(part for part in parts if part != "__init__")
    texts: list[str] = []
    for node, name in _documented(ast.parse(source), module):
        docstring = ast.get_docstring(node) or ""
        texts.append(f"{name}\n\n{docstring}")
        entry = _entry(_kind(node), name, module, docstring, _parameters(node))
        if entry is not None:
            corpus.entries.append(entry)
    comments, snippets = _comments(source)
    corpus.prose.append("\n\n".join(texts + comments))
    corpus.sentences.extend(_sentences(module, texts + comments))
    corpus.snippets.extend(snippets)


def _documented(node: Documented, name: str) -> Iterator[tuple[Documented, str]]:
    if ast.get_docstring(node):
        yield node, name
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child, f"{name}.{child.name}")


def _kind(node: Documented) -> str:
    match node:
        case ast.Module():
            return "module"
        case ast.ClassDef():
            return "class"
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return "function"


def _parameters(node: Documented) -> tuple[str, ...]:
    if isinstance(node, ast.Module | ast.ClassDef):
        return ()
    names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    return tuple(name for name in names if name not in {"self", "cls"})


def _entry(
    kind: str, name: str, module: str, docstring: str, parameters: tuple[str, ...]
) -> Entry | None:
    private = any(part.startswith("_") for part in name.split("."))
    summary = _first_sentence(docstring)
    if private or summary is None:
        return None
    return Entry(kind, name, module, summary, parameters)


def _first_sentence(docstring: str) -> str | None:
    """The first sentence of real prose, or None where the docstring starts with a signature."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split()).replace("`", "")
    sentence = re.split(r"(?<=[a-z)][.!?])\s", paragraph)[0].strip()
    words = sentence.split()
    prose = len(words) >= 3 and "->" not in sentence and ">>>" not in sentence
    if not prose or len(sentence) > MAX_SUMMARY_CHARS or not words[0][0].isupper():
        return None
    return sentence if sentence[-1] in ".!?" else sentence.rstrip(":;,") + "."


def _sentences(module: str, texts: Sequence[str]) -> Iterator[Sentence]:
    """Sentences of plain words: no code, no tables, no lines that were cut."""
    for paragraph in "\n\n".join(texts).split("\n\n"):
        for sentence in re.split(r"(?<=[a-z)][.!?])\s+", " ".join(paragraph.split())):
            if PLAIN_SENTENCE.fullmatch(sentence) and len(sentence.split()) >= 4:
                yield Sentence(module.split(".")[0], sentence)


def _comments(source: str) -> tuple[list[str], list[Snippet]]:
    """Blocks of whole-line comments, and those short enough to explain the lines below them."""
    lines = source.splitlines()
    block: list[str] = []
    blocks: list[str] = []
    snippets: list[Snippet] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row = token.start[0]
        if token.type == tokenize.COMMENT and lines[row - 1].lstrip().startswith("#"):
            block.append(token.string.lstrip("#").strip())
        elif token.type not in {tokenize.NL, tokenize.INDENT, tokenize.DEDENT} and block:
            text = " ".join(block)
            blocks.append(text)
            if 20 < len(text) < MAX_SUMMARY_CHARS and text[0].isupper():
                code = "\n".join(lines[row - 1 : row - 1 + COMMENT_CODE_LINES])
                snippets.append(Snippet(text, code))
            block = []
    return blocks, snippets


def _read_compiled_module(module: str, corpus: Corpus) -> None:
    namespace = vars(importlib.import_module(module))
    texts: list[str] = []
    for name, value in sorted(namespace.items()):
        members = sorted(vars(value).items()) if isinstance(value, type) else []
        for member, thing in [("", value), *members]:
            docstring = getattr(thing, "__doc__", None)
            if not isinstance(docstring, str) or isinstance(thing, str | int | float | tuple):
                continue
            full = ".".join(filter(None, (module, name, member))).removeprefix("builtins.")
            texts.append(f"{full}\n\n{docstring}")
            kind = "class" if isinstance(thing, type) else "function"
            entry = _entry(kind, full, module, docstring, ())
            if entry is not None:
                corpus.entries.append(entry)
    corpus.prose.append("\n\n".join(texts))
    corpus.sentences.extend(_sentences(module, texts))
