"""What a caller can say about how an upload is packed."""

from dataclasses import dataclass, field
from enum import StrEnum

CHUNK_CHARACTERS = 2000
"""About 500 tokens of English: a sequence of 512 tokens, a job's default, takes it whole."""

OVERLAP_CHARACTERS = 200
"""One to three sentences, so that what refers to the one before is learnt beside it. No more: what
lies in two chunks is learnt twice."""

LEAST_CHUNK_CHARACTERS, MOST_CHUNK_CHARACTERS = 100, 100_000


class ContainerKind(StrEnum):
    """What holds the rows."""

    JSON_LINES = "json_lines"
    JSON_ARRAY = "json_array"
    CSV = "csv"
    PARQUET = "parquet"
    DOCUMENT = "document"


class DocumentKind(StrEnum):
    """How a document is written. The values are the usual endings of file names."""

    TXT = "txt"
    MD = "md"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"


@dataclass(frozen=True)
class DocumentChoice:
    """How a document becomes texts. `kind` None: as its first bytes say, and `txt` if they do not.

    Raises ValueError for chunks out of bounds, and for an overlap of more than half a chunk.
    """

    kind: DocumentKind | None = None
    chunk_characters: int = CHUNK_CHARACTERS
    overlap_characters: int = OVERLAP_CHARACTERS

    def __post_init__(self) -> None:
        least, most = LEAST_CHUNK_CHARACTERS, MOST_CHUNK_CHARACTERS
        if not least <= self.chunk_characters <= most:
            raise ValueError(f"a chunk has {least} to {most} characters")
        if not 0 <= self.overlap_characters <= self.chunk_characters // 2:
            raise ValueError("chunks overlap by at most half of one")


@dataclass(frozen=True)
class PackingChoice:
    """`container` None: as the first bytes say. A document must be named: web pages and PDF files
    are uploaded by mistake more often than on purpose."""

    container: ContainerKind | None = None
    document: DocumentChoice = field(default_factory=DocumentChoice)
