"""The fleet's verbs as a person types them: output, exit codes, one clear line for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from asdic.cli.console import run
from asdic.cli.main import asdic
from asdic.contract.messages import UpdateState
from asdic.contract.release import Layout
from asdic.fleet.manager import FleetConfig
from asdic.fleet.server import running
from asdic.fleet.transfer import TransferLimits
from tests.support.fleet import LITERT, OPENVINO, add_release, add_signed_release, write_variant
from tests.support.paper_box import PaperBox, enrol_over_http, enrolment


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Verb = Callable[..., Outcome]


@pytest.fixture
def verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Verb:
    """Run ``asdic WORDS`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["asdic", *words])
        code = run(asdic, "asdic")
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def served(tmp_path: Path) -> Iterator[FleetConfig]:
    add_signed_release(tmp_path / "releases", "1.0.0")
    config = FleetConfig(
        state=tmp_path / "fleet",
        releases=tmp_path / "releases",
        tick_s=0.02,
        transfer=TransferLimits(gather_s=0.1),
    )
    with running(config):
        yield config


@contextmanager
def box_online(verb: Verb, config: FleetConfig, **fields: Any) -> Iterator[PaperBox]:
    box = PaperBox("box-1", LITERT, **fields)
    token = verb("token").out.strip()
    url = json.loads((config.state / "serve.json").read_text())["url"]
    grant = enrol_over_http(url, enrolment(token, box.device, box.key, LITERT), token)
    box.connect(grant.broker_host, grant.broker_port)
    try:
        yield box
    finally:
        box.close()


def test_variants_are_packed_signed_and_inspected(verb: Verb, tmp_path: Path) -> None:
    for target in (LITERT, OPENVINO):
        write_variant(tmp_path / "variants" / target, target)
    packed = verb("pack", "variants", "--version", "1.0.0")
    assert packed.code == 0
    assert f"packed release 1.0.0 with 2 variants: {LITERT}, {OPENVINO}" in packed.out
    assert verb("pack", "variants", "--version", "1.0.0", "--json").json["signed"] is False
    signed = verb("sign", "releases")
    assert "keep root.pem and targets.pem offline" in signed.out
    assert verb("sign", "releases").out == "release 1.0.0: was signed\n"
    assert verb("sign", "releases", "--json").json == {"keys_made": [], "signed": {"1.0.0": []}}
    view = verb("inspect", "releases", "1.0.0", "--json").json
    assert view["signed"] is True
    assert [variant["target"] for variant in view["variants"]] == [LITERT, OPENVINO]
    assert "Release 1.0.0 · signed" in verb("inspect", "releases").out
    assert LITERT in verb("inspect", f"variants/{LITERT}").out


def test_packing_other_variants_under_a_used_version_fails(verb: Verb, tmp_path: Path) -> None:
    add_release(tmp_path / "releases", "1.0.0")
    write_variant(tmp_path / "variants" / LITERT, model=b"another")
    outcome = verb("pack", "variants", "--version", "1.0.0")
    assert outcome.code == 1
    assert outcome.err == (
        "asdic: release 1.0.0 exists with other variants; choose a new version\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pack", "none", "--version", "1.0.0"), "asdic: none is not a folder of variants\n"),
        (
            ("pack", "none", "--version", "one"),
            "asdic: 'one' is not a version; write it like 1.2.0\n",
        ),
        (("sign", "none"), "asdic: none is not a release folder (no OCI image layout in it)\n"),
        (("inspect", "none"), "asdic: none is not a release folder (no OCI image layout in it)\n"),
        (("serve", "--broker", "nowhere"), "asdic: 'nowhere' is not a broker's address"),
        (("serve", "--broker", "127.0.0.1:9", "--port", "0"), "asdic: no broker at 127.0.0.1:9"),
        (("status",), "asdic: no server runs on fleet; start one with `asdic serve"),
        (("push", "1.0.0"), "asdic: no server runs on fleet"),
        (("rollback",), "asdic: no server runs on fleet"),
        (("rollout", "list"), "asdic: no server runs on fleet"),
        (("token",), "asdic: no server runs on fleet"),
        (("export", "1.0.0", "--out", "x"), "asdic: no server runs on fleet"),
    ],
)
def test_a_mistake_is_one_clear_line(verb: Verb, words: tuple[str, ...], message: str) -> None:
    outcome = verb(*words)
    assert outcome.code == 1
    assert outcome.err.startswith(message)
    assert outcome.err.count("\n") == 1


