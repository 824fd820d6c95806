"""The words that a detector is asked for each class, and what it finds for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gdino_lib.prompts import word_pieces

if TYPE_CHECKING:
    import supervision as sv
    from PIL import Image

    from gdino_lib.detect.detector import Detector

MAX_PAIRS = 300  # pairs of a box and a class that are evaluated per image, as in the official evaluation
EVERY_PAIR: dict[str, Any] = {"box_threshold": 0.0, "text_threshold": 0.0, "top_k": MAX_PAIRS, "every_phrase": True}


@dataclass(frozen=True)
class ClassPrompts:
    """The classes of a data set in words that the model can read.

    Classes may share their words, as LVIS's "bow_(weapon)" and "bow_(decorative_ribbons)" do once the explanation is removed.
    A box that is found for these words counts for each of them.

    Attributes:
        classes: the names that results have.
        prompts: lists of distinct phrases; the detector is asked for one list at a time.
        members: for each phrase of each list, the indices of its classes.
    """

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    members: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def build(
        cls, classes: Sequence[str], wordings: Mapping[str, str] | None = None, names_per_prompt: int | None = None
    ) -> ClassPrompts:
        """Prompts for all classes.

        Args:
            classes: at least one name.
            wordings: {class: the words to ask for}; other classes are asked for by their names.
            names_per_prompt: ask for at most this many phrases at a time; None: for all at once. In both cases the detector
                splits what does not fit into its 256 tokens.

        Raises:
            ValueError: no classes, `names_per_prompt` below 1, a wording for a class that is not there or without words.
        """
        if not classes:
            raise ValueError("no classes to ask for; expected at least one")
        if names_per_prompt is not None and names_per_prompt < 1:
            raise ValueError(f"names_per_prompt: expected at least 1, got {names_per_prompt}")
        wordings = wordings or {}
        if unknown := sorted(set(wordings) - set(classes)):
            raise ValueError(f"a wording for {unknown[0]!r}, which is no class; classes are {', '.join(classes)[:200]}")
        groups: dict[tuple[int, ...], tuple[str, list[int]]] = {}
        for index, name in enumerate(classes):
            phrase = wordings.get(name, name)
            if not word_pieces(phrase):
                raise ValueError(f"class {name!r}: expected words to ask for, got {phrase!r}")
            groups.setdefault(word_pieces(phrase), (phrase, []))[1].append(index)
        phrases = list(groups.values())
        size = names_per_prompt or len(phrases)
        parts = [phrases[start : start + size] for start in range(0, len(phrases), size)]
        return cls(
            tuple(classes),
            tuple(tuple(phrase for phrase, _ in part) for part in parts),
            tuple(tuple(tuple(indices) for _, indices in part) for part in parts),
        )

    def find(self, detector: Detector, images: Sequence[Image.Image]) -> list[sv.Detections]:
        """Look for all classes in each image, and keep the 300 pairs of a box and a class with the best scores.

        There is no score threshold, and a box counts once for each class, as in the official evaluation.

        Returns:
            For each image, boxes by falling score; `class_id` is the index in `classes`, and `data["class_name"]` the class.
            `data["best"]` marks the best class of each box. It is missing with several prompts, which find boxes of their own.
        """
        if len(self.prompts) == 1:
            return [self._as_classes([found]) for found in self._ask(detector, list(images), 0)]
        results = []
        for image in images:
            embedding = detector.encode_image(image)  # the backbone runs once for all prompts
            parts = [self._ask(detector, [embedding], number)[0] for number in range(len(self.prompts))]
            results.append(self._as_classes(parts))
        return results

    def _ask(self, detector: Detector, images: list, number: int) -> list[sv.Detections]:
        found: Any = detector(images, list(self.prompts[number]), **EVERY_PAIR)
        assert isinstance(found, list)  # for a list of images, a detector returns a list
        return found

    def _as_classes(self, parts: Sequence[sv.Detections]) -> sv.Detections:
        """The boxes found for each prompt as boxes of classes."""
        import supervision as sv

        rows, classes = [], []  # which box of all parts; which class it is counted for
        start = 0
        for members, found in zip(self.members, parts, strict=True):
            for row, phrase in enumerate([] if found.class_id is None else found.class_id.tolist()):
                rows += [start + row] * len(members[phrase])
                classes += members[phrase]
            start += len(found)
        boxes = np.concatenate([found.xyxy for found in parts]).astype(np.float32)
        scores = np.concatenate([_scores(found) for found in parts])
        place, class_id = np.array(rows, dtype=np.int64), np.array(classes, dtype=np.int64)
        order = np.argsort(-scores[place], kind="stable")[:MAX_PAIRS]
        place, class_id = place[order], class_id[order]
        data: dict = {"class_name": np.array(self.classes, dtype=str)[class_id]}
        if len(parts) == 1 and "best" in parts[0].data:
            data["best"] = np.asarray(parts[0].data["best"])[place]
        return sv.Detections(xyxy=boxes[place], confidence=scores[place], class_id=class_id, data=data)


def _scores(found: sv.Detections) -> np.ndarray:
    return np.zeros(0, np.float32) if found.confidence is None else found.confidence
