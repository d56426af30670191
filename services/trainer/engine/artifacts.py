"""The result of a run: a directory that appears whole, and what is in it."""

import hashlib
from pathlib import Path

from services.trainer.engine.durable import writing_directory
from services.trainer.engine.events import Artifact
from services.trainer.engine.job import Job
from services.trainer.engine.model import TunableModel


def write_artifacts(job: Job, model: TunableModel) -> tuple[Artifact, ...]:
    """Writes what the job's method makes of the model, in the order of the files' names."""
    with writing_directory(job.artifacts_dir) as directory:
        job.method.write(model.network, job.base_model_dir, directory)
    return listed(job.artifacts_dir)


def listed(directory: Path) -> tuple[Artifact, ...]:
    """The files of a result, in the order of their names."""
    return tuple(map(_artifact, sorted(directory.iterdir())))


def directory_digest(directory: Path) -> str:
    """A sha256 over the names and contents of the files of an earlier result."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        digest.update(f"{path.name} {_artifact(path).sha256}\n".encode())
    return digest.hexdigest()


def _artifact(path: Path) -> Artifact:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Artifact(path.name, path.stat().st_size, digest)
