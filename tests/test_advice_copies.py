"""What restores made or set aside and nobody dropped, on real servers, as the maintenance role."""

from __future__ import annotations

from tests.advice_server import AdviceServer
from upkeep.backup.restore.record import names
from upkeep.postgres.advice.copies import COPIES

SERVER = AdviceServer


def test_each_is_told_with_its_size_until_somebody_drops_it(server: AdviceServer) -> None:
    assert server.report("postgres_copies")[COPIES].state == "ok"
    made, before = names("shop", "0123abcd")
    others = ("shop_before_lunch", "shop_upkeep_restore_01")
    for name in (made, before, *others):
        server.superuser(f"create database {name}")
    server.superuser(f"revoke connect on database {before} from public")
    try:
        outcome = server.report("postgres_copies")[COPIES]
    finally:
        for name in (made, before, *others):
            server.superuser(f"drop database {name}")
    told = {finding.object: finding for finding in outcome.findings}
    assert set(told) == {made, before}
    assert "was made by restore 0123abcd, and is still there" in told[made].summary
    assert "MiB" in told[made].summary
    assert "was replaced by restore 0123abcd" in told[before].summary
    assert f'drop database "{before}"; until then action `swap back`' in told[before].hint
    assert {finding.severity.name for finding in outcome.findings} == {"P3"}
    assert server.report("postgres_copies")[COPIES].state == "ok"
