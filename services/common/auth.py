"""Who calls, and what they may do: API keys with permissions and projects."""

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, ClassVar

from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.common.clock import Clock, SystemClock
from services.common.faults import InvalidArgument, PermissionDenied, Unauthenticated
from services.common.names import project_of
from services.common.policies import MethodPolicy
from services.common.process import StartupError

KEY_ID = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
_SECRET_BYTES = 32
_ALL = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. Permissions are `datasets.read`, `datasets.*` or `*`; projects are ids or `*`."""

    id: str
    permissions: frozenset[str]
    projects: frozenset[str]

    LOCAL: ClassVar["Principal"]
    """Whoever can reach a server without keys, which binds to loopback only: may do everything."""

    def may(self, permission: str) -> bool:
        """Whether the permission is granted, by itself or by `<collection>.*`."""
        granted = self.permissions
        return (
            permission in granted
            or _ALL in granted
            or f"{permission.partition('.')[0]}.*" in granted
        )

    def covers(self, project: str) -> bool:
        """Whether the project is one of the caller's."""
        return _ALL in self.projects or project in self.projects

    def require_project_of(self, name: str, field: str = "name") -> None:
        """The tenant check for any name in a request. Says nothing about what exists.

        Raises PermissionDenied, or InvalidArgument when a caller of some projects names none.
        """
        if _ALL in self.projects:
            return
        project = project_of(name)
        if project is None:
            raise InvalidArgument.of(
                field, "must start with projects/{project}", "RESOURCE_NAME_INVALID"
            )
        if project not in self.projects:
            raise PermissionDenied(
                "PROJECT_DENIED",
                f"key {self.id!r} does not cover project {project!r}; use a key that does",
                project=project,
                key=self.id,
            )


Principal.LOCAL = Principal("local", frozenset({_ALL}), frozenset({_ALL}))
ANONYMOUS = Principal("anonymous", frozenset(), frozenset())


class KeysInvalid(StartupError):
    """The key file cannot be used."""


class _Key(BaseModel):
    """One `[[key]]` of the file. The secret itself is nowhere but with its owner."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=KEY_ID)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    permissions: Annotated[list[str], Field(min_length=1)]
    projects: Annotated[list[str], Field(min_length=1)]
    expires: datetime | date | None = None

    def expired(self, now: datetime) -> bool:
        match self.expires:
            case None:
                return False
            case datetime() as moment:
                return now >= (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
            case day:
                return now.date() > day

    def principal(self) -> Principal:
        return Principal(self.id, frozenset(self.permissions), frozenset(self.projects))


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: list[_Key] = []


class KeyRing:
    """The keys that a server accepts, read once at start."""

    def __init__(self, keys: Iterable[_Key], clock: Clock | None = None) -> None:
        self._keys = {key.id: (key, key.principal()) for key in keys}
        self._clock = clock or SystemClock()

    @classmethod
    def load(cls, path: Path, clock: Clock | None = None) -> "KeyRing":
        """Reads a TOML file of `[[key]]` tables: id, sha256, permissions, projects, and optionally
        expires. Raises KeysInvalid saying where it is wrong."""
        try:
            keys = _KeyFile.model_validate(tomllib.loads(path.read_text("utf-8"))).key
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise KeysInvalid(f"cannot read the key file {path}: {error}") from error
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            places = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)
            raise KeysInvalid(f"key file {path}: {places}") from None
        _require_usable(path, [key.id for key in keys])
        return cls(keys, clock)

    def authenticate(self, authorization: str) -> Principal:
        """The caller with this `authorization` metadata. Raises Unauthenticated."""
        parsed = _parsed(authorization)
        if parsed is None:
            raise Unauthenticated(
                "API_KEY_MISSING", "send the metadata 'authorization: Bearer anneal_<id>_<secret>'"
            )
        key_id, digest = parsed
        key, principal = self._keys.get(key_id, (None, ANONYMOUS))
        known = hmac.compare_digest(digest, key.sha256 if key else "0" * 64)
        if key is None or not known:
            raise Unauthenticated("API_KEY_INVALID", "the API key is not one of this server's")
        if key.expired(self._clock.now()):
            raise Unauthenticated(
                "API_KEY_EXPIRED", f"the API key {key_id!r} has expired", key=key_id
            )
        return principal


def new_key(
    key_id: str, *, permissions: Iterable[str] = (_ALL,), projects: Iterable[str] = ("default",)
) -> tuple[str, str]:
    """A new API key: the text for its owner, shown once, and the TOML to add to the key file."""
    if re.fullmatch(KEY_ID, key_id) is None:
        raise InvalidArgument.of("id", "must be an RFC-1034 label of at most 63 characters")
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    text = f"anneal_{key_id}_{secret}"
    snippet = (
        "[[key]]\n"
        f'id = "{key_id}"\n'
        f'sha256 = "{_digest(text)}"\n'
        f"permissions = {_toml(permissions)}\n"
        f"projects = {_toml(projects)}\n"
    )
    return text, snippet


def authorize(principal: Principal, policy: MethodPolicy) -> None:
    """Raises PermissionDenied unless the caller may use the method at all."""
    if not principal.may(policy.permission):
        raise PermissionDenied(
            "PERMISSION_MISSING",
            f"key {principal.id!r} lacks {policy.permission!r}; use a key with that permission",
            permission=policy.permission,
            key=principal.id,
        )


def authorize_request(principal: Principal, policy: MethodPolicy, request: Message) -> None:
    """Raises PermissionDenied unless the project that the request names is the caller's."""
    if policy.resource_of is not None:
        principal.require_project_of(policy.resource_of(request), field=policy.resource)


def _parsed(authorization: str) -> tuple[str, str] | None:
    scheme, _, text = authorization.partition(" ")
    parts = text.split("_", 2)
    if scheme.lower() != "bearer" or len(parts) != 3 or parts[0] != "anneal":
        return None
    return parts[1], _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _toml(texts: Iterable[str]) -> str:
    return json.dumps(list(texts))


def _require_usable(path: Path, ids: list[str]) -> None:
    if not ids:
        raise KeysInvalid(f"key file {path} has no [[key]]")
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise KeysInvalid(f"key file {path} names the same id twice: {', '.join(twice)}")
