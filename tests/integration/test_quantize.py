"""Quantizing with the real converters and runtimes, on a small network made in the test."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from click.testing import CliRunner, Result

from asdic.cli.quantize import quantize as quantize_verb
from asdic.contract.errors import (
    AccuracyDropError,
    ConfigError,
    MissingPackageError,
    QuantizationError,
    UnsupportedModelError,
)
from asdic.contract.target import ModelFormat, target_named
from asdic.contract.variant import read_variant
from asdic.device.runner.golden import LABELLED_AT_LEAST, check_golden
from asdic.device.runner.runner import Runner
from asdic.quantization.calibration import read_inputs
from asdic.quantization.examples import USUAL, WORST
from asdic.quantization.gate import Verdict
from asdic.quantization.job import ConvertJob, Workers
from asdic.quantization.once import quantize_once
from asdic.quantization.quantize import Options, quantize_model
from asdic.quantization.recipe import LADDERS, parse_recipe
from asdic.quantization.report import QuantizationReport, read_report, report_schema
from asdic.quantization.source import read_source
from tests.support.disc_finder import (
    WITH_DISC,
    WITHOUT,
    DiscFinder,
    WithOperator,
    example,
    write_discs,
    write_run,
)

LITERT, ARM, OPENVINO, JETSON = (
    "x86-litert-int8",
    "arm64-litert-int8",
    "x86-openvino-int8",
    "jetson-orin-int8",
)
TARGETS = (LITERT, ARM, OPENVINO, JETSON)
PLAIN = "static-wi8-ai8-minmax"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "discs", data)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """The variants of all four targets."""
    out = tmp_path_factory.mktemp("variants")
    quantize_model(run, TARGETS, out)
    return out


@pytest.fixture
def report(variants: Path, request: pytest.FixtureRequest) -> QuantizationReport:
    return read_report(variants / request.param)


each_target = pytest.mark.parametrize("target", TARGETS)
each_report = pytest.mark.parametrize("report", TARGETS, indirect=True)


@each_report
def test_int8_is_within_the_limit(report: QuantizationReport) -> None:
    assert report.verdict is Verdict.PASS
    assert report.ci95[0] <= report.drop <= report.ci95[1] <= report.limit == 0.5


@each_report
def test_the_model_is_really_int8(report: QuantizationReport) -> None:
    assert report.int8_share > 0.8
    assert report.sqnr_db is not None
    assert 25 < report.sqnr_db < 80


@each_report
def test_images_with_nothing_to_find_are_counted_apart(report: QuantizationReport) -> None:
    assert (report.samples, report.empty.images) == (WITH_DISC, WITHOUT)
    assert report.empty.int8_false_alarms == report.empty.fp32_false_alarms == 0.0


@each_target
def test_the_golden_set_passes_on_the_machine_that_made_it(variants: Path, target: str) -> None:
    simulate = target_named(target).simulator is not None
    with Runner.open(variants / target, simulate=simulate) as runner:
        result = check_golden(runner, variants / target)
    assert (result.passed, result.worst_difference) == (True, 0.0)
    assert len(result.per_sample) == LABELLED_AT_LEAST


def test_two_targets_of_one_format_share_the_very_same_files(variants: Path) -> None:
    here, arm = (read_variant(variants / target).files for target in (LITERT, ARM))
    assert here == arm


def test_only_where_the_target_runs_here_is_a_latency_given(variants: Path) -> None:
    given = {one: read_report(variants / one).latency_ratio is not None for one in TARGETS}
    assert given == {LITERT: True, ARM: False, OPENVINO: True, JETSON: False}


def test_the_jetsons_report_says_that_it_is_simulated(variants: Path) -> None:
    report = read_report(variants / JETSON)
    assert report.simulated
    assert "ONNX Runtime" in report.judged_by
    assert "not run on an Orin" in report.remarks[-1]


def test_litert_promises_the_same_bits_and_the_others_a_tolerance(variants: Path) -> None:
    golden = {target: read_variant(variants / target).golden for target in TARGETS}
    exact = {target for target, one in golden.items() if one is not None and one.tolerance == 0.0}
    assert exact == {LITERT, ARM}


@each_target
def test_pictures_for_people_lie_beside_the_variant(variants: Path, target: str) -> None:
    names = {path.name for path in (variants / target / "examples").iterdir()}
    assert len(names) == WORST + USUAL
    named = {file.name for file in read_variant(variants / target).all_files}
    assert not names & named


@each_target
def test_no_path_of_this_machine_is_in_a_model_file(variants: Path, run: Path, target: str) -> None:
    folder = variants / target
    for file in read_variant(folder).files:
        content = (folder / file.name).read_bytes()
        assert str(run.parent).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize("target", [LITERT, OPENVINO, JETSON])
def test_the_same_inputs_give_the_same_bytes(
    variants: Path, run: Path, tmp_path: Path, target: str
) -> None:
    recipe = read_variant(variants / target).recipe
    model_format = target_named(target).model_format
    model = read_source(run, tmp_path)
    inputs = read_inputs(model.data, model.description)
    rung = parse_recipe(recipe, model_format)
    made = quantize_once(model, model_format, rung, inputs.calibration, tmp_path)
    for path in made.int8_paths:
        assert path.read_bytes() == (variants / target / path.name).read_bytes()


def test_the_same_call_again_keeps_what_is_there(variants: Path, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in variants.rglob("*")}
    reports = quantize_model(run, TARGETS, variants)
    assert [report.target for report in reports] == list(TARGETS)
    assert {path: path.stat().st_mtime_ns for path in variants.rglob("*")} == before


def test_a_variant_of_other_inputs_is_not_replaced_unasked(variants: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="made from other inputs or options; use --force"):
        quantize_model(run, (LITERT,), variants, options=Options(samples=7))


def test_the_verb_prints_the_reports_for_a_machine(variants: Path, run: Path) -> None:
    arguments = [str(run), "--target", LITERT, "--target", JETSON, "--out", str(variants)]
    result = CliRunner().invoke(quantize_verb, [*arguments, "--json"], catch_exceptions=False)
    assert [one["target"] for one in json.loads(result.stdout)] == [LITERT, JETSON]


def test_the_verb_writes_a_page_about_all_targets(
    variants: Path, run: Path, tmp_path: Path
) -> None:
    page = tmp_path / "out.html"
    targets = [word for target in TARGETS for word in ("--target", target)]
    arguments = [str(run), *targets, "--out", str(variants), "--report", str(page)]
    CliRunner().invoke(quantize_verb, arguments, catch_exceptions=False)
    assert [target for target in TARGETS if f'<article id="{target}">' in page.read_text()] == [
        *TARGETS
    ]


def test_the_verb_prints_nothing_but_json_for_a_machine(variants: Path, run: Path) -> None:
    arguments = [str(run), "--target", LITERT, "--out", str(variants), "--json"]
    result = CliRunner().invoke(quantize_verb, arguments, catch_exceptions=False)
    (report,) = json.loads(result.stdout)
    jsonschema.validate(report, report_schema())


def test_a_metric_that_does_not_fit_is_refused_before_the_conversion(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the metric 'top1' does not fit the output 'logits'"):
        quantize_model(run, (LITERT,), tmp_path / "out", options=Options(metric="top1"))


def test_a_bounded_climb_stops_at_its_rung(run: Path, tmp_path: Path) -> None:
    options = Options(max_drop=-100.0, max_rung=1, allow_fail=True)
    (report,) = quantize_model(run, (OPENVINO,), tmp_path / "out", options=options)
    assert [one.recipe for one in report.tried] == [LADDERS[ModelFormat.OPENVINO_IR][0].name]


def test_the_verb_prints_a_table_for_a_person(variants: Path, run: Path) -> None:
    arguments = [str(run), "--target", OPENVINO, "--out", str(variants)]
    result = CliRunner().invoke(quantize_verb, arguments, catch_exceptions=False)
    assert "6 images with nothing to find, apart" in result.stdout


TOO_STRICT = ("--max-drop", "-100", "--recipe", PLAIN)
"""INT8 would have to gain 100 points."""


@pytest.fixture(scope="module")
def refused(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Where a model that lost too much was not written, and what the verb said."""
    folder = tmp_path_factory.mktemp("refused")
    arguments = [str(run), "--target", OPENVINO, "--out", str(folder / "out"), *TOO_STRICT]
    page = ["--json", "--report", str(folder / "page.html")]
    return folder / "out", CliRunner().invoke(quantize_verb, [*arguments, *page])


