"""One table of a retention plan, as it is stored in the ledger and handed from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A foreign key that points at the table: a row that it refers to is kept as long as it does."""

    constraint: str
    schema: str
    name: str
    """Of the referring table."""

    columns: tuple[str, ...]
    refers_to: tuple[str, ...]
    on_delete: str
    """``a`` nothing, ``r`` restrict, ``c`` cascade, ``n`` set null, ``d`` set default."""

    indexed: bool
    """Whether an index of the referring table leads with its columns."""

    @property
    def table(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(kw_only=True)
class Item:
    """What is due in one table or partition; JSON values only, but for the references."""

    table: str
    """``schema.name``, for people, the ledger and the progress."""

    schema: str
    name: str
    rule: str
    """The table that the platform file names; its partitions carry its rule."""

    column: str
    type: str
    """Of the column: ``timestamp with time zone``."""

    cut_off: str
    """ISO 8601, UTC, computed once: older rows are expired."""

    only: str = ""
    hold: str = ""
    archive: bool = False
    primary_key: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    act: Literal["delete", "drop"] = "delete"
    """``drop``: a whole expired partition, detached first."""

    parent: str = ""
    """Of a partition that is dropped: ``schema.name``, quoted where need be."""

    bound: str = ""
    """Of a partition that is dropped, in SQL, so that it can be attached again."""

    due: int = 0
    """Rows that may go: expired, meeting ``only``, not held, not referred to by rows that stay."""

    rows: int = 0
    """Rows of the table."""

    held: int = 0
    """Expired rows under ``hold``."""

    referenced: int = 0
    """Expired rows that rows which stay refer to."""

    without_key: int = 0
    """Rows whose column is null: they never expire."""

    oldest: str | None = None
    newest: str | None = None
    """Of the due rows, as the server writes them in UTC."""

    bytes: int = 0
    """Of the due rows: their share of the table with its indexes."""

    seconds: float | None = None
    """Expected, from what the last runs took; None without a history."""

    notes: list[str] = field(default_factory=list)
    """Triggers that will fire, publications that will carry the deletes."""

    refused: str = ""
    """Why nothing may be deleted here; ``hint`` has the cure."""

    hint: str = ""
    beyond: str = ""
    """What is beyond the standing yes, with the numbers; deleted only by a person's yes."""

    @property
    def refers_to_itself(self) -> bool:
        return any((ref.schema, ref.name) == (self.schema, self.name) for ref in self.references)

    def as_dict(self) -> dict[str, Any]:
        """JSON values only, as XCom and the ledger's plan want them."""
        return {
            **asdict(self),
            "primary_key": list(self.primary_key),
            "references": [
                {**asdict(ref), "columns": list(ref.columns), "refers_to": list(ref.refers_to)}
                for ref in self.references
            ],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Item:
        known = {key: value for key, value in stored.items() if key in cls.__dataclass_fields__}
        known["primary_key"] = tuple(known.get("primary_key", ()))
        known["references"] = tuple(
            Reference(**{**ref, "columns": tuple(ref["columns"]), "refers_to": tuple(ref["refers_to"])})
            for ref in known.get("references", ())
        )
        return cls(**known)
