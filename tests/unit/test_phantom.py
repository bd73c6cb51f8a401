from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.random import SeedSequence

from asdic.contract.errors import ConfigError
from asdic.training.phantom import PIXEL_MM, Scanner, draw_phantom, envelope, make_phantoms
from asdic.training.tissue import CYST, Tissue, blob

SIZE = (128, 128)
QUIET = Scanner(noise_db=-200)


def homogeneous(size=SIZE):
    return Tissue(
        echo_db=np.zeros(size, np.float32),
        attenuation=np.full(size, 0.5, np.float32),
        mask=np.zeros(size, np.uint8),
        label="normal",
    )


def behind_a_lesion(attenuation):
    """Return the mean power below a lesion of 40 rows, against that of the lines beside it."""
    tissue = homogeneous()
    tissue.attenuation[30:70, 40:88] = attenuation
    power = envelope(np.random.default_rng(0), tissue, QUIET) ** 2
    return power[80:, 50:78].mean() / power[80:, :30].mean()


def test_speckle_has_the_statistics_of_rayleigh():
    expected = np.sqrt(np.pi / (4 - np.pi))
    samples = np.stack(
        [envelope(np.random.default_rng(seed), homogeneous(), QUIET) for seed in range(6)]
    )
    assert samples.mean() / samples.std() == pytest.approx(expected, rel=0.03)


def test_speckle_of_bright_tissue_has_a_mean_power_of_one():
    samples = [envelope(np.random.default_rng(seed), homogeneous(), QUIET) for seed in range(6)]
    assert np.mean(np.square(samples)) == pytest.approx(1, rel=0.05)


def test_speckle_is_finest_in_the_focus():
    scanner = Scanner(noise_db=-200, focus_mm=64 * PIXEL_MM)
    field = envelope(np.random.default_rng(0), homogeneous(), scanner)
    steps = np.abs(np.diff(field, axis=1)).mean(axis=1)
    assert steps[54:74].mean() > 1.1 * steps[108:].mean()


def test_tissue_behind_a_cyst_is_enhanced():
    assert behind_a_lesion(attenuation=0.0) > 2


def test_tissue_behind_a_carcinoma_is_in_shadow():
    assert behind_a_lesion(attenuation=1.5) < 0.2


def test_the_mask_is_the_very_region_that_was_made_darker():
    tissue = homogeneous()
    inside = blob(SIZE, center=(64, 64), radii=(12, 18), tilt=0.2, wobble=np.array([[0.1, 1.0]]))
    tissue.echo_db[inside] = CYST.echo_db[0]
    power = envelope(np.random.default_rng(1), tissue, QUIET) ** 2
    assert power[inside].mean() < 0.1 * power[~inside].mean()


def test_an_ellipse_covers_the_area_of_an_ellipse():
    inside = blob(SIZE, center=(64, 64), radii=(12, 18), tilt=0.7, wobble=np.empty((0, 2)))
    assert inside.sum() == pytest.approx(np.pi * 12 * 18, rel=0.01)


def test_the_same_seed_draws_the_same_image():
    first, again = (draw_phantom(SeedSequence(5).spawn(1)[0], SIZE)[0] for _ in range(2))
    assert np.array_equal(first, again)


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    few = make_phantoms(tmp_path / "few", count=2, seed=3, size=(48, 64))
    many = make_phantoms(tmp_path / "many", count=5, seed=3, size=(48, 64))
    assert few.samples[1].image.read_bytes() == many.samples[1].image.read_bytes()


def test_phantoms_read_like_any_data_set(tmp_path):
    dataset = make_phantoms(tmp_path / "phantoms", count=40, seed=0, size=(48, 64))
    labels = Counter(sample.label for sample in dataset.samples)
    lesions = {sample.name for sample in dataset.samples if sample.read_mask().any()}
    assert dataset.samples[0].read_image().shape == (48, 64)
    assert labels.keys() == {"normal", "benign", "malignant"}
    assert len(lesions) == 40 - labels["normal"]
    assert (len(dataset.split("train")), len(dataset.split("calib"))) == (28, 12)


def test_phantoms_are_made_once(tmp_path):
    calls = []
    arguments = {"count": 3, "seed": 0, "size": (32, 32)}
    make_phantoms(tmp_path / "a", progress=lambda *done: calls.append(done), **arguments)
    make_phantoms(tmp_path / "a", progress=lambda *done: calls.append(done), **arguments)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_other_phantoms_replace_those_in_the_folder(tmp_path):
    make_phantoms(tmp_path / "a", count=3, seed=0, size=(32, 32))
    dataset = make_phantoms(tmp_path / "a", count=4, seed=0, size=(32, 32))
    assert len(dataset.samples) == 4


def test_phantoms_do_not_replace_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else than phantoms"):
        make_phantoms(tmp_path, count=3, seed=0)
    assert (tmp_path / "thesis.txt").exists()


def test_an_interrupted_run_leaves_no_phantoms(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_phantoms(tmp_path / "a", count=3, seed=0, size=(32, 32), progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "0 phantoms are not possible"),
        ({"count": 10**9}, "1000000000 phantoms are not possible"),
        ({"seed": -1}, "a seed is 0 or larger"),
        ({"size": (8, 128)}, "32 to 1024 pixels a side"),
        ({"calib_percent": 101}, "calib_percent is 0 to 100"),
    ],
)
def test_impossible_phantoms_are_refused(tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make_phantoms(tmp_path / "a", **{"count": 3, "seed": 0, **wrong})
    assert not (tmp_path / "a").exists()
