"""What the doctor looks at, one function a check, and what a person is told about it.

Nothing here changes anything or takes a lock, so it may be asked while an agent works. A check
yields what it found; what it stumbles over it raises, and that is a finding too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from asdic.contract.errors import AsdicError, ConfigError, LinkError
from asdic.contract.files import parse_json, read_bounded
from asdic.contract.messages import Report, UpdateState
from asdic.contract.mqtt import check_broker
from asdic.device.application import Application, CurrentRelease
from asdic.device.application_folder import boot_id
from asdic.device.application_socket import BUSY_NAME
from asdic.device.beside import firmware_findings, ring_findings
from asdic.device.case import Case, Found, Level, as_error, as_ok, as_warning
from asdic.device.config import StateFolder
from asdic.device.disk_checks import check_disk, check_files, check_store
from asdic.device.identity import read_key
from asdic.device.log import read_log
from asdic.device.update.journal import Journal
from asdic.device.update.state import FINAL
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer
from asdic.device.update.trust import TrustFolder

CONNECT_S: Final = 3.0
DAY_S: Final = 86_400.0
FAR_AHEAD_S: Final = 2 * 365 * DAY_S
EXAM_LIMIT_BYTES: Final = 4096


def _identity(case: Case) -> Iterator[Found]:
    config = case.config
    read_key(case.state)
    manager = bare_address(config.server) or "no manager"
    yield as_ok(
        f"enrolled at {manager} as {config.device}; its permanent key is in order "
        "(no certificate: a device of this asdic has none)"
    )


def bare_address(url: str) -> str:
    """Return the address of a manager without a password that somebody wrote into it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _runs(case: Case) -> Iterator[Found]:
    """What the inferring program acknowledged, which is never what somebody wished."""
    agent = _ask_agent(case.state)
    if agent is None:
        yield as_error(
            f"no agent runs; {_last_word(case.report)}",
            f"start it: `asdic-agent run --state {case.state.path}`",
        )
        return
    loaded = case.report.loaded if case.report else None
    if agent.manifest is None:
        yield as_warning(
            "nothing: no release was installed yet", "push one to this box, or install one by hand"
        )
    elif loaded is None:
        yield as_error(
            f"nothing: no program has acknowledged {agent.version}",
            "look at the program that runs the model; the agent waits for it",
        )
    elif loaded.manifest != agent.manifest:
        yield as_warning(
            f"{loaded.version}, and the agent asks for {agent.version}",
            "wait a minute; if it stays so, restart the program that runs the model",
        )
    elif loaded.doubt:
        yield as_warning(
            f"{loaded.version} by the program's word, but the program is {loaded.doubt}",
            "restart the program that runs the model",
        )
    else:
        yield as_ok(f"{loaded.version}, {loaded.inferences} inferences by process {loaded.pid}")


def _ask_agent(state: StateFolder) -> CurrentRelease | None:
    """Return what a running agent wants to be run, or None where no agent runs.

    Raises:
        AsdicError: It does not answer, or its release is damaged.
    """
    try:
        agent = Application.connect(state.path)
    except LinkError:
        return None
    with agent:
        return agent.current()


def _last_word(report: Report | None) -> str:
    if report is None:
        return "and none has ever reported"
    what = f"{report.loaded.version} running" if report.loaded else "nothing running"
    return f"the last report, number {report.number} of {_clock(report.time_s)}, has {what}"


def _update(case: Case) -> Iterator[Found]:
    """Why it is not the newest release that runs."""
    journal = case.journal
    name = journal.version or journal.rollout or "an update"
    reason = journal.refusal.message if journal.refusal else "no reason was kept"
    match journal.state:
        case UpdateState.IDLE:
            yield as_ok("no update is in hand")
        case UpdateState.COMMITTED:
            yield as_ok(f"{name} is committed; no newer one was offered to this box")
        case UpdateState.REJECTED | UpdateState.FAILED:
            yield as_warning(
                f"{name} {journal.state.value}: {reason}",
                "the box stays on what it runs; push a release that this does not hold for",
            )
        case UpdateState.INCONSISTENT:
            yield as_error(
                f"{name} could not be taken back: {reason}", "install a release by hand, here"
            )
        case UpdateState.DEFERRED:
            yield as_warning(
                f"{name} waits for the end of an exam{_until(case)}",
                "it goes on by itself when the program says that it is no longer busy",
            )
        case _:
            yield as_ok(f"{name} is {journal.state.value}")
    yield from _given_up(journal)


