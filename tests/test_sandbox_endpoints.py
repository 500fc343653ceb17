"""The sandbox's endpoints: healthy as they should be, and each of their faults as bad as it says."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sandbox import processes
from sandbox.endpoints import SITES
from sandbox.faults import FAULTS, break_it, heal_it
from sandbox.home import Home
from sandbox.servers.endpoints import HOSTS, start_endpoints, stop_endpoints


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("endpoints"))
    start_endpoints(home)
    yield home
    stop_endpoints(home)


def connection(home: Home, host: str, *, verify: bool = True) -> ssl.SSLSocket:
    """A TLS connection to where the sandbox says that ``host`` really is."""
    context = ssl.create_default_context(cafile=str(home.path / "certificates" / "ca.pem"))
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address, port = home.state()["connect_to"][f"{host}:443"].rsplit(":", 1)
    return context.wrap_socket(socket.create_connection((address, int(port)), timeout=3), server_hostname=host)


def get(home: Home, host: str, path: str | None = None) -> tuple[int, bytes]:
    """Status and body of one GET with everything verified."""
    client = http.client.HTTPConnection(host)
    client.sock = connection(home, host)
    try:
        client.request("GET", path or SITES[host].path)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def certificate(home: Home, host: str) -> x509.Certificate:
    with connection(home, host, verify=False) as tls:
        der = tls.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der)


@pytest.fixture
def broken(home: Home, request: pytest.FixtureRequest) -> Iterator[str]:
    """The fault named by the parameter, on for the length of the test."""
    break_it(home, request.param)
    yield request.param
    heal_it(home, request.param)


def apis(mode: str) -> list[tuple[str, str]]:
    return [(f"{platform}_{mode}", api) for platform, (api, _) in HOSTS.items()]


def assert_healthy(home: Home, host: str) -> None:
    status, body = get(home, host)
    assert status == 200
    if SITES[host].path == "/health":
        assert json.loads(body)["status"] == "ok"
    else:
        assert b"<h1>" in body


@pytest.mark.parametrize("host", SITES)
def test_every_host_is_healthy_behind_a_certificate_of_its_own(home: Home, host: str) -> None:
    assert_healthy(home, host)
    names = certificate(home, host).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [host]
    left = certificate(home, host).not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=79) < left < timedelta(days=81)


def test_a_path_that_is_not_there_is_404_and_a_host_that_is_not_there_is_421(home: Home) -> None:
    assert get(home, "api.studyspot.com", "/nothing")[0] == 404
    client = http.client.HTTPConnection("nobody.example")
    client.sock = connection(home, "api.studyspot.com")
    client.request("GET", "/health")
    assert client.getresponse().status == 421


@pytest.mark.parametrize(("broken", "host"), apis("endpoint_500"), indirect=["broken"])
def test_an_endpoint_that_answers_500_heals(home: Home, broken: str, host: str) -> None:
    assert get(home, host)[0] == 500
    heal_it(home, broken)
    assert_healthy(home, host)


@pytest.mark.parametrize(("broken", "host"), apis("endpoint_hangs"), indirect=["broken"])
def test_an_endpoint_that_hangs_accepts_but_never_answers(home: Home, broken: str, host: str) -> None:
    client = http.client.HTTPConnection(host)
    client.sock = connection(home, host)
    client.sock.settimeout(0.5)
    client.request("GET", "/health")
    with pytest.raises(TimeoutError):
        client.getresponse()
    client.close()


@pytest.mark.parametrize(("broken", "host"), apis("endpoint_slow"), indirect=["broken"])
def test_a_slow_endpoint_is_right_but_late(home: Home, broken: str, host: str) -> None:
    began = time.monotonic()
    assert_healthy(home, host)
    assert 1.5 <= time.monotonic() - began < 2.5


@pytest.mark.parametrize(("broken", "host"), apis("endpoint_degraded"), indirect=["broken"])
def test_a_degraded_endpoint_answers_200_and_says_so(home: Home, broken: str, host: str) -> None:
    status, body = get(home, host)
    assert (status, json.loads(body)["status"]) == (200, "degraded")


@pytest.mark.parametrize(("broken", "host"), apis("endpoint_truncated"), indirect=["broken"])
def test_a_truncated_answer_ends_before_its_length(home: Home, broken: str, host: str) -> None:
    with pytest.raises(http.client.IncompleteRead):
        get(home, host)


@pytest.mark.parametrize(("broken", "host"), apis("endpoint_drops"), indirect=["broken"])
def test_a_dropped_connection_has_no_answer(home: Home, broken: str, host: str) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, ssl.SSLEOFError)):
        get(home, host)


@pytest.mark.parametrize(
    ("broken", "host"),
    [(f"{platform}_web_{mode}", web) for platform, (_, web) in HOSTS.items() for mode in ("500", "degraded")],
    indirect=["broken"],
)
def test_a_broken_web_page_shows_neither_its_name_nor_its_status(home: Home, broken: str, host: str) -> None:
    status, body = get(home, host)
    assert status == (500 if broken.endswith("_500") else 200)
    assert b"<h1>StudySpot" not in body
    assert b"<h1>Adaptive" not in body
    assert_healthy(home, HOSTS[broken.partition("_web_")[0]][0])


@pytest.mark.parametrize(("broken", "host"), apis("certificate_expired"), indirect=["broken"])
def test_an_expired_certificate_is_refused_on_that_host_alone(home: Home, broken: str, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        get(home, host)
    assert refused.value.verify_code == 10
    for other in set(SITES) - {host}:
        assert_healthy(home, other)
    heal_it(home, broken)
    assert_healthy(home, host)


@pytest.mark.parametrize(("broken", "host"), apis("certificate_expiring"), indirect=["broken"])
def test_an_expiring_certificate_is_still_good_for_40_hours(home: Home, broken: str, host: str) -> None:
    assert_healthy(home, host)
    shown = certificate(home, host)
    left = shown.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(hours=39) < left < timedelta(hours=41)
    assert shown.not_valid_after_utc - shown.not_valid_before_utc == timedelta(days=90)


@pytest.mark.parametrize(("broken", "host"), apis("certificate_wrong_host"), indirect=["broken"])
def test_a_certificate_for_another_host_is_refused(home: Home, broken: str, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        get(home, host)
    assert refused.value.verify_code == 62


@pytest.mark.parametrize("broken", ["all_endpoints_hang"], indirect=True)
def test_all_endpoints_hang_at_once_and_healing_one_fault_leaves_the_other_on(home: Home, broken: str) -> None:
    break_it(home, "studyspot_endpoint_500")
    for host in SITES:
        if host == "api.studyspot.com":
            assert get(home, host)[0] == 500
            continue
        with connection(home, host) as tls:
            tls.settimeout(0.3)
            tls.sendall(f"GET {SITES[host].path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            with pytest.raises(TimeoutError):
                tls.recv(1)
    heal_it(home, broken)
    assert get(home, "api.studyspot.com")[0] == 500
    heal_it(home, "studyspot_endpoint_500")
    for host in SITES:
        assert_healthy(home, host)


def test_endpoints_down_refuse_connections_and_come_back_where_they_were(home: Home) -> None:
    where = home.state()["connect_to"]
    break_it(home, "endpoints_down")
    with pytest.raises(ConnectionRefusedError):
        connection(home, "api.studyspot.com")
    heal_it(home, "endpoints_down")
    assert home.state()["connect_to"] == where
    assert_healthy(home, "api.studyspot.com")


def test_starting_twice_keeps_the_first(home: Home) -> None:
    first = processes.running(home, "endpoints")
    start_endpoints(home)
    assert processes.running(home, "endpoints") == first


def test_it_ends_at_once_while_answers_hang(tmp_path: Path) -> None:
    home = Home(tmp_path)
    start_endpoints(home)
    break_it(home, "all_endpoints_hang")
    with connection(home, "api.studyspot.com") as tls:
        tls.sendall(b"GET /health HTTP/1.1\r\nHost: api.studyspot.com\r\n\r\n")
        time.sleep(0.1)
        began = time.monotonic()
        stop_endpoints(home)
        assert time.monotonic() - began < 2


def test_every_fault_of_the_endpoints_says_what_it_does() -> None:
    mine = [name for name in FAULTS if "endpoint" in name or "certificate" in name or "_web_" in name]
    assert len(mine) >= 2 * 11 + 2
    assert all(len(FAULTS[name].doc) > 15 for name in mine)
