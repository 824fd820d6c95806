"""The state of the prompt lab, without widgets: an image, a prompt, earlier prompts, and what the model finds.

The image goes through the backbone once. Text and fusion run again only when phrases change; other changes choose from the same
predictions. All results equal those of a fresh call of the detector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from gdino_lib.detect.detector import Detector, ImageEmbedding
from gdino_lib.detect.explanation import Explanation
from gdino_lib.detect.explanation_drawing import draw_heat_map
from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.postprocess import Score
from gdino_lib.detect.predictions import ImagePredictions, TokenScore
from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.images import ImageSource, read_image

if TYPE_CHECKING:
    import supervision as sv

KEPT_PREDICTIONS = 32  # of as many prompts; 1 MB each with the official model


@dataclass(frozen=True)
class LabPrompt:
    """Everything that a detection depends on, beside the image.

    Attributes:
        phrases, negatives, box_threshold, text_threshold, nms_iou, score: as a call of the `Detector` takes them.
        own_thresholds: {phrase: threshold of its own, 0..1}. If there is any, thresholds go by phrase only:
            `text_threshold` holds for the other phrases, and `box_threshold` for none.
    """

    phrases: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    box_threshold: float = 0.35
    text_threshold: float = 0.25
    nms_iou: float | None = None
    score: Score = "mean"
    own_thresholds: Mapping[str, float] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of a call, without the negatives."""
        options: dict[str, Any] = {"nms_iou": self.nms_iou, "score": self.score}
        own = {phrase: value for phrase, value in self.own_thresholds.items() if phrase in self.phrases}
        if own:
            return options | {"thresholds": Thresholds(self.text_threshold, own, {})}
        return options | {"box_threshold": self.box_threshold, "text_threshold": self.text_threshold}

    def code(self, model: str, image: str) -> str:
        """Python code that finds the same boxes; `model` and `image` are what it loads."""
        options = self.options() | ({"negatives": list(self.negatives)} if self.negatives else {})
        imports = "import gdino_lib as gd\n"
        if "thresholds" in options:
            imports += "from gdino_lib.detect.thresholds import Thresholds\n"
        defaults = DetectOptions()
        chosen = {name: value for name, value in options.items() if value != getattr(defaults, name, None)}
        arguments = [repr(image), repr(list(self.phrases)), *(f"{name}={value!r}" for name, value in chosen.items())]
        lines = "".join(f"    {argument},\n" for argument in arguments)
        return f"{imports}\ndetector = gd.Detector.from_pretrained({model!r})\nfound = detector(\n{lines})\n"


