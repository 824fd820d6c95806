"""`gdino check`: find out before training what would go wrong.

There are four examinations, and each needs the one before it: the data; a batch of four images, drawn as the model sees them;
the gradients of one step, part by part; and overfitting: whether the model can learn the four images by heart. A model that
cannot, although the data are in order, will not learn anything else either.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import data_prep
from data_prep.atomic import atomic_folder, read_manifest, write_json, write_manifest
from gdino_lib.data.transforms import TrainingTransform, Transform
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.training.doctor.batch import examine_batch
from gdino_lib.training.doctor.data import build_dataset, examine_data
from gdino_lib.training.doctor.diagnosis import Diagnosis
from gdino_lib.training.doctor.gradients import examine_gradients, freeze
from gdino_lib.training.doctor.overfitting import LOSS_GOAL_SHARE, examine_overfitting
from gdino_lib.training.doctor.pictures import draw_curves

DIAGNOSIS, CURVES = "check.json", "overfitting.png"  # beside the pictures of the batch


def check(
    model: GroundingDINO,
    records: data_prep.Dataset,
    images: Path | str,
    out: Path | str,
    *,
    transform: Transform | None = None,
    frozen: Sequence[str] = (),
    overfit: bool = True,
    lr: float = 2e-4,
    seconds: float = 120.0,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Diagnosis:
    """Examine a copy of a model, and its training data; the model itself stays as it is.

    Args:
        records: the training data, as read from CSV, COCO or ODVG.
        images: folder that the file names are relative to.
        out: folder for `check.json`, `batch-1.png` ... `overfitting.png`, and their hidden list for a later `overwrite`.
        transform: what training does to an image; None: `TrainingTransform` of the model's size.
        frozen: prefixes of parameters that are not to be trained; any other frozen parameter is a problem.
        overfit: try to learn the batch by heart; False leaves this examination out.
        lr: learning rate of AdamW for overfitting; constant for half of the time, then falling to 0.
        seconds: time that overfitting may take.
        seed: seed of the choice of images, of augmentation and of noise.
        overwrite: replace an earlier report in `out`.

    Returns:
        The diagnosis. Faults of the data and of single images are part of it and raise no error.

    Raises:
        FileNotFoundError: `images` is not a folder.
        FileExistsError: `out` holds files and `overwrite` is off, or it holds files that belong to no report.
        ValueError: `frozen` names no part of the model; `lr` or `seconds` is not above 0.
        OSError: `out` cannot be written.
    """
    for name, value in (("lr", lr), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")
    patient = copy.deepcopy(model).eval()  # no dropout, no dropped paths: each step sees the same network
    patient.zero_grad()
    freeze(patient, frozen)
    transform = transform or TrainingTransform(model.config.short_side, model.config.long_side)
    diagnosis = Diagnosis()
    with atomic_folder(out, overwrite, read_manifest(out)) as folder:
        usable = examine_data(diagnosis, records, images, model.config, progress)
        dataset = build_dataset(diagnosis, usable, images, transform, seed, model.config.max_tokens)
        batch = None if dataset is None else examine_batch(diagnosis, dataset, folder)
        if batch is None:
            diagnosis.add("warning", "batch", "gradients and overfitting were not examined: mend the data first")
        elif examine_gradients(diagnosis, patient, batch, frozen, lr, seed) and overfit:
            result = examine_overfitting(diagnosis, patient, batch, lr, seconds, seed, progress)
            if result is not None:
                draw_curves(folder / CURVES, result.losses, result.recalls, LOSS_GOAL_SHARE)
        write_json(folder / DIAGNOSIS, diagnosis.to_json())
        write_manifest(folder)
    return diagnosis
