"""What `gdino eval --dataset` does: measure a detector on a data set that published results are measured on.

The images are dealt into parts of 16. Boxes found in a part are stored at once, beside the JSON file that will have the figures,
so that a killed run can go on where it was. Several processes of `accelerate launch` take the parts in turn. The first process
computes the figures from the stored parts. Neither the number of processes nor an interruption changes which images are detected
together, so that the figures stay the same; another device or number of threads may change the last bits of a score. All
processes need the same disk.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from data_prep import ImageRecord
from data_prep.atomic import only_writer, write_json
from gdino_lib import __version__
from gdino_lib.data.records import pictures_digest
from gdino_lib.detect.detector import Detector
from gdino_lib.evaluation.detect_all import progress_bar, read_ahead
from gdino_lib.evaluation.found_boxes import FoundBoxes
from gdino_lib.evaluation.published_sets import SETS, Choice, read_tasks
from gdino_lib.evaluation.report import check_target, print_table
from gdino_lib.evaluation.stored_results import StoredResults
from gdino_lib.evaluation.tasks import Task
from gdino_lib.weights.files import weights_digest
from gdino_lib.weights.hub import locate

if TYPE_CHECKING:
    from accelerate import PartialState

PART = 16  # images
PACKAGES = ("torch", "torchvision", "transformers", "timm", "numpy", "pillow", "pycocotools", "faster-coco-eval")
LONGEST = timedelta(days=7)  # a process waits this long for the others


def run_benchmark(
    choice: Choice,
    model: str | os.PathLike[str],
    json_file: Path | str,
    *,
    command: str = "",
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any] | None:
    """Measure a detector, print the figures, and write them as JSON.

    Boxes that were found are in the folder `<json_file>.parts` until the figures are written. The same call goes on from there.

    Args:
        choice: what is measured.
        model, device, dtype: as for `Detector.from_pretrained`; several processes take "auto" or "cpu".
        command: for the JSON file, which says how its figures were made.
        overwrite: replace `json_file`, and remove stored parts that belong to another run.

    Returns:
        The content of `json_file`; None in all processes but the first.

    Raises:
        FileNotFoundError: a file, a folder or an image is missing.
        FileExistsError: `json_file` exists, or stored parts are of another run; and `overwrite` is False.
        BlockingIOError: another run writes to `json_file`.
        ValueError: a file of another form, an image, a model or an option that cannot be used.
        OSError: a file cannot be written.
    """
    target = Path(json_file)
    check_target(target, overwrite)
    tasks = read_tasks(choice)
    state = _processes(device)
    place = device if state.num_processes == 1 else str(state.device)
    store = StoredResults(target.with_name(f"{target.name}.parts"))
    with only_writer(target) if state.is_main_process else nullcontext():
        with state.main_process_first():  # which fetches weights that are not there yet
            detector = Detector.from_pretrained(model, place, dtype)
        about: dict[str, Any] = {}
        if state.is_main_process:
            about = _about(choice, tasks, model, detector, dtype)
            store.open(about, overwrite)
        state.wait_for_everyone()
        _find_all(detector, tasks, store, state)
        state.wait_for_everyone()
        if state.num_processes > 1:
            state.destroy_process_group()
        if not state.is_main_process:
            return None
        machine = _machine(detector, state.num_processes)
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        figures = _figures(tasks, store, SETS[choice.name].has_several)
        document = {"command": command, **about, "machine": machine, "date": date, "figures": figures}
        write_json(target, document)
        store.remove()
    show(figures, console or Console())
    return document


def _about(
    choice: Choice, tasks: Sequence[Task], model: str | os.PathLike[str], detector: Detector, dtype: str
) -> dict[str, Any]:
    """Everything that the boxes found depend on, as JSON's values."""
    return {
        "dataset": {"name": choice.name, "split": choice.split, "sha256": _fingerprint(tasks)},
        "model": {"name": str(model), "sha256": weights_digest(locate(model))},
        "settings": {
            "prompts": choice.prompts,
            "prompts_sha256": hashlib.sha256(repr([task.prompts for task in tasks]).encode()).hexdigest(),
            "names_per_prompt": choice.names_per_prompt,
            "dtype": dtype,
            "device": detector.device.type,
        },
        "versions": _versions(),
    }


