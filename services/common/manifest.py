"""A set of files as one value: what they are called, how long they are, what is in them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self, cast

from services.common.faults import DataLoss

JSON = str | int | float | bool | None | Sequence["JSON"] | Mapping[str, "JSON"]

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_PATH_CHARACTERS = 1024


class ManifestInvalid(DataLoss):
    """Bytes that should be a manifest and are none."""

    def __init__(self, why: str) -> None:
        super().__init__("MANIFEST_INVALID", f"not a manifest: {why}", why=why)


@dataclass(frozen=True, order=True)
class FileEntry:
    """A file of at most 2^63 bytes. `path` is relative, with `/`, and stays inside."""

    path: str
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not _is_inside(self.path):
            raise ManifestInvalid(f"the path {self.path[:80]!r} is not a plain relative one")
        if _SHA256_HEX.fullmatch(self.sha256) is None:
            raise ManifestInvalid(f"{self.sha256[:80]!r} is not a sha256 in hex")
        if not 0 <= self.size_bytes < 2**63:
            raise ManifestInvalid(f"{self.path} has {self.size_bytes} bytes")


@dataclass(frozen=True)
class Manifest:
    """Files in the order of their paths, and what else belongs to the set's identity.

    Equal content has equal bytes, so the `digest` identifies it.
    """

    files: tuple[FileEntry, ...]
    meta: Mapping[str, JSON] = field(default_factory=dict[str, JSON])

    def __post_init__(self) -> None:
        files = tuple(sorted(self.files))
        for one, other in pairwise(files):
            if one.path == other.path:
                raise ManifestInvalid(f"the path {one.path} occurs twice")
        object.__setattr__(self, "files", files)

    @property
    def digest(self) -> str:
        """sha256 in hex of the canonical bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8, no NaN."""
        document = {
            "files": [
                {"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes}
                for file in self.files
            ],
            "meta": self.meta,
        }
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Raises ManifestInvalid."""
        try:
            document = cast("dict[str, Any]", json.loads(content))
            files = tuple(
                FileEntry(str(file["path"]), int(file["size_bytes"]), str(file["sha256"]))
                for file in document["files"]
            )
            return cls(files, dict(document["meta"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ManifestInvalid(f"{type(error).__name__}: {error}") from error


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return (
        0 < len(path) <= _MAX_PATH_CHARACTERS
        and path.isprintable()  # no NUL, no line break, no lone surrogate
        and "\\" not in path
        and not any(part in ("", ".", "..") for part in parts)
    )
