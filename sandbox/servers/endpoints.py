"""The platforms' HTTPS endpoints, and everything that can be wrong with them."""

from __future__ import annotations

import datetime
import fcntl
import functools
import json
import sys
from collections.abc import Iterable

from sandbox import certificates, processes
from sandbox.endpoints import MODES, SITES
from sandbox.faults import fault
from sandbox.home import REPOSITORY, Home

NAME = "endpoints"

HOSTS = {
    "studyspot": ("api.studyspot.com", "www.studyspot.com"),
    "adaptive_learning": ("api.adaptivelearning.com", "app.adaptivelearning.com"),
}
"""API host and web host of each platform."""

LIFETIME = datetime.timedelta(days=90)
EXPIRING_LEFT = datetime.timedelta(hours=40)


def start_endpoints(home: Home) -> None:
    """Start them unless they run, healthy certificates at hand, and publish where each host really is."""
    port = home.port(NAME, 28443)
    for host in SITES:
        home.connect_to(f"{host}:443", f"127.0.0.1:{port}")
    if processes.running(home, NAME):
        return
    for host in ("default", *SITES):
        if not (home.directory(NAME) / f"{host}.pem").exists():
            install_certificate(home, host, f"{host}.sandbox.test" if host == "default" else host)
    processes.start(
        home,
        NAME,
        [sys.executable, "-m", "sandbox.endpoints", "--port", str(port), "--directory", home.directory(NAME)],
        cwd=REPOSITORY,
        ready=lambda: processes.listening(port),
    )


def stop_endpoints(home: Home) -> None:
    processes.stop(home, NAME)


def install_certificate(
    home: Home, host: str, *names: str, age: datetime.timedelta = datetime.timedelta(days=10)
) -> None:
    """Give ``host`` a 90 day certificate for ``names``, issued ``age`` ago; the next handshake uses it."""
    made = certificates.issue(home, f"endpoints.{host}", *names, lifetime=LIFETIME, age=age)
    made.replace(home.directory(NAME) / f"{host}.pem")


def set_mode(home: Home, fault_name: str, hosts: Iterable[str], mode: str | None) -> None:
    """
    Let ``hosts`` misbehave as ``mode`` says (one of sandbox.endpoints.MODES); None ends what ``fault_name`` began.

    Faults are kept by name, so that healing one leaves another one on.
    """
    if mode is not None and mode not in MODES:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    directory = home.directory(NAME)
    file = directory / "faults.json"
    with (directory / "faults.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = json.loads(file.read_text()) if file.exists() else {}
        for host in hosts:
            on = known.setdefault(host, {})
            on.pop(fault_name, None)
            if mode is not None:
                on[fault_name] = mode
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(known))
        draft.replace(file)


def _mode_fault(name: str, doc: str, hosts: Iterable[str], mode: str) -> None:
    hosts = tuple(hosts)
    fault(
        name,
        doc,
        break_=lambda home: set_mode(home, name, hosts, mode),
        heal=lambda home: set_mode(home, name, hosts, None),
    )


def _certificate_fault(name: str, doc: str, host: str, certified: str, age: datetime.timedelta) -> None:
    fault(
        name,
        doc,
        break_=functools.partial(_install, host, certified, age),
        heal=functools.partial(_install, host, host, datetime.timedelta(days=10)),
    )


def _install(host: str, certified: str, age: datetime.timedelta, home: Home) -> None:
    install_certificate(home, host, certified, age=age)


for _platform, (_api, _web) in HOSTS.items():
    _mode_fault(f"{_platform}_endpoint_500", f"https://{_api}/health answers 500", [_api], "500")
    _mode_fault(f"{_platform}_endpoint_hangs", f"https://{_api}/health never answers", [_api], "hang")
    _mode_fault(f"{_platform}_endpoint_slow", f"https://{_api}/health takes 1.5 s", [_api], "slow")
    _mode_fault(f"{_platform}_endpoint_degraded", f"https://{_api}/health says degraded, with 200", [_api], "degraded")
    _mode_fault(f"{_platform}_endpoint_truncated", f"https://{_api}/health ends halfway", [_api], "truncated")
    _mode_fault(f"{_platform}_endpoint_drops", f"https://{_api}/health drops the connection", [_api], "reset")
    _mode_fault(f"{_platform}_web_500", f"https://{_web}/ answers 500", [_web], "500")
    _mode_fault(f"{_platform}_web_degraded", f"https://{_web}/ shows an apology, with 200", [_web], "degraded")
    _certificate_fault(
        f"{_platform}_certificate_expired",
        f"the certificate of {_api} ran out yesterday",
        _api,
        _api,
        LIFETIME + datetime.timedelta(days=1),
    )
    _certificate_fault(
        f"{_platform}_certificate_expiring",
        f"the certificate of {_api} has 40 hours left",
        _api,
        _api,
        LIFETIME - EXPIRING_LEFT,
    )
    _certificate_fault(
        f"{_platform}_certificate_wrong_host",
        f"the certificate of {_api} is somebody else's",
        _api,
        "other.sandbox.test",
        datetime.timedelta(days=10),
    )

_mode_fault("all_endpoints_hang", "no endpoint of any platform ever answers", tuple(SITES), "hang")
fault("endpoints_down", "every endpoint refuses connections", break_=stop_endpoints, heal=start_endpoints)
