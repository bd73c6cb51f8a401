"""What the doctor looks at, one function a check, and what a person is told about it.

Nothing here changes anything or takes a lock, so it may be asked while an agent works. A check
yields what it found; what it stumbles over it raises, and that is a finding too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import msgspec

from asdic.contract.broker import check_broker
from asdic.contract.errors import AsdicError, ConfigError, LinkError
from asdic.contract.files import check_digest, parse_json, read_bounded
from asdic.contract.messages import Report, UpdateState
from asdic.contract.release import FILE_NAME, Descriptor, Manifest
from asdic.contract.variant import VARIANT_FILE
from asdic.device.application import Application, CurrentRelease
from asdic.device.application_folder import boot_id
from asdic.device.application_socket import BUSY_NAME
from asdic.device.beside import firmware_findings, ring_findings
from asdic.device.config import AgentConfig, StateFolder, read_config
from asdic.device.identity import read_key
from asdic.device.log import read_log
from asdic.device.reports import read_last_report
from asdic.device.update.fetch import SPARE_BYTES, SPARE_FILES
from asdic.device.update.journal import Journal, JournalFile
from asdic.device.update.sealed import unseal_line
from asdic.device.update.state import FINAL
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer, Store
from asdic.device.update.trust import MEMORY_LIMIT_BYTES, TrustFolder

CONNECT_S: Final = 3.0
DAY_S: Final = 86_400.0
FAR_AHEAD_S: Final = 2 * 365 * DAY_S
EXAM_LIMIT_BYTES: Final = 4096
MIB: Final = 1 << 20


class Level(str, Enum):
    """How bad a finding is. ``error``: this box does not do its work, or soon will not."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Case:
    """The box that is examined, and the time by its own clock."""

    state: StateFolder
    now_s: float

    @property
    def config(self) -> AgentConfig:
        """The content of ``agent.toml``."""
        return read_config(self.state)

    @property
    def journal(self) -> Journal:
        """Where the update in hand stands."""
        return JournalFile(self.state.journal, Storage()).read()

    @property
    def store(self) -> Store:
        """Blobs, releases and pointers."""
        return Store(self.state.path, Storage())

    @cached_property
    def report(self) -> Report | None:
        """The last report."""
        return read_last_report(self.state)


Found: TypeAlias = tuple[Level, str, str]
"""How bad it is, what was found, and what to do about it."""


def _ok(found: str) -> Found:
    return Level.OK, found, ""


def _warning(found: str, advice: str) -> Found:
    return Level.WARNING, found, advice


def _error(found: str, advice: str) -> Found:
    return Level.ERROR, found, advice