def test_a_disk_that_takes_no_more_leaves_no_release_behind(tmp_path: Path) -> None:
    write_variant(tmp_path / "variants" / LITERT, model=b"x" * (5 << 20))
    pack = "from asdic.cli.main import main; main()"
    words = ("pack", "variants", "--version", "1.0.0")
    result = subprocess.run(
        ["bash", "-c", 'ulimit -f 4096; exec "$@"', "-", sys.executable, "-c", pack, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("asdic: ")
    assert result.stderr.count("\n") == 1
    assert Layout.open(tmp_path / "releases").versions() == ()
    assert list((tmp_path / "releases" / "blobs" / "sha256").iterdir()) == []


def test_a_damaged_release_is_not_signed(verb: Verb, tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    blob = layout.variant(layout.release("1.0.0"), LITERT).files[0].digest
    layout.blob_path(blob).write_bytes(b"mo")
    outcome = verb("sign", "releases")
    assert outcome.code == 1
    assert "has 2 bytes, 27 were signed" in outcome.err
    assert "damaged: " in verb("inspect", "releases").out


def test_a_push_that_is_waited_for_ends_with_its_outcome(verb: Verb, served: FleetConfig) -> None:
    with box_online(verb, served):
        outcome = verb("push", "1.0.0", "--to", "all", "--canary", "1", "--wait", "--json")
    assert outcome.code == 0
    view = outcome.json
    assert (view["state"], view["committed"], view["failed"]) == ("finished", 1, 0)
    assert view["devices"] == [{"id": "box-1", "stage": 1, "state": "committed", "refusal": None}]
    assert view["stages"] == [
        {"devices": ["box-1"], "state": "passed", "reason": "1 of 1 committed"}
    ]
    assert {"time_s", "kind", "detail"} == set(view["events"][0])


def test_a_halted_push_is_exit_code_1_and_says_why(verb: Verb, served: FleetConfig) -> None:
    with box_online(verb, served, outcome=UpdateState.FAILED):
        outcome = verb("push", "1.0.0", "--wait")
    assert outcome.code == 1
    assert "is halted: stage 1: box-1 failed: golden-mismatch: outputs differ by 0.5" in outcome.err
    assert "1 failed" in outcome.out


def test_status_and_rollout_speak_json_and_people(verb: Verb, served: FleetConfig) -> None:
    with box_online(verb, served):
        verb("push", "1.0.0", "--wait")
        device = verb("status", "--json").json["devices"][0]
    wanted = {"id": "box-1", "target": LITERT, "runtime": "litert", "release": "1.0.0"}
    assert wanted.items() <= device.items()
    assert (device["simulated"], device["state"], device["report_number"]) == (
        False,
        "committed",
        3,
    )
    assert "box-1" in verb("status").out
    listed = verb("rollout", "list", "--json").json
    shown = verb("rollout", "show", listed[0]["id"], "--json").json
    assert shown["release"] == "1.0.0"
    assert "offered to box-1 (stage 1)" in verb("rollout", "show").out
    assert "1 of 1" in verb("rollout", "list").out


def test_a_rollout_is_paused_resumed_and_aborted(verb: Verb, served: FleetConfig) -> None:
    with box_online(verb, served, fetches=False):
        verb("push", "1.0.0")
        assert verb("rollout", "pause", "--json").json["state"] == "paused"
        assert verb("rollout", "resume", "--json").json["state"] == "running"
        assert verb("rollout", "abort", "--json").json["state"] == "cancelled"
        outcome = verb("rollout", "resume")
    assert outcome.code == 1
    assert outcome.err == "asdic: a rollout that is cancelled cannot resume\n"


def test_one_command_rolls_the_fleet_back(verb: Verb, served: FleetConfig) -> None:
    add_signed_release(served.releases, "1.1.0")
    with box_online(verb, served) as box:
        verb("push", "1.0.0", "--wait")
        verb("push", "1.1.0", "--wait")
        outcome = verb("rollback", "--wait", "--json")
        assert box.loaded is not None
        assert box.loaded.version == "1.0.0"
    assert (outcome.code, outcome.json["release"]) == (0, "1.0.0")


def test_a_release_is_exported_for_a_box_without_a_network(
    verb: Verb, served: FleetConfig, tmp_path: Path
) -> None:
    with box_online(verb, served):
        outcome = verb("export", "1.0.0", "--to", "box-1", "--out", "stick/releases")
        again = verb("export", "1.0.0", "--out", "stick/releases", "--json")
    assert outcome.code == 0
    assert again.json["devices"] == ["box-1"]
    copy = Layout.open(tmp_path / "stick" / "releases")
    assert copy.versions() == ("1.0.0",)
    assert (copy.folder / "offers" / "box-1.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("push", "9.9.9"), r"holds no release '9.9.9'; it holds: 1.0.0"),
        (("push", "1.0.0", "--to", "ghost"), "there is no device 'ghost'"),
        (("push", "1.0.0", "--stages", "1,2"), "leave devices out"),
        (("rollout", "show"), "there is no rollout yet"),
        (("rollback",), "no other release finished before"),
    ],
)
def test_a_wish_that_the_server_refuses_is_one_clear_line(
    verb: Verb, served: FleetConfig, words: tuple[str, ...], message: str
) -> None:
    with box_online(verb, served):
        outcome = verb(*words)
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_unsigned_release_is_refused_with_what_to_do(verb: Verb, served: FleetConfig) -> None:
    add_release(served.releases, "1.1.0")
    with box_online(verb, served):
        outcome = verb("push", "1.1.0")
    assert outcome.code == 1
    assert "release 1.1.0 is not signed; sign it with `asdic sign" in outcome.err


def test_canary_and_stages_together_are_a_usage_error(verb: Verb) -> None:
    assert verb("push", "1.0.0", "--canary", "1", "--stages", "100%").code == 2
