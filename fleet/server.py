"""The process behind ``asdic serve``: broker, manager and web page, up together or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvicorn

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.files import canonical_json, write_file
from asdic.fleet.broker import open_broker
from asdic.fleet.manager import Fleet, FleetConfig
from asdic.fleet.web.app import web_app

SERVE_FILE: Final = "serve.json"
BEARER_FILE: Final = "token"
LOCK_FILE: Final = "serve.lock"
_LOOPBACK: Final = "127.0.0.1"
_START_S: Final = 20.0


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What ``serve.json`` says: where the server answers and whose process it is."""

    url: str
    pid: int
    broker: str


@contextmanager
def running(
    config: FleetConfig, *, port: int = 0, external: BrokerAddress | None = None
) -> Iterator[tuple[Serving, Fleet]]:
    """Run the whole server in threads while the block runs.

    Raises:
        LinkError: The broker does not answer, or the port is taken.
        ConfigError: Another server uses the state folder.
    """
    config.state.mkdir(parents=True, exist_ok=True)
    with _locked(config.state), open_broker(config.state, external) as broker:
        fleet = Fleet(config, broker)
        try:
            with _web(fleet, _token(config.state), port) as url:
                fleet.start()
                serving = Serving(url=url, pid=os.getpid(), broker=str(broker))
                write_file(config.state / SERVE_FILE, canonical_json(serving), mode=0o600)
                yield serving, fleet
        finally:
            (config.state / SERVE_FILE).unlink(missing_ok=True)
            fleet.stop()


def stop_on_signals() -> threading.Event:
    """Return what SIGINT and SIGTERM set from now on; call it before anybody can send one."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopped.set())
    return stopped


def wait_for_end(fleet: Fleet, stopped: threading.Event) -> None:
    """Wait until ``stopped`` is set or the manager's loop has failed.

    Raises:
        OSError: The manager could not go on, as on a full disk.
        RuntimeError: The manager's loop failed in another way, which is a bug here.
    """
    fleet.on_failure = stopped.set
    while not stopped.wait(timeout=1.0) and fleet.failure is None:
        pass
    if isinstance(fleet.failure, OSError):
        raise fleet.failure
    if fleet.failure is not None:
        raise RuntimeError("the fleet manager stopped") from fleet.failure


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another `asdic serve` runs on {state}") from error
        yield


def _token(state: Path) -> str:
    path = state / BEARER_FILE
    if not path.exists():
        write_file(path, secrets.token_urlsafe(32).encode(), mode=0o600)
    return path.read_text().strip()


@contextmanager
def _web(fleet: Fleet, token: str, port: int) -> Iterator[str]:
    listener = _listen(port)
    server = uvicorn.Server(
        uvicorn.Config(
            web_app(fleet, token),
            # None: uvicorn's own would shut down every logging handler of this process.
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="web", daemon=True
    )
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield f"http://{_LOOPBACK}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_LOOPBACK, port))
    except OSError as error:
        raise LinkError(
            f"cannot listen on {_LOOPBACK}:{port}: {error.strerror}; choose another --port"
        ) from error


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise LinkError("the web server does not start")
        time.sleep(0.02)