def test_a_model_that_lost_too_much_is_not_written(refused: tuple[Path, Result]) -> None:
    out, result = refused
    assert isinstance(result.exception, AccuracyDropError)
    assert "x86-openvino-int8: fail: the drop is at least" in str(result.exception)
    assert not (out / OPENVINO).exists()


def test_its_report_is_written_all_the_same(refused: tuple[Path, Result]) -> None:
    out, result = refused
    folder = out / f"{OPENVINO}.refused"
    assert str(folder) in str(result.exception)
    (printed,) = json.loads(result.stdout)
    assert printed == json.loads((folder / "report.json").read_text())
    assert not list(folder.glob("model.*"))
    assert read_report(folder).layers
    assert f'<article id="{OPENVINO}">' in out.with_name("page.html").read_text()


def test_a_second_call_refuses_at_once_and_another_writes_it(
    run: Path, refused: tuple[Path, Result], tmp_path: Path
) -> None:
    out, seen = tmp_path / "out", []
    shutil.copytree(refused[0], out)
    options = Options(max_drop=-100.0, recipe=PLAIN)

    def stage(what: str, text: str, *, done: int = 0, total: int | None = None) -> None:
        del done, total
        seen.append((what, text))

    with pytest.raises(AccuracyDropError, match="fail: the drop is at least"):
        quantize_model(run, (OPENVINO,), out, options=options, stage=stage)
    assert seen[-1] == (OPENVINO, "unchanged, refused as before")
    options = dataclasses.replace(options, allow_fail=True)
    (report,) = quantize_model(run, (OPENVINO,), out, options=options)
    assert report.verdict is Verdict.FAIL
    assert [one.name for one in out.iterdir()] == [OPENVINO]
    with pytest.raises(ConfigError, match="use --force"):  # now it is not allowed again
        quantize_model(run, (OPENVINO,), out, options=Options(max_drop=-100.0, recipe=PLAIN))


