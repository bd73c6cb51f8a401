"""Stories that use every row of the transition table, so that none can be missing unnoticed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from asdic.contract.messages import UpdateState
from asdic.contract.trust import parse_offer
from tests.faults.scenario import (
    BAD,
    DAMAGED,
    FORGED,
    INCOMPLETE,
    NEW,
    NEWEST,
    OLD,
    OTHER_MACHINE,
    PAIR_STORIES,
    ROTTEN,
    STORIES,
    UNFIT,
    WITHDRAWN,
    WORN,
    Scenario,
)
from tests.faults.world import World

_S: Final = UpdateState
Event = Callable[[World], None]


def _publish(name: str) -> Event:
    return lambda world: world.publish(name)


def _other_bytes(world: World) -> None:
    """Let the offer's manifest say the same with other bytes than were signed."""
    offer = parse_offer(world.shore.offers[NEW])
    documents = {
        name: f"{text} " if '"layers"' in text else text for name, text in offer.documents.items()
    }
    changed = msgspec.structs.replace(offer, documents=documents)
    world.memory.retained = msgspec.json.encode(changed)


def _busy(world: World) -> None:
    world.program.busy = True


def _free(world: World) -> None:
    world.program.busy = False


def _deaf(world: World) -> None:
    world.program.is_deaf = True


def _hearing(world: World) -> None:
    world.program.is_deaf = False


def _send_back(world: World) -> None:
    world.update.send_back()


def _asks_to_go_back(world: World) -> None:
    world.soon(_send_back)


def _no_trial_passes(world: World) -> None:
    world.trials_pass = False


def _trials_hang(world: World) -> None:
    world.trials_hang = True


def _no_bytes(world: World) -> None:
    world.source.is_cut = True


def _spoiled(times: int) -> Event:
    def spoil(world: World) -> None:
        world.source.spoils = times

    return spoil


def _broken_in(state: UpdateState, name: str) -> Event:
    """Return what lets the disk fail in a state, for all whose name has ``name`` in it."""

    def prepare(world: World) -> None:
        def fail(_number: int, _call: str, path: Path) -> None:
            if world.is_in(state) and name in str(path):
                raise OSError(errno.EIO, "broken")

        world.disk.before = fail

    return prepare


def _both(*events: Event) -> Event:
    def do(world: World) -> None:
        for event in events:
            event(world)

    return do


def _story(name: str, begin: str, ends: str | None, state: UpdateState, **more: Any) -> Scenario:
    return Scenario(name=name, begin=begin, ends=ends, state=state, **more)


_BEFORE_THE_SWITCH: Final = (_S.OFFERED, _S.FETCHING, _S.VERIFYING, _S.STAGED, _S.GATING)

