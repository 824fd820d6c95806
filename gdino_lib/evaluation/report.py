"""What `gdino eval` does: measure a detector on a data set, print tables, and write the figures as JSON.

To measure forgetting, run `gdino eval` twice on a data set that the model is not fine-tuned on. The first run, before
fine-tuning, writes `json_file`. The second run, after fine-tuning, reads this file as `compare` and prints each figure as
"before -> now".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.atomic import check_free, reserved, write_json
from data_prep.formats.registry import format_of
from gdino_lib.data.datasets import image_folder, read_records
from gdino_lib.data.records import class_names
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.thresholds import thresholds_path
from gdino_lib.evaluation.evaluate import evaluate
from gdino_lib.messages import printable
from gdino_lib.weights import hub

MAX_LISTED = 5  # entries of each list: missed phrases, absent classes with boxes, classes that have changed


def evaluate_files(
    data: Path | str,
    images: Path | str | None,
    model: str | os.PathLike[str],
    split: str | None = None,
    *,
    json_file: Path | str | None = None,
    thresholds_file: Path | str | None = None,
    compare: Path | str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure a detector, print the tables, and write the files.

    Args:
        data: a data set, as for `read_records`.
        images: folder that its file names are relative to; None if the data set names it, as YOLO does.
        split: the part of a YOLO data set, "val" by default; None for other formats.
        model, device, dtype: as for `Detector.from_pretrained`.
        json_file: file for the figures.
        thresholds_file: file for the class thresholds, which are chosen on these data; "" is the file beside the model that
            `thresholds_path` names.
        compare: the `json_file` of an earlier run on the same data.
        overwrite: replace `json_file` and `thresholds_file` if they exist.

    Returns:
        The content of `json_file`: "model", "data" and "evaluation" (`Evaluation.to_json`).

    Raises:
        FileNotFoundError: a file or folder does not exist.
        FileExistsError: `json_file` or `thresholds_file` exists, and `overwrite` is False.
        BlockingIOError: another run is writing `json_file` or `thresholds_file`.
        ValueError: no record has a box; the earlier run is of other data; thresholds are asked for, and no class has boxes;
            an image, a model or a file cannot be used.
        OSError: a file cannot be written.
    """
    thresholds_file = _thresholds_beside(model) if thresholds_file == "" else thresholds_file
    with _reserved_targets(json_file, thresholds_file, overwrite=overwrite):
        if split is not None and not format_of(data).has_splits:
            raise ValueError(f"{data} has no parts; --split goes with a data.yaml of YOLO, and with --dataset")
        images = image_folder(data, images)
        records = read_records(data, images, split or "val")
        about = {
            "file": str(data),
            "images": len(records.images),
            "boxes": sum(len(record.boxes) for record in records.images),
            "classes": list(class_names(records)),
        }
        before = None if compare is None else _read_earlier(compare, about)
        result = evaluate(Detector.from_pretrained(model, device, dtype), records, images)
        if thresholds_file is not None and result.thresholds is None:
            raise ValueError(f"{data}: expected boxes of classes to choose thresholds by, got none")
        document = {"model": str(model), "data": about, "evaluation": result.to_json()}
        show(document["evaluation"], before and before["evaluation"], console or Console())
        if json_file is not None:
            write_json(json_file, document)
        if thresholds_file is not None and result.thresholds is not None:
            result.thresholds.save(thresholds_file)
        return document


def show(now: Mapping[str, Any], before: Mapping[str, Any] | None, console: Console) -> None:
    """Print the tables of an `Evaluation.to_json`; with that of an earlier run, print each figure as "before -> now"."""
    earlier = before or {}
    if now["precision"]:
        _show_precision(now, earlier, console)
        counts = _rows_by_threshold(now["counts"])
        columns = {"boxes": "boxes", "objects": "objects", "correct": "right", "ratio": "boxes per object"}
        columns |= {"images_with_more": "images with more"}
        old = _rows_by_threshold(earlier.get("counts"))
        print_table(console, "Boxes against objects", "threshold", columns, counts, old)
        _show_calibration(now["calibration"], earlier.get("calibration"), console)
    if now["absent"]:
        columns = {"boxes": "boxes", "boxes_per_image": "boxes per image", "images_with_boxes": "images with boxes"}
        absent = _rows_by_threshold(now["absent"])
        title = f"Boxes for classes that {now['absent'][0]['images']} images do not show, each of them wrong"
        print_table(console, title, "threshold", columns, absent, _rows_by_threshold(earlier.get("absent")))
        worst = list(now["absent"][0]["by_phrase"].items())[:MAX_LISTED]
        if worst:
            names = ", ".join(f"{name} ({count})" for name, count in worst)
            _print_line(console, f"most often for {names}")
    if now["referring"]:
        referring = now["referring"]
        title = f"Referring expressions, right if the overlap is at least {referring['iou']}"
        columns = {"accuracy": "accuracy", "correct": "right", "phrases": "phrases"}
        old = {"all": earlier["referring"]} if earlier.get("referring") else {}
        print_table(console, title, "", columns, {"all": referring}, old)
        for miss in referring["misses"][:MAX_LISTED]:
            text = f"missed: {miss['phrase']!r} in {miss['image']}, overlap {miss['iou']:.2f}"
            _print_line(console, text)
    if before:
        _show_changes(now, before, console)


