"""What the benchmark of quantizers keeps, whom it compares with whom, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.cells import Cell, kept
from benchmarks.peers.losses import LOSSES
from benchmarks.peers.table import (
    AIMS,
    DEFAULT,
    INFERIOR,
    METRIC,
    SQNR,
    TIME,
    Aim,
    Row,
    rows,
    tables,
)

RIGHT = (100.0,) * 90 + (0.0,) * 10


def cell(tool: str, sqnr_db: float | None = 30.0, **facts: Any) -> Cell:
    """Return a cell of 100 samples, of which 90 are right."""
    known: dict[str, Any] = {
        "network": "net",
        "model_format": "tflite",
        "labelled": True,
        "metric": "top1",
        "fp32": 90.0,
        "int8": 90.0,
        "samples": 100,
        "points": RIGHT,
        "may_flip": True,
        "int8_share": 1.0,
        "seconds": 1.0,
        "process_seconds": 2.0,
    }
    return Cell(tool=tool, sqnr_db=sqnr_db, **known | facts)


def aims(ours: Cell, *peers: Cell) -> dict[str, Aim]:
    return {aim.what: aim for aim in Row(ours, peers).aims()}


def page(*cells: Cell, losses: dict[tuple[str, str], str] | None = None) -> str:
    return "\n".join(tables(cells, losses or {}))


def unexpected() -> Cell:
    raise AssertionError("measured again")


# What is kept


def test_a_cell_is_measured_once(tmp_path: Path) -> None:
    first = kept(tmp_path / "cell.json", lambda: cell("peer"))
    assert kept(tmp_path / "cell.json", unexpected) == first == cell("peer")


def test_a_cell_that_failed_is_measured_again(tmp_path: Path) -> None:
    kept(tmp_path / "cell.json", lambda: cell("peer", failed="no such package"))
    assert kept(tmp_path / "cell.json", lambda: cell("peer")).failed == ""
    assert kept(tmp_path / "cell.json", unexpected) == cell("peer")


def test_a_cell_whose_file_is_damaged_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_bytes(b'{"network": "net", "mod')
    assert kept(tmp_path / "cell.json", lambda: cell("peer")) == cell("peer")


def test_a_measurement_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> Cell:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "cell.json", stopped)
    assert list(tmp_path.iterdir()) == []


# Who is compared with whom


def test_a_file_that_tensorrt_refuses_is_no_rival() -> None:
    refused = cell("peer", 40.0, refused="an int32 bias")
    found = aims(cell("asdic", 30.0), refused, cell("other", 29.0))
    assert found[SQNR] == Aim(SQNR, True, "+1.0 dB against other")


def test_a_file_that_is_float_for_the_most_is_no_rival() -> None:
    assert Row(cell("asdic"), (cell("peer", 40.0, int8_share=0.49),)).rivals == ()


def test_a_publishers_file_is_shown_and_no_rival() -> None:
    published = cell("the publisher's own", 40.0, seconds=0.0)
    assert Row(cell("asdic"), (published,)).rivals == ()
    assert "| the publisher's own | 40.0 |" in page(published, cell("asdic"))


def test_what_failed_is_shown_with_its_reason_and_compared_with_nothing() -> None:
    failed = cell("peer", failed="out of memory | here")
    assert "| peer | | | | | | failed: out of memory \\| here |" in page(failed, cell("asdic"))
    assert rows([failed, cell("asdic")])[0].peers == ()


def test_without_asdic_there_is_a_table_and_no_aim() -> None:
    assert rows([cell("peer")]) == ()
    assert "| peer | 30.0 |" in page(cell("peer"))


def test_networks_and_formats_are_rows_of_their_own() -> None:
    cells = [
        cell(tool, network=network, model_format=model_format)
        for network in ("a", "b")
        for model_format in ("tflite", "onnx-qdq")
        for tool in ("peer", "asdic")
    ]
    assert [row.name for row in rows(cells)] == [
        "a, tflite",
        "a, onnx-qdq",
        "b, tflite",
        "b, onnx-qdq",
    ]


# What is aimed at


@pytest.mark.parametrize(("sqnr_db", "met"), [(31.0, True), (29.6, True), (29.4, False)])
def test_half_a_decibel_less_than_the_best_peer_is_noise(sqnr_db: float, met: bool) -> None:
    found = aims(cell("asdic", sqnr_db), cell("peer", 20.0), cell("best", 30.0))
    assert found[SQNR].met is met


def test_outputs_equal_to_those_of_fp32_are_the_best_there_are() -> None:
    assert aims(cell("asdic", None), cell("peer", 60.0))[SQNR].met
    assert aims(cell("asdic", None), cell("peer", None))[SQNR].met
    assert not aims(cell("asdic", 60.0), cell("peer", None))[SQNR].met


def test_a_metric_is_worse_only_where_the_samples_show_it() -> None:
    peer = cell("peer")
    few = cell("asdic", points=(0.0, *RIGHT[1:]))
    many = cell("asdic", points=(0.0,) * 20 + RIGHT[20:])
    assert aims(few, peer)[METRIC].met
    assert not aims(many, peer)[METRIC].met
    assert aims(many, peer)[METRIC].figures.startswith("+20.00 points worse than peer, ")


def test_each_default_is_an_aim_of_its_own() -> None:
    row = Row(cell("asdic"), (cell("a", 29.0, is_default=True), cell("b", 31.0, is_default=True)))
    assert [aim.met for aim in row.aims() if aim.what == DEFAULT] == [True, False]


def test_without_labels_nothing_is_said_of_accuracy() -> None:
    assert INFERIOR not in aims(cell("asdic", labelled=False), cell("peer", labelled=False))


@pytest.mark.parametrize(("high", "met"), [(0.5, True), (0.51, False)])
def test_non_inferior_is_what_the_bound_of_the_drop_says(high: float, met: bool) -> None:
    found = aims(cell("asdic", ci95=(-1.0, high)), cell("peer"))
    assert found[INFERIOR].met is met


def test_time_is_also_shown_against_the_peers_process_with_judging() -> None:
    peer = cell("peer", seconds=1.0, process_seconds=3.0, judging_seconds=1.0)
    found = aims(cell("asdic", seconds=2.0), peer)[TIME]
    assert found == Aim(TIME, False, "2.0 times peer's, 0.5 times with its process and judging")


# What is said


def test_a_missed_aim_says_what_would_be_tried_next() -> None:
    losses = {(SQNR, "net, tflite"): "Leave the first layer float."}
    shown = page(cell("peer", 33.0), cell("asdic", 30.0), losses=losses)
    assert "- net, tflite, SQNR: -3.0 dB against peer. Leave the first layer float." in shown
    assert f"| *{SQNR}*: {AIMS[SQNR]} | 0 | 1 |" in shown


def test_an_aim_without_words_for_the_row_has_those_for_all_rows() -> None:
    losses = {(SQNR, ""): "More rungs."}
    assert "-3.0 dB against peer. More rungs." in page(
        cell("peer", 33.0), cell("asdic"), losses=losses
    )


def test_every_loss_that_is_explained_is_one_of_an_aim() -> None:
    assert {aim for aim, _ in LOSSES} <= set(AIMS)


def test_a_layers_name_is_shown_without_what_was_fused_into_it() -> None:
    placement = "net/relu;net/norm;net/conv holds an int32 bias, which TensorRT refuses"
    shown = page(cell("peer", refused="no", placement=placement), cell("asdic"))
    assert "| TensorRT-RTX refuses it; net/conv holds an int32 bias, which" in shown


def test_asdics_own_gate_is_shown_where_it_refused() -> None:
    assert "asdic's gate: lost 3 points" in page(cell("asdic", gate="lost 3 points"))
