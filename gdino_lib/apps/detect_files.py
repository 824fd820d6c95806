"""What `gdino detect` does: images, folders and films in; drawn copies and tables of boxes out.

With NAME for an input's path within the common folder of all inputs, the folder of results holds:

- NAME with its boxes drawn, as .png (NAME.png) unless it is .jpg, .jpeg or .png; of a film NAME or NAME.mp4, and beside it
  NAME.mp4.jsonl, one line a frame: `frame`, `seconds`, `boxes`;
- `detections.json`: everything but the films' boxes, inputs that could not be read among it (`failed`);
- `detections.csv`: the eight columns of `data_prep.formats.csv_table`, which have no place for a confidence; one row a box;
- `detections.coco.json`: a COCO data set of all images and phrases, with a `score` for each box.

In the tables an image is called NAME, so that they go with the originals; what a table cannot hold in a name becomes "_".
Coordinates and confidences lead back to the Detector's float32 numbers, bit for bit.

The folder appears when all is done. After an interrupt it appears with what was done until then (`complete` is false),
unless it would take the place of an older one: that stays. What a killed run leaves, `.OUT.partial`, the next run removes.
"""

from __future__ import annotations

import math
import os
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from PIL import Image, ImageFont
from tqdm import tqdm

from data_prep.atomic import atomic_folder
from data_prep.formats import coco, csv_table
from data_prep.formats.json_text import encode, parse, read_text
from data_prep.records import Box, Dataset, ImageRecord
from gdino_lib.apps.input_files import InputFile, find, plain_text
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.detect.vocabulary import Vocabulary
from gdino_lib.images import read_image
from gdino_lib.prompts import split_phrases, word_pieces

if TYPE_CHECKING:
    import supervision as sv

JSON, CSV, COCO = "detections.json", "detections.csv", "detections.coco.json"
LONGEST_JPEG = 65_500  # pixels a side
LONGEST_LABEL = 60  # letters
SMALLEST_LABELLED = 60  # pixels a side: on smaller pictures, labels would hide what they name
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc", "Arial Unicode.ttf")  # the first is matplotlib's
Found = Callable[[Image.Image], "sv.Detections"]


@dataclass
class Results:
    """What is known so far; boxes, no pixels.

    Attributes:
        images, films, failed: entries of `detections.json`.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    films: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of inputs."""
        return len(self.images) + len(self.films)

    @property
    def boxes(self) -> int:
        """Number of boxes, over all images and frames."""
        return sum(len(image["boxes"]) for image in self.images) + sum(
            sum(film["counts"].values()) for film in self.films
        )

    @property
    def files(self) -> set[str]:
        """Every file that belongs into the folder of results."""
        films = {film[name] for film in self.films for name in ("drawn", "frames_file")}
        return {JSON, CSV, COCO} | films | {image["drawn"] for image in self.images}

    def fail(self, path: str, reason: str) -> None:
        """Name an input that is of no use."""
        _say(f"error: {reason}", sys.stderr)
        self.failed.append({"file": plain_text(path), "reason": plain_text(reason)})

    def write(self, folder: Path, about: dict[str, Any]) -> None:
        """Write the three tables."""
        records = (
            ImageRecord(
                image["name"],
                image["width"],
                image["height"],
                tuple(Box(box["phrase"], *box["xyxy"], {"score": box["confidence"]}) for box in image["boxes"]),
            )
            for image in self.images
        )
        dataset = Dataset(tuple(records), tuple(dict.fromkeys(about["phrases"])))
        coco.write(dataset, folder / COCO)
        csv_table.write(dataset, folder / CSV)
        document = about | {"images": self.images, "films": self.films, "failed": self.failed}
        (folder / JSON).write_bytes(encode(document))


