"""``asdic train`` as its user calls it, and what it leaves on disk."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from asdic.cli.train import train
from asdic.contract.errors import ConfigError, MissingPackageError
from asdic.device.runner.preprocess import prepare_image
from asdic.training.data import read_dataset
from asdic.training.description import read_description
from asdic.training.evaluate import evaluate
from asdic.training.export import export_model, read_weights, segmentation_description
from asdic.training.fit import fit
from asdic.training.models import small_unet
from asdic.training.phantom import make_phantoms
from asdic.training.run import train_segmentation

SIZE = (64, 64)


class Exported(torch.nn.Module):
    """An exported program; it has no modes, and refuses to be asked for one."""

    def __init__(self, program):
        super().__init__()
        self._programs = (program,)

    def forward(self, image):
        return self._programs[0](image)


def asdic(*words):
    command = [sys.executable, "-c", "from asdic.cli.main import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("data") / "phantoms", count=40, seed=0, size=SIZE)


@pytest.fixture(scope="module")
def run(phantoms, tmp_path_factory):
    """A trained run; the folder and its metrics."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, train_segmentation(phantoms, folder, size=SIZE, epochs=2)


@pytest.fixture(scope="module")
def first_call(tmp_path_factory):
    """``asdic train`` on synthetic images, called once; the folder and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    words = ("--data", folder / "p", "--phantoms", 20, "--size", 32, "--epochs", 1, "--json")
    return folder, asdic("train", *words, "--out", folder / "run")


def test_a_run_holds_model_description_weights_and_metrics(run):
    folder, _ = run
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["metrics.json", "model.pt2", "model.toml", "weights.pt"]


def test_the_description_says_how_to_prepare_an_image(run, phantoms):
    folder, _ = run
    description = read_description(folder)
    rule = description.preprocessing[0]
    assert prepare_image(phantoms.samples[0].read_image(), rule).shape == (1, 1, *SIZE)
    assert description.data == str(phantoms.folder.resolve())


def test_the_exported_program_is_the_network_that_was_judged(run, phantoms):
    folder, metrics = run
    program = Exported(torch.export.load(folder / "model.pt2").module())
    found = evaluate(program, phantoms.split("calib"), read_description(folder))
    assert found.mean == pytest.approx(metrics.dice, abs=0.01)


def test_the_metrics_name_both_kinds_of_images_and_the_baseline(run, phantoms):
    folder, _ = run
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["lesion_images"] + metrics["empty_images"] == len(phantoms.split("calib"))
    assert 0 < metrics["baseline"] < 100
    assert metrics["epochs"] == 2


def test_training_further_begins_where_the_run_ended(run, phantoms, tmp_path):
    folder, _ = run
    network = small_unet()
    read_weights(network, folder)
    again = fit(phantoms, size=SIZE, epochs=1, initial=folder)
    fresh = fit(phantoms, size=SIZE, epochs=1)
    assert again.epochs[0].loss < fresh.epochs[0].loss


def test_a_run_is_not_overwritten(run, phantoms):
    folder, _ = run
    with pytest.raises(ConfigError, match="holds a trained model"):
        train_segmentation(phantoms, folder, size=SIZE, epochs=1)


def test_a_run_can_be_replaced(tmp_path):
    description = segmentation_description(name="x", size=(32, 32), data="")
    export_model(small_unet(), tmp_path / "run", description)
    export_model(small_unet(), tmp_path / "run", description, replace=True)
    assert read_description(tmp_path / "run") == description


def test_what_is_no_run_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    description = segmentation_description(name="x", size=(32, 32), data="")
    with pytest.raises(ConfigError, match="is not a trained model"):
        export_model(small_unet(), tmp_path, description, replace=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_export_leaves_nothing(tmp_path):
    description = segmentation_description(name="x", size=(32, 32), data="")
    with pytest.raises(RuntimeError):
        export_model(torch.nn.Linear(3, 3), tmp_path / "run", description)
    assert list(tmp_path.iterdir()) == []


def test_the_weights_of_another_network_are_refused(tmp_path):
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="holds the weights of another network"):
        read_weights(small_unet(), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [b"", b"no weights", pickle.dumps(Path("x"), protocol=2)],
    ids=["empty", "text", "object"],
)
def test_weights_that_hold_something_else_are_refused(tmp_path, damage):
    (tmp_path / "weights.pt").write_bytes(damage)
    with pytest.raises(ConfigError, match="is damaged, or holds more than weights"):
        read_weights(small_unet(), tmp_path)


def test_truncated_weights_are_refused(run, tmp_path):
    data = (run[0] / "weights.pt").read_bytes()
    (tmp_path / "weights.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match="is damaged"):
        read_weights(small_unet(), tmp_path)


def test_the_command_prints_its_result_as_json_alone(first_call):
    folder, done = first_call
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["out"] == str(folder / "run")
    assert printed["size"] == [32, 32]
    assert read_description(folder / "run").name == "run"


def test_the_command_shows_dice_beside_the_baseline_to_people(first_call):
    folder, _ = first_call
    words = ("--data", folder / "p", "--phantoms", 20, "--size", 32, "--epochs", 1)
    done = asdic("train", *words, "--resume", folder / "run", "--out", folder / "further")
    assert done.returncode == 0, done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines()]
    assert lines[:2] == ["Dice", "baseline"]


def test_an_unreadable_image_ends_the_command_in_one_line(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((32, 32), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no image")
    done = asdic("train", "--data", tmp_path, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("asdic: 1 of 2 samples in")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tomli_w", None)
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    with pytest.raises(MissingPackageError, match=r"tomli_w .* install `asdic\[train\]`"):
        train.main(words, standalone_mode=False)


@pytest.mark.slow
def test_a_network_beats_the_threshold_on_phantoms(tmp_path):
    dataset = make_phantoms(tmp_path / "phantoms", count=240, seed=0, size=SIZE)
    metrics = train_segmentation(dataset, tmp_path / "run", size=SIZE, epochs=12)
    assert metrics.baseline < 60
    assert metrics.dice > metrics.baseline + 20


def test_real_images_can_be_learnt_from(shared_data, tmp_path):
    busi = read_dataset(shared_data / "busi")
    metrics = train_segmentation(busi, tmp_path / "run", size=(32, 32), epochs=1)
    assert (metrics.lesion_images, metrics.empty_images) == (96, 20)
