"""The configuration in an archive: the same for the same content, whole or told, without secrets unless encrypted."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import new_client_from_config

from sandbox.home import Home
from sandbox.servers.kubernetes import api, kubeconfig
from tests.conftest import run
from tests.kubernetes_cluster import running_cluster
from tests.retention_server import bucket
from upkeep.backup.configuration import archive, collect, work
from upkeep.backup.configuration.collect import Member, Notes
from upkeep.backup.configuration.secrets import cleaned, without_in
from upkeep.backup.configuration.work import ArchiveError, Job, Made
from upkeep.backup.encryption import AesKey, DecryptionError, Key
from upkeep.backup.manifest import committed, folder
from upkeep.backup.reading import Objects, plain
from upkeep.backup.store import Store
from upkeep.health.kubernetes import Api, NotAnswered
from upkeep.ledger import Ledger

KEY = AesKey(b"k" * 32)
PASSWORD = "hunter2hunter2"


class Host:
    """A host's trees, and where their backups go."""

    def __init__(self, root: Path, home: Home) -> None:
        self.root, self.notes = root, Notes()
        client, name = bucket(home)
        self.store, self.prefix = Store(client, name), f"{uuid4().hex}/"

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        file.chmod(mode)

    def members(self, *paths: str, encrypted: bool = False) -> Iterator[Member]:
        self.notes = Notes()
        return collect.trees(self.root, paths or ("/etc/app",), self.notes, encrypted=encrypted)

    def job(self, key: Key | None = None) -> Job:
        return Job(platform="studyspot", store=self.store, prefix=self.prefix, key=key)

    def backup(self, key: Key | None = None) -> Made:
        return work.make(self.job(key), self.members(encrypted=key is not None))

    def tar(self, made: Made, key: Key | None = None) -> bytes:
        raw = Objects(self.store, made.manifest.role("archive"))
        return b"".join(plain(raw, made.manifest, key, "archive"))


@pytest.fixture
def host(tmp_path: Path, home: Home) -> Host:
    made = Host(tmp_path / "host", home)
    made.write("etc/app/app.conf", "workers = 4\n")
    made.write("etc/app/sites/a.conf", "listen 80;\n", 0o640)
    made.write("etc/app/empty", "")
    return made


def test_the_same_content_has_the_same_digest_whenever_it_was_written(host: Host, home: Home, tmp_path: Path) -> None:
    (host.root / "etc/app/current").symlink_to("sites/a.conf")
    first = host.backup()
    again = Host(tmp_path / "elsewhere", home)
    again.prefix = host.prefix
    # Made in another order, at another time.
    again.write("etc/app/sites/a.conf", "listen 80;\n", 0o640)
    again.write("etc/app/empty", "")
    (again.root / "etc/app/current").symlink_to("sites/a.conf")
    again.write("etc/app/app.conf", "workers = 4\n")
    os.utime(again.root / "etc/app/app.conf", (1, 1))
    second = again.backup()
    assert second.digest == first.digest
    assert (second.changes.added, second.changes.changed, second.changes.removed) == ([], [], [])
    names = [one.name for one in second.index]
    assert [name.removeprefix("hosts/etc/app") for name in names] == [
        "", "/app.conf", "/current", "/empty", "/sites", "/sites/a.conf",
    ]  # fmt: skip
    again.write("etc/app/app.conf", "workers = 8\n")
    again.write("etc/app/new.conf", "x")
    (again.root / "etc/app/empty").unlink()
    third = again.backup()
    assert third.digest != first.digest
    assert third.changes.before == second.manifest.id
    assert (third.changes.changed, third.changes.added, third.changes.removed) == (
        ["hosts/etc/app/app.conf"], ["hosts/etc/app/new.conf"], ["hosts/etc/app/empty"],
    )  # fmt: skip