def _processes(device: str) -> PartialState:
    """The processes that share the work, one outside `accelerate launch`.

    Raises:
        ValueError: a device by name for several processes, which would all use it.
    """
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=LONGEST)
    if state.num_processes > 1 and device not in ("auto", "cpu"):
        raise ValueError(f"device: for several processes expected auto or cpu, got {device!r}")
    return state


def _fingerprint(tasks: Sequence[Task]) -> str:
    """SHA-256 of the records and of the bytes of the pictures."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(repr((task.name, task.groups)).encode())
        digest.update(pictures_digest([group[0] for group in task.groups], task.images).encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {"gdino_lib": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine(detector: Detector, processes: int) -> dict[str, Any]:
    cuda = detector.device.type == "cuda"
    name = torch.cuda.get_device_name(detector.device) if cuda else platform.processor() or platform.machine()
    return {"name": name, "threads": torch.get_num_threads(), "processes": processes}


def _parts(task: Task) -> list[list[list[ImageRecord]]]:
    """The records of the images of each part."""
    return [task.groups[start : start + PART] for start in range(0, len(task.groups), PART)]


def _find_all(detector: Detector, tasks: Sequence[Task], store: StoredResults, state: PartialState) -> None:
    """Find the boxes of this process's parts that are not stored yet.

    Raises:
        KeyboardInterrupt: with the place of the stored results.
    """
    numbered = [(number, part, groups) for number, task in enumerate(tasks) for part, groups in enumerate(_parts(task))]
    own = numbered[state.process_index :: state.num_processes]
    missing = [each for each in own if not store.has(*each[:2])]
    total, left = (sum(len(groups) for _, _, groups in some) for some in (own, missing))
    with progress_bar(total, "measuring", state.is_main_process, total - left) as bar, _saying_what_is_kept(store):
        for number, task in enumerate(tasks):
            todo = [(part, groups) for owner, part, groups in missing if owner == number]
            firsts = [group[0] for _, groups in todo for group in groups]
            # only the last part of a task can be short, so that these batches are its parts
            batches = read_ahead(firsts, task.images, PART)
            for (part, groups), (_, pictures) in zip(todo, batches, strict=True):
                store.write(number, part, task.find(detector, pictures, groups))
                bar.update(len(groups))


@contextmanager
def _saying_what_is_kept(store: StoredResults) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command continues from {store.folder}") from None


def _figures(tasks: Sequence[Task], store: StoredResults, has_several: bool) -> dict[str, Any]:
    figures = {}
    for number, task in enumerate(tasks):
        found: list[FoundBoxes] = []
        for part, groups in enumerate(_parts(task)):
            found += store.read(number, part, sum(map(len, groups)))
        figures[task.name] = task.measure(found)
    if not has_several:
        return next(iter(figures.values()))
    values = [own["ap"] for own in figures.values()]
    return {"mean_ap": mean(values), "median_ap": median(values), "sets": figures}


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print the figures of one data set, or a row for each of several."""
    if "sets" in figures:
        columns = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "images": "images", "objects": "objects"}
        rows = {"mean": {"ap": figures["mean_ap"]}, "median": {"ap": figures["median_ap"]}} | figures["sets"]
        rows = {name: {column: row.get(column) for column in columns} for name, row in rows.items()}
        print_table(console, "Average precision by set", "set", columns, rows, {})
    elif "any_box" in figures:
        for protocol, own in figures.items():
            best = {k: f"recall at {k}" for k in own["recall"]["all"]}
            rows = {kind: recall | {"phrases": own["phrases"][kind]} for kind, recall in own["recall"].items()}
            title = f"Phrase grounding, {protocol.replace('_', ' ')}"
            print_table(console, title, "type", {"phrases": "phrases"} | best, rows, {})
    else:
        rows = {name: {"value": value} for name, value in figures.items() if isinstance(value, int | float | None)}
        print_table(console, "Figures", "", {"value": "value"}, rows, {})
