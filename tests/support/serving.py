"""A fleet manager in this process, with its real broker, and devices that are online."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from asdic.fleet.broker import open_broker
from asdic.fleet.manager import Fleet, FleetConfig
from asdic.fleet.rollout import Rollout
from asdic.fleet.transfer import TransferLimits
from tests.support.fleet import add_signed_release
from tests.support.paper_box import PaperBox, enrolment, wait_for

QUICK = TransferLimits(gather_s=0.3, laggard_s=2.0)


def quick_config(folder: Path) -> FleetConfig:
    """Return the configuration of a manager that has one signed release, 1.0.0."""
    add_signed_release(folder / "releases", "1.0.0")
    return FleetConfig(
        state=folder / "state",
        releases=folder / "releases",
        tick_s=0.02,
        transfer=QUICK,
    )


@contextmanager
def serving(config: FleetConfig) -> Iterator[Fleet]:
    """Yield a manager that is started, and was not ended by an error."""
    with open_broker(config.state, None) as broker:
        fleet = Fleet(config, broker)
        fleet.start()
        try:
            yield fleet
            assert fleet.failure is None
        finally:
            fleet.stop()


@contextmanager
def online(fleet: Fleet, *boxes: PaperBox) -> Iterator[None]:
    """Enrol and connect devices, until the end of the block."""
    with ExitStack() as stack:
        for box in boxes:
            token = fleet.inventory.new_token(0.0)
            fleet.enrol(enrolment(token, box.device, box.key, box.target))
            box.connect(fleet.broker.host, fleet.broker.port)
            stack.callback(box.close)
        names = {box.device for box in boxes}
        wait_for(
            lambda: all(one.online for one in fleet.inventory.all() if one.id in names),
            "all are online",
        )
        yield


def wait_for_state(fleet: Fleet, rollout: Rollout, state: str) -> Rollout:
    """Return the rollout once it is in ``state``."""

    def reached() -> bool:
        return fleet.records.get(rollout.id).state.value == state

    wait_for(reached, f"rollout is {state}, not {fleet.records.get(rollout.id)}")
    return fleet.records.get(rollout.id)


def states(rollout: Rollout) -> dict[str, str]:
    """Return where each device of a rollout stands."""
    return {member.device: member.state.value for member in rollout.members}
