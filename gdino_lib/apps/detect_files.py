"""What `gdino detect` does: images, folders and films in; drawn copies and tables of boxes out.

With NAME for an input's path within the common folder of all inputs, the folder of results holds:

- NAME with its boxes drawn, as .png (NAME.png) unless it is .jpg, .jpeg or .png; of a film NAME or NAME.mp4, and beside it
  NAME.mp4.jsonl, one line a frame: `frame`, `seconds`, `boxes`;
- `detections.json`: everything but the films' boxes, inputs that could not be read among it (`failed`);
- `detections.csv`: the eight columns of `data_prep.formats.csv_table`, which have no place for a confidence; one row a box,
  and one without a box for an image in which nothing was found;
- `detections.coco.json`: a COCO data set of all images and phrases, with a `score` for each box.

In the tables an image is called NAME, so that they go with the originals; what a table cannot hold in a name becomes "_".
Coordinates and confidences lead back to the Detector's float32 numbers, bit for bit.

The folder appears when all is done. After an interrupt it appears with what was done until then (`complete` is false),
unless it would take the place of an older one: that stays. What a killed run leaves, `.OUT.partial`, the next run removes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from tqdm import tqdm

from data_prep.atomic import atomic_folder
from data_prep.formats.json_text import encode, read_text
from data_prep.records import Box
from gdino_lib.apps.input_files import InputFile, find_input_files, plain_text
from gdino_lib.apps.results import Results, box_entries, check_results_folder, files_of_results
from gdino_lib.apps.terminal import counted, listed, print_line
from gdino_lib.apps.video import Film, UnwritableFilmError
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.drawing import draw_detections
from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.detect.vocabulary import Vocabulary
from gdino_lib.images import read_image
from gdino_lib.messages import one_line, printable
from gdino_lib.prompts import split_phrases, word_pieces

if TYPE_CHECKING:
    import supervision as sv

LONGEST_JPEG = 65_500  # pixels a side


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
        inputs: images, films, folders and patterns, as `gdino_lib.apps.input_files.find_input_files` takes them.
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
    folder = check_results_folder(out, overwrite)
    results = Results()
    files, useless = find_input_files(inputs, folder)
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
    Vocabulary.build(phrases, detector.model.config.max_tokens)  # phrases that it refuses are no file's fault
    if thresholds is not None:
        _note_if_unused(options["thresholds"], phrases)
    _Run(detector, phrases, options, folder, overwrite, about, results).detect_in(files, out)
    if not results.done:
        return 2
    print_line(
        f"{counted(results.boxes, 'box', 'boxes')} in {counted(results.done, 'file', 'files')}; written to {out}"
    )
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


class _NothingDoneError(Exception):
    """No input was of use: what stood in the folder of results stays."""


@dataclass
class _Run:
    """One run over all files.

    Attributes:
        options: of the detector, for every image.
        folder: of the results; replaced if `overwrite`.
        about: what `detections.json` says of the run as a whole.
        results: of the files that are done.
    """

    detector: Detector
    phrases: Sequence[str]
    options: Mapping[str, Any]
    folder: Path
    overwrite: bool
    about: dict[str, Any]
    results: Results

    def detect_in(self, files: Sequence[InputFile], out: str) -> None:
        """Detect in all files, then put the folder of results in place.

        Raises:
            KeyboardInterrupt, SystemExit: the run was interrupted; with what became of the results in `out`.
        """
        interrupt: BaseException | None = None
        partial: Path | None = None
        with suppress(_NothingDoneError), ExitStack() as stack:
            try:
                for file in stack.enter_context(tqdm(files, unit="file", disable=not sys.stderr.isatty())):
                    content = self._open(file)
                    if content is None:
                        continue
                    # no folder is made before a file can be read
                    partial = partial or stack.enter_context(
                        atomic_folder(self.folder, self.overwrite, files_of_results(self.folder))
                    )
                    self._detect_in_file(file, content, partial)
            except (KeyboardInterrupt, SystemExit) as error:  # SystemExit: what `cli` makes of SIGTERM
                interrupt = self._interrupted(error, len(files), out)
            if partial is None or not self.results.done:
                raise _NothingDoneError
            for path in [path for path in partial.rglob("*") if path.is_file()]:
                if path.relative_to(partial).as_posix() not in self.results.files:  # begun only
                    path.unlink()
            self.results.write(partial, self.about)
        if interrupt:
            raise interrupt

    def _interrupted(self, error: BaseException, count: int, out: str) -> BaseException:
        """The interrupt to raise when what was done is in place; raised at once where nothing may be put in place."""
        if not self.results.done:
            raise error
        replaces = self.folder.is_dir() and any(self.folder.iterdir())
        kept = f"{out} stays as it was" if replaces else f"what was done is in {out}"
        # SIGTERM's keeps its exit status
        interrupt = type(error)(*(error.args or (f"interrupted after {self.results.done} of {count} files; {kept}",)))
        if replaces:
            raise interrupt from None
        self.about["complete"] = False
        return interrupt

    def _open(self, file: InputFile) -> Image.Image | Film | None:
        try:
            return Film(file.path) if file.is_film else read_image(file.path)
        except (ValueError, OSError) as error:
            self.results.fail(file.path, one_line(error))
            return None

    def _detect_in_file(self, file: InputFile, content: Image.Image | Film, partial: Path) -> None:
        (partial / file.drawn).parent.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(content, Film):
                self._detect_in_film(file, content, partial)
            else:
                self._detect_in_image(file, content, partial)
        except torch.cuda.OutOfMemoryError:
            self.results.fail(file.path, f"{file.path!r}: the device has too little memory")
        except UnwritableFilmError as error:
            self.results.fail(file.path, str(error))

    def _detect(self, image: Image.Image) -> sv.Detections:
        found = self.detector(image, self.phrases, **self.options)
        assert not isinstance(found, list)  # a list goes with a list of images
        return found

    def _detect_in_image(self, file: InputFile, image: Image.Image, partial: Path) -> None:
        found = self._detect(image)
        drawn, path = draw_detections(image, found), file.drawn
        if path.lower().endswith(("jpg", "jpeg")) and max(image.size) <= LONGEST_JPEG:
            drawn.save(partial / path, "JPEG", quality=95)
        else:
            drawn.save(partial / path, "PNG")
        boxes = box_entries(found)
        self.results.add_image(file, image.size, boxes)
        print_line(f"{file.path}: {listed(Counter(box['phrase'] for box in boxes))}")

    def _detect_in_film(self, file: InputFile, film: Film, partial: Path) -> None:
        counts: Counter[str] = Counter()
        frames_file = file.drawn + ".jsonl"
        number = 0
        with film.writer(partial / file.drawn) as add, (partial / frames_file).open("wb") as lines:
            hidden = not sys.stderr.isatty()
            bar = tqdm(film.frames(), printable(file.name), film.count, unit="frame", leave=False, disable=hidden)
            for number, frame in enumerate(bar, start=1):
                found = self._detect(frame)
                boxes = box_entries(found)
                counts.update(box["phrase"] for box in boxes)
                lines.write(encode({"frame": number - 1, "seconds": (number - 1) / film.fps, "boxes": boxes}))
                add(draw_detections(frame, found))
        self.results.add_film(file, film, frames_file, number, counts)
        print_line(f"{file.path}: {counted(number, 'frame', 'frames')}, {listed(counts)}")


def _note_if_unused(thresholds: Thresholds, phrases: Sequence[str]) -> None:
    """Say that no phrase has a threshold of its own, if so: the file may belong to another list of phrases."""
    own = set(map(word_pieces, thresholds.classes))
    if own.isdisjoint(map(word_pieces, phrases)):
        print_line(
            f"note: no phrase has a threshold of its own; all take the default, {thresholds.default:.3g}", sys.stderr
        )
