"""Endpoints and certificates: each thing that can be wrong with them is found, and is over when it is healed."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from sandbox import certificates
from sandbox.faults import break_it, heal_it
from sandbox.home import Home
from sandbox.servers.endpoints import start_endpoints, stop_endpoints
from upkeep.findings import Outcome, Severity
from upkeep.health import http
from upkeep.platforms.services import Endpoint, Http

STUDYSPOT = Http(
    endpoints=(
        Endpoint(name="api", url="https://api.studyspot.com/health", expect_json={"status": "ok"}),
        Endpoint(name="web", url="https://www.studyspot.com/", severity=Severity.P1, expect_text="free seat"),
    )
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("http"))
    start_endpoints(home)
    yield home
    stop_endpoints(home)


@pytest.fixture(autouse=True)
def trust(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process trusts the sandbox's authority, as a worker trusts those of its system."""
    monkeypatch.setenv("SSL_CERT_FILE", str(home.path / "certificates" / "trust.pem"))


@contextmanager
def broken(home: Home, fault: str) -> Iterator[None]:
    break_it(home, fault)
    try:
        yield
    finally:
        heal_it(home, fault)


def look(home: Home, section: Http = STUDYSPOT, now: datetime | None = None) -> dict[str, Outcome]:
    seen = http.look(section, connect_to=home.state()["connect_to"], now=now)
    return {f"{outcome.check} {outcome.object}": outcome for outcome in seen}


def summary(outcome: Outcome) -> str:
    assert len(outcome.findings) == 1, outcome
    return outcome.findings[0].summary


def assert_well(home: Home) -> None:
    for name, outcome in look(home).items():
        assert outcome.state == "ok", (name, outcome)


# -- the sandbox's endpoints ---------------------------------------------------------------------------


def test_a_healthy_platform_is_ok_with_its_numbers(home: Home) -> None:
    seen = look(home)
    assert list(seen) == ["http api", "http web", "tls api.studyspot.com:443", "tls www.studyspot.com:443"]
    assert {outcome.state for outcome in seen.values()} == {"ok"}
    assert seen["http api"].facts["status"] == 200
    assert 0 < seen["http api"].facts["seconds"] < 1
    certificate = seen["tls api.studyspot.com:443"].facts
    assert certificate["names"] == ["api.studyspot.com"]
    assert 79 < certificate["days_left"] < 81
    assert certificate["protocol"] == "TLSv1.3"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("studyspot_endpoint_500", "answered 500 instead of 200"),
        ("studyspot_endpoint_degraded", 'answered 200, but the body says status = "degraded" (expected "ok")'),
        ("studyspot_endpoint_truncated", "the connection broke before the whole answer had come"),
        ("studyspot_endpoint_drops", "the connection broke before the whole answer had come"),
    ],
)
def test_an_endpoint_that_answers_wrongly_is_found_and_heals(home: Home, fault: str, said: str) -> None:
    with broken(home, fault):
        seen = look(home)
        finding = seen["http api"].findings[0]
        assert summary(seen["http api"]).startswith(said)
        assert finding.severity == Severity.P0
        assert finding.hint
        assert seen["http api"].facts["first_try"].startswith(said)
        assert seen["http web"].state == "ok"
        assert seen["tls api.studyspot.com:443"].state == "ok"
    assert_well(home)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("studyspot_web_500", "answered 500 instead of 200"),
        ("studyspot_web_degraded", "answered 200, but the body lacks 'free seat'"),
    ],
)
def test_a_web_page_that_is_not_the_page_is_found(home: Home, fault: str, said: str) -> None:
    with broken(home, fault):
        seen = look(home)["http web"]
        assert summary(seen) == said
        assert seen.findings[0].severity == Severity.P1
    assert_well(home)


def test_an_endpoint_that_hangs_is_found_within_the_time_of_two_tries(home: Home) -> None:
    with broken(home, "studyspot_endpoint_hangs"):
        quick = tuple(endpoint.model_copy(update={"timeout": timedelta(seconds=1)}) for endpoint in STUDYSPOT.endpoints)
        began = time.monotonic()
        seen = look(home, STUDYSPOT.model_copy(update={"endpoints": quick}))
        assert time.monotonic() - began < 4
        assert summary(seen["http api"]) == "no whole answer within 1s"
        assert seen["http web"].state == "ok"
    assert_well(home)


