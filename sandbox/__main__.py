"""``python -m sandbox up|down|status|env|faults|break WHAT|heal WHAT|serve``."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sandbox import processes
from sandbox.faults import FAULTS, break_it, heal_it
from sandbox.home import Home, SandboxError
from sandbox.servers import AFTER, SERVERS, environment, prepare


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--home", type=Path, help="directory of the sandbox (default: .sandbox)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the servers and load the sample data")
    up.add_argument("--only", help="these servers only, by comma")
    up.add_argument("--scale", type=float, default=1.0, help="size of the sample data (tests 0.02, demo 1, benches 20)")
    commands.add_parser("down", help="stop everything that was started")
    status_ = commands.add_parser("status", help="what runs, where, and what is broken")
    status_.add_argument(
        "--check", action="store_true", help="exit with 1 when something that was started is not running"
    )
    serve_ = commands.add_parser("serve", help="up, then stay in the foreground; down at the end (for containers)")
    serve_.add_argument("--without", default="", help="all servers but these, by comma")
    serve_.add_argument("--scale", type=float, default=1.0)
    commands.add_parser("env", help="export lines: connections and settings for Airflow and for python -m upkeep")
    commands.add_parser("faults", help="what can be broken")
    for verb in ("break", "heal"):
        commands.add_parser(verb, help=f"{verb} something, by name").add_argument("what")
    arguments = parser.parse_args(argv)
    home = Home(arguments.home.resolve(), usual_ports=True) if arguments.home else Home.default()
    try:
        return _run(home, arguments)
    except SandboxError as error:
        print(error, file=sys.stderr)
        return 2


def _run(home: Home, arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up":
            up(home, only=arguments.only.split(",") if arguments.only else None, scale=arguments.scale)
        case "down":
            down(home)
        case "status":
            print(status(home))
            return int(arguments.check and not all_running(home))
        case "serve":
            without = arguments.without.split(",")
            serve(home, only=[name for name in SERVERS if name not in without], scale=arguments.scale)
        case "env":
            for key, value in environment(home).items():
                print(f"export {key}={_quoted(value)}")
        case "faults":
            for fault in sorted(FAULTS.values(), key=lambda fault: fault.name):
                print(f"{fault.name:34} {fault.doc}")
        case "break":
            break_it(home, arguments.what)
            print(f"broken: {arguments.what}: {FAULTS[arguments.what].doc}")
        case "heal":
            heal_it(home, arguments.what)
            print(f"healed: {arguments.what}")
    return 0


def up(home: Home, *, only: list[str] | None = None, scale: float = 1.0) -> None:
    """Start the servers (all, or ``only`` some) side by side, saying what each took."""
    unknown = set(only or ()) - set(SERVERS)
    if unknown:
        raise SandboxError(f"no server {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
    prepare(home, scale=scale)
    wanted = [name for name in SERVERS if only is None or name in only]
    starting: dict[str, Future[None]] = {}

    def start(name: str) -> None:
        if name in AFTER and AFTER[name] in starting:
            starting[AFTER[name]].result()
        began = time.monotonic()
        SERVERS[name](home)
        print(f"  {name:26} {time.monotonic() - began:5.1f} s", flush=True)

    # Loading the sample data and downloading packages wait for different things.
    with ThreadPoolExecutor(4) as pool:
        for name in wanted:
            starting[name] = pool.submit(start, name)
    for future in starting.values():
        future.result()


def down(home: Home) -> None:
    """Stop every process this sandbox started, all at once: none of them needs another to end."""
    names = list(home.state().get("processes", {}))
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        list(pool.map(lambda name: processes.stop(home, name), names))


@contextmanager
def temporary() -> Iterator[Home]:
    """An empty sandbox; afterwards nothing of it runs and nothing is left."""
    # Unix sockets have room for 107 characters, so not below anybody's own directory.
    home = Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))
    try:
        yield home
    finally:
        down(home)
        shutil.rmtree(home.path, ignore_errors=True)


def serve(home: Home, *, only: list[str], scale: float) -> None:
    """Run in the foreground until SIGTERM or SIGINT; Airflow elsewhere reads connections.json and upkeep.yaml."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        up(home, only=only, scale=scale)
        print("serving", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        down(home)


def all_running(home: Home) -> bool:
    names = home.state().get("processes", {})
    return bool(names) and all(processes.running(home, name) for name in names)


def status(home: Home) -> str:
    state = home.state()
    lines = [f"sandbox in {home.path}"]
    for name in state.get("processes", {}):
        pid = processes.running(home, name)
        port = state.get("ports", {}).get(name, "")
        lines.append(f"  {name:26} {f'pid {pid}' if pid else 'stopped':12} {f'127.0.0.1:{port}' if port else ''}")
    lines.append("broken: " + (", ".join(state.get("broken", [])) or "nothing"))
    return "\n".join(lines)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    sys.exit(main())
