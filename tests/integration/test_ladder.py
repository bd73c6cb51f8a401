"""Climbing with real workers: ONNX networks made in the test, whose tools start fastest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat, Runtime
from asdic.quantization.calibration import Inputs, read_inputs
from asdic.quantization.frontends.onnx import FILE, from_onnx
from asdic.quantization.gate import INT8_SHARE_AT_LEAST, Verdict
from asdic.quantization.job import ANSWER_FILE, CALIBRATION_FILE, Workers, write_calibration
from asdic.quantization.kinds import FloatModel, SourceKind
from asdic.quantization.ladder import Climb, Ladder
from asdic.quantization.progress import silent
from asdic.quantization.recipe import parse_recipe
from tests.support.disc_finder import SIDE, DiscFinder, description_of, write_discs
from tests.support.small_models import write_onnx

NEVER, ALWAYS = -1000.0, 1000.0
"""Drops allowed so that no rung passes, or each does."""


class Pooled(nn.Module):
    """A mask without any layer that has weights: only pooling can be INT8."""

    def forward(self, image: Tensor) -> Tensor:
        """Return logits that are high where the surroundings are bright."""
        pooled: Tensor = torch.nn.functional.max_pool2d(image, 3, stride=1, padding=1)
        return pooled * 16.0 - 8.0


class Deep(nn.Module):
    """A disc finder whose result goes through three more layers that hardly change it."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = DiscFinder()
        self.more = nn.ModuleList(nn.Conv2d(1, 1, 5, padding=2) for _ in range(3))
        with torch.no_grad():
            for layer in self.more:
                layer.weight.fill_(0.001)
                layer.weight[0, 0, 2, 2] = 1.0
                layer.bias.zero_()

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ``image``."""
        logits: Tensor = self.finder(image)
        for layer in self.more:
            logits = layer(logits)
        return logits


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return read_inputs(write_discs(tmp_path_factory.mktemp("data")), description_of())


def ladder(
    folder: Path,
    inputs: Inputs,
    network: nn.Module,
    recipes: Sequence[str],
    *,
    limit: float,
    floats: Sequence[int] = (),
    max_rung: int | None = None,
) -> Ladder:
    """Return a ladder for ``network`` that is climbed in ``folder``."""
    model, calibration = folder / "read" / FILE, folder / CALIBRATION_FILE
    if not model.exists():
        model.parent.mkdir()
        given = write_onnx(folder / "given.onnx", network)
        from_onnx(given, model.parent, {"image": (1, 1, SIDE, SIDE)})
        write_calibration(inputs.calibration, calibration)
    return Ladder(
        model=FloatModel(
            kind=SourceKind.ONNX,
            path=model,
            description=description_of(),
            data=None,
            digest="sha256:0",
        ),
        inputs=inputs,
        model_format=ModelFormat.ONNX_QDQ,
        runtime=Runtime.ONNXRUNTIME,
        recipes=[parse_recipe(f"static-wi8-ai8-{one}", ModelFormat.ONNX_QDQ) for one in recipes],
        limit=limit,
        seed=0,
        calibration=calibration,
        folder=folder / "climb",
        workers=Workers(),
        floats=floats,
        max_rung=max_rung,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture(scope="module")
def climb(folder: Path, inputs: Inputs) -> Climb:
    """A climb of a network that never passes, up to the layers in float."""
    recipes = ("best", "minmax-layers")
    return ladder(folder, inputs, Deep(), recipes, limit=NEVER, floats=(1, 2, 4, 99)).climb(silent)


def short(climb: Climb) -> list[str]:
    return [one.recipe.removeprefix("static-wi8-ai8-") for one in climb.tried]


def test_the_most_sensitive_layers_stay_float_above_the_recipes(climb: Climb) -> None:
    assert short(climb)[:2] == ["best", "minmax-layers"]
    assert [len(one.floats) for one in climb.tried[2:]] == [1, 2, 4][: len(climb.tried) - 2]
    assert all(one.recipe.endswith(f"-float{len(one.floats)}") for one in climb.tried[2:])


def test_layers_stay_float_in_the_order_of_their_sensitivity(climb: Climb) -> None:
    assert climb.sensitivities is not None
    for one in climb.tried[2:]:
        assert one.floats == climb.sensitivities.first(len(one.floats))


def test_each_layer_in_float_leaves_less_in_int8(climb: Climb) -> None:
    shares = [one.int8_share for one in climb.tried if one.int8_share is not None]
    assert shares[0] == shares[1] == 1.0
    assert shares[1:] == sorted(set(shares[1:]), reverse=True)


def test_the_climb_ends_where_less_than_half_is_int8(climb: Climb) -> None:
    *before, last = (one.int8_share or 0.0 for one in climb.tried)
    assert last < INT8_SHARE_AT_LEAST <= min(before)
    assert "less than half of the multiply-accumulates" in climb.remarks[-1]


def test_every_rung_says_what_it_took_and_gave(climb: Climb) -> None:
    for one in climb.tried:
        assert one.seconds > 0.0
        assert one.sqnr_db is not None
        assert one.verdict is Verdict.FAIL
        assert one.ci95 is not None
        assert one.drop is not None


def test_without_a_pass_the_best_lost_least(climb: Climb) -> None:
    assert climb.best.drop.high == min(one.ci95[1] for one in climb.tried if one.ci95)


def test_a_second_climb_does_nothing_again(climb: Climb, folder: Path, inputs: Inputs) -> None:
    answers = sorted((folder / "climb").rglob(ANSWER_FILE))
    before = [path.stat().st_mtime_ns for path in answers]
    again = ladder(
        folder, inputs, Deep(), ("best", "minmax-layers"), limit=NEVER, floats=(1, 2, 4, 99)
    ).climb(silent)
    assert [path.stat().st_mtime_ns for path in answers] == before
    assert len(answers) == 1 + len(climb.tried) + 1  # float files, rungs, sensitivities
    assert short(again) == short(climb)


def test_a_rung_that_passes_ends_the_climb(folder: Path, inputs: Inputs, climb: Climb) -> None:
    passing = ladder(
        folder, inputs, Deep(), ("best", "minmax-layers"), limit=ALWAYS, floats=(1,)
    ).climb(silent)
    assert short(passing) == ["best"]
    assert (passing.best.verdict, passing.sensitivities) == (Verdict.PASS, None)


@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_rungs_are_tried_than_asked_for(
    folder: Path, inputs: Inputs, climb: Climb, bound: int
) -> None:
    bounded = ladder(
        folder,
        inputs,
        Deep(),
        ("best", "minmax-layers"),
        limit=NEVER,
        floats=(1, 2, 4),
        max_rung=bound,
    ).climb(silent)
    assert short(bounded) == short(climb)[:bound]


def test_a_pinned_recipe_may_leave_layers_float(folder: Path, inputs: Inputs, climb: Climb) -> None:
    pinned = ladder(folder, inputs, Deep(), ("best-float2",), limit=ALWAYS).climb(silent)
    assert pinned.best.floats == pinned.tried[0].floats
    assert len(pinned.best.floats) == 2


def test_more_layers_in_float_than_there_are_is_said(
    folder: Path, inputs: Inputs, climb: Climb
) -> None:
    with pytest.raises(QuantizationError, match=r"only \d layer\(s\) were found to be sensitive"):
        ladder(folder, inputs, Deep(), ("best-float99",), limit=ALWAYS).climb(silent)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Climb:
    """A climb whose first recipe cannot be carried out."""
    folder = tmp_path_factory.mktemp("pooled")
    recipes = ("best-layers", "best")
    return ladder(folder, inputs, Pooled(), recipes, limit=ALWAYS).climb(silent)


def test_a_failed_rung_does_not_end_the_climb(pooled: Climb) -> None:
    failed, done = pooled.tried
    assert (failed.verdict, failed.sqnr_db) == (None, None)
    assert failed.reason == "the graph holds no QDQ node: nothing in it is INT8"
    assert pooled.best.recipe.name == done.recipe == "static-wi8-ai8-best"


def test_a_model_of_no_int8_multiply_accumulates_is_not_called_quantized(pooled: Climb) -> None:
    assert (pooled.best.verdict, pooled.best.int8_share) == (Verdict.NOT_QUANTIZED, 0.0)
