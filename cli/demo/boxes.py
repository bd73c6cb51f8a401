"""The second half of the demo: a manager, six real agents, four rollouts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import click

from asdic.cli.demo.models import BETTER, BROKEN, FIRST, Place
from asdic.cli.demo.oracle import Oracle
from asdic.cli.demo.verbs import START_TIMEOUT_S, agent, ask, running, show, wait_until

BOXES: Final = MappingProxyType(
    {
        "box-1": "x86-litert-int8",
        "box-2": "x86-litert-int8",
        "box-3": "x86-litert-int8",
        "box-4": "x86-openvino-int8",
        "box-5": "x86-openvino-int8",
        "box-6": "jetson-orin-int8",
    }
)
SIMULATED: Final = frozenset({"jetson-orin-int8"})
FRAMES_PER_S: Final = 4
SETTLE_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class FleetOutcome:
    """What the fleet did: the rollouts, who ran what before and after the way back, the faults."""

    rollouts: list[dict[str, Any]]
    devices_before_rollback: list[dict[str, Any]]
    devices: list[dict[str, Any]]
    forbidden: dict[str, int]


def run_fleet(place: Place) -> FleetOutcome:
    """Start everything, push 1.0.0, 1.1.0 and 1.2.0, roll back, and stop everything."""
    fleet = ("--fleet", place.fleet)
    canary = ("--canary", "1")
    with _manager(place), _boxes(place):
        oracle = Oracle(place, tuple(BOXES))
        show("push", FIRST, "--to", "all", *fleet, "--wait")
        oracle.look(_believed(place))
        show("push", BETTER, "--to", "all", *canary, *fleet, "--wait")
        oracle.look(_believed(place))
        show("push", BROKEN, "--to", "all", *canary, *fleet, "--wait", expect=1)
        click.secho("halted, as it should be: the canary refused what it was given", fg="yellow")
        oracle.look(_believed(place))
        before = _devices(place)
        show("rollback", "--to", FIRST, *fleet, "--wait")
        forbidden = oracle.look(_believed(place))
        show("status", *fleet)
        return FleetOutcome(
            rollouts=_rollouts(place),
            devices_before_rollback=before,
            devices=_devices(place),
            forbidden=forbidden,
        )


@contextlib.contextmanager
def _manager(place: Place) -> Iterator[None]:
    words: list[str | Path] = ["serve", "--state", place.fleet, "--releases", place.releases]
    log = place.log("serve")
    address = place.fleet / "serve.json"
    address.unlink(missing_ok=True)
    with running("asdic", [*words, "--port", "0", "--accept-simulated"], log) as process:
        wait_until(
            lambda: address.is_file() or process.poll() is not None,
            f"the manager did not start, see {log}",
            timeout_s=START_TIMEOUT_S,
        )
        click.secho(f"\nfleet manager: {_url(place)} (log: {log})", bold=True)
        yield


@contextlib.contextmanager
def _boxes(place: Place) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device, target in BOXES.items():
            _enrol(place, device, target)
            words: list[str | Path] = ["run", "--state", place.box(device)]
            words += ["--frames", place.phantoms / "images", "--fps", str(FRAMES_PER_S)]
            stack.enter_context(running("asdic-agent", words, place.log(device)))
        wait_until(
            lambda: sum(device["online"] for device in _status(place)) == len(BOXES),
            f"not all boxes came online, see {place.log('box-1').parent}",
            timeout_s=START_TIMEOUT_S,
        )
        click.echo(f"{len(BOXES)} boxes are online, each a real agent with its runner process")
        yield


def _enrol(place: Place, device: str, target: str) -> None:
    token = ask("token", "--fleet", place.fleet, "--json")["token"]
    words = ["enrol", "--server", _url(place), "--token", token, "--state", place.box(device)]
    simulate = ["--simulate"] if target in SIMULATED else []
    agent(*words, "--device", device, "--target", target, *simulate)


def _url(place: Place) -> str:
    return str(json.loads((place.fleet / "serve.json").read_text())["url"])


def _status(place: Place) -> list[dict[str, Any]]:
    return list(ask("status", "--fleet", place.fleet, "--json")["devices"])


def _believed(place: Place) -> dict[str, str | None]:
    return {device["id"]: device["manifest"] for device in _status(place)}


def _devices(place: Place) -> list[dict[str, Any]]:
    wanted = ("id", "target", "runtime", "simulated", "release", "manifest", "state")
    return [{name: device[name] for name in wanted} for device in _status(place)]


def _rollouts(place: Place) -> list[dict[str, Any]]:
    listed = ask("rollout", "list", "--fleet", place.fleet, "--json")
    rollouts = listed["rollouts"] if isinstance(listed, dict) else listed
    shown = [
        ask("rollout", "show", rollout["id"], "--fleet", place.fleet, "--json")
        for rollout in rollouts
    ]
    return sorted(shown, key=lambda rollout: min(e["time_s"] for e in rollout["events"]))
