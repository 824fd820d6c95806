"""What a benchmark measures: classes, expressions, or the phrases of sentences, each on one set of images.

A task finds boxes, and measures them when all of them are there. Boxes can therefore be found in parts, by several processes
and in several runs (`gdino_lib.evaluation.benchmark`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import data_prep
from data_prep import ImageRecord
from gdino_lib.data.records import check_files, class_names, single_objects
from gdino_lib.evaluation.class_prompts import ClassPrompts
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detection_records
from gdino_lib.evaluation.found_boxes import FoundBoxes
from gdino_lib.evaluation.phrase_grounding import ground, grounding_recall
from gdino_lib.evaluation.referring import by_image, grounding_records, judge, refer_all

if TYPE_CHECKING:
    import supervision as sv
    from PIL import Image

    from gdino_lib.detect.detector import Detector


class Precision(Protocol):
    """What `average_precision` and `lvis_precision` return."""

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON's values."""
        ...


class Task(ABC):
    """One set of images with something to find.

    Args:
        name: of the set; images: folder that the file names are relative to; records: what is measured by.

    Attributes:
        groups: the records of each image together.

    Raises:
        FileNotFoundError: an image is missing; ValueError: no records.
    """

    def __init__(self, name: str, images: Path, records: Sequence[ImageRecord]) -> None:
        if not any(single_objects(record) for record in records):
            raise ValueError(f"{name}: {len(records)} records without a box; expected at least one to measure by")
        self.name, self.images = name, images
        self.groups = by_image(records)
        check_files([group[0] for group in self.groups], images)

    @property
    def records(self) -> list[ImageRecord]:
        """All records, in the order of `groups`."""
        return [record for group in self.groups for record in group]

    @property
    def prompts(self) -> Any:
        """Phrases that the model is asked for besides the records' own phrases, as JSON's values; None: no others."""
        return None

    @abstractmethod
    def find(
        self, detector: Detector, images: Sequence[Image.Image], groups: Sequence[Sequence[ImageRecord]]
    ) -> list[FoundBoxes]:
        """The boxes for each record of some images."""

    @abstractmethod
    def measure(self, found: Sequence[FoundBoxes]) -> dict[str, Any]:
        """The figures, as JSON's values.

        Args:
            found: for each of `records`.
        """


class ClassTask(Task):
    """Find the objects of all classes.

    Args:
        dataset: detection records, one for each image; wordings, names_per_prompt: see `ClassPrompts.build`.
        precision: `average_precision` or `lvis_precision`.
    """

    def __init__(
        self,
        name: str,
        images: Path,
        dataset: data_prep.Dataset,
        wordings: Mapping[str, str] | None = None,
        names_per_prompt: int | None = None,
        precision: Callable[[data_prep.Dataset, Mapping[str, sv.Detections]], Precision] = average_precision,
    ) -> None:
        super().__init__(name, images, detection_records(dataset))
        self.dataset, self.precision = dataset, precision
        self.class_prompts = ClassPrompts.build(class_names(dataset), wordings, names_per_prompt)

    @property
    def prompts(self) -> Any:
        """The words of each prompt, and the classes that they are for."""
        return self.class_prompts.prompts, self.class_prompts.members

    def find(
        self, detector: Detector, images: Sequence[Image.Image], groups: Sequence[Sequence[ImageRecord]]
    ) -> list[FoundBoxes]:
        """The 300 best pairs of a box and a class in each image."""
        results = self.class_prompts.find(detector, images)
        return [
            FoundBoxes.of(result, f"boxes found in {group[0].file_name!r}")
            for result, group in zip(results, groups, strict=True)
        ]

    def measure(self, found: Sequence[FoundBoxes]) -> dict[str, Any]:
        """Average precision; see `AveragePrecision` and `LvisPrecision`."""
        import supervision as sv

        detections = {
            record.file_name: sv.Detections(xyxy=boxes.xyxy, confidence=boxes.confidence, class_id=boxes.class_id)
            for record, boxes in zip(self.records, found, strict=True)
        }
        return self.precision(self.dataset, detections).to_json()


class PhraseTask(Task):
    """Find what the records' own phrases name, image by image."""

    @abstractmethod
    def find_in(self, detector: Detector, image: Image.Image, records: Sequence[ImageRecord]) -> Iterable[FoundBoxes]:
        """The boxes for each record of one image."""

    def find(
        self, detector: Detector, images: Sequence[Image.Image], groups: Sequence[Sequence[ImageRecord]]
    ) -> list[FoundBoxes]:
        """The boxes for each record of some images."""
        pairs = zip(images, groups, strict=True)
        return [boxes for image, group in pairs for boxes in self.find_in(detector, image, group)]


class ReferringTask(PhraseTask):
    """Find the object that each expression refers to; `dataset` has grounding records."""

    def __init__(self, name: str, images: Path, dataset: data_prep.Dataset) -> None:
        super().__init__(name, images, grounding_records(dataset))

    def find_in(self, detector: Detector, image: Image.Image, records: Sequence[ImageRecord]) -> Iterable[FoundBoxes]:
        """The best box for each expression."""
        return refer_all(detector, image, records)

    def measure(self, found: Sequence[FoundBoxes]) -> dict[str, Any]:
        """Accuracy at an IoU of 0.5; see `ReferringAccuracy`. The misses are counted, not listed."""
        figures = judge(self.records, found).to_json()
        return {name: value for name, value in figures.items() if name != "misses"}


class GroundingTask(PhraseTask):
    """Find the phrases of sentences; `dataset` has the records of `data_prep.formats.flickr30k`."""

    def __init__(self, name: str, images: Path, dataset: data_prep.Dataset) -> None:
        super().__init__(name, images, dataset.images)

    def find_in(self, detector: Detector, image: Image.Image, records: Sequence[ImageRecord]) -> Iterable[FoundBoxes]:
        """The ten best boxes for each phrase."""
        return ground(detector, image, records)

    def measure(self, found: Sequence[FoundBoxes]) -> dict[str, Any]:
        """Recall by both protocols; see `GroundingRecall`."""
        return {
            "any_box": grounding_recall(self.records, found).to_json(),
            "merged_boxes": grounding_recall(self.records, found, merge_boxes=True).to_json(),
        }
