"""From a VOC folder to a split, audited training set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data_prep.atomic import atomic_folder
from data_prep.audit import Report, repair_all, report
from data_prep.findings import Finding
from data_prep.formats import csv_table, voc
from data_prep.records import Dataset
from data_prep.split import split

PARTS = ("train", "test")
OUTPUTS = r"(train|test)/(images/.+|labels/.+|annotations\.csv)|audit\.(json|txt)"


def voc_to_csv(
    images: Path | str,
    annotations: Path | str,
    out: Path | str,
    train: int,
    seed: int = 0,
    link: bool = False,
    strict: bool = False,
    overwrite: bool = False,
) -> Report:
    """Convert a Pascal VOC folder into `train/` and `test/`, each with `images/`, `labels/` and `annotations.csv`.

    `labels/` holds the XML files as they are; the CSV has the repaired boxes, and a row for an image without any.
    `audit.json` and `audit.txt` lie beside the two folders. The same input and seed give the same bytes.

    Args:
        images: folder of images; annotations: folder of XML files.
        out: the new folder; it appears when all is written, or not at all.
        train: how many images train; the rest test.
        seed: deals the split, see `data_prep.split`.
        link: symbolic links to the images instead of copies.
        strict: stop at the first file, object or field that cannot be used as it stands.
        overwrite: replace an earlier result at `out`, and nothing else.

    Returns:
        The audit; `Report.has_skipped` when files or parts of them were left out.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, OSError: one line each, and nothing is left behind.
    """
    out = Path(out)
    _check_target(out, Path(images), Path(annotations))
    sources, findings = voc.read_folder(images, annotations, strict)
    if not sources:
        first = next(finding for finding in findings if finding.is_fault)
        raise ValueError(f"no annotation in {annotations} could be used: {first.file}: {first.detail}")
    training, testing = split([source.record.file_name for source in sources], train, seed)
    part_of = dict.fromkeys(training, "train") | dict.fromkeys(testing, "test")
    with atomic_folder(out, overwrite, OUTPUTS) as aside:
        _copy_files(sources, part_of, aside, link)
        parts, repairs = _write_tables(sources, part_of, aside)
        result = report([source.record for source in sources], parts, findings + repairs)
        result.write(aside)
    return result


def _copy_files(sources: Sequence[voc.Source], part_of: Mapping[str, str], folder: Path, link: bool) -> None:
    """Put images and XML files, as they are, into `images/` and `labels/` of the part of each image's name."""
    for part in PARTS:
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
    for source in tqdm(sources, desc="linking" if link else "copying", unit=" images", delay=1, disable=None):
        part = folder / part_of[source.record.file_name]
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
    sources: Sequence[voc.Source], part_of: Mapping[str, str], folder: Path
) -> tuple[dict[str, Dataset], list[Finding]]:
    """Write the repaired boxes of each part as a table.

    Returns:
        ({part: its repaired data set}, all with the classes of both; what was repaired).
    """
    parts: dict[str, Dataset] = {}
    findings: list[Finding] = []
    for part in PARTS:
        chosen = [source for source in sources if part_of[source.record.file_name] == part]
        named = [(source.name, source.record) for source in chosen]
        records, repairs = repair_all(named, [source.numbers for source in chosen])
        findings += repairs
        parts[part] = Dataset(records)
        csv_table.write(parts[part], folder / part / "annotations.csv")
    classes = tuple(sorted({name for part in parts.values() for name in part.class_counts}))
    return {name: replace(part, categories=classes) for name, part in parts.items()}, findings


def _check_target(out: Path, *sources: Path) -> None:
    """Refuse an output folder that holds its own input, or files but no audit, which each result has."""
    target = _real(out)
    for source in sources:
        if target == _real(source) or target in _real(source).parents:
            raise ValueError(f"--out {out} holds the input {source}; choose another folder")
        if _real(source) in target.parents:
            raise ValueError(f"--out {out} lies inside the input {source}; choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "audit.json").is_file():
        raise FileExistsError(f"{out} holds files, and no result of voc-to-csv; choose another folder")


def _real(path: Path) -> Path:
    """The path behind all links; `Path.resolve` would end in a traceback where links lead in a circle."""
    return Path(os.path.realpath(path))