def test_a_slow_endpoint_is_a_p3_finding(home: Home) -> None:
    with broken(home, "studyspot_endpoint_slow"):
        finding = look(home)["http api"].findings[0]
        assert finding.severity == Severity.P3
        assert finding.summary.startswith("answered after 1.5")
        assert "more than 1s is slow" in finding.summary
    assert_well(home)


def test_a_server_that_is_down_is_one_alert_per_endpoint(home: Home) -> None:
    with broken(home, "endpoints_down"):
        seen = look(home)
        assert summary(seen["http api"]) == "the connection was refused"
        tls = seen["tls api.studyspot.com:443"]
        assert (tls.state, tls.explained_by, tls.worst) == ("unknown", "http", None)
    assert_well(home)


def test_an_expired_certificate_is_one_alert_of_the_endpoints_severity(home: Home) -> None:
    with broken(home, "studyspot_certificate_expired"):
        seen = look(home)
        finding = seen["tls api.studyspot.com:443"].findings[0]
        assert finding.summary.startswith("the certificate expired 24.0 hours ago, on ")
        assert finding.severity == Severity.P0
        assert finding.facts["days_left"] == pytest.approx(-1, abs=0.01)
        assert (seen["http api"].state, seen["http api"].explained_by) == ("unknown", "tls")
        assert seen["http web"].state == "ok"
    assert_well(home)


def test_a_certificate_with_forty_hours_left_is_critical(home: Home) -> None:
    with broken(home, "studyspot_certificate_expiring"):
        seen = look(home)
        finding = seen["tls api.studyspot.com:443"].findings[0]
        assert finding.severity == Severity.P1
        assert finding.summary.startswith("the certificate has 40.0 hours left, 2% of its lifetime; it ends on ")
        assert seen["http api"].state == "ok"
    assert_well(home)


def test_a_certificate_of_somebody_else_is_found(home: Home) -> None:
    with broken(home, "studyspot_certificate_wrong_host"):
        seen = look(home)["tls api.studyspot.com:443"]
        assert summary(seen) == "the certificate is for other.sandbox.test, not for api.studyspot.com"
        assert seen.findings[0].severity == Severity.P0
    assert_well(home)


@pytest.mark.parametrize(
    ("days_from_now", "severity"),
    # 90 days, issued ten days ago: 80 left.
    [(0, None), (49, None), (51, Severity.P2), (64, Severity.P2), (66, Severity.P1), (79, Severity.P1)],
)
def test_what_is_left_of_a_certificate_is_judged_by_its_share_of_the_lifetime(
    home: Home, days_from_now: int, severity: Severity | None
) -> None:
    seen = look(home, now=datetime.now(UTC) + timedelta(days=days_from_now))["tls api.studyspot.com:443"]
    assert seen.worst == severity


def test_a_long_certificate_may_not_have_less_than_the_least_hours(home: Home) -> None:
    section = STUDYSPOT.model_copy(update={"certificate_least": timedelta(days=81)})
    assert look(home, section)["tls api.studyspot.com:443"].worst == Severity.P1


def test_names_are_verified_although_the_address_is_another(home: Home) -> None:
    """Without ``connect_to`` the name leads nowhere; with it, SNI, Host header and certificate are the name's."""
    assert look(home)["http api"].state == "ok"
    alone = Http(endpoints=(Endpoint(name="x", url="https://unknown.sandbox.test/"),))
    connect_to = {"unknown.sandbox.test:443": home.state()["connect_to"]["api.studyspot.com:443"]}
    seen = {outcome.check: outcome for outcome in http.look(alone, connect_to=connect_to)}
    assert summary(seen["tls"]).endswith("not for unknown.sandbox.test")


def test_a_host_that_has_no_address_is_a_finding() -> None:
    section = Http(endpoints=(Endpoint(name="gone", url="https://gone.invalid/"),))
    seen = {outcome.check: outcome for outcome in http.look(section, connect_to={})}
    assert summary(seen["http"]).startswith("no connection: gaierror")
    assert seen["tls"].explained_by == "http"


# -- servers that misbehave in ways the sandbox's do not -----------------------------------------------


