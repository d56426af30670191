"""What the service keeps: datasets and their versions."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.common.etags import etag
from services.dataset.domain.names import DatasetName, VersionName


class SourceFormat(StrEnum):
    """How the lines of an upload hold their examples."""

    CHAT = "chat"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt_completion"
    CHATML = "chatml"
    TEXT = "text"
    PREFERENCE = "preference"


@dataclass(frozen=True)
class Dataset:
    """A named series of immutable versions; it has at least one."""

    name: DatasetName
    uid: str
    latest_version: VersionName
    version_count: int
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        return etag(self.uid, self.version_count)


@dataclass(frozen=True)
class DatasetVersion:
    """A set of labeled examples: complete, or not there at all.

    `digest` is the sha256 of the canonical Parquet file and its key among the blobs,
    `source_digest` that of the bytes which were uploaded.
    """

    name: VersionName
    digest: str
    example_count: int
    size_bytes: int
    source_format: SourceFormat
    source_digest: str
    create_time: datetime
