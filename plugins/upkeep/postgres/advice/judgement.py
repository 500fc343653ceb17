"""Which settings are dangerous, which only unwise, and why: one line each, by version where it matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from upkeep.findings import Severity

GIB = 1024**3


@dataclass(frozen=True)
class Server:
    """What the judgement depends on besides the value itself."""

    version: int
    """As 170010."""

    database_bytes: float
    slots: int
    standbys: int
    has_statements: bool
    settings: Mapping[str, str | None]
    """All of them, in the server's own units."""

    def number(self, name: str, default: float = 0.0) -> float:
        try:
            return float(self.settings.get(name) or default)
        except ValueError:
            return default


@dataclass(frozen=True)
class Rule:
    """A setting that is wrong."""

    name: str
    wrong: Callable[[str, Server], bool]
    severity: Severity
    why: str
    """What happens."""

    do: str
    versions: tuple[int, int] = (13, 99)
    """First and last major version it means something on."""

    per_role: bool = False
    """Whether a role or a database can set it for itself."""


def _is(*values: str) -> Callable[[str, Server], bool]:
    return lambda value, server: value.lower() in values


def _throws_wal_away(value: str, server: Server) -> bool:
    on = server.settings.get("archive_mode") in ("on", "always")
    library = server.settings.get("archive_library") or ""
    return on and not library and value.strip() in ("true", "/bin/true", "/usr/bin/true", ":", "exit 0", "cd .", "")


def _still_default(value: str, server: Server) -> bool:
    # 128 MB in pages, for a database it cannot hold a tenth of.
    bytes_ = float(value) * server.number("block_size", 8192)
    return bytes_ <= 128 * 1024**2 and server.database_bytes >= 10 * max(bytes_, 1)


P0, P1, P2, P3, P4 = Severity
OFF, ON = _is("off"), _is("on")
LOSES = "the next crash of the machine can leave the database beyond repair"

RULES = (
    # Data is lost, or already is.
    Rule("fsync", OFF, P0, LOSES, "alter system set fsync = on; and reload; then take a backup and verify it."),
    Rule("full_page_writes", OFF, P0, f"a page torn by a crash cannot be mended: {LOSES}", "turn it on and reload."),
    Rule("zero_damaged_pages", ON, P0, "damaged pages are replaced by empty ones: rows vanish without an error",
         "turn it off; restore what is damaged from a backup.", per_role=True),
    Rule("ignore_invalid_pages", ON, P0, "recovery goes on over pages that are missing", "turn it off.", (13, 99)),
    Rule("ignore_checksum_failure", ON, P1, "pages with a wrong checksum are read as if they were right",
         "turn it off; restore what is damaged from a backup.", per_role=True),
    Rule("ignore_system_indexes", ON, P1, "system indexes are not read but still changed", "turn it off.",
         per_role=True),
    Rule("allow_system_table_mods", ON, P1, "whoever may can change the catalogs by hand", "turn it off.",
         per_role=True),
    Rule("session_replication_role", _is("replica"), P1, "triggers and foreign keys are not obeyed",
         "set it to origin; check the foreign keys of what was written meanwhile.", per_role=True),
    Rule("synchronous_commit", OFF, P2, "a crash loses the commits of the last moments that were confirmed to users",
         "turn it on; switch it off only in the transactions that can be lost.", per_role=True),
    Rule("archive_command", _throws_wal_away, P1, "WAL is marked as archived and thrown away: no recovery to a point "
         "in time", "give it a real archive_command (or archive_library), or turn archive_mode off."),
    Rule("wal_level", lambda value, server: value == "minimal" and server.standbys == 0, P3,
         "neither a standby nor a physical backup can be made", "set it to replica and restart."),
    Rule("data_checksums", OFF, P3, "what the disk changes is noticed by nobody",
         "pg_checksums --enable on the stopped server (from 19 on while it runs)."),
    # Maintenance stops.
    Rule("autovacuum", OFF, P1, "tables bloat and statistics age until wraparound forces a vacuum at the worst hour",
         "turn it on and reload."),
    Rule("track_counts", OFF, P1, "autovacuum is blind, and so is most of this report", "turn it on and reload.",
         per_role=True),
    Rule("autovacuum_freeze_max_age", lambda value, server: float(value) > 1.5e9, P2,
         "autovacuum begins to freeze too near to wraparound", "set it back to 200000000 and restart."),
    Rule("autovacuum_vacuum_cost_delay", lambda value, server: float(value) >= 20, P4,
         "autovacuum works at a tenth of its pace (20 ms was the default before 12)", "set it to 2ms and reload."),
    Rule("autovacuum_max_workers", lambda value, server: float(value) < 2, P3,
         "one large table keeps all others waiting", "set it to 3 or more."),
    # A disk fills, a server hangs.
    Rule("max_slot_wal_keep_size", lambda value, server: value == "-1" and server.slots > 0, P4,
         "a replication slot that nobody reads keeps WAL until the disk is full",
         "set it to what the disk can spare (but more than a standby's longest pause), and reload."),
    Rule("idle_in_transaction_session_timeout", _is("0"), P4,
         "a forgotten transaction keeps its locks and dead rows for ever", "set it to minutes."),
    Rule("max_connections", lambda value, server: float(value) > 1000, P4,
         "every snapshot looks at all of them, and their work_mem adds up", "put a pooler in front and lower it."),
    # Nobody sees what happens.
    Rule("track_activities", OFF, P2, "nobody sees what sessions are doing", "turn it on and reload.", per_role=True),
    Rule("track_io_timing", OFF, P4, "nothing tells waiting for the disk from work",
         "measure with pg_test_timing, then turn it on and reload.", per_role=True),
    Rule("log_lock_waits", OFF, P4, "who waited for whom is written nowhere", "turn it on and reload (19's default).",
         (13, 18)),
    Rule("log_checkpoints", OFF, P4, "checkpoints are written nowhere", "turn it on and reload (15's default).",
         (13, 14)),
    Rule("compute_query_id", lambda value, server: value == "off" and server.has_statements, P3,
         "pg_stat_statements counts nothing", "set it to auto and reload.", (14, 99)),
    Rule("password_encryption", _is("md5"), P2, "new passwords are stored as MD5, which is broken",
         "set it to scram-sha-256, then set the passwords anew.", per_role=True),
    Rule("shared_buffers", _still_default, P4, "it is still the default of 128 MB, for a database ten times as large",
         "a quarter of the machine's memory is a good start; restart."),
)  # fmt: skip


def wrong(server: Server, name: str, value: str | None, *, per_role: bool = False) -> Rule | None:
    """The rule that a value breaks, if any. A setting that this version does not have breaks none."""
    major = server.version // 10000
    for rule in RULES:
        if rule.name != name or value is None or (per_role and not rule.per_role):
            continue
        if rule.versions[0] <= major <= rule.versions[1] and _broken(rule, value, server):
            return rule
    return None


def _broken(rule: Rule, value: str, server: Server) -> bool:
    try:
        return rule.wrong(value, server)
    except ValueError:
        # A value this rule does not know how to read; nobody is accused for that.
        return False
