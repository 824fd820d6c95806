"""What `gdino edit` does: images and folders in; edited copies and the tables of `gdino detect` out.

The folder of results is laid out as in `gdino_lib.apps.detect_files`, with edited copies in place of drawn ones. In
`detections.json` and `detections.coco.json` each box has its mask as `segmentation` (COCO's run lengths).

A copy is stored upright, in RGB of 8 bits, with the colour profile of its original and without its other metadata: EXIF can hold
a thumbnail of the unedited picture, and the place where it was taken. JPEGs become JPEGs of quality 95 without chroma
subsampling, which changes pixels outside the edit by a few levels; PNGs keep them exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.arguments import counted
from gdino_lib.apps.detect_files import LONGEST_JPEG, Run, about_phrases, note_not_read
from gdino_lib.apps.diffusion import Diffusion, DiffusionSettings, RefusedError, load_pipeline, require_diffusers
from gdino_lib.apps.edit import Operation, choose_operation, edit
from gdino_lib.apps.input_files import InputFile, find_input_files, plain_text
from gdino_lib.apps.results import Results, box_entries, check_results_folder
from gdino_lib.apps.segment import Segmenter, choose_segmenter, coco_fields, segment
from gdino_lib.apps.terminal import listed, print_line
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.frames import Film
from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.vocabulary import Vocabulary
from gdino_lib.nano.pictograms import ATTRIBUTION

JPEG = frozenset({".jpeg", ".jpg"})
PNG = frozenset({".png"})


@dataclass(frozen=True)
class EditOptions:
    """What to do with the objects that are found.

    Attributes:
        do, with_, grow, feather: as `gdino_lib.apps.edit.edit` takes them; with `diffusion`, `with_` is a prompt.
        mask: as `gdino_lib.apps.segment.choose_segmenter` takes it.
        png: write PNGs, whatever the originals are.
        diffusion: where the weights of an inpainting pipeline are, see `gdino_lib.apps.diffusion.load_pipeline`.
        painting: fields of `DiffusionSettings` beside the prompt.
    """

    do: str
    with_: str | None = None
    grow: int | None = None
    feather: int | None = None
    mask: str = "grabcut"
    png: bool = False
    diffusion: str | None = None
    painting: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Refuse what cannot be done, before anything is loaded.

        Raises:
            ValueError: see `choose_operation`, `DiffusionSettings` and `require_diffusers`.
        """
        if self.diffusion is None:
            if self.painting:
                raise ValueError(f"{', '.join(self.painting)}: only with a diffusion model, which --diffusion names")
            choose_operation(self.do, self.with_)
            return
        if self.do not in ("remove", "replace") or (self.do == "replace" and not self.with_):
            raise ValueError(
                f"a diffusion model can replace with a prompt, or remove; got {self.do} with {self.with_!r}"
            )
        require_diffusers()
        self._settings()

    def load(self, device: str, dtype: str) -> str | Operation:
        """What `edit` is to do: the action, or the diffusion model that does it."""
        if self.diffusion is None:
            return self.do
        return Diffusion(load_pipeline(self.diffusion, device, dtype), self._settings())

    def _settings(self) -> DiffusionSettings:
        return DiffusionSettings(self.with_ or "", **(self.painting or {}))

    def to_json(self) -> dict[str, Any]:
        """The options as `detections.json` has them."""
        values = {name: value for name, value in vars(self).items() if name != "painting"}
        return {name.rstrip("_"): value for name, value in values.items()} | dict(self.painting or {})