def detect_files(
    inputs: Sequence[str],
    phrases: Sequence[str],
    model: str = "nano",
    out: str = "detections",
    *,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    thresholds: str | None = None,
    **options: Any,
) -> int:
    """Detect in files, write the folder of results (see this module's first lines), print a line for each file.

    Args:
        inputs: images, films, folders and patterns, as `gdino_lib.apps.input_files.find` takes them.
        phrases: what to look for.
        model, device, dtype: as `Detector.from_pretrained` takes them.
        out: the folder of results.
        overwrite: replace `out`, if all that it holds are results.
        options: `box_threshold`, `text_threshold`, `nms_iou`, `top_k` and `score` of the `Detector`, all of them.
        thresholds: a file of `gdino_lib.detect.thresholds.Thresholds`, in place of both thresholds; "saved" is the
            one that stands beside the model's weights.

    Returns:
        0: done. 1: done, but for inputs that are of no use. 2: none is of use, and nothing was written. Each such input
        gets one line on standard error.

    Raises:
        ValueError, OSError: nothing can be done, and nothing was written.
        KeyboardInterrupt: with what became of the results.
    """
    DetectOptions(**options)  # refuses what is out of range
    for phrase in phrases:
        Box(phrase, 0, 0, 1, 1)  # refuses what the tables cannot hold
    folder = _check_out(out, overwrite)
    replaces = folder.is_dir() and any(folder.iterdir())
    results = Results()
    files, useless = find(inputs, folder)
    for path, reason in useless:
        results.fail(path, reason)
    if not files:
        return 2
    settings = dict(options)
    if thresholds is not None:
        options["thresholds"] = Thresholds.load(thresholds_path(model) if thresholds == "saved" else thresholds)
        settings["thresholds"] = options["thresholds"].to_json()
    detector = Detector.from_pretrained(model, device, dtype)
    about = {"complete": True, "model": plain_text(model), "phrases": list(phrases), "settings": settings}
    interrupted: BaseException | None = None
    with suppress(_NothingDoneError), ExitStack() as stack:
        stack.enter_context(_one_line_warnings())
        Vocabulary.build(phrases, detector.model.config.max_tokens)  # phrases that it refuses are no file's fault
        if thresholds is not None:
            own, default = set(map(word_pieces, options["thresholds"].classes)), options["thresholds"].default
            if own.isdisjoint(map(word_pieces, phrases)):
                _say(f"note: no phrase has a threshold of its own; all take the default, {default:.3g}", sys.stderr)
        partial: Path | None = None
        try:
            for file in stack.enter_context(tqdm(files, unit="file", disable=not sys.stderr.isatty())):
                try:
                    content = _Film(file.path) if file.is_film else read_image(file.path)
                except (ValueError, OSError) as error:
                    results.fail(file.path, " ".join(str(error).split()))
                    continue
                partial = partial or stack.enter_context(atomic_folder(folder, overwrite))
                (partial / file.drawn).parent.mkdir(parents=True, exist_ok=True)
                each = _each_frame if file.is_film else _image
                try:
                    each(lambda image: detector(image, phrases, **options), file, content, partial, results)
                except torch.cuda.OutOfMemoryError:
                    results.fail(file.path, f"{file.path!r}: the device has too little memory")
                except _UnwritableError as error:
                    results.fail(file.path, str(error))
        except (KeyboardInterrupt, SystemExit) as error:  # SystemExit: what `cli` makes of SIGTERM
            if not results.done:
                raise
            kept = f"{out} stays as it was" if replaces else f"what was done is in {out}"
            # SIGTERM's keeps its exit status
            words = error.args or (f"interrupted after {results.done} of {len(files)} files; {kept}",)
            interrupted = type(error)(*words)
            if replaces:
                raise interrupted from None
            about["complete"] = False
        if partial is None or not results.done:
            raise _NothingDoneError
        for path in [path for path in partial.rglob("*") if path.is_file()]:
            if path.relative_to(partial).as_posix() not in results.files:  # begun only
                path.unlink()
        results.write(partial, about)
    if interrupted:
        raise interrupted
    if not results.done:
        return 2
    _say(f"{_number(results.boxes, 'box', 'boxes')} in {_number(results.done, 'file', 'files')}; written to {out}")
    return 1 if results.failed else 0


def read_phrases(prompts: Sequence[str] | None, file: str | None) -> list[str]:
    """The phrases of prompts, split at each ".", or those of a file: one a line, letter for letter.

    Raises:
        FileNotFoundError, ValueError: no such file, or no phrase.
    """
    phrases = [phrase for prompt in prompts or () for phrase in split_phrases(prompt)]
    if file is not None:
        phrases += [line.strip() for line in read_text(Path(file)).split("\n") if line.strip()]
    if not phrases:
        raise ValueError('no phrases; expected some, as in "cat . remote control ."')
    return phrases


