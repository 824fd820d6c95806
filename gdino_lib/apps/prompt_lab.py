"""The prompt lab: try prompts on a picture in a notebook, and see at once what each word does.

>>> PromptLab(gd.Detector.from_pretrained("nano"), "scene.png", ["owl", "pineapple"])  # at the end of a cell

It is built from core widgets of ipywidgets without JavaScript of its own, so JupyterLab and Voila need no extension for it. It has
not been run in Colab. `gdino_lib.apps.prompt_session` holds its state.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from gdino_lib.apps.prompt_session import PromptSession
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.drawing import draw_detections
from gdino_lib.detect.predictions import TokenScore
from gdino_lib.images import ImageSource
from gdino_lib.messages import one_line
from gdino_lib.prompts import split_phrases

if TYPE_CHECKING:
    import supervision as sv

SIDE = 640  # pixels: longer side of the picture, whatever the image has
CROP, SMALL = 110, 240  # pixels: longer side of the picture of one box, and of one wording
CARD = 160  # pixels: two cards fit side by side on a phone
MOST_BOXES = 24  # with token scores
MOST_TOKENS = 24  # of a box; those of its own phrase come first, then the highest scores
BOXES, HEAT = "boxes", "heat-map"
HEAT_COLOUR = "213,94,0"  # the colour of the token scores, as RGB
FULL = widgets.Layout(width="100%")


class PromptLab:
    """A picture, its boxes, and controls for everything that decides on them.

    A change of phrases runs the text part and the fusion; a slider runs post-processing only. An input that the detector
    refuses changes nothing, and one line says why.

    Args:
        detector: finds the boxes.
        image: the first picture, as the detector takes it; None: the user chooses one.
        phrases, negatives: the first prompt.
        model: the name or path of the weights, as the code to copy shows it.

    Attributes:
        session: the state.
        widget: all controls and results. A notebook shows it where the lab is the last value of a cell.

    Raises:
        FileNotFoundError, ValueError, TypeError: an image or a prompt that cannot be used.
    """

    def __init__(
        self,
        detector: Detector,
        image: ImageSource | None = None,
        phrases: Sequence[str] = (),
        negatives: Sequence[str] = (),
        model: str = "nano",
    ) -> None:
        self.session = PromptSession(detector)
        self._model = model
        self._name = "picture.png"
        self._quiet = False
        self._shown = Image.new("RGB", (1, 1))
        self._make_controls()
        self.widget = widgets.VBox(self._arranged(), layout=FULL)
        if image is not None:
            self._open(image, image if isinstance(image, str) else self._name)
        self.session.change(phrases=phrases, negatives=negatives)
        self._observe()
        self._show_prompt()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _make_controls(self) -> None:
        share = {"min": 0.0, "max": 1.0, "step": 0.01, "layout": FULL, "style": {"description_width": "8em"}}
        self.upload = widgets.FileUpload(accept="image/*", description="Picture", tooltip="upload a picture")
        self.path = widgets.Text(placeholder="or the path of a file", continuous_update=False, layout=FULL)
        # JupyterLab keeps the Enter key from chips, so a text field adds them; chips are dragged and removed
        self.phrases, self.negatives = (widgets.TagsInput(allow_duplicates=False, layout=FULL) for _ in range(2))
        self.add_phrases, self.add_negatives = (
            widgets.Text(placeholder="cat . remote control, then Enter", continuous_update=False, layout=FULL)
            for _ in range(2)
        )
        self.box_threshold = widgets.FloatSlider(description="box threshold", **share)
        self.text_threshold = widgets.FloatSlider(description="text threshold", **share)
        self.nms = widgets.FloatSlider(description="NMS (1: off)", **share)
        self.score = widgets.ToggleButtons(options=["mean", "max"], style={"button_width": "5em"})
        self.selected = widgets.Dropdown(description="phrase", layout=FULL)
        self.view = widgets.ToggleButtons(options=[BOXES, HEAT], style={"button_width": "7em"})
        self.has_own = widgets.Checkbox(description="a threshold of its own", indent=False)
        self.own = widgets.FloatSlider(description="own threshold", **share)
        self.wordings = widgets.Text(
            description="wordings", placeholder="kitten, a small cat", continuous_update=False, layout=FULL
        )
        self.history = widgets.Dropdown(layout=widgets.Layout(flex="1 1 0", min_width="0"))
        self.undo = widgets.Button(
            description="Undo", icon="undo", tooltip="return to the prompt before", layout=widgets.Layout(width="6em")
        )
        self.code = widgets.Textarea(rows=9, layout=widgets.Layout(width="auto"))
        self.picture = widgets.Image(format="jpeg", layout=widgets.Layout(max_width="100%"))
        self.message, self.boxes, self.compared = (widgets.HTML(layout=FULL) for _ in range(3))

    def _arranged(self) -> list[widgets.Widget]:
        """The controls beside the picture, or below it where the page is narrow."""
        column = widgets.Layout(flex="1 1 320px", min_width="0", padding="0 12px 0 0")
        controls = [
            *(_heading("Phrases: drag to reorder"), self.phrases, self.add_phrases),
            *(_heading("Negatives: boxes that fit one of them best are dropped"), self.negatives, self.add_negatives),
            *(self.message, self.box_threshold, self.text_threshold, self.nms),
            widgets.HBox([widgets.Label("score of a phrase over its tokens"), self.score], layout=_wrapped()),
            *(_heading("One phrase"), self.selected),
            *(
                widgets.HBox([widgets.Label("show"), self.view], layout=_wrapped()),
                self.has_own,
                self.own,
                self.wordings,
            ),
            *(_heading("Earlier prompts"), widgets.HBox([self.undo, self.history])),
        ]
        return [
            widgets.HBox([self.upload, self.path]),
            widgets.HBox(
                [
                    widgets.VBox([self.picture], layout=column),
                    widgets.VBox(controls, layout=column),
                ],
                layout=_wrapped(),
            ),
            *(self.compared, _heading("Boxes, and the score of each word piece"), self.boxes),
            *(_heading("The same in Python"), self.code),
        ]

    def _observe(self) -> None:
        def follow(control: widgets.Widget, act: Callable[[Any], Any]) -> None:
            def changed(change: Any) -> None:
                if not self._quiet:
                    self._act(lambda: act(change["new"]))

            control.observe(changed, "value")

        change = self.session.change
        follow(self.phrases, lambda new: change(phrases=[phrase.strip() for phrase in new]))
        follow(self.negatives, lambda new: change(negatives=[phrase.strip() for phrase in new]))
        follow(self.add_phrases, lambda new: self._add("phrases", new))
        follow(self.add_negatives, lambda new: self._add("negatives", new))
        follow(self.box_threshold, lambda new: change(box_threshold=new))
        follow(self.text_threshold, lambda new: change(text_threshold=new))
        follow(self.nms, lambda new: change(nms_iou=None if new >= 1 else new))
        follow(self.score, lambda new: change(score=new))
        follow(self.has_own, lambda new: self._set_own(self.session.prompt.text_threshold if new else None))
        follow(self.own, self._set_own)
        follow(self.history, lambda new: new is None or self.session.go_back(new))
        follow(self.upload, self._open_upload)
        follow(self.path, lambda new: new and self._open(new.strip(), new.strip()))
        for control in (self.selected, self.view, self.wordings):
            follow(control, lambda _: None)
        self.undo.on_click(lambda _: self._act(self.session.undo))

    def _act(self, action: Callable[[], Any]) -> None:
        self.message.value = ""
        with self._reporting():
            action()
        self._show_prompt()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Show an input that is refused, or a warning, as one line."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            words: list[object] = []
            try:
                yield
            except (OSError, TypeError, ValueError) as error:
                words.append(error)
        for each in [*words, *(warning.message for warning in caught)]:
            self.message.value += f'<div role="status" style="color:#b00020">{escape(one_line(each))}</div>'

    def _open_upload(self, files: Any) -> None:
        if files:
            self._open(bytes(files[0]["content"]), files[0]["name"])

    def _open(self, image: ImageSource, name: str) -> None:
        self.session.open(image)
        assert self.session.image is not None, "it has just been opened"
        self._name = name
        self._shown = _fitted(self.session.image, SIDE)

    def _add(self, field: str, text: str) -> None:
        """Add the phrases of a text, which "." divides, to `phrases` or `negatives`."""
        before = getattr(self.session.prompt, field)
        self.session.change(**{field: tuple(dict.fromkeys([*before, *split_phrases(text)]))})

    def _set_own(self, threshold: float | None) -> None:
        """Give the selected phrase a threshold of its own, or take it away."""
        own = {name: value for name, value in self.session.prompt.own_thresholds.items() if name != self.selected.value}
        if threshold is not None and self.selected.value in self.session.prompt.phrases:
            own[self.selected.value] = threshold
        self.session.change(own_thresholds=own)

    @contextmanager
    def _controls_only(self) -> Iterator[None]:
        """Set controls without acting on them."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _show_prompt(self) -> None:
        """Set all controls to the state of the session, and show its results."""
        prompt = self.session.prompt
        with self._controls_only():
            self.phrases.value, self.negatives.value = list(prompt.phrases), list(prompt.negatives)
            self.add_phrases.value = self.add_negatives.value = ""
            self.box_threshold.value, self.text_threshold.value = prompt.box_threshold, prompt.text_threshold
            self.nms.value = 1.0 if prompt.nms_iou is None else prompt.nms_iou
            self.score.value = prompt.score
            choices = [*prompt.phrases, *prompt.negatives]
            if list(self.selected.options) != choices:
                kept = self.selected.value if self.selected.value in choices else next(iter(choices), None)
                self.selected.options = choices
                self.selected.value = kept
            own = prompt.own_thresholds.get(self.selected.value or "")
            self.has_own.value, self.own.value = own is not None, prompt.text_threshold if own is None else own
            self.has_own.disabled = self.selected.value not in prompt.phrases
            self.own.disabled = own is None
            self.box_threshold.disabled = "thresholds" in prompt.options()
            earlier = [(" . ".join(each.phrases), number) for number, each in enumerate(self.session.history)]
            self.history.options, self.history.value = [("", None), *reversed(earlier)], None
            self.undo.disabled = not earlier
        self._show_results()
        self.code.value = prompt.code(self._model, self._name) if prompt.phrases else ""

    def _show_results(self) -> None:
        found = self.session.detections()
        if self.session.image is None:
            self.picture.layout.display = "none"
            return
        self.picture.layout.display = ""
        picture = self._shown
        if self.view.value == HEAT and self.selected.value is not None:
            with self._reporting():
                picture = self.session.heat_map(self.selected.value, self._shown)
        if found is None:
            self.boxes.value = self.compared.value = ""
        else:
            picture = draw_detections(picture, self._scaled(found, self._shown))
            self.boxes.value = self._cards(found)
            self._compare()
        self.picture.value = _jpeg(picture)

    def _scaled(self, found: sv.Detections, shown: Image.Image) -> sv.Detections:
        """Boxes in pixels of a smaller or larger copy of the image."""
        assert self.session.image is not None, "only with an image are there boxes"
        scaled: Any = found[np.arange(len(found))]  # a copy; supervision's type of an index also covers names
        scale = np.array(shown.size) / np.array(self.session.image.size)
        scaled.xyxy = (found.xyxy * np.tile(scale, 2)).astype(np.float32)
        return scaled

    def _cards(self, found: sv.Detections) -> str:
        """Each box as a small picture, with the scores of the text tokens under it."""
        if not len(found):
            return "nothing found"
        cards = []
        asked = [*self.session.prompt.phrases, *self.session.prompt.negatives]
        rows = zip(
            self._scaled(found, self._shown).xyxy, *(found.data[n] for n in ("query", "class_name")), strict=True
        )
        for row, (box, query, name) in enumerate(rows):
            if row == MOST_BOXES:
                cards.append(f"<div>and {len(found) - row} more</div>")
                break
            left, top, right, bottom = (int(value) for value in box.round())
            crop = self._shown.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
            score = float(np.asarray(found.confidence)[row])
            label = f"<div><b>{escape(str(name))}</b> {score:.2f}</div>"
            tokens = sorted(self.session.token_scores(int(query)), key=lambda token: asked.index(token.phrase))
            strip = _strip(tokens, str(found.data["wording"][row]))
            cards.append(_card(_img(_fitted(crop, CROP), f"box {row + 1}: {name}") + label + strip))
        return _side_by_side(cards)

    def _compare(self) -> None:
        """Show what is found when other wordings take the place of the selected phrase."""
        others = [wording for text in self.wordings.value.split(",") if (wording := text.strip())]
        self.compared.value = ""
        if not others or self.selected.value not in self.session.prompt.phrases:
            return
        small = _fitted(self._shown, SMALL)
        with self._reporting():
            cards = []
            for wording, found in self.session.compare(self.selected.value, [self.selected.value, *others]):
                best = f", the surest {float(np.asarray(found.confidence)[0]):.2f}" if len(found) else ""
                words = f"<div><b>{escape(wording)}</b>: {len(found)} found{best}</div>"
                drawn = draw_detections(small, self._scaled(found, small))
                cards.append(_card(_img(drawn, f"boxes of {wording}") + words))
            self.compared.value = "<b>Wordings side by side</b>" + _side_by_side(cards)


