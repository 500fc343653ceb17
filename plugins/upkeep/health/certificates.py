"""The certificate that a server shows: whether it is trusted, and how long it still lives."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.health.side_by_side import PAUSE_S, one_line
from upkeep.health.wire import open_socket
from upkeep.platforms.services import Http

# OpenSSL's verification codes: openssl-verification-options(1), x509_vfy.h.
EXPIRED, NOT_YET, SELF_SIGNED, SELF_SIGNED_ROOT, NO_ISSUER, NO_FIRST_ISSUER, WRONG_HOST, WRONG_IP = (
    10, 9, 18, 19, 20, 21, 62, 64,
)  # fmt: skip

OLD_PROTOCOL = ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION", "NO_PROTOCOLS_AVAILABLE")


@dataclass(frozen=True)
class _Shown:
    """What the handshakes told."""

    certificate: x509.Certificate
    protocol: str
    refused: ssl.SSLError | None
    """Why the verifying handshake failed; None when all is well."""


def look(
    http: Http,
    address: str,
    severity: Severity,
    trust: ssl.SSLContext,
    *,
    connect_to: Mapping[str, str],
    timeout_s: float,
    now: datetime,
) -> list[Outcome]:
    """
    ``tls`` of one ``host:port``.

    :param severity: how bad it is when nobody can trust it: that of the endpoints behind it.
    :param trust: a verifying context with the authorities that are trusted.
    """
    began = time.monotonic()
    try:
        shown = _handshakes(address, trust, connect_to, timeout_s)
    except (OSError, ValueError):
        time.sleep(PAUSE_S)
        left_s = max(0.5, 7.0 - (time.monotonic() - began))
        try:
            shown = _handshakes(address, trust, connect_to, min(timeout_s, left_s))
        except (OSError, ValueError) as trouble:
            return [unknown("tls", severity, one_line(trouble), object=address)]
    certificate = shown.certificate
    left = certificate.not_valid_after_utc - now
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    share = left / lifetime if lifetime else 0.0
    facts: dict[str, Any] = {
        "subject": certificate.subject.rfc4514_string()[:200],
        "issuer": certificate.issuer.rfc4514_string()[:200],
        "names": _names(certificate),
        "serial": f"{certificate.serial_number:x}",
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "days_left": round(left.total_seconds() / 86400, 2),
        "share_left": round(share, 4),
        "protocol": shown.protocol,
    }
    findings = []

    def found(severity: Severity, summary: str, hint: str) -> None:
        findings.append(
            Finding(check="tls", object=address, severity=severity, summary=summary, hint=hint, facts=facts)
        )

    expired = certificate.not_valid_after_utc <= now
    if shown.refused and not expired:
        found(severity, *_explain(shown.refused, address, facts))
    elif expired:
        found(
            severity,
            f"the certificate expired {_span(-left.total_seconds())} ago, on {_day(certificate)}",
            "renew it now: every client refuses it.",
        )
    else:
        worse = http.certificate_left.severity(share)
        if left < http.certificate_least:
            worse = min(
                (s for s in (worse, http.certificate_left.critical_severity) if s), key=lambda s: s.rank, default=None
            )
        if worse:
            found(
                worse,
                f"the certificate has {_span(left.total_seconds())} left, {share:.0%} of its lifetime; "
                f"it ends on {_day(certificate)}",
                "find out why it was not renewed by itself, then renew it.",
            )
    return [judged("tls", severity, findings, object=address, **facts)]


def refusal(error: BaseException) -> str:
    """Why a certificate was refused, when that is behind ``error``; empty when it is something else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError) or _is_old_protocol(cause):
            return one_line(cause)
        cause = cause.__cause__ or cause.__context__
    return ""


def _is_old_protocol(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) and (error.reason or "") in OLD_PROTOCOL


def _handshakes(address: str, trust: ssl.SSLContext, connect_to: Mapping[str, str], timeout_s: float) -> _Shown:
    """
    One that verifies; when it is refused for what the certificate is, one that only reads it.

    :raises OSError: no connection, no TLS, or not within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    try:
        return _handshake(address, trust, connect_to, deadline, None)
    except ssl.SSLError as refused:
        if not refusal(refused):
            raise
        # Reading only: nothing is sent over this connection, and nothing that comes from it is believed.
        reading = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        reading.check_hostname = False
        reading.verify_mode = ssl.CERT_NONE
        if _is_old_protocol(refused):
            reading.minimum_version = ssl.TLSVersion.TLSv1
            reading.set_ciphers("DEFAULT:@SECLEVEL=0")
        return _handshake(address, reading, connect_to, deadline, refused)


def _handshake(
    address: str, context: ssl.SSLContext, connect_to: Mapping[str, str], deadline: float, refused: ssl.SSLError | None
) -> _Shown:
    with open_socket(address, connect_to, _left_s(deadline)) as connection:
        # Python holds the whole handshake to this, not each of its reads.
        connection.settimeout(_left_s(deadline))
        with context.wrap_socket(connection, server_hostname=address.rpartition(":")[0]) as tls:
            der = tls.getpeercert(binary_form=True)
            if not der:
                raise ssl.SSLError("the server shows no certificate")
            return _Shown(x509.load_der_x509_certificate(der), tls.version() or "", refused)


def _left_s(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _explain(refused: ssl.SSLError, address: str, facts: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong, and what to do."""
    if _is_old_protocol(refused):
        return (
            f"offers no protocol newer than {facts['protocol'] or 'TLS 1.1'}; clients want TLS 1.2 or 1.3",
            "switch TLS 1.2 and 1.3 on at the server or load balancer.",
        )
    code = getattr(refused, "verify_code", 0)
    host = address.rpartition(":")[0]
    match code:
        case c if c in (WRONG_HOST, WRONG_IP):
            return (
                f"the certificate is for {', '.join(facts['names'][:5]) or facts['subject']}, not for {host}",
                "install the certificate of this host name, or let the load balancer choose by SNI.",
            )
        case c if c == SELF_SIGNED:
            return "the certificate is self-signed: nobody vouches for it", "install one from an authority."
        case c if c == SELF_SIGNED_ROOT:
            return (
                f"the authority that issued it is not trusted: {facts['issuer']}",
                "install a certificate of a public authority, or trust this one (SSL_CERT_FILE) if it is your own.",
            )
        case c if c in (NO_ISSUER, NO_FIRST_ISSUER):
            return (
                f"the chain is incomplete, or its issuer unknown: {facts['issuer']}",
                "let the server send the intermediate certificates too (fullchain.pem), or trust its authority.",
            )
        case c if c == EXPIRED:
            return (
                "a certificate of its chain has expired",
                "let the server send the current intermediate certificates.",
            )
        case c if c == NOT_YET:
            return "the certificate is not valid yet", "compare the clocks; otherwise install the one before it."
        case _:
            return f"the certificate is refused: {one_line(refused)}", "look at it with `openssl s_client -connect`."


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in names][:20]


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds >= 3 * 86400 else f"{seconds / 3600:.1f} hours"


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
