"""The TLS audit: each thing that can be wrong at one address of several is found there, and nowhere else."""

from __future__ import annotations

import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from upkeep.findings import Outcome, Severity
from upkeep.platforms.protection import Certificates, ManagedCertificate
from upkeep.platforms.services import Endpoint, Http
from upkeep.security.tls import audit, names

HOST = "x.sandbox.test"
NAME = f"{HOST}:443"
NOW = datetime.now(UTC)
HTTP = Http(endpoints=(Endpoint(name="x", url=f"https://{HOST}/health", severity=Severity.P0),))
POLICY = Certificates()
DAY = timedelta(days=1)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def made(
    subject: str,
    issuer: Made | None = None,
    *,
    key: Key | None = None,
    hosts: Sequence[str] = (),
    begins: datetime = NOW - 10 * DAY,
    ends: datetime = NOW + 80 * DAY,
) -> Made:
    """Signed by ``issuer``, or by itself; with ``hosts`` a server's, else an authority's."""
    own = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=not hosts, path_length=None), critical=True)
    )
    if hosts:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = builder.add_extension(alternatives, critical=False)
    return Made(builder.sign((issuer.key if issuer else own), hashes.SHA256()), own)


ROOT = made("root", begins=NOW - 900 * DAY, ends=NOW + 900 * DAY)
MIDDLE = made("middle", ROOT, ends=NOW + 500 * DAY)
OLD_MIDDLE = made("middle", ROOT, key=MIDDLE.key, begins=NOW - 500 * DAY, ends=NOW - DAY)
LEAF = made(HOST, MIDDLE, hosts=[HOST])


