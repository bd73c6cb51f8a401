"""``asdic-agent install``: the whole way out of a folder, and every way in which it is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asdic.contract.messages import UpdateState
from asdic.contract.trust import public_hex
from asdic.contract.variant import Limits
from asdic.device.bench.signing import read_result
from asdic.device.identity import read_key
from tests.support.boxes import Box, runs
from tests.support.yard import Yard


@pytest.fixture
def box(yard: Yard, tmp_path: Path) -> Box:
    return Box.make(tmp_path / "box1", roots=yard.roots)


@pytest.fixture(scope="module")
def installed(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """A box that has installed 1.0.0, which its tests leave as it is."""
    box = Box.make(tmp_path_factory.mktemp("installed") / "box1", roots=yard.roots)
    done = box.install(yard.stick("1.0.0"))
    assert done.returncode == 0
    assert done.stdout == "1.0.0 is committed and runs\n"
    return box


@pytest.fixture
def stick(yard: Yard, tmp_path: Path) -> Path:
    """A copy of the release folder with an offer of 1.0.0, to be damaged."""
    return shutil.copytree(yard.stick("1.0.0"), tmp_path / "stick")


def refused(box: Box, stick: Path) -> str:
    """Return the one line with which the agent ends, without the log before it."""
    done = box.install(stick)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert box.status.current is None
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("asdic-agent: ")]
    return line


def model_on(stick: Path, yard: Yard) -> Path:
    """Return the model's blob on the stick."""
    release = yard.layout.release("1.0.0")
    (layer, *_) = yard.layout.manifest(release, "jetson-orin-int8").layers
    return stick / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")


def change_offer(stick: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = stick / "offers" / "box1.json"
    offer = json.loads(path.read_bytes())
    change(offer)
    path.write_text(json.dumps(offer), encoding="utf-8")


def test_a_release_out_of_a_folder_is_committed(installed: Box) -> None:
    assert runs(installed.status) == "1.0.0"


def test_installing_what_runs_is_no_change(installed: Box, yard: Yard) -> None:
    current = installed.status.current
    done = installed.install(yard.stick("1.0.0"))
    assert done.returncode == 0
    assert installed.status.current == current


def test_an_openvino_box_installs_its_own_variant(tmp_path: Path) -> None:
    target = "x86-openvino-int8"
    yard = Yard(tmp_path / "yard")
    yard.add("1.0.0", target=target)
    box = Box.make(tmp_path / "box1", roots=yard.roots, target=target, simulated=False)
    done = box.install(yard.stick("1.0.0", target=target))
    assert done.returncode == 0, done.stderr
    report = box.status.report
    assert report is not None
    assert report.runtime is not None
    assert (report.runtime.runtime, report.runtime.simulated) == ("openvino", False)


def test_a_failed_install_is_tried_again_when_a_person_asks(box: Box, yard: Yard) -> None:
    stick = yard.stick("1.2.0")
    for _ in range(2):
        done = box.install(stick)
        assert done.returncode == 1
        assert done.stderr.count("1.2.0 is gating") == 1


def test_a_truncated_blob_is_refused(box: Box, stick: Path, yard: Yard) -> None:
    model = model_on(stick, yard)
    model.write_bytes(model.read_bytes()[:-1])
    assert re.search(r"has \d+ bytes, \d+ were signed", refused(box, stick))


def test_a_flipped_blob_is_refused(box: Box, stick: Path, yard: Yard) -> None:
    model = model_on(stick, yard)
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    assert re.search(r"has digest sha256:\w+, sha256:\w+ was signed", refused(box, stick))


def test_a_missing_blob_is_named(box: Box, stick: Path, yard: Yard) -> None:
    model = model_on(stick, yard)
    model.unlink()
    assert f"blob sha256:{model.name} is missing in" in refused(box, stick)


def test_a_release_signed_by_another_key_is_refused(box: Box, tmp_path: Path) -> None:
    stranger = Yard(tmp_path / "stranger")
    stranger.add("1.0.0")
    line = refused(box, stranger.stick("1.0.0"))
    assert "is not signed by the keys that this device trusts" in line


def test_a_changed_manifest_is_refused(box: Box, stick: Path) -> None:
    def escape(offer: dict[str, Any]) -> None:
        offer["documents"] = {
            digest: text.replace('"model.onnx"', '"../../agent.toml"')
            for digest, text in offer["documents"].items()
        }

    change_offer(stick, escape)
    assert "differs from its digest" in refused(box, stick)
    assert box.config.device == "box1"


def test_an_offer_without_its_documents_is_refused(box: Box, stick: Path) -> None:
    change_offer(stick, lambda offer: offer.update(documents={}))
    assert "the offer lacks the document" in refused(box, stick)


def test_a_replayed_offer_is_refused(box: Box, yard: Yard, tmp_path: Path) -> None:
    old = shutil.copytree(yard.stick("1.0.0"), tmp_path / "old")
    assert box.install(yard.stick("1.1.0")).returncode == 0
    done = box.install(old)
    assert done.returncode == 1
    assert "is older than what this device has accepted" in done.stderr
    assert box.status.current == yard.manifest("1.1.0")
    assert box.status.journal.state is UpdateState.REJECTED


def test_a_damaged_offer_is_refused(box: Box, stick: Path) -> None:
    (stick / "offers" / "box1.json").write_bytes(b'{"format": "asdic-offer/1"')
    assert "the offer is damaged" in refused(box, stick)


def test_a_folder_without_an_offer_for_this_box_says_how_to_make_one(box: Box, stick: Path) -> None:
    (stick / "offers" / "box1.json").unlink()
    assert "make it with `asdic export VERSION --to box1 --out" in refused(box, stick)


def test_a_folder_that_holds_no_releases_is_refused(box: Box, tmp_path: Path) -> None:
    assert "is not a release folder" in refused(box, tmp_path)


def test_a_model_that_is_too_slow_for_its_release_is_refused(tmp_path: Path) -> None:
    yard = Yard(tmp_path / "yard")
    yard.add("1.0.0", limits=Limits(latency_ms=1e-6))
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    assert "an inference takes" in refused(box, yard.stick("1.0.0"))


def test_a_model_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    yard = Yard(tmp_path / "yard")
    yard.add("1.0.0", limits=Limits(memory_bytes=20 << 20))
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    assert re.search("20 MiB", refused(box, yard.stick("1.0.0")))


def test_installing_beside_a_running_agent_is_refused(box: Box, stick: Path) -> None:
    with box:
        box.start()
        box.wait_for(lambda status: status.report is not None)
        assert "an agent already works on" in refused(box, stick)


def test_status_says_what_runs(installed: Box) -> None:
    said = installed.call("status").stdout
    assert re.search(r"^runs +1\.0\.0, \d+ inferences$", said, re.MULTILINE)
    told = json.loads(installed.call("status", "--json").stdout)
    assert told["journal"]["state"] == "committed"


def test_bench_measures_what_runs_and_signs_it(installed: Box, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    done = installed.call("bench", "--seconds", "0.1", "--cold-starts", "0", "--json", str(path))
    assert done.returncode == 0, done.stderr
    result = read_result(path, trusted=[public_hex(read_key(installed.state))])
    assert result.signer is not None
    assert result.signer in done.stderr
    assert result.report.simulated
    assert result.report.device == "box1"
    assert result.report.measured.version == "1.0.0"


def test_bench_without_a_release_is_one_clear_line(box: Box) -> None:
    done = box.call("bench")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has no current release yet" in done.stderr
