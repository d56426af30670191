"""`request_id` (AIP-155): a mutation that is sent twice is carried out once.

The reservation is a row of the same transaction as the effect, so either both are there or
neither is, and a concurrent twin waits for the first one's commit.
"""

from sqlalchemy import ColumnElement
from sqlmodel import col, select, update

from services.common.columns import DatabaseNow
from services.common.faults import InvalidArgument
from services.common.request_ids import RequestKey as RequestKey
from services.common.request_ids import fingerprint as fingerprint
from services.common.request_ids import require_uuid4 as require_uuid4
from services.common.store import Session, insert_new
from services.common.tables import RequestRow


class Requests:
    """The idempotency records of one transaction. An empty request_id asks for no idempotency."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def reserve(self, key: RequestKey, fingerprint: str) -> str | None:
        """None if this is the first time: go on, and `settle` in the same transaction. Else the
        name of the resource that the first call settled on.

        Raises InvalidArgument if the id is not a UUID4, or came with another body before.
        """
        if not key.request_id:
            return None
        require_uuid4(key.request_id)
        if await insert_new(self._session, RequestRow, _reservation(key, fingerprint)):
            return None
        return await self._settled(key, fingerprint)

    async def find(self, key: RequestKey, fingerprint: str) -> str | None:
        """What `reserve` would say, without reserving: for a look before work that cannot be in
        the transaction. None promises nothing."""
        if not key.request_id:
            return None
        require_uuid4(key.request_id)
        return await self._settled(key, fingerprint) if await self.is_known(key) else None

    async def is_known(self, key: RequestKey) -> bool:
        """Whether a request with this id was carried out before, whatever its body."""
        known = await self._session.exec(select(RequestRow.request_id).where(*_is(key)))
        return known.first() is not None

    async def settle(self, key: RequestKey, resource: str) -> None:
        """Records the answer of the call that `reserve` let go on."""
        if key.request_id:
            row = update(RequestRow).where(*_is(key)).values(resource=resource)
            await self._session.exec(row)

    async def _settled(self, key: RequestKey, fingerprint: str) -> str:
        row = (await self._session.exec(select(RequestRow).where(*_is(key)))).one()
        if row.fingerprint != fingerprint:
            raise InvalidArgument.of(
                "request_id",
                "was used for another request; make a new UUID4",
                "REQUEST_ID_REUSED",
            )
        if row.resource is None:
            raise RuntimeError(f"{key} was reserved and committed without being settled")
        return row.resource


def _reservation(key: RequestKey, fingerprint: str) -> dict[str, object]:
    return {
        "project": key.project,
        "method": key.method,
        "request_id": key.request_id,
        "fingerprint": fingerprint,
        "created_at": DatabaseNow(),
    }


def _is(key: RequestKey) -> tuple[ColumnElement[bool], ...]:
    return (
        col(RequestRow.project) == key.project,
        col(RequestRow.method) == key.method,
        col(RequestRow.request_id) == key.request_id,
    )