def edit_files(
    inputs: Sequence[str],
    phrases: Sequence[str],
    how: EditOptions,
    model: str = "nano",
    out: str = "edited",
    *,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    negatives: Sequence[str] = (),
    **options: Any,
) -> int:
    """Edit files, write the folder of results (see this module's first lines), print a line for each file.

    Args:
        inputs: images, folders and patterns, as `gdino_lib.apps.input_files.find_input_files` takes them.
        phrases: what to edit.
        how: what to do with it.
        model, device, dtype, out, overwrite: as `gdino_lib.apps.detect_files.detect_files` takes them; the device and the
            dtype hold for a diffusion model, too.
        negatives: phrases of what must stay: a box is not edited if it fits one of them best.
        options: of the `Detector`: `box_threshold`, `text_threshold`, `nms_iou`, `top_k`, `score`.

    Returns:
        0: done. 1: done, but for inputs that are of no use. 2: none is of use, and nothing was written. Each such input
        gets one line on standard error.

    Raises:
        ValueError, OSError: nothing can be done, and nothing was written.
        KeyboardInterrupt: with what became of the results.
    """
    DetectOptions(**options)  # refuses what is out of range
    about = about_phrases(phrases, negatives)
    folder = check_results_folder(out, overwrite)
    how.check()
    segmenter = choose_segmenter(how.mask, device)
    results = Results()
    files, unusable, not_read = find_input_files(inputs, folder, PNG if how.png else JPEG | PNG)
    note_not_read(not_read)
    for path, reason in unusable:
        results.fail(path, reason)
    if not files:
        return 2
    do = how.load(device, dtype)
    detector = Detector.from_pretrained(model, device, dtype)
    # phrases that it refuses are no file's fault
    Vocabulary.build(phrases, detector.model.config.max_tokens, negatives)
    about = {"complete": True, "model": plain_text(model)} | about | {"settings": dict(options), "edit": how.to_json()}
    options["negatives"] = negatives
    run = _EditRun(
        *(detector, phrases, options, folder, overwrite, False, about, results), how=how, segmenter=segmenter, do=do
    )
    run.detect_in(files, out)
    if not results.done:
        return 2
    if how.do == "replace" and how.diffusion is None and results.boxes:
        print_line(ATTRIBUTION)
    print_line(
        f"{counted(results.boxes, 'edit', 'edits')} in {counted(results.done, 'file', 'files')}; written to {out}"
    )
    return 1 if results.failed else 0


@dataclass(kw_only=True)
class _EditRun(Run):
    """A run that edits each image in place of drawing boxes into it."""

    how: EditOptions
    segmenter: Segmenter
    do: Any

    def _open(self, file: InputFile) -> Image.Image | Film | None:
        if not file.is_film:
            return super()._open(file)
        self.results.fail(file.path, f"{file.path!r}: expected an image, got a film; gdino edit takes images only")
        return None

    def _detect_in_image(self, file: InputFile, image: Image.Image, partial: Path) -> None:
        found = segment(image, self._detect(image), self.segmenter)
        try:
            edited = edit(image, found, self.do, *self._with(), grow=self.how.grow, feather=self.how.feather)
        except RefusedError as error:
            self.results.fail(file.path, f"{file.path!r}: {error}")
            return
        save(edited, partial / file.drawn, colour_profile(file.path))
        boxes = [box | dict(fields) for box, fields in zip(box_entries(found), coco_fields(found), strict=True)]
        self.results.add_image(file, image.size, boxes)
        print_line(f"{file.path}: {listed(Counter(box['phrase'] for box in boxes))}")

    def _with(self) -> list[str | None]:
        return [] if callable(self.do) else [self.how.with_]


def save(image: Image.Image, path: Path, profile: bytes | None = None) -> None:
    """Write an image as JPEG (quality 95, no chroma subsampling) if `path` says so and JPEG can hold it, else as PNG."""
    if path.suffix.lower() in JPEG and max(image.size) <= LONGEST_JPEG:
        image.save(path, "JPEG", quality=95, subsampling=0, icc_profile=profile)
    else:
        image.save(path, "PNG", icc_profile=profile)


def colour_profile(path: str) -> bytes | None:
    """The ICC profile of an image file that is stored in RGB; None if there is none."""
    with Image.open(path) as image:  # only its header is read
        return image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
