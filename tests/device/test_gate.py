"""The trial of a candidate as a real child process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from asdic.contract.messages import GateFacts, Refusal
from asdic.contract.variant import Limits
from asdic.device.update.gate import Trial, Verdict
from tests.support.models import make_tiny_variant
from tests.support.yard import JETSON

pytestmark = pytest.mark.alone

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_variant(tmp_path_factory.mktemp("gate"), target=JETSON)


def run(
    folder: Path,
    limits: Limits,
    *,
    baseline: Path | None = None,
    meanwhile: Callable[[psutil.Process], None] = lambda _child: None,
) -> Verdict:
    """Return the verdict of a whole trial."""
    before = set(psutil.Process().children())
    trial = Trial(folder, limits, baseline=baseline, simulate=True, bench_s=0.05)
    (child,) = set(psutil.Process().children()) - before
    meanwhile(child)
    deadline = time.monotonic() + PATIENCE_S
    while (verdict := trial.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return verdict


def test_a_good_model_passes(variant: Path) -> None:
    verdict = run(variant, Limits(), baseline=variant)
    assert isinstance(verdict, GateFacts)
    assert verdict.outputs_checked == 8


def test_a_model_that_kills_its_process_is_refused(variant: Path) -> None:
    def crash(child: psutil.Process) -> None:
        child.send_signal(signal.SIGSEGV)

    verdict = run(variant, Limits(), meanwhile=crash)
    assert isinstance(verdict, Refusal)
    assert verdict.code == "crash"
    assert "was ended by signal 11" in verdict.message


def test_a_model_that_takes_too_much_memory_is_stopped(variant: Path) -> None:
    verdict = run(variant, Limits(memory_bytes=1 << 20))
    assert isinstance(verdict, Refusal)
    assert verdict.code == "memory"


def test_a_model_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    verdict = run(tmp_path, Limits())
    assert isinstance(verdict, Refusal)
    assert "holds no variant" in verdict.message


def test_a_current_model_that_cannot_be_opened_does_not_spoil_the_trial(
    variant: Path, tmp_path: Path
) -> None:
    assert isinstance(run(variant, Limits(), baseline=tmp_path), GateFacts)


def test_a_stopped_trial_leaves_no_process(variant: Path) -> None:
    before = set(psutil.Process().children())
    trial = Trial(variant, Limits(), baseline=None, simulate=True, bench_s=0.05)
    trial.stop()
    trial.stop()
    assert set(psutil.Process().children()) == before
