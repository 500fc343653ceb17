"""What is in a dump, entry by entry, and which of it a role that is no superuser can restore."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from upkeep.backup import content, reading
from upkeep.backup.compression import CompressionError
from upkeep.backup.dump import ARCHIVE
from upkeep.backup.encryption import DecryptionError, Key
from upkeep.backup.faults import Fault, some
from upkeep.backup.manifest import Manifest
from upkeep.backup.programs import Programs
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.store import Store
from upkeep.postgres.session import Connection

MAINTENANCE = frozenset({"pg_stat_statements", "amcheck", "pgstattuple", "pageinspect"})
"""Extensions that roles.sql makes for Upkeep; nothing of the application depends on them."""

DATABASE_OWNER = "pg_database_owner"
"""Is whoever owns the database that one is in."""

_ENTRY = re.compile(r"\d+; \d+ \d+ (?P<rest>.*)")


@dataclass
class Selection:
    """What is restored of a dump."""

    lines: list[str]
    """For ``pg_restore --use-list``."""

    extensions: set[str] = field(default_factory=set)
    """That are left out."""

    left: list[str] = field(default_factory=list)
    """Other entries that are left out, for people."""

    rights: int = 0
    """How many grants are left out."""

    @property
    def sentence(self) -> str:
        """What a superuser must do afterwards; empty when nothing is missing."""
        parts = []
        if self.extensions:
            parts.append(f"extensions {', '.join(sorted(self.extensions))}")
        if self.left:
            parts.append(some(self.left, 3))
        if self.rights:
            parts.append(f"{self.rights} rights on what belongs to superusers")
        return ", ".join(parts)


def listed(store: Store, manifest: Manifest, key: Key | None, programs: Programs) -> list[str]:
    """
    The table of contents of a dump; only as much of it is read as that takes.

    :raises RefusedError: it cannot be read. :raises StoreError: the store is away.
    """
    contents = reading.TableOfContents(programs)
    raw = reading.Objects(store, manifest.role(ARCHIVE))
    said: list[str] | Fault
    try:
        for piece in reading.plain(raw, manifest, key, ARCHIVE):
            contents.feed(piece)
            if not contents.hungry:
                break
    except (DecryptionError, CompressionError) as unread:
        contents.finish()
        raise RefusedError(f"backup {manifest.id} cannot be read: {unread.message}", hint=unread.hint) from None
    said = contents.finish()
    if isinstance(said, Fault):
        raise RefusedError(f"backup {manifest.id}: {said.said}", hint="it is broken; choose another.")
    return said


def select(connection: Connection, lines: Iterable[str], owner: str, present: Iterable[str] = ()) -> Selection:
    """
    Which entries can be restored here.

    :param owner: of the database. :param present: extensions that the template has already.
    :raises RefusedError: something that the application may need cannot be restored by this role.
    """
    known = connection.execute(content.query("restore_roles")).fetchall()
    roles = {row["name"]: row["ours"] for row in known}
    superusers = frozenset(row["name"] for row in known if row["superuser"])
    roles[DATABASE_OWNER] = roles.get(owner, False)
    lines = list(lines)
    wanted = sorted({name for line in lines if (name := _extension(line))} - set(present))
    rows = connection.execute(content.query("restore_extensions"), {"names": wanted}).fetchall()
    can = {row["name"]: row["trusted"] for row in rows}
    chosen = Selection([])
    troubles: list[tuple[str, str]] = []
    for line in lines:
        keep, trouble = _judge(line, roles, superusers, can, chosen)
        if trouble is not None:
            troubles.append(trouble)
        if keep:
            chosen.lines.append(line)
    if troubles:
        raise RefusedError(
            f"this role cannot restore {some([said for said, _ in troubles], 3)}",
            hint="; ".join(dict.fromkeys(cure for _, cure in troubles)),
        )
    return chosen


def _judge(
    line: str, roles: Mapping[str, bool], superusers: Container[str], can: Mapping[str, bool], chosen: Selection
) -> tuple[bool, tuple[str, str] | None]:
    """Whether an entry is restored, and what stands in the way of the whole."""
    match = _ENTRY.match(line)
    if match is None:
        return True, None
    rest = match["rest"]
    if name := _extension(line):
        if can.get(name, True):
            return True, None
        if name in MAINTENANCE:
            chosen.extensions.add(name)
            return False, None
        cure = (
            f"have a superuser make a template with it: create database restorable template template0;"
            f" \\c restorable; create extension {name}; alter database restorable is_template true;"
            " and name it as `backup.database.restore.template` in the platform file"
        )
        return False, (f"extension {name}, which only a superuser may create", cure)
    if rest.startswith("COMMENT - EXTENSION "):
        # For the extension's owner alone, and it comes with the extension.
        return False, None
    owner = _owner(rest, roles)
    if not owner or roles.get(owner, False):
        return True, None
    what = rest[: -len(owner)].strip()
    if owner not in roles:
        return False, (f"{what} of {owner}", f"create role {owner};")
    if rest.startswith(("ACL ", "COMMENT ", "SECURITY LABEL ")):
        chosen.rights += 1
        return False, None
    if f" {_UPKEEP} " in f" {what} ":
        chosen.left.append(what.replace(f" {_UPKEEP} ", f" {_UPKEEP}.").lower())
        return False, None
    if owner in superusers:
        if rest.startswith(("EVENT TRIGGER ", "PUBLICATION ")):
            chosen.left.append(what.lower())
            return False, None
        cure = (
            "have a superuser restore this backup by hand, and give what is the application's to its owner"
            " (alter … owner to) before the next one is made"
        )
        return False, (f"{what} of {owner}", cure)
    return False, (f"{what} of {owner}", f"as a superuser: grant {owner} to upkeep_owner;")


_UPKEEP = "upkeep"
"""The schema that roles.sql makes; what a superuser has in it, the same file makes again."""


def _extension(line: str) -> str:
    match = _ENTRY.match(line)
    if match is None or not match["rest"].startswith("EXTENSION - "):
        return ""
    return match["rest"].removeprefix("EXTENSION - ").strip()


def _owner(rest: str, roles: Mapping[str, bool]) -> str:
    """The last word, or more of them where a role's name has blanks; empty for what nobody owns."""
    if rest.endswith(" "):
        return ""
    known = [name for name in roles if " " in name and rest.endswith(f" {name}")]
    return max(known, key=len, default=rest.rpartition(" ")[2])


def owner_of_database(lines: Sequence[str]) -> str:
    """Who owned the database that was dumped; empty where the dump does not say."""
    for line in lines:
        match = _ENTRY.match(line)
        if match and match["rest"].startswith("DATABASE - "):
            return match["rest"].rpartition(" ")[2]
    return ""


def without(faults: Iterable[Fault], extensions: Iterable[str]) -> Iterator[Fault]:
    """All faults but those that extensions were left out."""
    expected = {f"extension {name} was not restored" for name in extensions}
    return (fault for fault in faults if not (fault.kind == "extension" and fault.said in expected))
