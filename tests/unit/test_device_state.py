"""A device's files and numbers: configuration, key, journal, reports, the gate's verdict."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import (
    ConfigError,
    DigestError,
    IncompatibleTargetError,
    InstallError,
    LinkError,
    ReleaseError,
)
from asdic.contract.files import parse_json
from asdic.contract.messages import REPORT_TYPE, Loaded, Refusal, Report, RuntimeFacts, UpdateState
from asdic.contract.trust import open_envelope, public_hex
from asdic.contract.variant import Limits
from asdic.device.application import Program
from asdic.device.config import AgentConfig, StateFolder, Timing, read_config, write_config
from asdic.device.identity import make_key, read_key
from asdic.device.reports import Reporter, read_last_report
from asdic.device.update.gate import judge
from asdic.device.update.journal import (
    Finished,
    Journal,
    JournalFile,
    journal_again,
    with_finished,
)
from asdic.device.update.machine import SYSTEM_FILES, Machine, system_fingerprint
from asdic.device.update.refusal import RefusedInstallError, refusal_for
from asdic.device.update.sealed import seal_line
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointers, Store
from asdic.device.update.trial import Measured

CONFIG = AgentConfig(
    device="box1",
    target="x86-litert-int8",
    server="http://127.0.0.1:8080",
    broker=BrokerAddress(host="::1", port=1883),
    tags={"site name": 'north "1" \\ \n ü'},
    timing=Timing(deadlines_s={"probation": 3.5}),
)
DIGEST = "sha256:" + 64 * "a"
MEASURED = Measured(
    has_golden=True,
    golden_reason="",
    outputs_checked=8,
    worst_difference=0.0,
    metric="dice",
    measured=90.0,
    limit=89.0,
    latency_ms_p50=10.0,
    load_s=1.0,
    memory_bytes=100 << 20,
    slowdown=1.0,
)


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path)


def test_a_configuration_is_read_as_it_was_written(state: StateFolder) -> None:
    write_config(state, CONFIG)
    assert read_config(state) == CONFIG


def test_an_unknown_key_in_the_configuration_is_an_error(state: StateFolder) -> None:
    write_config(state, CONFIG)
    state.config.write_text('brocker = "x"\n' + state.config.read_text("utf-8"), "utf-8")
    with pytest.raises(ConfigError, match=r"agent\.toml: .*brocker"):
        read_config(state)


def test_broken_toml_is_one_clear_line(state: StateFolder) -> None:
    state.config.write_text("device = ", "utf-8")
    with pytest.raises(ConfigError, match=r"agent\.toml: "):
        read_config(state)


def test_an_unknown_target_is_named(state: StateFolder) -> None:
    write_config(state, msgspec.structs.replace(CONFIG, target="vax-int8"))
    with pytest.raises(ConfigError, match="unknown target 'vax-int8'"):
        read_config(state)


def test_a_deadline_of_the_configuration_overrides_the_table() -> None:
    assert CONFIG.timing.deadline_s(UpdateState.PROBATION) == 3.5
    assert CONFIG.timing.deadline_s(UpdateState.COMMITTED) is None


def test_the_key_is_made_once(state: StateFolder) -> None:
    key = make_key(state, Storage())
    assert public_hex(make_key(state, Storage())) == public_hex(key)


def test_a_key_that_others_may_read_is_not_used(state: StateFolder) -> None:
    make_key(state, Storage())
    state.key.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        read_key(state)


def test_a_damaged_key_is_named(state: StateFolder) -> None:
    make_key(state, Storage())
    state.key.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=r"key\.pem is damaged"):
        read_key(state)


def test_a_journal_is_read_as_it_was_written(state: StateFolder) -> None:
    file = JournalFile(state.journal, Storage())
    journal = Journal(state=UpdateState.GATING, rollout="r", manifest="sha256:aa", restarts=2)
    file.write(journal)
    assert file.read() == journal


def test_a_device_without_a_journal_is_idle(state: StateFolder) -> None:
    assert JournalFile(state.journal, Storage()).read().state is UpdateState.IDLE


@pytest.mark.parametrize(
    ("pointers", "expected"),
    [
        (Pointers(), UpdateState.IDLE),
        (Pointers(current="a", previous="b"), UpdateState.IDLE),
        (Pointers(current="a", candidate="c"), UpdateState.IDLE),
        (Pointers(current="c", previous="a", candidate="c"), UpdateState.ROLLING_BACK),
    ],
)
def test_a_damaged_journal_is_made_up_for_by_the_pointers(
    state: StateFolder, pointers: Pointers, expected: UpdateState
) -> None:
    state.journal.write_bytes(b'{"state": "gat')
    journal = JournalFile(state.journal, Storage()).read_or_recover(pointers, lambda _: None)
    assert journal.state is expected
    if expected is UpdateState.ROLLING_BACK:
        assert journal.previous == pointers.previous


def test_the_list_of_finished_updates_stays_short() -> None:
    journal = Journal(rollout="r", offer="o", state=UpdateState.FAILED)
    for number in range(19):
        journal = with_finished(msgspec.structs.replace(journal, rollout=f"r{number}"))
    for _ in range(2):
        journal = with_finished(msgspec.structs.replace(journal, rollout="r"))
    assert len(journal.finished) == 8
    assert journal.finished[-1] == Finished(
        rollout="r", offer="o", manifest=None, state=UpdateState.FAILED
    )


def test_a_person_overrides_the_exam_of_this_update_and_of_no_later_gate() -> None:
    done = Journal(state=UpdateState.COMMITTED, manifest="m", version="1", by_person=True)
    assert journal_again(done, "m", "1") == msgspec.structs.replace(done, by_person=False)


@pytest.fixture
def sent() -> list[bytes]:
    return []


def reporter(state: StateFolder, sent: list[bytes]) -> Reporter:
    storage = Storage()
    return Reporter(state, CONFIG, make_key(state, storage), storage, sent.append)


def opened(state: StateFolder, envelope: bytes) -> Report:
    payload = open_envelope(envelope, REPORT_TYPE, public_hex(read_key(state)))
    return parse_json(payload, Report, what="report")


def test_a_report_is_signed_by_the_device(state: StateFolder, sent: list[bytes]) -> None:
    reporter(state, sent).report(Journal(), Program())
    assert opened(state, sent[0]).device == "box1"


def test_numbers_grow_over_restarts(state: StateFolder, sent: list[bytes]) -> None:
    for _ in range(3):
        reporter(state, sent).report(Journal(), Program())
    assert [opened(state, envelope).number for envelope in sent] == [1, 2, 3]


def test_a_number_is_used_up_before_the_report_is_sent(state: StateFolder) -> None:
    numbers = []
    storage = Storage()

    def send(_envelope: bytes) -> None:
        numbers.append(state.report_number.read_bytes().partition(b"\n")[0])

    Reporter(state, CONFIG, make_key(state, storage), storage, send).report(Journal(), Program())
    assert numbers == [b'{"schema":2,"number":1}']


def test_a_damaged_number_is_no_new_beginning(state: StateFolder, sent: list[bytes]) -> None:
    reporter(state, sent).report(Journal(), Program())
    state.report_number.write_bytes(b"\x00")
    state.last_report.unlink()
    with pytest.raises(ConfigError, match="number is damaged"):
        reporter(state, sent)


@pytest.mark.parametrize("damage", [b"", b"\x00", b'{"schema":2,"number":9}\n' + 64 * b"0"])
def test_a_damaged_number_goes_on_after_that_of_the_last_report(
    state: StateFolder, sent: list[bytes], damage: bytes
) -> None:
    reporter(state, sent).report(Journal(), Program())
    state.report_number.write_bytes(damage)
    reporter(state, sent).report(Journal(), Program())
    assert [opened(state, envelope).number for envelope in sent] == [1, 3]


def test_a_lost_number_goes_on_after_that_of_the_last_report(
    state: StateFolder, sent: list[bytes]
) -> None:
    reporter(state, sent).report(Journal(), Program())
    state.report_number.unlink()
    reporter(state, sent).report(Journal(), Program())
    assert [opened(state, envelope).number for envelope in sent] == [1, 3]


def test_the_number_of_the_first_agents_is_read(state: StateFolder, sent: list[bytes]) -> None:
    reporter(state, sent)
    state.report_number.write_bytes(b"41")
    reporter(state, sent).report(Journal(), Program())
    assert opened(state, sent[0]).number == 42


def test_a_newer_agents_number_is_read(state: StateFolder, sent: list[bytes]) -> None:
    reporter(state, sent)
    state.report_number.write_bytes(seal_line(b'{"schema":3,"number":41,"more":true}'))
    reporter(state, sent).report(Journal(), Program())
    assert opened(state, sent[0]).number == 42


def test_more_inferences_alone_are_no_news(state: StateFolder, sent: list[bytes]) -> None:
    loaded = Loaded(manifest="sha256:aa", version="1", pid=7, inferences=1)
    target = reporter(state, sent)
    target.report_news(Journal(), Program(loaded=loaded))
    more = msgspec.structs.replace(loaded, inferences=100)
    target.report_news(Journal(), Program(loaded=more))
    assert len(sent) == 1


def test_a_model_that_is_gone_is_news(state: StateFolder, sent: list[bytes]) -> None:
    loaded = Loaded(manifest="sha256:aa", version="1", pid=7, inferences=1)
    target = reporter(state, sent)
    target.report_news(Journal(), Program(loaded=loaded))
    target.report_news(Journal(), Program())
    assert opened(state, sent[1]).loaded is None


def test_the_last_report_can_be_read_at_the_box(state: StateFolder, sent: list[bytes]) -> None:
    assert read_last_report(state) is None
    reporter(state, sent).report(Journal(), Program())
    assert read_last_report(state) == opened(state, sent[0])


def test_a_candidate_within_its_limits_passes() -> None:
    verdict = judge(MEASURED, Limits(latency_ms=11.0))
    assert not isinstance(verdict, Refusal)
    assert verdict.latency_ms_p50 == 10.0


@pytest.mark.parametrize(
    ("changes", "limits", "code"),
    [
        ({"has_golden": False}, Limits(), "no-golden"),
        ({"golden_reason": "differs"}, Limits(), "golden"),
        ({"load_s": 61.0}, Limits(), "load-time"),
        ({"memory_bytes": 3 << 30}, Limits(), "memory"),
        ({"latency_ms_p50": 12.0}, Limits(latency_ms=11.0), "latency"),
        ({"slowdown": 3.5}, Limits(), "slowdown"),
        ({"slowdown": float("nan")}, Limits(), "crash"),
        ({"latency_ms_p50": float("inf")}, Limits(), "crash"),
    ],
)
def test_a_candidate_that_breaks_a_limit_is_refused(
    changes: dict[str, object], limits: Limits, code: str
) -> None:
    verdict = judge(msgspec.structs.replace(MEASURED, **changes), limits)
    assert isinstance(verdict, Refusal)
    assert verdict.code == code


def test_without_a_current_model_nothing_is_slower() -> None:
    measured = msgspec.structs.replace(MEASURED, slowdown=None)
    assert not isinstance(judge(measured, Limits()), Refusal)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DigestError("x"), "damaged"),
        (IncompatibleTargetError("x"), "wrong-target"),
        (ReleaseError("x"), "release"),
        (InstallError("x"), "device"),
        (LinkError("x"), "link"),
        (ConfigError("x"), "device"),
        (RefusedInstallError("no-space", "x"), "no-space"),
    ],
)
def test_a_refusal_has_a_code_for_machines(error: ReleaseError, code: str) -> None:
    assert refusal_for(error) == Refusal(code=code, message="x")


@pytest.mark.parametrize("name", SYSTEM_FILES)
def test_a_new_system_image_or_power_mode_is_another_machine(tmp_path: Path, name: str) -> None:
    machine = Machine(system=system_fingerprint(tmp_path))
    assert not machine.differs(system_fingerprint(tmp_path), None)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("new")
    assert machine.differs(system_fingerprint(tmp_path), None)


def test_a_new_runtime_is_another_machine() -> None:
    old, new = (RuntimeFacts(runtime="litert", version=version) for version in "12")
    assert not Machine(system="", trial=old).differs("", old)
    assert Machine(system="", trial=old).differs("", new)


def test_a_program_with_a_runtime_of_its_own_was_there_at_the_gate() -> None:
    trial, own = RuntimeFacts(runtime="litert", version="1"), RuntimeFacts(runtime="x", version="1")
    assert not Machine(system="", trial=trial, program=own).differs("", own)


def test_a_damaged_note_of_the_machine_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path, Storage()).prepare()
    store.write_machine(DIGEST, Machine(system="x"))
    assert store.machine(DIGEST) == Machine(system="x")
    store.machine_path(DIGEST).write_bytes(b"{")
    assert store.machine(DIGEST) is None
