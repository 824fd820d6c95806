"""From a VOC folder to a split, audited training set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data_prep.atomic import atomic_folder
from data_prep.audit import Report, repair_all, report
from data_prep.formats import csv_table, voc
from data_prep.records import Dataset
from data_prep.split import split

OUTPUTS = r"(train|test)/(images/.+|labels/[^/]+|annotations\.csv)|audit\.(json|txt)"


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

    `labels/` holds the XML files as they are; the CSV has clipped boxes and leaves out empty ones. `audit.json` and
    `audit.txt` lie beside the two folders. The same input and seed give the same bytes.

    Args:
        images: folder of images; annotations: folder of XML files.
        out: the new folder; it appears when all is written, or not at all.
        train: how many images train; the rest test.
        seed: deals the split, see `data_prep.split`.
        link: symbolic links to the images instead of copies.
        strict: stop at the first file that cannot be used.
        overwrite: replace an earlier result at `out`, and nothing else.

    Returns:
        The audit; `Report.has_skipped` when files were left out.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, OSError: one line each, and nothing is left behind.
    """
    out = Path(out)
    _check_target(out, Path(images), Path(annotations))
    sources, findings = voc.read_folder(images, annotations, strict)
    if not sources:
        raise ValueError(f"no annotation in {annotations} could be used: {findings[0].file}: {findings[0].detail}")
    names = split([source.record.file_name for source in sources], train, seed)
    parts: dict[str, Dataset] = {}
    with atomic_folder(out, overwrite, OUTPUTS) as aside:
        progress = tqdm(
            total=len(sources), desc="linking" if link else "copying", unit=" images", delay=1, disable=None
        )
        for part, members in zip(("train", "test"), map(set, names), strict=True):
            for folder in ("images", "labels"):
                (aside / part / folder).mkdir(parents=True)
            mine = [source for source in sources if source.record.file_name in members]
            for source in mine:
                target = aside / part / "images" / source.image.name
                if link:
                    target.symlink_to(source.image.resolve())
                else:
                    shutil.copyfile(source.image, target)
                shutil.copyfile(source.annotation, aside / part / "labels" / source.annotation.name)
                progress.update()
            records, more = repair_all((source.annotation.name, source.record) for source in mine)
            findings += more
            parts[part] = Dataset(records)
            csv_table.write(parts[part], aside / part / "annotations.csv")
        progress.close()
        classes = tuple(sorted({name for part in parts.values() for name in part.class_counts}))
        parts = {name: replace(part, categories=classes) for name, part in parts.items()}
        result = report([source.record for source in sources], parts, findings)
        result.write(aside)
    return result


def _check_target(out: Path, *sources: Path) -> None:
    """Refuse an output folder that holds its own input, or files but no audit, which each result has."""
    for source in sources:
        if out.resolve() == source.resolve() or out.resolve() in source.resolve().parents:
            raise ValueError(f"--out {out} holds the input {source}; choose another folder")
        if source.resolve() in out.resolve().parents:
            raise ValueError(f"--out {out} lies inside the input {source}; choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "audit.json").is_file():
        raise FileExistsError(f"{out} holds files, and no result of voc-to-csv; choose another folder")
