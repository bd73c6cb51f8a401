"""Front ends: what becomes an exported program, and what is refused."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from asdic.contract.errors import ConfigError
from asdic.quantization.frontends.torch import read_program
from asdic.quantization.source import Reading
from tests.support.disc_finder import SIDE, DiscFinder, write_run
from tests.support.here import read

SIZE = (SIDE, SIDE)


def _scripted(path: Path, network: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and what people have
        traced: Any = torch.jit.trace(network.eval(), torch.zeros(1, 1, SIDE, SIDE))
        traced.save(str(path))
    return path


def test_a_run_gives_the_network_that_was_saved(tmp_path: Path) -> None:
    model = read(write_run(tmp_path / "run", tmp_path), tmp_path)
    image = torch.rand(1, 1, SIDE, SIDE)
    assert torch.equal(read_program(model.path).module()(image), DiscFinder().eval()(image))


def test_a_run_remembers_its_data_until_other_data_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path / "first")
    assert read(run, tmp_path).data == str(tmp_path / "first")
    assert read(run, tmp_path, data=tmp_path / "other").data == str(tmp_path / "other")


def test_a_torchscript_file_answers_the_same_bit_for_bit(tmp_path: Path) -> None:
    model = read(
        _scripted(tmp_path / "discs.pt", DiscFinder()), tmp_path, reading=Reading(size=SIZE)
    )
    image = torch.rand(1, 1, SIDE, SIDE)
    assert torch.equal(read_program(model.path).module()(image), DiscFinder().eval()(image))


def test_what_a_torchscript_file_does_not_say_is_said_to_be_assumed(tmp_path: Path) -> None:
    model = read(
        _scripted(tmp_path / "discs.pt", DiscFinder()), tmp_path, reading=Reading(size=SIZE)
    )
    assert model.assumptions == (
        "the input 'image' is one grey image of 32x32 pixels with values in [0, 1]",
        "the output 'mask' is a mask: 1 channel(s) of logits, sigmoid",
    )


def test_the_real_torchscript_network_answers_the_same_bit_for_bit(
    shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "models" / "carotid.pt"
    model = read(path, tmp_path, reading=Reading(size=(64, 64)))
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted: Any = torch.jit.load(str(path), map_location="cpu")
        assert torch.equal(read_program(model.path).module()(image), scripted.eval()(image))


def test_a_torchscript_file_that_answers_scores_classifies(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 2))
    model = read(_scripted(tmp_path / "classes.pt", network), tmp_path, reading=Reading(size=SIZE))
    assert (model.description.task, model.description.metric) == ("classification", "top1")
    assert model.assumptions[-1] == "the output 'scores' holds the scores of 2 classes"


def test_a_pickle_in_disguise_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(ConfigError, match="plain pickles are not opened"):
        read(path, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_pickled_module_is_refused_without_opening_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(_Trap(tmp_path / "sprung"), path)
    with pytest.raises(ConfigError, match="holds weights without code"):
        read(path, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path)
    (run / "model.pt2").write_bytes((run / "model.pt2").read_bytes()[:500])
    with pytest.raises(ConfigError, match="is not an exported program"):
        read_program(run / "model.pt2")


@pytest.mark.parametrize("member", ["sample_inputs/model.pt", "weights/weight_0"])
def test_a_pickle_inside_of_a_program_is_not_opened(tmp_path: Path, member: str) -> None:
    path = write_run(tmp_path / "run", tmp_path) / "model.pt2"
    trapped = tmp_path / "trapped.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(trapped, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(member):
                content = _saved(_Trap(tmp_path / "sprung"))
            if name.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            new.writestr(name, content)
    with pytest.raises(ConfigError, match="is not an exported program"):
        read_program(trapped)
    assert not (tmp_path / "sprung").exists()


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_no_model_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no model at"):
        read(tmp_path / "nothing", tmp_path)


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))