@contextmanager
def serving(conversation: Callable[[socket.socket, int], None], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on 127.0.0.1 that treats its n-th connection as ``conversation`` says; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        count = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            count += 1
            threading.Thread(target=talk, args=(connection, count), daemon=True).start()

    def talk(connection: socket.socket, number: int) -> None:
        try:
            with connection, context.wrap_socket(connection, server_side=True) if context else connection as secured:
                conversation(secured, number)
        except OSError:
            return

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def reads_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request and (more := connection.recv(4096)):
        request += more
    return request


def answering(*answers: bytes) -> Callable[[socket.socket, int], None]:
    """The first answer to the first connection, and so on; the last one to all later ones."""

    def conversation(connection: socket.socket, number: int) -> None:
        reads_request(connection)
        connection.sendall(answers[min(number, len(answers)) - 1])

    return conversation


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def look_at(port: int, **endpoint: object) -> Outcome:
    values = {"name": "plain", "url": f"http://127.0.0.1:{port}/health", **endpoint}
    (seen,) = http.look(Http(endpoints=(Endpoint.model_validate(values),)), connect_to={})
    return seen


def test_one_blip_pages_nobody_but_stays_on_record() -> None:
    with serving(answering(answer("503 Busy"), answer("200 OK"))) as port:
        seen = look_at(port)
    assert seen.state == "ok"
    assert seen.facts["first_try"] == "answered 503 instead of 200"


def test_one_slow_answer_of_two_is_no_finding() -> None:
    def conversation(connection: socket.socket, number: int) -> None:
        reads_request(connection)
        time.sleep(0.3 if number == 1 else 0)
        connection.sendall(answer("200 OK"))

    with serving(conversation) as port:
        seen = look_at(port, slow="200ms")
    assert seen.state == "ok"
    assert seen.facts["first_try"].startswith("took 0.3")


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_is_cut_off_at_the_deadline(part: str) -> None:
    """Each byte comes in good time; a time-out per read would wait for ever."""

    def conversation(connection: socket.socket, number: int) -> None:
        reads_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        if part == "body":
            connection.sendall(b"Content-Length: 1000\r\n\r\n")
        while True:
            connection.sendall(b"a")
            time.sleep(0.05)

    with serving(conversation) as port:
        began = time.monotonic()
        seen = look_at(port, timeout="500ms", slow="400ms")
        assert time.monotonic() - began < 2
    assert summary(seen) == "no whole answer within 500ms"


def test_a_server_that_accepts_and_says_nothing_is_cut_off_over_tls_too() -> None:
    def conversation(connection: socket.socket, number: int) -> None:
        time.sleep(5)

    with serving(conversation) as port:
        section = Http(
            endpoints=(Endpoint(name="mute", url=f"https://127.0.0.1:{port}/", timeout="500ms", slow="400ms"),)
        )
        began = time.monotonic()
        seen = {outcome.check: outcome for outcome in http.look(section, connect_to={})}
        assert time.monotonic() - began < 2
    assert summary(seen["http"]) == "no whole answer within 500ms"
    assert seen["tls"].explained_by == "http"


def test_redirects_are_not_followed() -> None:
    with serving(answering(answer("302 Found", b"", "Location: https://login.example/"))) as port:
        seen = look_at(port)
        assert summary(seen) == "answered 302 to https://login.example/ instead of 200"
        assert "final address" in seen.findings[0].hint
        assert look_at(port, expect_status=302).state == "ok"


def test_a_body_without_end_is_read_up_to_a_megabyte() -> None:
    def conversation(connection: socket.socket, number: int) -> None:
        reads_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"a" * 65536)

    with serving(conversation) as port:
        assert look_at(port).facts["bytes"] == 1024 * 1024
        assert summary(look_at(port, expect_text="b")).startswith("the body is larger than 1048576 bytes")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "answered 200, but the body is not JSON"),
        (b"[" * 100_000, "answered 200, but the body is not JSON"),
        (
            b'{"status": "ok"}',
            "answered 200, but the body says no checks (expected {'database': 'up', 'degraded': False})",
        ),
        (
            b'{"status": "ok", "checks": {"database": "down", "degraded": 0}}',
            'answered 200, but the body says checks.database = "down" (expected "up");'
            " checks.degraded = 0 (expected false)",
        ),
        (
            b'"ok"',
            'answered 200, but the body says body = "ok" '
            '(expected {"status": "ok", "checks": {"database": "up", "degraded": false}})',
        ),
        (b'{"status": "ok", "checks": {"database": "up", "degraded": false, "more": 1}, "more": []}', ""),
    ],
)  # fmt: skip
def test_the_body_must_carry_what_is_expected_and_may_carry_more(body: bytes, said: str) -> None:
    expected = {"status": "ok", "checks": {"database": "up", "degraded": False}}
    with serving(answering(answer("200 OK", body))) as port:
        seen = look_at(port, expect_json=expected)
    if said:
        assert summary(seen) == said
    else:
        assert seen.state == "ok"