@pytest.fixture(autouse=True)
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "root.pem"
    file.write_bytes(ROOT.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


def context(leaf: Made = LEAF, *above: Made, change: Callable[[ssl.SSLContext], Any] | None = None) -> ssl.SSLContext:
    """A server's; as weak as it likes to be."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_ciphers("ALL:@SECLEVEL=0")
    if change:
        change(made)
    file = Path(tempfile.mkstemp(suffix=".pem")[1])
    try:
        file.write_bytes(b"".join([leaf.key_pem, leaf.pem, *(one.pem for one in above)]))
        made.load_cert_chain(file)
    finally:
        file.unlink()
    return made


@contextmanager
def serving(how: ssl.SSLContext) -> Iterator[tuple[str, int]]:
    """A server that shakes hands and says nothing more."""
    listening = socket.create_server(("127.0.0.1", 0))

    def shake(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(5)
            with how.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=shake, args=[connection], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield "127.0.0.1", listening.getsockname()[1]
    finally:
        listening.close()


def seen(
    *contexts: ssl.SSLContext, http: Http | None = HTTP, policy: Certificates = POLICY
) -> dict[str, dict[int, Outcome]]:
    """By check, by number of the address; ``tls_same`` under 0."""
    with ExitStack() as stack:
        at = [stack.enter_context(serving(one)) for one in contexts]
        outcomes = audit(http, policy, connect_to={}, now=NOW, resolve=lambda host, port: at)
    number = {f"{NAME} at {ip}:{port}": index for index, (ip, port) in enumerate(at)}
    found: dict[str, dict[int, Outcome]] = {}
    for outcome in outcomes:
        json.dumps(dict(outcome.facts))
        found.setdefault(outcome.check, {})[number.get(outcome.object, 0)] = outcome
    return found


def said(outcome: Outcome) -> str:
    (finding,) = outcome.findings
    assert finding.hint
    assert (finding.check, finding.object) == (outcome.check, outcome.object)
    return finding.summary


GOOD = context(LEAF, MIDDLE)


def test_a_good_pair_is_ok() -> None:
    found = seen(GOOD, GOOD)
    assert {check: [one.state for one in them.values()] for check, them in found.items()} == {
        "tls_address": ["ok", "ok"], "tls_policy": ["ok", "ok"], "tls_same": ["ok"],
    }  # fmt: skip
    assert found["tls_policy"][0].facts == {"chain": 2, "key": "EC secp256r1"}


def test_a_single_address_is_the_daily_looks_business_and_its_policy_is_ours() -> None:
    expired = context(made(HOST, MIDDLE, hosts=[HOST], begins=NOW - 90 * DAY, ends=NOW - DAY), MIDDLE)
    assert set(seen(expired)) == {"tls_policy"}


def of_yesterday() -> tuple[Made, Made]:
    """With SHA-1, by which no library signs any longer: its name is changed, and it is signed again."""
    above = made("an old authority", ROOT, key=rsa.generate_private_key(65537, 2048))
    assert isinstance(above.key, rsa.RSAPrivateKey)
    new = made(HOST, above, hosts=[HOST])
    sha256, sha1 = (bytes.fromhex(f"06092a864886f70d0101{last}") for last in ("0b", "05"))
    signed = new.certificate.tbs_certificate_bytes.replace(sha256, sha1)
    whole = new.certificate.public_bytes(Encoding.DER).replace(sha256, sha1)
    signature = above.key.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    return Made(x509.load_der_x509_certificate(whole.replace(new.certificate.signature, signature)), new.key), above


def only_old(made: ssl.SSLContext) -> None:
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_1


def also_old(made: ssl.SSLContext) -> None:
    made.minimum_version = ssl.TLSVersion.TLSv1


BROKEN: Mapping[str, tuple[Callable[[], ssl.SSLContext], str, str]] = {
    "expired": (
        lambda: context(made(HOST, MIDDLE, hosts=[HOST], begins=NOW - 90 * DAY, ends=NOW - DAY), MIDDLE),
        "tls_address", "the certificate expired 24.0 hours ago",
    ),
    "expiring": (
        lambda: context(made(HOST, MIDDLE, hosts=[HOST], begins=NOW - 90 * DAY, ends=NOW + 2 * DAY), MIDDLE),
        "tls_address", "the certificate has 48.0 hours left",
    ),
    "wrong host": (
        lambda: context(made("y", MIDDLE, hosts=["y.sandbox.test"]), MIDDLE), "tls_address",
        "the certificate is for y.sandbox.test, not for x.sandbox.test",
    ),
    "self-signed": (
        lambda: context(made(HOST, hosts=[HOST])), "tls_address", "the certificate is self-signed",
    ),
    "incomplete chain": (lambda: context(LEAF), "tls_address", "the chain is incomplete"),
    "wrong order": (
        lambda: context(LEAF, ROOT, MIDDLE), "tls_policy",
        "the chain is out of order: CN=x.sandbox.test is followed by CN=root",
    ),
    "an old intermediate": (
        lambda: context(LEAF, MIDDLE, OLD_MIDDLE), "tls_policy", "the chain",
    ),
    "a weak RSA key": (
        lambda: context(made(HOST, MIDDLE, hosts=[HOST], key=rsa.generate_private_key(65537, 1024)), MIDDLE),
        "tls_policy", "an RSA key of 1024 bits; 2048 is the least",
    ),
    "an old digest": (lambda: context(*of_yesterday()), "tls_policy", "signed with SHA1, which can be forged"),
    "an old protocol as well": (
        lambda: context(LEAF, MIDDLE, change=also_old), "tls_policy", "accepts TLSv1.1; TLSv1.2 is the least",
    ),
    "an old protocol alone": (
        lambda: context(LEAF, MIDDLE, change=only_old), "tls_address", "offers no protocol newer than TLSv1.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_one_bad_address_of_two_is_named_and_the_other_is_not(what: str) -> None:
    bad, check, summary = BROKEN[what]
    found = seen(GOOD, bad())
    assert said(found[check][1]).startswith(summary)
    assert found["tls_address"][0].state == found["tls_policy"][0].state == "ok"
    # Healed.
    assert seen(GOOD, GOOD)[check][1].state == "ok"


def test_a_certificate_that_was_forgotten_at_the_renewal_is_told() -> None:
    newer = made(HOST, MIDDLE, hosts=[HOST], begins=NOW - DAY, ends=NOW + 89 * DAY)
    found = seen(GOOD, context(newer, MIDDLE), GOOD)
    told = said(found["tls_same"][0])
    assert told.startswith("its addresses show different certificates: ")
    assert f"{newer.certificate.serial_number:x}, until {NOW + 89 * DAY:%Y-%m-%d}" in told


def test_several_wrongs_of_one_address_are_one_finding_as_bad_as_the_worst() -> None:
    weak = made(HOST, MIDDLE, hosts=[HOST], key=rsa.generate_private_key(65537, 1024))
    found = seen(context(weak, ROOT, MIDDLE, change=also_old))["tls_policy"][0]
    assert "RSA key of 1024 bits" in said(found)
    assert "out of order" in said(found)
    assert "accepts TLSv1.1" in said(found)
    assert found.findings[0].severity == Severity.P2


def test_with_tls_1_3_as_the_least_1_2_is_too_old() -> None:
    policy = Certificates(least_protocol="TLSv1.3")
    assert said(seen(GOOD, policy=policy)["tls_policy"][0]).startswith("accepts TLSv1.2; TLSv1.3 is the least")
    modern = context(LEAF, MIDDLE, change=lambda c: setattr(c, "minimum_version", ssl.TLSVersion.TLSv1_3))
    assert seen(modern, policy=policy)["tls_policy"][0].state == "ok"


def test_an_address_where_nobody_answers_is_unknown_and_the_others_are_judged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = ("127.0.0.1", closed.getsockname()[1])
    with serving(GOOD) as there:
        outcomes = audit(HTTP, POLICY, connect_to={}, now=NOW, resolve=lambda host, port: [there, gone])
    states = {(one.check, one.object.rpartition(":")[2]): one.state for one in outcomes if " at " in one.object}
    assert states == {
        ("tls_address", str(there[1])): "ok", ("tls_policy", str(there[1])): "ok",
        ("tls_address", str(gone[1])): "unknown",
    }  # fmt: skip


def test_a_server_that_hangs_and_one_that_speaks_no_tls_are_unknown_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = datetime.now(UTC)
        at = ("127.0.0.1", silent.getsockname()[1])
        outcomes = audit(HTTP, POLICY, connect_to={}, now=NOW, resolve=lambda host, port: [at])
        assert [(one.check, one.state) for one in outcomes] == [("tls_address", "unknown")]
        assert (datetime.now(UTC) - began).total_seconds() < 20


def test_a_name_without_an_address_is_unknown() -> None:
    def nowhere(host: str, port: int) -> list[tuple[str, int]]:
        raise socket.gaierror(-2, "Name or service not known")

    (lost,) = audit(HTTP, POLICY, connect_to={}, now=NOW, resolve=nowhere)
    assert (lost.check, lost.object, lost.state) == ("tls_address", NAME, "unknown")


def test_the_names_are_those_of_the_endpoints_and_of_the_managed_certificates() -> None:
    endpoints = (
        Endpoint(name="a", url="https://a.test/", severity=Severity.P2),
        Endpoint(name="b", url="https://a.test/deep", severity=Severity.P0),
        Endpoint(name="c", url="http://plain.test/"),
        Endpoint(name="d", url="https://d.test:8443/"),
    )
    managed = ManagedCertificate(name="c", secret_name="s", hosts=("a.test", "z.test"))
    assert names(Http(endpoints=endpoints), Certificates(managed=(managed,))) == {
        "a.test:443": Severity.P0, "d.test:8443": Severity.P0, "z.test:443": Severity.P1,
    }  # fmt: skip
    assert names(None, Certificates(managed=(managed,))) == {"a.test:443": Severity.P1, "z.test:443": Severity.P1}