def test_one_file_is_restored_with_its_mode_and_any_tar_reads_the_archive(host: Host, tmp_path: Path) -> None:
    host.write("etc/app/run.sh", b"#!/bin/sh\n\xff\xfe\n", 0o750)
    host.write("etc/app/" + "n" * 200 + "/ü ñ.conf", "deep")
    made = host.backup()
    got = archive.fetch(host.store, made.manifest, None, "hosts/etc/app/run.sh")
    assert got is not None
    assert (got.content, got.mode) == (b"#!/bin/sh\n\xff\xfe\n", 0o750)
    assert archive.fetch(host.store, made.manifest, None, "hosts/etc/app/none") is None
    (tmp_path / "a.tar").write_bytes(host.tar(made))
    with tarfile.open(tmp_path / "a.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar.getmembers()} == {(0, 0, 0, "")}
    assert (tmp_path / "out/hosts/etc/app" / ("n" * 200) / "ü ñ.conf").read_text() == "deep"


SECRETS = {
    "etc/app/db.yml": f"host: db\npassword: {PASSWORD}\n",
    "etc/app/.env": f'export API_SECRET_KEY="{PASSWORD}"\nPORT=80\nENCRYPTION_KEY={PASSWORD}\n',
    "etc/app/url.ini": f"dsn = postgres://app:{PASSWORD}@db/app\nsmtp_pass = {PASSWORD}\n",
    "etc/app/tls.key": f"-----BEGIN RSA PRIVATE KEY-----\n{PASSWORD}\n-----END RSA PRIVATE KEY-----\n",
    "etc/app/.pgpass": f"db:5432:app:app:{PASSWORD}\n",
    "etc/app/store.jks": b"\xfe\xed\xfe\xed" + PASSWORD.encode(),
    "etc/app/one-line.json": f'{{"user": "app", "password": "{PASSWORD}", "port": 5432}}\n',
    "etc/app/blanks.conf": f"admin_pass = {PASSWORD} and more {PASSWORD}\n",
    "etc/app/hook.sh": f"curl 'https://x.example/?a=1&token={PASSWORD}' -H 'A: Bearer {PASSWORD}{PASSWORD}'\n",
    "etc/app/aws": "aws_access_key_id = AKIAABCDEFGHIJKLMNOP\naws_secret_access_key = hunter2hunter2/x\n",
}
HIDES = (".env", "aws", "blanks.conf", "db.yml", "hook.sh", "one-line.json", "tls.key", "url.ini")


def test_without_encryption_no_secret_is_in_the_archive_and_what_is_hidden_is_told(host: Host) -> None:
    for path, text in SECRETS.items():
        host.write(path, text)
    made = host.backup()
    tar = host.tar(made)
    assert PASSWORD.encode() not in tar
    assert b"AKIA" not in tar
    assert b"host: db" in tar
    assert b"PORT=80" in tar
    assert sorted(host.notes.left_out) == [
        "hosts/etc/app/.pgpass: holds secrets", "hosts/etc/app/store.jks: holds secrets",
    ]  # fmt: skip
    assert sorted(host.notes.hidden) == [f"hosts/etc/app/{n}" for n in HIDES]
    assert made.manifest.facts["hidden"] == len(HIDES)
    assert b'"port": 5432' in tar
    assert host.notes.missing == []


def test_encrypted_everything_is_there_and_only_with_the_key(host: Host) -> None:
    for path, text in SECRETS.items():
        host.write(path, text)
    made = host.backup(KEY)
    assert (host.notes.left_out, host.notes.hidden) == ([], [])
    stored = b"".join(b"".join(host.store.read(one.key)) for one in made.manifest.objects)
    assert b"app.conf" not in stored
    got = archive.fetch(host.store, made.manifest, KEY, "hosts/etc/app/.pgpass")
    assert got is not None
    assert PASSWORD in got.content.decode()
    with pytest.raises(DecryptionError, match="was encrypted with key"):
        archive.fetch(host.store, made.manifest, AesKey(b"w" * 32), "hosts/etc/app/.pgpass")
    assert host.backup(KEY).changes.changed == [], "the index is read with the key as well"


def test_what_holds_no_secret_is_not_touched() -> None:
    plain_text = (
        b"secretName: tls\nkey: value\nkeyboard = de\nmonkey: 1\npass_through: yes\npassword:\n  from: vault\n"
        b"image: registry.example.com/a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"
        b"pass /api;\ncompass = north\nenv: {secretKeyRef: {name: s, key: t}}\ntokens = 5\n\xff\x00\x01"
    )
    assert without_in(plain_text) == plain_text
    kept = {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "t"}}}], "replicas": 2}
    assert cleaned(kept) == kept
    assert cleaned({"env": [{"name": "JWT_SECRET", "value": "abc"}, {"name": "PORT", "value": "80"}]}) == {
        "env": [{"name": "JWT_SECRET", "value": "***"}, {"name": "PORT", "value": "80"}]
    }


def test_what_is_missing_or_no_file_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(host.root / "etc/app/pipe")
    host.write("etc/app/large", b"x" * 2000)
    host.write("etc/passwd-like", "x")
    (host.root / "etc/link").symlink_to("app")
    monkeypatch.setattr(collect, "MOST_BYTES", 1000)
    found = list(host.members("/etc/app", "/etc/app/sites", "/etc/passwd-like", "/opt/none", "/etc/link/sites"))
    assert [one.name for one in found if "sites" in one.name] == ["hosts/etc/app/sites", "hosts/etc/app/sites/a.conf"]
    assert "hosts/etc/passwd-like" in {one.name for one in found}
    assert [one.partition(":")[0] for one in host.notes.left_out] == ["hosts/etc/app/large", "hosts/etc/app/pipe"]
    assert host.notes.missing == ["/etc/link/sites: not a directory", "/opt/none: no such file or directory"]


