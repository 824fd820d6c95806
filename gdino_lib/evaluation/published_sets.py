"""The data sets that published results are measured on, read as they are published.

Each name stands for these files below the folder of the data set:

- coco: `annotations/instances_val2017.json`, `val2017/`
- lvis: `annotations/lvis_v1_val.json` or `annotations/lvis_v1_minival_inserted_image_name.json`, `val2017/`, `train2017/`
- odinw13, odinw35: the folders of `gdino_lib.evaluation.odinw.SETS`
- folder: sub-folders with a COCO file each, see `gdino_lib.evaluation.odinw.find_sets`
- refcoco, refcoco+, refcocog: `refcoco/refs(unc).p`, `refcoco/instances.json`, and the images in `train2014/` or
  `images/mscoco/images/train2014/`
- flickr30k: `Sentences/`, `Annotations/`, `test.txt`, and the images in `flickr30k-images/` or `flickr30k_images/`
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import data_prep
from data_prep.formats import flickr30k, lvis, refcoco
from data_prep.formats.fields import located
from gdino_lib.data.datasets import read_records
from gdino_lib.data.records import class_names
from gdino_lib.evaluation import odinw
from gdino_lib.evaluation.lvis import lvis_precision, words_of
from gdino_lib.evaluation.tasks import ClassTask, GroundingTask, ReferringTask, Task

LVIS_FILES = {"val": "lvis_v1_val.json", "minival": "lvis_v1_minival_inserted_image_name.json"}
REFS = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
PROMPTS = ("names", "written")


@dataclass(frozen=True)
class Choice:
    """What of a data set is measured, and where it is.

    Attributes:
        name: a key of `SETS`; root: the folder of the data set; split: one of its splits.
        images: folder of the images, if not below `root` as published.
        prompts: "names": classes are asked for by their names; "written": by the words that people wrote for some of them.
        names_per_prompt: see `ClassPrompts.build`.
    """

    name: str
    root: Path
    split: str
    images: Path | None = None
    prompts: str = "names"
    names_per_prompt: int | None = None


@dataclass(frozen=True)
class PublishedSet:
    """A data set that is known by name.

    Attributes:
        splits: the first is the default.
        read: gives its tasks.
        has_classes: whether classes are asked for, so that `prompts` and `names_per_prompt` mean something.
        has_several: whether it is made of several sets, each with its own images.
    """

    splits: tuple[str, ...]
    read: Callable[[Choice], list[Task]]
    has_classes: bool = True
    has_several: bool = False


def read_tasks(choice: Choice) -> list[Task]:
    """What is to be measured.

    Raises:
        FileNotFoundError: a file, a folder or an image is missing.
        ValueError: an unknown name or split, an option that this data set has no use for, a file of another form.
    """
    if choice.name not in SETS:
        raise ValueError(f"dataset: expected one of {', '.join(SETS)}, got {choice.name!r}")
    known = SETS[choice.name]
    if choice.split not in known.splits:
        raise ValueError(f"split: {choice.name} has {', '.join(known.splits)}, got {choice.split!r}")
    if choice.prompts not in PROMPTS:
        raise ValueError(f"prompts: expected one of {', '.join(PROMPTS)}, got {choice.prompts!r}")
    if not known.has_classes and choice.names_per_prompt is not None:
        raise ValueError(f"names_per_prompt: {choice.name} has no classes, got {choice.names_per_prompt}")
    if not known.has_several and choice.prompts != PROMPTS[0]:
        raise ValueError(f"prompts: only odinw13, odinw35 and folder have written words, not {choice.name}")
    if known.has_several and choice.images is not None:
        raise ValueError(f"images: the images of {choice.name} are beside its files, got {choice.images}")
    if not choice.root.is_dir():
        raise FileNotFoundError(f"{choice.root}: no such folder, expected the data set {choice.name}")
    return known.read(choice)


def _first(*paths: Path) -> Path:
    """The first path that is there, or else the first, which a message will name."""
    return next((path for path in paths if path.exists()), paths[0])


def _coco(choice: Choice) -> list[Task]:
    file = choice.root / "annotations" / f"instances_{choice.split}.json"
    images = choice.images or choice.root / choice.split
    return [ClassTask(choice.name, images, read_records(file), names_per_prompt=choice.names_per_prompt)]


def _lvis(choice: Choice) -> list[Task]:
    file = LVIS_FILES[choice.split]
    dataset = lvis.read(_first(choice.root / "annotations" / file, choice.root / file))
    wordings = {name: words_of(name) for name in class_names(dataset)}
    images = choice.images or choice.root
    return [ClassTask(choice.name, images, dataset, wordings, choice.names_per_prompt, lvis_precision)]


def _odinw(choice: Choice) -> list[Task]:
    chosen = [each for each in odinw.SETS if each.in_13 or choice.name == "odinw35"]
    tasks = []
    for each in chosen:
        file = each.annotations(choice.root, choice.split)
        dataset = read_records(file)
        known = {label: words for label, words in each.wordings.items() if label in class_names(dataset)}
        if choice.prompts == "written" and (unknown := sorted(set(each.wordings) - set(known))):
            warnings.warn(f"{file}: no class {unknown[0]!r}, for which there are written words", stacklevel=2)
        tasks.append(_set(choice, each.name, file.parent, dataset, known))
    return tasks


def _folder(choice: Choice) -> list[Task]:
    files, wordings = odinw.find_sets(choice.root, choice.split), odinw.read_wordings(choice.root)
    if unknown := sorted(set(wordings) - set(files)):
        raise ValueError(
            f"{choice.root / odinw.PROMPTS}: expected names of the sets {', '.join(files)}, got {unknown[0]!r}"
        )
    tasks = []
    for name, file in files.items():
        inner = file.parent / "images"
        images = inner if inner.is_dir() else file.parent
        tasks.append(_set(choice, name, images, read_records(file), wordings.get(name, {})))
    return tasks


def _set(choice: Choice, name: str, images: Path, dataset: data_prep.Dataset, wordings: Mapping[str, str]) -> Task:
    own = wordings if choice.prompts == "written" else None
    with located(name):
        return ClassTask(name, images, dataset, own, choice.names_per_prompt)


def _refcoco(choice: Choice) -> list[Task]:
    folder = choice.root / choice.name
    dataset = refcoco.read(folder / REFS[choice.name], folder / "instances.json", choice.split)
    places = (choice.root / "train2014", choice.root / "images" / "mscoco" / "images" / "train2014")
    return [ReferringTask(choice.name, choice.images or _first(*places), dataset)]


def _flickr30k(choice: Choice) -> list[Task]:
    dataset = flickr30k.read(choice.root, choice.split)
    places = (choice.root / "flickr30k-images", choice.root / "flickr30k_images")
    return [GroundingTask(choice.name, choice.images or _first(*places), dataset)]


_RefCOCO = PublishedSet(("val", "testA", "testB", "train"), _refcoco, has_classes=False)
SETS: dict[str, PublishedSet] = {
    "coco": PublishedSet(("val2017", "train2017"), _coco),
    "lvis": PublishedSet(tuple(LVIS_FILES), _lvis),
    "odinw13": PublishedSet(odinw.SPLITS, _odinw, has_several=True),
    "odinw35": PublishedSet(odinw.SPLITS, _odinw, has_several=True),
    "folder": PublishedSet(odinw.SPLITS, _folder, has_several=True),
    "refcoco": _RefCOCO,
    "refcoco+": _RefCOCO,
    "refcocog": PublishedSet(("val", "test", "train"), _refcoco, has_classes=False),
    "flickr30k": PublishedSet(("test", "val", "train"), _flickr30k, has_classes=False),
}
"""All data sets by name."""
