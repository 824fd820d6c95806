"""Convert a Pascal VOC folder into a split, audited training set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data_prep.atomic import atomic_folder, check_replaceable, read_manifest, write_manifest
from data_prep.audit import Report, repair_all, report
from data_prep.findings import Finding
from data_prep.formats import csv_table, voc
from data_prep.records import Dataset
from data_prep.split import split_in_three


def voc_to_csv(
    images: Path | str,
    annotations: Path | str,
    out: Path | str,
    train: int,
    seed: int = 0,
    link: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    val: int = 0,
) -> Report:
    """Convert a Pascal VOC folder into `train/` and `test/`, each with `images/`, `labels/` and `annotations.csv`.

    With `val`, there is a third part, `val/`, to choose settings and checkpoints by. The test part is then the same as with
    `train + val` training images and no validation images.

    `labels/` holds unchanged copies of the XML files. `annotations.csv` holds the repaired boxes, and one row for each image
    without boxes. `audit.json`, `audit.txt` and a list of all files for `overwrite`, `data_prep.atomic.MANIFEST`, are in
    `out` itself. The same input and seed give the same bytes.

    Args:
        images: folder of images; annotations: folder of XML files.
        out: the new folder; it appears when it is complete, or not at all.
        train: number of training images.
        seed: another seed gives another split; see `data_prep.split`.
        link: make symbolic links to the images instead of copies.
        strict: stop at the first file, object or field that cannot be used as it is.
        overwrite: replace an earlier result in `out`. If `out` holds any file that no run wrote, nothing is replaced.
        val: number of validation images; all images that are neither training nor validation images are test images.

    Returns:
        The audit; `Report.has_skipped` is True if files or parts of them were left out.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, OSError: one line each; `out` is unchanged.
    """
    out = Path(out)
    _check_target(out, Path(images), Path(annotations))
    earlier = read_manifest(out)
    check_replaceable(out, overwrite, earlier)
    sources, findings = voc.read_folder(images, annotations, strict)
    if not sources:
        first = next(finding for finding in findings if finding.is_fault)
        raise ValueError(f"no annotation in {annotations} could be used: {first.file}: {first.detail}")
    parts = split_in_three([source.record.file_name for source in sources], train, val, seed)
    names_of = {name: set(names) for name, names in zip(("train", "val", "test"), parts, strict=True)}
    if not val:
        del names_of["val"]
    sources_of = {
        part: [source for source in sources if source.record.file_name in names] for part, names in names_of.items()
    }
    with atomic_folder(out, overwrite, earlier) as aside:
        _copy_files(sources_of, aside, link)
        repaired, repairs = _write_tables(sources_of, aside)
        result = report([source.record for source in sources], repaired, findings + repairs)
        result.write(aside)
        write_manifest(aside)
    return result


def _copy_files(sources_of: Mapping[str, Sequence[voc.Source]], folder: Path, link: bool) -> None:
    """Copy each part's images into its `images/` and its XML files into its `labels/`."""
    for part in sources_of:
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
    placed = [(folder / part, source) for part, sources in sources_of.items() for source in sources]
    for part, source in tqdm(placed, desc="linking" if link else "copying", unit=" images", delay=1, disable=None):
        image, label = part / "images" / source.record.file_name, part / "labels" / source.name
        for path, name in ((image, source.record.file_name), (label, source.name)):
            if "/" in name:
                path.parent.mkdir(parents=True, exist_ok=True)
        if link:
            image.symlink_to(source.image.resolve())
        else:
            shutil.copyfile(source.image, image)
        shutil.copyfile(source.annotation, label)


def _write_tables(
    sources_of: Mapping[str, Sequence[voc.Source]], folder: Path
) -> tuple[dict[str, Dataset], list[Finding]]:
    """Repair the boxes of each part and write them as `annotations.csv`.

    Returns:
        ({part: its repaired data set}, the findings of the repair). All data sets have the classes of all parts.
    """
    parts: dict[str, Dataset] = {}
    findings: list[Finding] = []
    for part, sources in sources_of.items():
        named = [(source.name, source.record) for source in sources]
        records, repairs = repair_all(named, [source.numbers for source in sources])
        findings += repairs
        parts[part] = Dataset(records)
        csv_table.write(parts[part], folder / part / "annotations.csv")
    classes = tuple(sorted({name for part in parts.values() for name in part.class_counts}))
    return {name: replace(part, categories=classes) for name, part in parts.items()}, findings


def _check_target(out: Path, *sources: Path) -> None:
    """Refuse an output folder that contains an input folder or lies inside one."""
    target = _real(out)
    for source in sources:
        if target == _real(source) or target in _real(source).parents:
            raise ValueError(f"--out {out} contains the input {source}; choose another folder")
        if _real(source) in target.parents:
            raise ValueError(f"--out {out} lies inside the input {source}; choose another folder")


def _real(path: Path) -> Path:
    """The path without links. `Path.resolve` would raise `RuntimeError` for links that lead in a circle."""
    return Path(os.path.realpath(path))