EVERY_ROW: Final = (
    *STORIES,
    *PAIR_STORIES,
    _story("bad", "on-1.0.0", OLD, _S.FAILED, offer=BAD),
    _story("refused", "on-1.0.0", OLD, _S.REJECTED, offer=DAMAGED),
    _story("incomplete", "on-1.0.0", OLD, _S.REJECTED, offer=INCOMPLETE),
    _story("forged", "on-1.0.0", OLD, _S.REJECTED, offer=FORGED),
    _story("forged-manifest", "on-1.0.0", OLD, _S.REJECTED, offer=NEW, prepare=_other_bytes),
    _story("already", "on-1.0.0", OLD, _S.COMMITTED, offer=f"{OLD} again"),
    # A busy program.
    _story("busy-staged", "on-1.0.0", NEW, _S.COMMITTED, offer=NEW,
           script={_S.FETCHING: _busy, _S.DEFERRED: _free}),
    _story("busy-gating", "on-1.0.0", NEW, _S.COMMITTED, offer=NEW,
           script={_S.GATING: _busy, _S.DEFERRED: _free}),
    _story("busy-probation", "on-1.0.0", OLD, _S.FAILED, offer=UNFIT,
           script={_S.PROBATION: _busy, _S.DEFERRED: _free}),
    _story("busy-for-ever", "on-1.0.0", OLD, _S.FAILED, offer=NEW,
           script={_S.FETCHING: _busy}, deadlines_s={"deferred": 20}),
    # Deadlines.
    _story("late-offered", "on-1.0.0", OLD, _S.FAILED, offer=f"{OLD} again",
           prepare=_deaf, script={_S.FAILED: _hearing}, deadlines_s={"offered": 20}),
    _story("late-fetching", "on-1.0.0", OLD, _S.FAILED, offer=NEW,
           prepare=_no_bytes, deadlines_s={"fetching": 20}),
    _story("late-gating", "on-1.0.0", OLD, _S.FAILED, offer=NEW,
           prepare=_trials_hang, deadlines_s={"gating": 20}),
    _story("late-probation", "on-1.0.0", OLD, _S.FAILED, offer=NEW,
           script={_S.GATING: _deaf, _S.ROLLING_BACK: _hearing}, deadlines_s={"probation": 20}),
    _story("late-back", "on-1.0.0", OLD, _S.INCONSISTENT, offer=UNFIT,
           script={_S.ROLLING_BACK: _deaf, _S.INCONSISTENT: _hearing},
           deadlines_s={"rolling-back": 20}),
    _story("after-late-back", "on-1.0.0", NEW, _S.COMMITTED, offer=UNFIT,
           script={_S.ROLLING_BACK: _deaf,
                   _S.INCONSISTENT: _both(_hearing, _publish(f"{NEW} again"))},
           deadlines_s={"rolling-back": 20}),
    # Things go wrong.
    _story("spoiled-once", "on-1.0.0", NEW, _S.COMMITTED, offer=NEW, prepare=_spoiled(1)),
    _story("spoiled", "on-1.0.0", OLD, _S.FAILED, offer=NEW, prepare=_spoiled(99)),
    *(_story(f"broken-{state.value}", "on-1.0.0", OLD, _S.FAILED, offer=NEW,
             prepare=_broken_in(state, name), deadlines_s={state.value: 20})
      for state, name in ((_S.FETCHING, "/partial/"), (_S.VERIFYING, "/releases/"),
                          (_S.STAGED, "candidate"), (_S.ACTIVATING, "current"))),
    _story("worn-out", f"in-gating{WORN}", OLD, _S.FAILED, offer=NEW),
    # Another offer, or none any more.
    *(_story(f"newer-{state.value}", f"in-{state.value}", NEWEST, _S.COMMITTED, offer=NEWEST)
      for state in _BEFORE_THE_SWITCH),
    *(_story(f"withdrawn-{state.value}", f"in-{state.value}", OLD, _S.IDLE, offer=WITHDRAWN)
      for state in _BEFORE_THE_SWITCH),
    _story("newer-in-gate", "on-1.0.0", NEWEST, _S.COMMITTED, offer=NEW,
           prepare=_trials_hang,
           script={_S.GATING: _both(_publish(NEWEST), lambda w: setattr(w, "trials_hang", False))}),
    _story("withdrawn-in-gate", "on-1.0.0", OLD, _S.IDLE, offer=NEW,
           prepare=_trials_hang, script={_S.GATING: _publish(WITHDRAWN)}),
    _story("newer-deferred", "on-1.0.0", NEWEST, _S.COMMITTED, offer=NEW,
           script={_S.FETCHING: _busy, _S.DEFERRED: _both(_publish(NEWEST), _free)}),
    _story("newer-beside-two", "on-1.1.0", NEW, _S.FAILED, offer=NEWEST,
           script={_S.FETCHING: _busy, _S.DEFERRED: _both(_publish(BAD), _free)}),
    _story("withdrawn-deferred", "on-1.0.0", OLD, _S.IDLE, offer=NEW,
           script={_S.FETCHING: _busy, _S.DEFERRED: _both(_publish(WITHDRAWN), _free)}),
    _story("after-refused", "on-1.0.0", NEW, _S.COMMITTED, offer=DAMAGED,
           script={_S.REJECTED: _publish(NEW)}),
    _story("after-failed", "on-1.0.0", NEW, _S.COMMITTED, offer=BAD,
           script={_S.FAILED: _publish(f"{NEW} again")}),
    # Another machine, damage, and a person, at every rest.
    *(_story(f"machine-after-{begin}", f"{begin}{OTHER_MACHINE}", NEW, _S.COMMITTED)
      for begin in ("on-1.1.0", f"after-{BAD}", f"after-{DAMAGED}", "after-nothing")),
    *(_story(f"damage-after-{begin}", f"{begin}{ROTTEN}", ends, state, keeps=False)
      for begin, ends, state in (
          ("on-1.1.0", NEW, _S.COMMITTED),
          (f"after-{BAD}", OLD, _S.FAILED),
          (f"after-{DAMAGED}", OLD, _S.FAILED),
          ("after-nothing", NEWEST, _S.COMMITTED),
      )),
    *(_story(f"by-hand-after-{begin}", begin, OLD, _S.FAILED, prepare=_asks_to_go_back,
             keeps=False)
      for begin in ("on-1.1.0", f"after-{BAD}", f"after-{DAMAGED}", "after-nothing")),
    _story("by-hand-probation", "on-1.0.0", OLD, _S.FAILED, offer=NEW,
           script={_S.GATING: _deaf, _S.PROBATION: _both(_send_back, _hearing)}),
    _story("no-longer-good", f"on-1.1.0{OTHER_MACHINE}", OLD, _S.FAILED, prepare=_no_trial_passes,
           keeps=False),
    _story("no-longer-good-worn", f"in-again{WORN}", OLD, _S.COMMITTED, keeps=False),
    _story("restarted-deferred", "in-deferred", NEW, _S.COMMITTED, offer=NEW),
    *(_story(f"restarted-{begin}", begin, NEW, state)
      for begin, state in (
          (f"after-{BAD}", _S.FAILED), (f"after-{DAMAGED}", _S.REJECTED), ("after-nothing", _S.IDLE)
      )),
    # A restart in every state that is not on the way of an update that ends well.
    *(_story(f"restarted-{name}", begin, ends, state, offer=UNFIT)
      for name, begin, ends, state in (
          ("rolling-back", "in-rolling-back", OLD, _S.FAILED),
          ("rolled-back", "in-rolled-back", OLD, _S.FAILED),
          ("inconsistent", "in-inconsistent", OLD, _S.INCONSISTENT),
      )),
)  # fmt: skip
"""One story at least uses each row; ``tests/unit/test_faults.py`` holds it to that."""
