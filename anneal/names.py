"""Resource names: full for the services, short for people.

Inside one's own project `support` says as much as `projects/default/datasets/support`.

| short                              | stands for                                          |
| ---------------------------------- | --------------------------------------------------- |
| `support`                          | the dataset, job, sweep, model … of that name       |
| `support`, `support@latest`        | (as a version) its newest version                   |
| `support/v-0123…`, `support@v-0123…` | that version                                      |
| `support@champion`                 | (of a model) the alias                              |
| `tiny-base`                        | (where a model answers) the base model              |
| `node-a`                           | the node of that name, which is of no project       |
"""

import re
from dataclasses import dataclass

LATEST = "latest"
_OF_NO_PROJECT = ("baseModels/", "nodes/")
_VERSION_ID = re.compile(r"v-[0-9a-f]{16}")
_ID_LENGTH = 63


@dataclass(frozen=True)
class Names:
    """Turns short names into full ones and back, for one project."""

    project: str = "default"

    @property
    def parent(self) -> str:
        return f"projects/{self.project}"

    def dataset(self, text: str) -> str:
        return self._member("datasets", text)

    def tuning_job(self, text: str) -> str:
        return self._member("tuningJobs", text)

    def tuning_sweep(self, text: str) -> str:
        return self._member("tuningSweeps", text)

    def model(self, text: str) -> str:
        return self._member("models", text)

    def experiment(self, text: str) -> str:
        return self._member("experiments", text)

    def node(self, text: str) -> str:
        return text if text.startswith("nodes/") else f"nodes/{text}"

    def quota(self, project: str = "") -> str:
        """Of a project: `support` or `projects/support`; by default one's own."""
        if not project:
            return f"{self.parent}/quota"
        name = project if project.startswith("projects/") else f"projects/{project}"
        return name if name.endswith("/quota") else f"{name}/quota"

    def base_model(self, text: str) -> str:
        return text if text.startswith("baseModels/") else f"baseModels/{text}"

    def dataset_version(self, text: str) -> str:
        """`support`, `support@latest`, `support/v-…`, or a full name of a dataset or version."""
        return self._version("datasets", text)

    def model_version(self, text: str) -> str:
        """`support`, `support@latest`, `support/v-…`, or a full name of a model or version."""
        return self._version("models", text)

    def model_version_or_alias(self, text: str) -> str:
        """As `model_version`; or an alias: `support@champion`, or its full name."""
        if "/aliases/" in text:
            return text
        model, at, reference = text.partition("@")
        if at and not _is_version(reference):
            return self.model_alias(model, reference)
        return self.model_version(text)

    def model_alias(self, model: str, alias: str) -> str:
        return f"{self.model(model)}/aliases/{alias}"

    def answering_model(self, text: str) -> str:
        """What can answer: `tiny-base` (a base model), `support@champion`, `support/v-…`."""
        if text.startswith(("projects/", "baseModels/")):
            return text
        if "@" in text or "/" in text:
            return self.model_version_or_alias(text)
        return self.base_model(text)

    def short(self, name: str) -> str:
        """Returns the shortest text that gives `name` back; other projects' names stay whole."""
        if name.startswith(_OF_NO_PROJECT):
            return last_part(name)
        if not name.startswith(f"{self.parent}/"):
            return name
        match name.split("/")[2:]:
            case [_, member]:
                return member
            case [_, member, "versions", version]:
                return f"{member}/{version}"
            case [_, member, "aliases", alias]:
                return f"{member}@{alias}"
            case _:
                return name

    def _member(self, collection: str, text: str) -> str:
        return text if text.startswith("projects/") else f"{self.parent}/{collection}/{text}"

    def _version(self, collection: str, text: str) -> str:
        if text.startswith("projects/"):
            return text if "/versions/" in text else f"{text}/versions/{LATEST}"
        member, _, version = text.replace("@", "/", 1).partition("/")
        return f"{self._member(collection, member)}/versions/{version or LATEST}"


def last_part(name: str) -> str:
    """Returns the id at the end of a resource name."""
    return name.rpartition("/")[2]


def id_from(text: str, default: str) -> str:
    """Makes an id (RFC 1034, at most 63 characters) of any text, for example of a file's name."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not slug or slug[0].isdigit():
        slug = f"{default}-{slug}"
    return slug[:_ID_LENGTH].strip("-")


def _is_version(reference: str) -> bool:
    return reference == LATEST or _VERSION_ID.fullmatch(reference) is not None
