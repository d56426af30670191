"""A little service of one table, to try the common parts with."""

from dataclasses import dataclass
from typing import Any, ClassVar

from sqlmodel import Field, SQLModel, col, func, select

from services.common.inbox import Inbox
from services.common.outbox import Outbox
from services.common.requests import Requests
from services.common.store import Session
from services.common.tables import OutboxRow, service_registry


class Row(SQLModel, registry=service_registry()):
    """Base of this service's tables."""


class NoteRow(Row, table=True):
    __tablename__: ClassVar[Any] = "notes"

    text: str = Field(primary_key=True)


@dataclass(frozen=True)
class Tables:
    session: Session
    outbox: Outbox
    inbox: Inbox
    requests: Requests

    async def add_note(self, text: str) -> None:
        self.session.add(NoteRow(text=text))
        await self.session.flush()

    async def notes(self) -> list[str]:
        return list(await self.session.exec(select(NoteRow.text).order_by(col(NoteRow.text))))

    async def events(self) -> int:
        return (await self.session.exec(select(func.count()).select_from(OutboxRow))).one()


def tables(session: Session) -> Tables:
    return Tables(session, Outbox(session), Inbox(session), Requests(session))
