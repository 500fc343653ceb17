"""
TLS of every address behind every name: trust, lifetime, protocols, keys, and the order of the chain.

The daily look (``health/certificates.py``) asks one address of each name, the one that clients happen to get. An
old certificate on one of two load balancers, or a server that still speaks TLS 1.0, only shows here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.health import certificates
from upkeep.health.side_by_side import Probe, look_side_by_side, one_line
from upkeep.health.wire import actual_address, open_socket, trusted
from upkeep.platforms.protection import Certificates
from upkeep.platforms.services import Http

TIMEOUT_S = 5.0
"""Of one handshake."""

DEADLINE_S = 120.0
"""Of everything."""

MOST_ADDRESSES = 16
"""Of one name; who has more has an anycast network, and each of its addresses is the same machine to us."""

WEAK_DIGESTS = ("md5", "sha1")

OLDER = {
    "TLSv1.2": (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1),
    "TLSv1.3": (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2),
}
"""By the least protocol: the range that must be refused."""

Resolve = Callable[[str, int], Sequence[tuple[str, int]]]
"""A name and a port to the addresses behind it."""


def resolve(host: str, port: int) -> list[tuple[str, int]]:
    """:raises OSError: the name has no address."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(one[4][0]), int(one[4][1])) for one in found))


def names(http: Http | None, policy: Certificates) -> dict[str, Severity]:
    """Every ``host:port`` that must be in order, and how bad it is when nobody can trust it."""
    found: dict[str, Severity] = {}
    for endpoint in http.endpoints if http else ():
        parts = urlsplit(endpoint.url)
        if parts.scheme == "https":
            address = f"{parts.hostname}:{parts.port or 443}"
            found[address] = min((endpoint.severity, found.get(address, endpoint.severity)), key=lambda s: s.rank)
    for managed in policy.managed:
        for host in managed.hosts:
            found.setdefault(f"{host}:443", Severity.P1)
    return found


def audit(
    http: Http | None,
    policy: Certificates,
    *,
    connect_to: Mapping[str, str],
    now: datetime,
    resolve: Resolve = resolve,
) -> list[Outcome]:
    """
    ``tls_policy`` for what is accepted and shown at each address of each name. Where a name has several, also
    ``tls_address`` for whether each is trusted, and ``tls_same`` for whether they show one certificate; a single one is
    looked at every day (check ``tls``).

    :param connect_to: other addresses for ``host:port``, as curl's ``--connect-to``; names are verified all the same.
    """
    http = http or Http.model_construct(endpoints=())
    trust = trusted()
    outcomes: list[Outcome] = []
    probes: list[Probe] = []
    counts: dict[str, int] = {}
    for name, severity in names(http, policy).items():
        host, port = actual_address(name, connect_to)
        try:
            addresses = resolve(host, port)
        except OSError as lost:
            outcomes.append(unknown("tls_address", severity, f"no address: {one_line(lost)}", object=name))
            continue
        counts[name] = len(addresses)
        for ip, at in addresses[:MOST_ADDRESSES]:
            where = f"[{ip}]:{at}" if ":" in ip else f"{ip}:{at}"
            look = partial(_one, http, policy, name, where, severity, trust, now)
            probes.append(Probe("tls_address", severity, look, object=f"{name} at {where}"))
    outcomes += look_side_by_side(probes, deadline_s=DEADLINE_S)
    several = {name for name, count in counts.items() if count > 1}
    kept = [one for one in outcomes if one.check != "tls_address" or one.object.partition(" at ")[0] in several]
    unseen = [one for one in outcomes if one.state == "unknown" and one not in kept]
    return [*kept, *unseen, *_same(kept)]


def _one(
    http: Http, policy: Certificates, name: str, where: str, severity: Severity, trust: ssl.SSLContext, now: datetime
) -> list[Outcome]:
    """One address: what the daily look says of it, and the policy."""
    there = {name: where}
    object = f"{name} at {where}"
    (seen,) = certificates.look(http, name, severity, trust, connect_to=there, timeout_s=TIMEOUT_S, now=now)
    renamed = tuple(replace(finding, check="tls_address", object=object) for finding in seen.findings)
    outcomes = [replace(seen, check="tls_address", object=object, findings=renamed)]
    if seen.state == "unknown":
        return outcomes
    try:
        chain = _chain(name, there)
        wrong = [*_keys(chain[0], policy), *_order(chain, now), *_protocols(name, there, policy)]
    except (OSError, ValueError) as trouble:
        return [*outcomes, unknown("tls_policy", Severity.P2, one_line(trouble), object=object)]
    findings = [
        Finding(check="tls_policy", object=object, severity=grade, summary=summary, hint=hint)
        for grade, summary, hint in wrong
    ]
    # One finding per object is told at a time: the gravest leads, and says what else there is.
    if len(findings) > 1:
        findings.sort(key=lambda finding: finding.severity.rank)
        first = findings[0]
        findings = [replace(first, summary="; ".join(finding.summary for finding in findings))]
    facts: dict[str, Any] = {"chain": len(chain), "key": _key(chain[0])}
    return [*outcomes, judged("tls_policy", Severity.P2, findings, object=object, **facts)]