def _show_changes(now: Mapping[str, Any], before: Mapping[str, Any], console: Console) -> None:
    console.print("[bold]Changes since the earlier run[/bold]", highlight=False)
    lines = []
    if now["precision"] and before["precision"]:
        lines.append(_change("AP", before["precision"]["ap"], now["precision"]["ap"]))
        old, new = (
            {row["name"]: row["ap"] for row in run["precision"]["classes"] if row["ap"] is not None}
            for run in (before, now)
        )
        changed = [name for name in new if name in old and round(new[name] - old[name], 3)]
        changed.sort(key=lambda name: -abs(new[name] - old[name]))
        many = f"{len(changed)} of {len(new)}"
        lines.append(f"classes whose AP changed: {many}; largest changes:" if changed else "no class's AP has changed")
        lines += ["  " + _change(name, old[name], new[name]) for name in changed[:MAX_LISTED]]
    if now["referring"] and before.get("referring"):
        lines.append(_change("referring accuracy", before["referring"]["accuracy"], now["referring"]["accuracy"]))
    for line in lines:
        _print_line(console, line)


def _print_line(console: Console, line: str) -> None:
    console.print(printable(line), soft_wrap=True, markup=False, highlight=False)


def _change(name: str, before: float, now: float) -> str:
    return f"{name} {before:.3f} -> {now:.3f}: {now - before:+.3f}"


def _show_precision(now: Mapping[str, Any], earlier: Mapping[str, Any], console: Console) -> None:
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium"}
    names |= {"ap_large": "large", "recall": "recall"}
    precision, old = now["precision"], earlier.get("precision")
    title = f"Average precision, {precision['images']} images, {precision['objects']} objects"

    def measures(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {heading: {"value": values[name]} for name, heading in names.items()}

    print_table(console, title, "", {"value": "all classes"}, measures(precision), measures(old) if old else {})

    def classes(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        if not evaluation.get("precision"):
            return {}
        chosen = evaluation["thresholds"]
        return {
            row["name"]: row | {"threshold": chosen["classes"].get(row["name"]), "f1": chosen["f1"].get(row["name"])}
            for row in evaluation["precision"]["classes"]
        }

    columns = {"objects": "objects", "ap": "AP", "ap50": "AP50", "threshold": "best threshold", "f1": "its F1"}
    print_table(console, "Classes", "class", columns, classes(now), classes(earlier))


def _show_calibration(now: Mapping[str, Any], earlier: Mapping[str, Any] | None, console: Console) -> None:
    error = _cell(now["error"], earlier["error"] if earlier else None, bool(earlier))

    def rows(bins: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        return {f"{entry['low']:.1f} to {entry['high']:.1f}": entry for entry in bins}

    title = f"Calibration of scores from {now['min_confidence']}, expected calibration error {error}"
    columns = {"boxes": "boxes", "confidence": "mean score", "precision": "share right"}
    print_table(console, title, "scores", columns, rows(now["bins"]), rows(earlier["bins"]) if earlier else {})


def _rows_by_threshold(entries: Sequence[Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    return {f"{entry['threshold']:g}": entry for entry in entries or ()}


def print_table(
    console: Console,
    title: str,
    key: str,
    columns: Mapping[str, str],
    rows: Mapping[str, Mapping[str, Any]],
    earlier: Mapping[str, Mapping[str, Any]],
) -> None:
    """Print rows {name: {field: number}} under columns {field: heading}; one line if no row has a box."""
    empty = "boxes" in columns and not any(row["boxes"] for row in (*rows.values(), *earlier.values()))
    # printed before the table, because a table would break a long title into lines
    console.print(f"[bold]{escape(title)}[/bold]{': no boxes' * empty}", soft_wrap=True, highlight=False)
    if empty:
        return
    table = Table(key)
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        old = earlier.get(name)
        cells = [_cell(row[column], old[column] if old else None, old is not None) for column in columns]
        table.add_row(escape(printable(name)), *cells)
    console.print(table)


def _cell(value: float | None, before: float | None, compared: bool) -> str:
    if compared and value != before:
        return f"{_figure_text(before)} -> {_figure_text(value)}"
    return _figure_text(value)


def _figure_text(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _thresholds_beside(model: str | os.PathLike[str]) -> Path:
    """The path for thresholds beside the model's file."""
    if not Path(model).exists():
        hub.check(model)
        raise ValueError(f"thresholds: {model!r} is not a file, so nothing can be written beside it; name a file")
    return thresholds_path(model)


@contextmanager
def _reserved_targets(*paths: Path | str | None, overwrite: bool) -> Iterator[None]:
    """Check the files that are to be written, and keep other runs from writing them while the block runs."""
    with ExitStack() as stack:
        for path in paths:
            if path is not None:
                check_target(Path(path), overwrite)
                stack.enter_context(reserved(path, overwrite))
        yield


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written now, before the measurement, which may take an hour."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; expected a file to write")
    check_free(path, overwrite)


def _read_earlier(path: Path | str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Read the JSON of an earlier run on the same data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another content, or the run is of other data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the JSON of an earlier evaluation")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        other = document["data"]
        given = {name: other[name] for name in about}
        document["evaluation"]["precision"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the JSON of an earlier evaluation, got {type(error).__name__}") from None
    for name in ("images", "boxes", "classes"):
        if given[name] != about[name]:
            here, there = (
                f"{len(v)} {name}" if name == "classes" else f"{v} {name}" for v in (about[name], given[name])
            )
            raise ValueError(f"{path} is of other data ({there}) than {about['file']} ({here}); cannot compare")
    return document