def test_without_labels_int8_is_judged_by_agreement(run: Path, tmp_path: Path) -> None:
    images = write_discs(tmp_path / "images", masks=False)
    out = tmp_path / "out"
    options = Options(recipe=PLAIN)
    (report,) = quantize_model(run, (OPENVINO,), out, data=images, options=options)
    assert (report.metric, report.fp32, report.limit) == ("agreement", 100.0, 20.0)
    assert "not accuracy" in report.remarks[0]
    golden = read_variant(out / OPENVINO).golden
    assert golden is not None
    assert golden.metric == "agreement"


@pytest.mark.parametrize("model_format", ModelFormat)
def test_an_operator_without_support_is_named(
    data: Path, tmp_path: Path, model_format: ModelFormat
) -> None:
    model = read_source(write_run(tmp_path / "run", data, WithOperator()), tmp_path)
    calibration = [{"image": example().numpy()}]
    recipe = LADDERS[model_format][0]
    with pytest.raises(UnsupportedModelError, match=r"does not support the operator .*bessel_j0"):
        quantize_once(model, model_format, recipe, calibration, tmp_path)


class _Overflows(torch.nn.Module):
    """Answers infinity where the picture is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = DiscFinder()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.exp(self.finder(image) * 40.0)


def test_a_layer_that_answers_no_number_is_named(data: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data, _Overflows())
    with pytest.raises(QuantizationError, match=r"the layer '.*[Ee]xp.*' .* NaN or infinity to "):
        quantize_model(run, (OPENVINO,), tmp_path / "out")


def test_a_converter_that_dies_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    job = ConvertJob(
        model=read_source(run, tmp_path),
        model_format=ModelFormat.OPENVINO_IR,
        calibration=tmp_path / "nothing.npz",
    )
    with pytest.raises(
        QuantizationError, match=r"converter for openvino-ir ended with code 1: FileNotFound[^\n]*$"
    ):
        Workers().convert(job, tmp_path / "float")


def test_an_unknown_target_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown target 'toaster'; known targets: arm64-litert"):
        quantize_model(tmp_path / "no model", ("toaster",), tmp_path / "out")


def test_a_missing_runtime_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"install `asdic\[openvino\]`"):
        quantize_model(tmp_path / "no model", (OPENVINO,), tmp_path / "out")


def test_a_damaged_variant_is_not_kept(variants: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(variants / LITERT, tmp_path / LITERT)
    (tmp_path / LITERT / "model.tflite").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"is damaged, or .* use --force"):
        quantize_model(run, (LITERT,), tmp_path)