@pytest.mark.parametrize("change", ["flipped", "cut", "member"])
def test_an_archive_that_does_not_arrive_as_it_was_sent_is_no_backup(
    host: Host, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    write = Store.write

    def lossy(store: Store, key: str, pieces: Any, **how: Any) -> Any:
        made = write(store, key, pieces, **how)
        if key.endswith("tar.gz"):
            content = store.get(key, most=10**7) or b""
            middle = len(content) // 2
            changed = {
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "cut": content[:-40],
                "member": b"".join(
                    work.compression.compress(iter(archive.Tar([Member("hosts/etc/app/app.conf", b"!")])))
                ),
            }
            store.put(key, changed[change])
        return made

    monkeypatch.setattr(Store, "write", lossy)
    with pytest.raises((ArchiveError, Exception)):
        host.backup()
    assert committed(host.store, host.prefix) == []
    assert list(host.store.objects(host.prefix)) == [], "what a failed try wrote is gone"


def test_on_record_and_proved_only_when_whole(host: Host, ledger: Ledger) -> None:
    whole = work.carry_out(host.job(), ledger, run(), host.members(), host.notes)
    members = host.members("/etc/app", "/none")
    torn = work.carry_out(host.job(), ledger, run(), members, host.notes)
    rows = {row["id"]: row["content_state"] for row in ledger.rows("select id, content_state from backups")}
    assert rows == {whole.manifest.id: "verified", torn.manifest.id: "unchecked"}
    assert [row["state"] for row in ledger.rows("select state from actions order by id")] == ["done", "done"]
    assert len(list(host.store.objects(folder(host.prefix, whole.manifest.id)))) == 3


# -- Kubernetes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Home]:
    with running_cluster() as home:
        for kind, content in (
            ("secrets", {"metadata": {"name": "database"}, "stringData": {"password": PASSWORD}, "type": "Opaque"}),
            ("configmaps", {
                "metadata": {"name": "settings"},
                "data": {"LOG_LEVEL": "info", "DB_PASSWORD": PASSWORD, "app.ini": f"url = redis://:{PASSWORD}@r:6379\n"},
            }),
        ):  # fmt: skip
            api(home).send("POST", f"/api/v1/namespaces/studyspot/{kind}", content)
        yield home


def client(cluster: Home, user: str = "upkeep") -> Api:
    made: ApiClient = new_client_from_config(str(kubeconfig(cluster, "studyspot", user=user)))
    opened = Api(made, 5)
    opened.deadline = time.monotonic() + 60
    return opened


def objects(cluster: Home, *, encrypted: bool = False, user: str = "upkeep") -> tuple[dict[str, str], Notes]:
    notes = Notes()
    found = collect.objects(client(cluster, user), "studyspot", notes, encrypted=encrypted)
    return {one.name.removeprefix("kubernetes/studyspot/"): one.content.decode() for one in found}, notes


def test_kubernetes_objects_are_settled_and_without_secrets(cluster: Home) -> None:
    found, notes = objects(cluster)
    assert {"deployments.apps/studyspot-api.yaml", "services/studyspot-web.yaml", "configmaps/settings.yaml"} <= set(
        found
    )
    assert not [name for name in found if name.startswith(("secrets/", "pods/", "replicasets", "events", "endpoint"))]
    text = "".join(found.values())
    for left in ("managedFields", "resourceVersion", "uid:", "creationTimestamp", "status:", "last-applied", PASSWORD):
        assert left not in text
    assert "LOG_LEVEL: info" in found["configmaps/settings.yaml"]
    assert "DB_PASSWORD: '***'" in found["configmaps/settings.yaml"]
    assert notes.hidden == ["kubernetes/studyspot/configmaps/settings.yaml"]
    assert notes.left_out == ["kubernetes/studyspot/secrets: 1 Secret objects, because encryption is off"]
    assert notes.missing == []
    encrypted, _ = objects(cluster, encrypted=True)
    assert "secrets/database.yaml" in encrypted
    assert PASSWORD in encrypted["configmaps/settings.yaml"]


def test_the_same_objects_are_the_same_archive_and_a_change_is_one(cluster: Home) -> None:
    first, _ = objects(cluster)
    path = "/apis/apps/v1/namespaces/studyspot/deployments/studyspot-api"
    api(cluster).merge(path, {"metadata": {"annotations": {"deployment.kubernetes.io/revision": "77"}}})
    assert objects(cluster)[0] == first
    api(cluster).merge(path, {"spec": {"minReadySeconds": 3}})
    second, _ = objects(cluster)
    assert {name for name in first if first[name] != second[name]} == {"deployments.apps/studyspot-api.yaml"}
    api(cluster).merge(path, {"spec": {"minReadySeconds": 0}})


def test_a_kind_that_must_not_be_listed_is_told_and_an_api_that_is_away_ends_it(cluster: Home) -> None:
    _, notes = objects(cluster, encrypted=True, user="viewer")
    assert any("kubernetes/studyspot/secrets: not allowed to read" in said for said in notes.missing)
    nobody = Configuration()
    nobody.host = "https://127.0.0.1:1"
    away = Api(ApiClient(nobody), 1)
    with pytest.raises(NotAnswered):
        list(collect.objects(away, "studyspot", Notes(), encrypted=False))