def test_what_is_not_http_is_a_finding() -> None:
    with serving(answering(b"SSH-2.0-OpenSSH_9.6\r\n")) as port:
        assert summary(look_at(port)).startswith(
            "the connection broke before the whole answer had come: RemoteProtocol"
        )


# -- certificates the sandbox's endpoints never show ---------------------------------------------------


def server_context(*pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with trustme.Blob(b"".join(pem)).tempfile() as file:
        context.load_cert_chain(file)
    return context


def tls_of(context: ssl.SSLContext) -> dict[str, Outcome]:
    with serving(answering(answer("200 OK")), context) as port:
        section = Http(endpoints=(Endpoint(name="x", url="https://x.sandbox.test/"),))
        seen = http.look(section, connect_to={"x.sandbox.test:443": f"127.0.0.1:{port}"})
        return {outcome.check: outcome for outcome in seen}


def soon() -> dict[str, datetime]:
    now = datetime.now(UTC)
    return {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=90)}


def leaf(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("x.sandbox.test", **soon())


def test_an_authority_that_nobody_knows_is_not_trusted() -> None:
    made = leaf(trustme.CA(organization_name="Nobody"))
    seen = tls_of(server_context(made.private_key_pem.bytes(), made.cert_chain_pems[0].bytes()))
    assert summary(seen["tls"]).startswith("the chain is incomplete, or its issuer unknown: ")
    assert "Nobody" in summary(seen["tls"])
    assert seen["http"].explained_by == "tls"


def test_an_unknown_authority_that_comes_along_is_not_trusted_either() -> None:
    authority = trustme.CA(organization_name="Nobody")
    made = leaf(authority)
    chain = [blob.bytes() for blob in made.cert_chain_pems]
    seen = tls_of(server_context(made.private_key_pem.bytes(), *chain, authority.cert_pem.bytes()))
    assert summary(seen["tls"]).startswith("the authority that issued it is not trusted: ")


def test_a_chain_without_its_intermediate_is_incomplete_and_with_it_is_ok(home: Home) -> None:
    made = leaf(certificates.authority(home).create_child_ca())
    key, *chain = made.private_key_pem.bytes(), *(blob.bytes() for blob in made.cert_chain_pems)
    assert len(chain) == 2
    assert summary(tls_of(server_context(key, chain[0]))["tls"]).startswith("the chain is incomplete")
    assert tls_of(server_context(key, *chain))["tls"].state == "ok"


def test_a_self_signed_certificate_is_called_so() -> None:
    seen = tls_of(server_context(*self_signed(now=datetime.now(UTC))))
    assert summary(seen["tls"]) == "the certificate is self-signed: nobody vouches for it"


def test_a_certificate_of_tomorrow_is_not_valid_yet(home: Home) -> None:
    now = datetime.now(UTC)
    made = certificates.authority(home).issue_cert(
        "x.sandbox.test", not_before=now + timedelta(days=1), not_after=now + timedelta(days=90)
    )
    seen = tls_of(server_context(made.private_key_pem.bytes(), made.cert_chain_pems[0].bytes()))
    assert summary(seen["tls"]) == "the certificate is not valid yet"


def test_a_server_that_only_speaks_an_old_protocol_is_found(home: Home) -> None:
    made = leaf(certificates.authority(home))
    context = server_context(made.private_key_pem.bytes(), made.cert_chain_pems[0].bytes())
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    seen = tls_of(context)
    assert summary(seen["tls"]) == "offers no protocol newer than TLSv1.1; clients want TLS 1.2 or 1.3"
    assert seen["http"].explained_by == "tls"


def self_signed(now: datetime) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x.sandbox.test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("x.sandbox.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret, made.public_bytes(serialization.Encoding.PEM)


def test_facts_are_json(home: Home, tmp_path: Path) -> None:
    for outcome in look(home).values():
        json.dumps(dict(outcome.facts))
