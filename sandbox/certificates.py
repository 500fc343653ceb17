"""One certificate authority per sandbox, and the certificates that it signs."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sandbox.home import Home


def authority(home: Home) -> trustme.CA:
    """The authority of this sandbox, made at the first call; ``certificates/ca.pem`` is its certificate."""
    directory = home.directory("certificates")
    certificate, key = directory / "ca.pem", directory / "ca.key"
    if not key.exists():
        made = trustme.CA(organization_name="Upkeep sandbox")
        certificate.write_bytes(made.cert_pem.bytes())
        key.write_bytes(made.private_key_pem.bytes())
        key.chmod(0o600)
        # SSL_CERT_FILE replaces all authorities of a process, so the system's own come along.
        system = ssl.get_default_verify_paths().openssl_cafile
        known = Path(system).read_bytes() if system and Path(system).exists() else b""
        (directory / "trust.pem").write_bytes(made.cert_pem.bytes() + b"\n" + known)
    return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())


def issue(
    home: Home,
    name: str,
    *hosts: str,
    lifetime: datetime.timedelta = datetime.timedelta(days=90),
    age: datetime.timedelta = datetime.timedelta(days=10),
) -> Path:
    """
    ``certificates/<name>.pem``: key, certificate and chain for ``hosts``, renewed at every call.

    It was issued ``age`` ago and lives ``lifetime``; an ``age`` above the lifetime makes an expired one.
    """
    now = datetime.datetime.now(datetime.UTC)
    made = authority(home).issue_cert(*hosts, not_before=now - age, not_after=now - age + lifetime)
    key = load_pem_private_key(made.private_key_pem.bytes(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + b"".join(part.bytes() for part in made.cert_chain_pems)
    target = home.directory("certificates") / f"{name}.pem"
    draft = target.with_suffix(".draft")
    draft.write_bytes(pem)
    draft.chmod(0o600)
    draft.replace(target)
    return target