Wrong = tuple[Severity, str, str]
"""How bad, what, and what to do."""


def _chain(name: str, connect_to: Mapping[str, str]) -> list[x509.Certificate]:
    """As the server sends it. Nothing else is sent over this connection, and nothing that comes is believed."""
    reading = _reading()
    with open_socket(name, connect_to, TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        with reading.wrap_socket(connection, server_hostname=name.rpartition(":")[0]) as tls:
            # Public from Python 3.13 on, where it gives bytes; before, the object behind the socket has it.
            sent: Iterable[Any] = (
                tls.get_unverified_chain()
                if hasattr(tls, "get_unverified_chain")
                else tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            )
            return [
                x509.load_der_x509_certificate(one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(_pem(one)))
                for one in sent
            ]


def _pem(certificate: Any) -> str:
    return str(certificate.public_bytes())


def _reading() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _protocols(name: str, connect_to: Mapping[str, str], policy: Certificates) -> Iterable[Wrong]:
    """Whether it would talk to a client that knows nothing newer than what is too old."""
    context = _reading()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = OLDER[policy.least_protocol]
    spoken: str | None = None
    # A refusal is what is wanted; so is a connection that is closed instead.
    with contextlib.suppress(ssl.SSLError, ConnectionError), open_socket(name, connect_to, TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        with context.wrap_socket(connection, server_hostname=name.rpartition(":")[0]) as tls:
            spoken = tls.version()
    if spoken:
        yield (
            Severity.P2,
            f"accepts {spoken}; {policy.least_protocol} is the least",
            "switch older protocols off at the server or load balancer.",
        )


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")


def _keys(certificate: x509.Certificate, policy: Certificates) -> Iterable[Wrong]:
    key = certificate.public_key()
    again = "issue the certificate anew with a new key"
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < policy.least_rsa_bits:
        yield Severity.P2, f"an RSA key of {key.key_size} bits; {policy.least_rsa_bits} is the least", f"{again}."
    # No handshake comes about with a DSA key or a short curve: the daily look says that.
    digest = certificate.signature_hash_algorithm
    if digest is not None and digest.name in WEAK_DIGESTS:
        yield Severity.P2, f"signed with {digest.name.upper()}, which can be forged", f"{again}; no authority uses it."


def _order(chain: Sequence[x509.Certificate], now: datetime) -> Iterable[Wrong]:
    """Each certificate is followed by that of its issuer; strict clients refuse anything else."""
    send = "let the server send fullchain.pem as the authority gave it: the server's own certificate first."
    for below, above in pairwise(chain):
        if below.issuer != above.subject:
            names = [one.subject.rfc4514_string()[:100] for one in (below, above)]
            yield Severity.P3, f"the chain is out of order: {names[0]} is followed by {names[1]}", send
            break
    for one in chain[1:]:
        if one.not_valid_after_utc <= now:
            subject = one.subject.rfc4514_string()[:100]
            yield Severity.P3, f"the chain carries {subject}, which expired {one.not_valid_after_utc:%Y-%m-%d}", send
            break


def _same(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Whether all addresses of a name show one certificate: one that differs was forgotten at the last renewal."""
    shown: dict[str, dict[str, list[str]]] = {}
    for outcome in outcomes:
        if outcome.check == "tls_address" and "serial" in outcome.facts:
            name, _, where = outcome.object.partition(" at ")
            ends = str(outcome.facts["not_after"])[:10]
            shown.setdefault(name, {}).setdefault(f"{outcome.facts['serial']}, until {ends}", []).append(where)
    same = []
    for name, serials in shown.items():
        findings = []
        if len(serials) > 1:
            told = "; ".join(f"{', '.join(sorted(at))}: serial {serial}" for serial, at in sorted(serials.items()))
            findings.append(
                Finding(
                    check="tls_same",
                    object=name,
                    severity=Severity.P3,
                    summary=f"its addresses show different certificates: {told}",
                    hint="install the newest one on all of them, and reload what serves it.",
                )
            )
        same.append(judged("tls_same", Severity.P3, findings, object=name, addresses=sum(map(len, serials.values()))))
    return same
