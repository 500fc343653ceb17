"""docker-compose.yaml against the compose specification, and against what we promise about it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sandbox.home import REPOSITORY

FILE = REPOSITORY / "docker-compose.yaml"
TEXT = FILE.read_text()
SERVICES = yaml.safe_load(TEXT)["services"]


def test_it_meets_the_compose_specification() -> None:
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_check_is_no_rubber_stamp(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yaml"
    wrong.write_text(TEXT.replace("    image: postgres:", "    imagee: postgres:", 1))
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_named_by_exact_version(name: str) -> None:
    assert re.search(r":\d+\.\d+[\w.-]*$", SERVICES[name]["image"]), SERVICES[name]["image"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "setup"])
def test_every_server_says_whether_it_is_healthy(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


def test_no_secret_has_a_default() -> None:
    secret = re.compile(r"\$\{(\w*(?:PASSWORD|SECRET|KEY)\w*)(:?[-?])?")
    used = secret.findall(TEXT)
    assert len(used) >= 8
    assert {operator for _, operator in used} == {":?"}
    example = (REPOSITORY / ".env.example").read_text()
    for name, _ in used:
        assert f"\n{name}=\n" in f"\n{example}", f"{name} belongs into .env.example, empty"


def test_everything_that_is_published_is_published_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8080:8080"]


def test_every_airflow_command_exists() -> None:
    from airflow.cli.cli_parser import get_parser

    commands = [service["command"] for service in SERVICES.values() if service.get("command", [""])[0] == "airflow"]
    assert len(commands) >= 5
    for command in commands:
        assert get_parser().parse_args(command[1:])


def test_the_airflow_version_is_the_one_of_the_lock() -> None:
    version = re.search(r"^apache-airflow==(\S+)", (REPOSITORY / "requirements.txt").read_text(), re.M)
    assert version
    assert f"FROM apache/airflow:{version[1]}-python" in (REPOSITORY / "Dockerfile").read_text()
