"""One training run from a data folder to a run's folder; what ``asdic train`` does."""

from __future__ import annotations

from pathlib import Path

from asdic.training.data import Dataset
from asdic.training.evaluate import evaluate, threshold_baseline
from asdic.training.export import (
    TrainingMetrics,
    check_free,
    export_model,
    segmentation_description,
)
from asdic.training.fit import Progress, fit
from asdic.training.models import parameter_count


def train_segmentation(
    dataset: Dataset,
    folder: Path,
    *,
    size: tuple[int, int],
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    initial: Path | None = None,
    seconds: float | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> TrainingMetrics:
    """Fit, judge and export a segmentation network; return what ``metrics.json`` then holds.

    The arguments are those of ``fit`` and ``export_model``.

    Raises:
        ConfigError: ``folder`` is in the way, or an argument does not fit.
        DataError: The images or masks do not suffice.
    """
    check_free(folder, replace=replace)
    calib = dataset.split("calib")
    baseline = threshold_baseline(dataset)
    result = fit(
        dataset,
        size=size,
        epochs=epochs,
        seed=seed,
        device=device,
        initial=initial,
        seconds=seconds,
        progress=progress,
    )
    data = str(dataset.folder.resolve())
    description = segmentation_description(name=folder.resolve().name, size=size, data=data)
    evaluation = evaluate(result.network, calib, description)
    metrics = TrainingMetrics(
        dice=round(evaluation.mean, 2),
        baseline=round(baseline, 2),
        lesion_images=len(evaluation.scores),
        empty_images=len(evaluation.alarms),
        false_alarm_percent=evaluation.false_alarm_percent,
        epochs=len(result.epochs),
        best_epoch=result.best.number,
        seconds=round(result.seconds, 1),
        images=result.fitted,
        held_back=result.held_back,
        parameters=parameter_count(result.network),
        size=size,
        seed=seed,
        resumed_from=None if initial is None else str(initial.resolve()),
    )
    export_model(result.network, folder, description, metrics=metrics, replace=replace)
    return metrics