def _heading(text: str) -> widgets.HTML:
    return widgets.HTML(f"<b>{escape(text)}</b>", layout=FULL)


def _wrapped() -> widgets.Layout:
    return widgets.Layout(flex_flow="row wrap", width="100%")


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """The image with `side` pixels at its longer side."""
    scale = side / max(image.size)
    width, height = (max(round(length * scale), 1) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90)
    return content.getvalue()


def _img(image: Image.Image, alt: str) -> str:
    data = base64.b64encode(_jpeg(image)).decode()
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}" style="max-width:100%">'


def _strip(tokens: list[TokenScore], wording: str) -> str:
    """Word pieces whose background is the stronger, the higher the score; those of the box's own phrase are underlined."""
    ranked = sorted(range(len(tokens)), key=lambda n: (tokens[n].phrase != wording, -tokens[n].score))
    pieces = []
    for number in sorted(ranked[:MOST_TOKENS]):
        piece, phrase, score = tokens[number]
        line = "underline" if phrase == wording else "none"
        style = f"background:rgba({HEAT_COLOUR},{score:.2f});text-decoration:{line};padding:1px 4px;margin:1px"
        pieces.append(f'<span title="{score:.2f}" style="{style};display:inline-block">{escape(piece)}</span>')
    return f'<div style="line-height:1.5">{"".join(pieces)}</div>'


def _card(content: str) -> str:
    return f'<div style="flex:1 1 {CARD}px;max-width:{SMALL}px;line-height:1.4">{content}</div>'


def _side_by_side(cards: list[str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(cards)}</div>'