def _identity(case: Case) -> Iterator[Found]:
    config = case.config
    read_key(case.state)
    manager = bare_address(config.server) or "no manager"
    yield _ok(
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
        yield _error(
            f"no agent runs; {_last_word(case.report)}",
            f"start it: `asdic-agent run --state {case.state.path}`",
        )
        return
    loaded = case.report.loaded if case.report else None
    if agent.manifest is None:
        yield _warning(
            "nothing: no release was installed yet", "push one to this box, or install one by hand"
        )
    elif loaded is None:
        yield _error(
            f"nothing: no program has acknowledged {agent.version}",
            "look at the program that runs the model; the agent waits for it",
        )
    elif loaded.manifest != agent.manifest:
        yield _warning(
            f"{loaded.version}, and the agent asks for {agent.version}",
            "wait a minute; if it stays so, restart the program that runs the model",
        )
    elif loaded.doubt:
        yield _warning(
            f"{loaded.version} by the program's word, but the program is {loaded.doubt}",
            "restart the program that runs the model",
        )
    else:
        yield _ok(f"{loaded.version}, {loaded.inferences} inferences by process {loaded.pid}")


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
            yield _ok("no update is in hand")
        case UpdateState.COMMITTED:
            yield _ok(f"{name} is committed; no newer one was offered to this box")
        case UpdateState.REJECTED | UpdateState.FAILED:
            yield _warning(
                f"{name} {journal.state.value}: {reason}",
                "the box stays on what it runs; push a release that this does not hold for",
            )
        case UpdateState.INCONSISTENT:
            yield _error(
                f"{name} could not be taken back: {reason}", "install a release by hand, here"
            )
        case UpdateState.DEFERRED:
            yield _warning(
                f"{name} waits for the end of an exam{_until(case)}",
                "it goes on by itself when the program says that it is no longer busy",
            )
        case _:
            yield _ok(f"{name} is {journal.state.value}")
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
        yield _warning(
            f"failed here, and not tried again by itself: {', '.join(failed)}",
            "`asdic-agent install` tries a release again because a person asks for it",
        )


def _disk(case: Case) -> Iterator[Found]:
    facts = os.statvfs(case.state.path)
    free = facts.f_bavail * facts.f_frsize
    what, needed = _next_need(case)
    found = f"{free // MIB} MiB free, the store takes {_size(case.state.path) // MIB} MiB; {what}"
    advice = f"free space on the file system of {case.state.path}"
    yield _ok(found) if free >= needed + SPARE_BYTES else _error(found, advice)
    if facts.f_files and facts.f_favail < SPARE_FILES:
        yield _error(f"only {facts.f_favail} inodes are free", advice)


def _next_need(case: Case) -> tuple[str, int]:
    """Return what the release in hand, or the next one, needs on the disk; 0 where unknown."""
    store = case.store
    current = store.pointer(Pointer.CURRENT)
    try:
        in_hand = case.journal.manifest if case.journal.state not in FINAL else None
        if in_hand is not None and in_hand != current:
            needed = sum(blob.size for blob in store.missing(store.manifest(in_hand)))
            return f"the update in hand needs {needed // MIB + 1} MiB more", needed
        if current is not None:
            needed = sum(blob.size for blob in store.manifest(current).blobs)
            return f"another release like the current one needs {needed // MIB + 1} MiB", needed
    except (AsdicError, OSError):
        pass
    return "what the next release needs is not known", 0


def _size(folder: Path) -> int:
    """Return what the files below ``folder`` take on the disk, each once however often linked."""
    taken: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            facts = Path(place, name).lstat()
            taken[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return sum(taken.values())


def _clock_check(case: Case) -> Iterator[Found]:
    issued_s = TrustFolder(case.state.trust, Storage()).read().floor.issued_at
    newest = f"the newest signed time that this box has seen is {_clock(issued_s)}"
    if not issued_s:
        yield _ok(f"{_clock(case.now_s)}; no signed time was seen yet to compare it with")
    elif case.now_s < issued_s:
        yield _warning(
            f"{_clock(case.now_s)} is too early: {newest}",
            "set the clock, or replace its battery; updates go by the signed time meanwhile",
        )
    elif case.now_s > issued_s + FAR_AHEAD_S:
        yield _error(
            f"{_clock(case.now_s)} is implausibly late: {newest}",
            "set the clock: every offer looks expired to this box",
        )
    else:
        yield _ok(f"{_clock(case.now_s)}, later than the newest signed time, {_clock(issued_s)}")


def _link(case: Case) -> Iterator[Found]:
    broker, trust = case.config.broker, TrustFolder(case.state.trust, Storage())
    try:
        check_broker(broker, timeout_s=CONNECT_S, signed_s=trust.newest_signed_s())
    except AsdicError as error:
        yield _warning(
            str(error),
            "look at cable, network and firewall; the model runs on, updates have to wait "
            "or come on a USB stick (`asdic-agent install`)",
        )
    else:
        yield _ok(f"the broker at {broker} answers")


def _store(case: Case) -> Iterator[Found]:
    """Every file of the current and the previous release against its signed digest."""
    for name, say in ((Pointer.CURRENT, _error), (Pointer.PREVIOUS, _warning)):
        digest = case.store.pointer(name)
        if digest is None:
            yield _ok(f"there is no {name.value} release")
            continue
        try:
            count = _check_release(case.store, digest)
        except (AsdicError, OSError) as error:
            yield say(f"the {name.value} release is damaged: {error}", _REPAIR[name])
        else:
            yield _ok(f"all {count} files of the {name.value} release have their signed digests")


_REPAIR: Final = MappingProxyType(
    {
        Pointer.CURRENT: "go back with `asdic-agent rollback`, or push a release; check the disk",
        Pointer.PREVIOUS: "there is no way back until the next update; check the disk",
    }
)


def _check_release(store: Store, digest: str) -> int:
    """Check a release's files and return how many there are.

    Raises:
        AsdicError: One is missing or damaged.
    """
    folder = store.release_folder(digest)
    files = tuple(release_files(store.manifest(digest)))
    for name, blob in files:
        check_digest(folder / name, digest=blob.digest, size_bytes=blob.size)
    return len(files)


def release_files(manifest: Manifest) -> Iterator[tuple[str, Descriptor]]:
    """Yield the name and the description of each file in a release's folder."""
    yield VARIANT_FILE, manifest.config
    yield from ((layer.annotations[FILE_NAME], layer) for layer in manifest.layers)


def _files(case: Case) -> Iterator[Found]:
    """The agent's own small files, each with its seal, and the pointers."""
    state, trust = case.state, case.state.trust
    memory = tuple(
        trust / name
        for name in ("floor.json", "metadata.json", "image-root.json", "director-root.json")
    )
    files = (state.journal, state.report_number, state.path / "store" / "schema.json", *memory)
    damaged = [path for path in files if not _is_whole(path)]
    for path in damaged:
        yield _error(
            f"{path.relative_to(state.path)} is damaged",
            "the agent goes on with what is left; check the disk, and enrol again if it does not",
        )
    for name in Pointer:
        digest = case.store.pointer(name)
        if digest is not None and not case.store.release_folder(digest).is_dir():
            yield _error(f"{name.value} points to a release that is not there", "push a release")
    if case.report is None and state.last_report.exists():
        yield _warning("the last report is damaged", "the next one replaces it")
    if not damaged:
        yield _ok("journal, trust, numbers and pointers can be read")


def _is_whole(path: Path) -> bool:
    """Return whether a sealed file is what was written; one that is not there has no damage."""
    if not path.exists():
        return True
    try:
        data = read_bounded(path, MEMORY_LIMIT_BYTES)
        return data.isdigit() or bool(unseal_line(data, what=path.name))
    except ConfigError:
        return False


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
    yield _ok(f"{count} warnings and errors are kept" if count else "no warnings are kept")


CHECKS: Final = MappingProxyType[str, Callable[[Case], Iterable[Found]]](
    {
        "runs": _runs,
        "update": _update,
        "store": _store,
        "files": _files,
        "disk": _disk,
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