def _until(case: Case) -> str:
    """Return when the exam ends at the latest, as the program said."""
    path = case.state.application / BUSY_NAME
    try:
        exam = parse_json(read_bounded(path, EXAM_LIMIT_BYTES), _Exam, what=str(path))
    except ConfigError:
        return ""
    left_s = exam.until_s - time.monotonic()
    is_on = exam.boot == boot_id() and left_s > 0
    return f", until {_clock(case.now_s + left_s)} at the latest" if is_on else ""


class _Exam(msgspec.Struct, frozen=True):
    """Until when a program is busy, on the monotonic clock of one boot."""

    boot: str
    until_s: float


def _given_up(journal: Journal) -> Iterator[Found]:
    failed = [one.rollout for one in journal.finished if one.state is UpdateState.FAILED]
    if failed and journal.state is not UpdateState.FAILED:
        yield as_warning(
            f"failed here, and not tried again by itself: {', '.join(failed)}",
            "`asdic-agent install` tries a release again because a person asks for it",
        )


def _clock_check(case: Case) -> Iterator[Found]:
    issued_s = TrustFolder(case.state.trust, Storage()).read().floor.issued_at
    newest = f"the newest signed time that this box has seen is {_clock(issued_s)}"
    if not issued_s:
        yield as_ok(f"{_clock(case.now_s)}; no signed time was seen yet to compare it with")
    elif case.now_s < issued_s:
        yield as_warning(
            f"{_clock(case.now_s)} is too early: {newest}",
            "set the clock, or replace its battery; updates go by the signed time meanwhile",
        )
    elif case.now_s > issued_s + FAR_AHEAD_S:
        yield as_error(
            f"{_clock(case.now_s)} is implausibly late: {newest}",
            "set the clock: every offer looks expired to this box",
        )
    else:
        yield as_ok(f"{_clock(case.now_s)}, later than the newest signed time, {_clock(issued_s)}")


def _link(case: Case) -> Iterator[Found]:
    broker, trust = case.config.broker, TrustFolder(case.state.trust, Storage())
    try:
        check_broker(broker, timeout_s=CONNECT_S, signed_s=trust.newest_signed_s())
    except AsdicError as error:
        yield as_warning(
            str(error),
            "look at cable, network and firewall; the model runs on, updates have to wait "
            "or come on a USB stick (`asdic-agent install`)",
        )
    else:
        yield as_ok(f"the broker at {broker} answers")


def _firmware(case: Case) -> Iterator[Found]:
    current = case.store.pointer(Pointer.CURRENT)
    part = case.store.variant(current).firmware if current is not None else None
    may_ask = case.journal.state in FINAL
    for level, found, advice in firmware_findings(case.config, part, may_ask=may_ask):
        yield Level(level), found, advice


def _frames(case: Case) -> Iterator[Found]:
    for level, found, advice in ring_findings(case.config):
        yield Level(level), found, advice


def _log(case: Case) -> Iterator[Found]:
    count = len(read_log(case.state).splitlines())
    yield as_ok(f"{count} warnings and errors are kept" if count else "no warnings are kept")


CHECKS: Final = MappingProxyType[str, Callable[[Case], Iterable[Found]]](
    {
        "runs": _runs,
        "update": _update,
        "store": check_store,
        "files": check_files,
        "disk": check_disk,
        "clock": _clock_check,
        "firmware": _firmware,
        "frames": _frames,
        "identity": _identity,
        "link": _link,
        "log": _log,
    }
)
"""What is looked at, in the order in which a support line asks."""


def _clock(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
