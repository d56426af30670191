"""What callers of this service, and its operators, can be told."""

from services.common.faults import DataLoss, NotFound, Unavailable
from services.registry.domain.names import (
    BaseModelName,
    ModelAliasName,
    ModelName,
    ModelVersionName,
)


class BaseModelNotFound(NotFound):
    """It is not on the operator's list."""

    def __init__(self, name: BaseModelName) -> None:
        super().__init__(name)
        self.reason = "BASE_MODEL_NOT_FOUND"


class BaseModelNotReady(Unavailable):
    """It is on the list, and its files are still being taken in."""

    def __init__(self, name: BaseModelName) -> None:
        super().__init__(
            "BASE_MODEL_NOT_READY",
            f"the files of {name} are being stored; try again in a moment",
            resource=name,
        )


class ModelNotFound(NotFound):
    """No version of it was ever registered."""

    def __init__(self, name: ModelName) -> None:
        super().__init__(name)
        self.reason = "MODEL_NOT_FOUND"


class ModelVersionNotFound(NotFound):
    """There is no such version."""

    def __init__(self, name: ModelVersionName) -> None:
        super().__init__(name)
        self.reason = "MODEL_VERSION_NOT_FOUND"


class ModelAliasNotFound(NotFound):
    """There is no such alias."""

    def __init__(self, name: ModelAliasName) -> None:
        super().__init__(name)
        self.reason = "MODEL_ALIAS_NOT_FOUND"


class ArtifactNotFound(NotFound):
    """The version has no file of that path."""

    def __init__(self, name: ModelVersionName, path: str) -> None:
        super().__init__(f"{name}: {path[:200]!r}")
        self.reason = "ARTIFACT_NOT_FOUND"


class ArtifactMissing(DataLoss):
    """A job says that it has stored a file which is not there."""

    def __init__(self, job: str, path: str, digest: str) -> None:
        super().__init__(
            "BLOB_MISSING",
            f"{path} of {job} is not stored; no version is made of it",
            job=job,
            path=path,
            digest=digest,
        )


class VersionTaken(DataLoss):
    """Two jobs claim the same artifacts. A manifest names its job, so one of them is not right."""

    def __init__(self, name: ModelVersionName, job: str) -> None:
        super().__init__(
            "VERSION_TAKEN", f"{name} was made by another job than {job}", version=name, job=job
        )