class PromptSession:
    """An image, a prompt and what the model finds; a change that fails leaves everything as it was.

    Args:
        detector: used for all images and prompts.

    Attributes:
        image: the upright image, mode RGB; None before `open`.
        prompt: the present prompt.
        history: the prompts before it, the oldest first; a prompt enters when its phrases or negatives are changed.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.image: Image.Image | None = None
        self.prompt = LabPrompt()
        self.history: list[LabPrompt] = []
        self._embedding: ImageEmbedding | None = None
        self._predictions: dict[tuple[tuple[str, ...], tuple[str, ...]], ImagePredictions] = {}
        self._explanation: tuple[LabPrompt, Explanation] | None = None

    def open(self, image: ImageSource) -> None:
        """Read an image and run the backbone; the prompt stays.

        Raises:
            FileNotFoundError, ValueError: an image that cannot be read.
        """
        upright = read_image(image)
        embedding = self.detector.encode_image(upright)
        self.image, self._embedding = upright, embedding
        self._predictions.clear()
        self._explanation = None

    def change(self, **changes: Any) -> None:
        """Change fields of the prompt.

        Raises:
            TypeError, ValueError: a value that the detector refuses.

        Warns:
            UserWarning: a phrase without a word that the model knows.
        """
        for name in ("phrases", "negatives"):
            if name in changes:
                changes[name] = tuple(changes[name])
        prompt = replace(self.prompt, **changes)
        DetectOptions(**prompt.options())
        self._predict(prompt)
        if (prompt.phrases, prompt.negatives) != (self.prompt.phrases, self.prompt.negatives) and self.prompt.phrases:
            self.history.append(self.prompt)
        self.prompt = prompt

    def undo(self) -> bool:
        """Return to the prompt before the last change of phrases or negatives. False: there is none."""
        return self.go_back(len(self.history) - 1) if self.history else False

    def go_back(self, number: int) -> bool:
        """Return to `history[number]`, and forget it and all later prompts. False: there is none."""
        if not 0 <= number < len(self.history):
            return False
        self.prompt = self.history[number]
        del self.history[number:]
        return True

    def detections(self) -> sv.Detections | None:
        """What a call of the detector finds, with `data["query"]`; None without an image or without phrases."""
        predictions = self._predict(self.prompt)
        return None if predictions is None else predictions.detections(**self.prompt.options())

    def token_scores(self, query: int) -> list[TokenScore]:
        """The scores of the text tokens for the query of a box, see `ImagePredictions.token_scores`; none without detections."""
        predictions = self._predict(self.prompt)
        return [] if predictions is None else predictions.token_scores(query)

    def heat_map(self, phrase: str, picture: Image.Image | None = None) -> Image.Image:
        """The heat-map of a phrase, over the image or over `picture`, a copy of it in another size.

        The model runs once more for each prompt, because an explanation records its layers.

        Raises:
            ValueError: no such phrase, no image, or phrases that need several prompts.
        """
        if self._embedding is None or self.image is None:
            raise ValueError("heat-map: expected an image, got none")
        key = replace(LabPrompt(), phrases=self.prompt.phrases, negatives=self.prompt.negatives)
        if self._explanation is None or self._explanation[0] != key:
            explanation = self.detector.explain(self._embedding, list(key.phrases), negatives=list(key.negatives))
            self._explanation = key, explanation
        return draw_heat_map(picture or self.image, self._explanation[1], phrase)

    def compare(self, phrase: str, wordings: Sequence[str]) -> list[tuple[str, sv.Detections]]:
        """What is found when other wordings take the place of a phrase, each in its turn; the prompt stays.

        Returns:
            For each wording, the boxes that carry it; a threshold of the phrase's own holds for each wording, too.

        Raises:
            ValueError: no such phrase, no image, or a wording that cannot be used.
        """
        if phrase not in self.prompt.phrases:
            given = ", ".join(map(repr, self.prompt.phrases)) or "a prompt with phrases"
            raise ValueError(f"phrase: expected one of {given}, got {phrase!r}")
        place = self.prompt.phrases.index(phrase)
        result = []
        for wording in wordings:
            phrases = (*self.prompt.phrases[:place], wording, *self.prompt.phrases[place + 1 :])
            own = dict(self.prompt.own_thresholds)
            if phrase in own:
                own[wording] = own[phrase]
            prompt = replace(self.prompt, phrases=phrases, own_thresholds=own)
            predictions = self._predict(prompt)
            if predictions is None:
                raise ValueError("wordings: expected an image, got none")
            found = predictions.detections(**prompt.options())
            # supervision's type of an index does not tell a mask, which gives detections, from a name, which gives data
            result.append((wording, found[found.class_id == phrases.index(wording)]))
        return result  # pyright: ignore[reportReturnType]

    def _predict(self, prompt: LabPrompt) -> ImagePredictions | None:
        """The predictions for a prompt; those of the latest prompts are kept."""
        if self._embedding is None or not prompt.phrases:
            return None
        key = (prompt.phrases, prompt.negatives)
        if key not in self._predictions:
            predictions = self.detector.predict(self._embedding, list(prompt.phrases), list(prompt.negatives))
            self._predictions[key] = predictions
            if len(self._predictions) > KEPT_PREDICTIONS:
                del self._predictions[next(iter(self._predictions))]
        return self._predictions[key]