def draw(image: Image.Image, found: sv.Detections) -> Image.Image:
    """A copy of the image with boxes and labels, "cat 0.52", the surest on top.

    Boxes have an edge, and labels letters, that stand out from the colour of their phrase. Where none of `FONTS` that are
    at hand has all letters of a phrase, its number stands for it, "#2", and a warning says so. Lines and letters grow with
    the image; one of a side below `SMALLEST_LABELLED` gets no labels.
    """
    import supervision as sv

    found = found[found.confidence.argsort(kind="stable")]
    side = min(image.size)
    thickness = max(1, round(side / 320))
    colours = sv.ColorPalette.DEFAULT
    contrast = sv.ColorPalette([_contrast(colour) for colour in colours.colors])
    edge = sv.BoxAnnotator(contrast, thickness + 2 * max(1, thickness // 3))
    drawn = sv.BoxAnnotator(colours, thickness).annotate(edge.annotate(image.copy(), found), found)
    if side < SMALLEST_LABELLED:
        return drawn
    names = {number: _shortened(name) for number, name in zip(found.class_id, found.data["class_name"], strict=True)}
    font = max(_fonts(), key=lambda font: sum(_writes(font, name) for name in names.values()))  # of equals, the first
    for number, name in names.items():
        if not _writes(font, name):
            warnings.warn(f"no font here has the letters of {name!r}: its boxes are labelled #{number}", stacklevel=2)
            names[number] = f"#{number}"
    labels = [f"{names[number]} {score:.2f}" for number, score in zip(found.class_id, found.confidence, strict=True)]
    size = max(10, round(side / 40))
    label = sv.RichLabelAnnotator(
        colours,
        text_color=contrast,
        font_path=font,
        font_size=size,
        text_padding=max(2, size // 4),
        smart_position=len(found) <= 100,  # of more, it takes seconds
    )
    return label.annotate(drawn, found, labels)


def _shortened(name: str) -> str:
    """A phrase as a label: a line of at most `LONGEST_LABEL` letters, without those that nobody sees."""
    seen = (letter for letter in name if letter.isspace() or unicodedata.category(letter)[0] != "C")
    name = " ".join("".join(seen).split())
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def _contrast(colour: sv.Color) -> sv.Color:
    """Black or white, whichever is told more easily from a colour (relative luminance of WCAG 2, section 1.4.3)."""
    import supervision as sv

    linear = [(value / 255) ** 2.2 for value in colour.as_rgb()]
    return sv.Color.BLACK if np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.179 else sv.Color.WHITE


class _NothingDoneError(Exception):
    """No input was of use: what stood in the folder of results stays."""


class _UnwritableError(ValueError):
    """OpenCV cannot write such a film."""


class _Film:
    """A film's frames, by OpenCV.

    Raises:
        ValueError: OpenCV is missing, or cannot read one frame of it.
    """

    def __init__(self, path: str) -> None:
        # a damaged film is our message, not several of FFmpeg's; read when a film is first opened
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        try:
            import cv2
        except ImportError:
            raise ValueError(f"{path!r}: films need OpenCV: pip install opencv-python-headless") from None
        self._cv2, self._path = cv2, path
        try:
            self._capture = cv2.VideoCapture(path)
            _, self._first = self._capture.read()
        except Exception as error:
            raise ValueError(f"{path!r}: expected a film that OpenCV can read, got {error}") from None
        if self._first is None:
            raise ValueError(f"{path!r}: expected a film, and OpenCV cannot read a frame of it")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # an estimate
        self.count = int(count) if math.isfinite(count) and count > 0 else None
        self.height, self.width = self._first.shape[:2]

    def frames(self) -> Iterator[Image.Image]:
        """All frames, in RGB, once."""
        frame = self._first
        while frame is not None:
            yield Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
            frame = self._capture.read()[1]
        self._capture.release()

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[Image.Image], None]]:
        """A function that adds a frame to a new film at `path`; of an odd width or height the codec drops a pixel."""
        code = self._cv2.VideoWriter_fourcc(*"mp4v")
        size = self.width, self.height
        for fps in (self.fps, round(self.fps, 2), max(round(self.fps), 1)):  # the codec knows not every fraction
            writer = self._cv2.VideoWriter(str(path), code, fps, size)
            if writer.isOpened():
                break
        else:
            raise _UnwritableError(
                f"{self._path!r}: OpenCV cannot write a film of {size[0]} x {size[1]} pixels, {self.fps:g} frames a second"
            )
        try:
            yield lambda image: writer.write(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
        finally:
            writer.release()


def _image(detect: Found, file: InputFile, image: Image.Image, folder: Path, results: Results) -> None:
    found = detect(image)
    drawn, path = draw(image, found), file.drawn
    if path.lower().endswith(("jpg", "jpeg")) and max(image.size) <= LONGEST_JPEG:
        drawn.save(folder / path, "JPEG", quality=95)
    else:
        drawn.save(folder / path, "PNG")
    boxes = _boxes(found)
    results.images.append(
        {
            "file": plain_text(file.path),
            "name": file.name,
            "drawn": path,
            "width": image.width,
            "height": image.height,
            "boxes": boxes,
        }
    )
    _say(f"{_shown(file.path)}: {_counts(Counter(box['phrase'] for box in boxes))}")


def _each_frame(detect: Found, file: InputFile, film: _Film, folder: Path, results: Results) -> None:
    counts: Counter[str] = Counter()
    frames_file = file.drawn + ".jsonl"
    number = 0
    with film.writer(folder / file.drawn) as add, (folder / frames_file).open("wb") as lines:
        bar = tqdm(film.frames(), file.name, film.count, unit="frame", leave=False, disable=not sys.stderr.isatty())
        for number, frame in enumerate(bar, start=1):
            found = detect(frame)
            boxes = _boxes(found)
            counts.update(box["phrase"] for box in boxes)
            lines.write(encode({"frame": number - 1, "seconds": (number - 1) / film.fps, "boxes": boxes}))
            add(draw(frame, found))
    results.films.append(
        {
            "file": plain_text(file.path),
            "name": file.name,
            "drawn": file.drawn,
            "frames_file": frames_file,
            "width": film.width,
            "height": film.height,
            "fps": film.fps,
            "frames": number,
            "counts": counts,
        }
    )
    _say(f"{_shown(file.path)}: {_number(number, 'frame', 'frames')}, {_counts(counts)}")


def _boxes(found: sv.Detections) -> list[dict[str, Any]]:
    columns = zip(found.xyxy, found.data["class_name"].tolist(), found.confidence, strict=True)
    return [
        {"xyxy": [_decimal(value) for value in box], "phrase": phrase, "confidence": _decimal(score)}
        for box, phrase, score in columns
    ]


def _decimal(value: np.float32) -> float:
    """The shortest decimal that is this float32 again: 0.1, not 0.10000000149011612."""
    return float(str(value))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {_shown(phrase)}" for phrase, count in counts.most_common()) or "nothing found"


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _check_out(out: str, overwrite: bool) -> Path:
    """Where the results go, links resolved.

    Raises:
        ValueError: no folder can be put there.
        FileExistsError: something is there that must stay.
    """
    if not out or "\0" in out:
        raise ValueError(f"--out: expected a folder, got {out!r}")
    folder = Path(os.path.realpath(out))
    for path in (folder, folder.with_name(f".{folder.name}.partial")) if folder.name else ():
        with suppress(FileNotFoundError):
            path.lstat()  # says now what a name that is too long, or goes through a file, would say after hours
    if os.path.ismount(folder) or folder == Path.cwd():
        raise ValueError(f"--out: {out!r} cannot be put in place as a whole; name a folder inside it")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out: {out!r} is a file; expected a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder
    if not overwrite:
        raise FileExistsError(
            f"{out!r} is not empty; choose another folder with --out, or pass --overwrite to replace it"
        )
    stranger = _stranger(folder)
    if stranger is not None:
        raise FileExistsError(f"{out!r} holds more than results ({stranger!r}); choose another folder with --out")
    return folder


def _stranger(folder: Path) -> str | None:
    """A file in a folder of results that is none of them."""
    try:
        document = parse(read_text(folder / JSON), folder / JSON)
        files = Results(document["images"], document["films"]).files
    except (KeyError, OSError, TypeError, ValueError):
        files = set()
    others = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return min((other for other in others if other not in files), default=None)


@cache
def _fonts() -> dict[str, ImageFont.FreeTypeFont]:
    """The fonts at hand, by their path or name."""
    import matplotlib  # supervision brings it along, and it brings a font

    own, *others = FONTS
    fonts = {}
    for name in (os.path.join(matplotlib.get_data_path(), "fonts", "ttf", own), *others):
        with suppress(OSError):
            fonts[name] = ImageFont.truetype(name, 20)
    return fonts


def _writes(font: str, text: str) -> bool:
    return bool(text) and all(letter == " " or _has(font, letter) for letter in text)


@cache
def _has(font: str, letter: str) -> bool:
    """Whether a font draws something for a letter, and not what it draws for one that no font has."""
    drawn, unknown = (list(_fonts()[font].getmask(text)) for text in (letter, "\U0010ffff"))
    return any(drawn) and drawn != unknown


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings as lines, each once."""
    said = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if text not in said:
            said.add(text)
            _say(f"warning: {text}", sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # 10,000 x 10,000 pixels are welcome
        warnings.showwarning = show
        yield


def _say(line: str, stream: TextIO | None = None) -> None:
    """Print above the progress bar; a reader of our output who has seen enough does not end the work."""
    stream = stream or sys.stdout
    try:
        tqdm.write(line, file=stream)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)
