"""Detect in images, folders and films, and write drawn copies and tables of boxes: the work of `gdino detect`.

NAME is the path of an input relative to the common folder of all inputs. The folder of results holds:

- for each image, a copy with drawn boxes: NAME if its suffix is .jpg, .jpeg or .png, otherwise NAME.png;
- for each film, a copy with drawn boxes and the film's sound, NAME or NAME.mp4, and a file with one line per frame, `frame`,
  `seconds` and `boxes`, whose name has .jsonl appended. With `tracking`, a box has the `id` of its track, null if it has none;
  a line also has `detected`, false if its boxes are interpolated, and `zones`, the number of tracks in each zone;
- with `explain`, for each box of an image, a picture that explains it: NAME.explained/1.png, NAME.explained/2.png, ...; a
  number is added to a name that is taken by the copy of another input;
- `detections.json`: everything except the boxes of films; `failed` lists the inputs that could not be read. With several
  wordings of a name, `phrase` of a box is the name, and `wording` the wording that found it, if it differs from the name;
- `detections.csv`: the eight columns of `data_prep.formats.csv_table`, without confidences; one row per box, and one row with
  an empty box for an image in which nothing was found;
- `detections.coco.json`: a COCO data set of all images and phrases, with a `score` for each box.

The tables call an image NAME, so that they fit the original files; a character that a table cannot hold becomes "_".
Coordinates and confidences are written so that reading them gives the Detector's float32 numbers, bit for bit.

The folder appears when the run is complete. After an interrupt, it appears with the results so far and `complete` set to false,
unless it would replace an older folder, which then stays. If a run is killed, `.OUT.partial` remains; the next run removes it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from tqdm import tqdm

from data_prep.arguments import counted
from data_prep.atomic import atomic_folder
from data_prep.formats.json_text import encode, parse, read_text
from data_prep.records import Box
from gdino_lib.apps.counting import OutsideFilmError, TrackCounts, Tracking
from gdino_lib.apps.input_files import InputFile, find_input_files, free_name, name_key, plain_text
from gdino_lib.apps.results import Results, box_entries, check_results_folder, files_of_results
from gdino_lib.apps.terminal import listed, print_line
from gdino_lib.apps.video import FilmWriter, UnwritableFilmError
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.drawing import draw_detections
from gdino_lib.detect.explain import one_prompt
from gdino_lib.detect.explanation import Explanation
from gdino_lib.detect.explanation_drawing import draw_explanation
from gdino_lib.detect.frames import Film
from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.detect.tracking import find_in_frames
from gdino_lib.detect.vocabulary import Vocabulary, Wordings
from gdino_lib.images import read_image
from gdino_lib.messages import one_line, printable, shown
from gdino_lib.prompts import split_phrases, word_pieces

if TYPE_CHECKING:
    import supervision as sv

LONGEST_JPEG = 65_500  # pixels per side
SHOWN = 10  # names of files to print in one line


def detect_files(
    inputs: Sequence[str],
    phrases: Sequence[str] | Wordings,
    model: str = "nano",
    out: str = "detections",
    *,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    thresholds: str | None = None,
    explain: bool = False,
    tracking: Tracking | None = None,
    negatives: Sequence[str] = (),
    **options: Any,
) -> int:
    """Detect in files, write the folder of results that this module describes, and print one line per file.

    Args:
        inputs: images, films, folders and patterns, as for `gdino_lib.apps.input_files.find_input_files`.
        phrases: the phrases to look for, or names with their wordings.
        model, device, dtype: as for `Detector.from_pretrained`.
        out: the folder of results.
        overwrite: replace `out`, if it holds nothing but results of an earlier run.
        options: all of `box_threshold`, `text_threshold`, `nms_iou`, `top_k` and `score`, as for the `Detector`.
        thresholds: a file of `gdino_lib.detect.thresholds.Thresholds`, to be used instead of both thresholds; "saved" is the
            file beside the weights of the model.
        explain: also write a picture for each box of an image, see `gdino_lib.detect.explanation_drawing`; films get none. The
            phrases must fit into one prompt.
        tracking: follow the objects of films from frame to frame, and count them.
        negatives: phrases of what is not wanted: a box is dropped if it fits one of them best.

    Returns:
        The exit status. 0: all inputs are done. 1: some inputs could not be used. 2: no input could be used, and nothing was
        written. Standard error gets one line for each input that could not be used, and one line for each folder with files
        that are neither images nor films.

    Raises:
        ValueError, OSError: an argument cannot be used, or writing fails; nothing was written.
        KeyboardInterrupt: the run was interrupted; the message says where the results so far are.
    """
    DetectOptions(**options)  # raises an error for values out of range
    about = about_phrases(phrases, negatives)
    folder = check_results_folder(out, overwrite)
    results = Results()
    files, unusable, not_read = find_input_files(inputs, folder)
    note_not_read(not_read)
    for path, reason in unusable:
        results.fail(path, reason)
    if not files:
        return 2
    settings = dict(options)
    if thresholds is not None:
        options["thresholds"] = Thresholds.load(thresholds_path(model) if thresholds == "saved" else thresholds)
        settings["thresholds"] = options["thresholds"].to_json()
    detector = Detector.from_pretrained(model, device, dtype)
    options["negatives"] = negatives
    about = {"complete": True, "model": plain_text(model)} | about | {"settings": settings}
    if tracking is not None:
        about["tracking"] = asdict(tracking)
    # raises errors before the first file
    vocabulary = Vocabulary.build(phrases, detector.model.config.max_tokens, negatives)
    if explain:
        one_prompt(vocabulary)
        if any(file.is_film for file in files):
            print_line("note: films get no explanations", sys.stderr)
    if thresholds is not None:
        _note_if_unused(options["thresholds"], phrases)
    Run(detector, phrases, options, folder, overwrite, explain, about, results, tracking).detect_in(files, out)
    if not results.done:
        return 2
    print_line(
        f"{counted(results.boxes, 'box', 'boxes')} in {counted(results.done, 'file', 'files')}; written to {out}"
    )
    return 1 if results.failed else 0


def read_phrases(prompts: Sequence[str] | None, file: str | None) -> list[str]:
    """The phrases of prompts, which are split at each ".", and of a file with one phrase per line, letter for letter.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: there is no phrase, or the file is not UTF-8.
    """
    phrases = [phrase for prompt in prompts or () for phrase in split_phrases(prompt)]
    if file is not None:
        phrases += [line.strip() for line in read_text(Path(file)).split("\n") if line.strip()]
    if not phrases:
        raise ValueError('expected phrases, as in "cat . remote control .", got none')
    return phrases


def read_ontology(file: str) -> dict[str, list[str]]:
    """Names with their wordings from a JSON file, as in {"car": ["car", "sedan"]}.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds something else.
    """
    path = Path(file)
    result = parse(read_text(path), path)
    if not result:
        raise ValueError(f'{path}: expected names with their wordings, as in {{"car": ["car", "sedan"]}}, got none')
    for name, wordings in result.items():
        if not isinstance(wordings, list) or not wordings or not all(isinstance(text, str) for text in wordings):
            raise ValueError(f"{path}: {name!r}: expected a list of wordings, got {shown(wordings)}")
    return result


def about_phrases(phrases: Sequence[str] | Wordings, negatives: Sequence[str]) -> dict[str, Any]:
    """What `detections.json` says of the phrases.

    Raises:
        ValueError: the tables cannot hold a phrase.
    """
    about: dict[str, Any] = {"phrases": list(phrases), "negatives": list(negatives)}
    if isinstance(phrases, Mapping):
        about["wordings"] = {name: list(wordings) for name, wordings in phrases.items()}
    for phrase in chain(phrases, negatives, *about.get("wordings", {}).values()):
        Box(phrase, 0, 0, 1, 1)
    return about


def note_not_read(not_read: Mapping[str, Sequence[str]]) -> None:
    """Print a line on standard error for each folder with files that are neither images nor films."""
    for given, names in not_read.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        listed_names = ", ".join(names[:SHOWN])
        print_line(f"note: {given!r}: not read, because neither images nor films: {listed_names}{more}", sys.stderr)


class _NothingDoneError(Exception):
    """No input could be used, so an existing folder of results stays."""


@dataclass
class Run:
    """One run over all files.

    Attributes:
        options: keyword arguments of the detector.
        folder: the folder of results.
        overwrite: replace an existing `folder`.
        explain: write explanations as well.
        about: the fields of `detections.json` about the whole run.
        results: the results so far.
        tracking: how to follow the objects of films; None: do not.
        taken: keys (`name_key`) of the paths of all drawn copies and explanations.
    """

    detector: Detector
    phrases: Sequence[str] | Wordings
    options: Mapping[str, Any]
    folder: Path
    overwrite: bool
    explain: bool
    about: dict[str, Any]
    results: Results
    tracking: Tracking | None = None
    taken: set[str] = field(default_factory=set)

    def detect_in(self, files: Sequence[InputFile], out: str) -> None:
        """Detect in all files, then move the folder of results to its path.

        Raises:
            KeyboardInterrupt, SystemExit: the run was interrupted; the message says where the results so far are.
        """
        self.taken = {name_key(file.drawn) for file in files}
        interrupt: BaseException | None = None
        partial: Path | None = None
        with suppress(_NothingDoneError), ExitStack() as stack:
            try:
                for file in stack.enter_context(tqdm(files, unit="file", disable=not sys.stderr.isatty())):
                    content = self._open(file)
                    if content is None:
                        continue
                    # create the folder only when the first file has been read
                    partial = partial or stack.enter_context(
                        atomic_folder(self.folder, self.overwrite, files_of_results(self.folder))
                    )
                    self._detect_in_file(file, content, partial)
            except (KeyboardInterrupt, SystemExit) as error:  # `cli` turns SIGTERM into SystemExit
                interrupt = self._interrupted(error, len(files), out)
            if partial is None or not self.results.done:
                raise _NothingDoneError
            complete = self.results.files
            for path in [path for path in partial.rglob("*") if path.is_file()]:
                if path.relative_to(partial).as_posix() not in complete:  # an interrupt has left it half-written
                    path.unlink()
                    with suppress(OSError):  # others are in its folder
                        path.parent.rmdir()
            self.results.write(partial, self.about)
        if interrupt:
            raise interrupt

    def _interrupted(self, error: BaseException, count: int, out: str) -> BaseException:
        """The interrupt to raise after the results so far are in place; raised at once if they must not be kept."""
        if not self.results.done:
            raise error
        replaces = self.folder.is_dir() and any(self.folder.iterdir())
        kept = f"{out} is unchanged" if replaces else f"the results so far are in {out}"
        # the SystemExit of SIGTERM keeps its exit status
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
        except ModuleNotFoundError as error:
            self.results.fail(file.path, f"{file.path!r}: {error}")
        return None

    def _detect_in_file(self, file: InputFile, content: Image.Image | Film, partial: Path) -> None:
        (partial / file.drawn).parent.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(content, Film):
                self._detect_in_film(file, content, partial)
            else:
                self._detect_in_image(file, content, partial)
        except torch.cuda.OutOfMemoryError:
            self.results.fail(file.path, f"{file.path!r}: the device has not enough memory")
        except UnwritableFilmError as error:
            self.results.fail(file.path, str(error))
        except (OutsideFilmError, ModuleNotFoundError) as error:
            self.results.fail(file.path, f"{file.path!r}: {error}")

    def _detect(self, image: Image.Image) -> sv.Detections:
        found = self.detector(image, self.phrases, **self.options)
        assert not isinstance(found, list)  # only a list of images gives a list
        return found

    def _detect_in_image(self, file: InputFile, image: Image.Image, partial: Path) -> None:
        explanation = self.detector.explain(image, self.phrases, **self.options) if self.explain else None
        found = explanation.detections if explanation else self._detect(image)
        drawn, path = draw_detections(image, found), file.drawn
        if path.lower().endswith(("jpg", "jpeg")) and max(image.size) <= LONGEST_JPEG:
            drawn.save(partial / path, "JPEG", quality=95)
        else:
            drawn.save(partial / path, "PNG")
        boxes = box_entries(found)
        if explanation:
            self._draw_explanations(file, image, explanation, boxes, partial)
        self.results.add_image(file, image.size, boxes)
        print_line(f"{file.path}: {listed(Counter(box['phrase'] for box in boxes))}")

    def _draw_explanations(
        self, file: InputFile, image: Image.Image, explanation: Explanation, boxes: list[dict[str, Any]], partial: Path
    ) -> None:
        """Write a picture for each box, and put its path into the box's entry."""
        queries, wordings = (explanation.detections.data[field] for field in ("query", "wording"))
        for number, (query, wording, box) in enumerate(zip(queries, wordings, boxes, strict=True), start=1):
            path = free_name(PurePosixPath(file.drawn + ".explained", f"{number}.png"), self.taken, name_key)
            (partial / path).parent.mkdir(exist_ok=True)
            drawn = draw_explanation(image, explanation, int(query), str(wording), self.options["score"])
            drawn.save(partial / path, "PNG")
            box["explained"] = path

    def _detect_in_film(self, file: InputFile, film: Film, partial: Path) -> None:
        counts: Counter[str] = Counter()
        tracks = None if self.tracking is None else TrackCounts(self.tracking, (film.width, film.height))
        every = 1 if self.tracking is None else self.tracking.every
        frames = find_in_frames(self.detector, film, self.phrases, self.options, every, follow=tracks is not None)
        frames_file = file.drawn + ".jsonl"
        frame_count = 0
        with FilmWriter(partial / file.drawn, film) as writer, (partial / frames_file).open("wb") as lines:
            hidden = not sys.stderr.isatty()
            bar = tqdm(frames, printable(file.name), film.count, unit="frame", leave=False, disable=hidden)
            for frame, found in bar:
                frame_count += 1
                boxes = box_entries(found)
                counts.update(box["phrase"] for box in boxes)
                entry = {"frame": frame.number, "seconds": _rounded(frame.seconds), "boxes": boxes}
                drawn = draw_detections(frame.pixels, found)
                if tracks is not None:
                    entry |= {"detected": found.metadata["detected"], "zones": tracks.add(found)}
                    drawn = tracks.draw(drawn)
                lines.write(encode(entry))
                writer.add(drawn, frame.seconds)
        self.results.add_film(file, film, frames_file, frame_count, counts, tracks.to_json() if tracks else {})
        found_things = listed(counts) if tracks is None else f"tracks: {listed(tracks.tracks)}"
        print_line(f"{file.path}: {counted(frame_count, 'frame', 'frames')}, {found_things}")


def _rounded(seconds: float) -> float:
    """Microseconds are finer than the clocks of films, and keep fractions such as 1/30 short."""
    return round(seconds, 6)


def _note_if_unused(thresholds: Thresholds, phrases: Sequence[str] | Wordings) -> None:
    """Print a note if no phrase has a threshold of its own, because the file may belong to another list of phrases."""
    own = set(map(word_pieces, thresholds.classes))
    if own.isdisjoint(map(word_pieces, phrases)):
        print_line(
            f"note: no phrase has a threshold of its own; all use the default, {thresholds.default:.3g}", sys.stderr
        )
