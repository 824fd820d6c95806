"""Measure the embedded model: `python benchmarks/nano.py --json FILE [--model FILE] [--noto FILE]`.

Fixed pictogram scenes of 256 x 256, with names that it learned and names that it never saw; prompts hold the names of what a
scene shows and 8 names that it does not. Precision is measured as the official evaluation does: a box counts once for each
name that it may bear. What language does: the same with other names, with random text features, without
fusion. Drawings by another hand: Noto's, from Debian's fonts-noto-color-emoji (`--noto NotoColorEmoji.ttf`). Then, in
processes of their own, the time of a detection, of importing the libraries beyond torch and its compiler, of loading, and
the memory of each.

`--choosing` draws other scenes, to choose by: of the names that it learned and of the near-twins, whose emojis it never saw
either.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import supervision as sv
import torch
from PIL import Image, ImageDraw, ImageFont
from results import report
from torchvision.ops import box_iou

from data_prep import Dataset
from gdino_lib.data.records import class_names
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.postprocess import phrase_wise_nms
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all
from gdino_lib.evaluation.false_positives import absent_names
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.nano import pictograms
from gdino_lib.nano.drawings import SVG
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.scenes import write_scenes
from gdino_lib.weights import loading

SEED, CHOOSING = "test", "choose"
ABSENT = 8  # names in each prompt
OVERLAP = 0.7  # of boxes of one name, from which on only the surest stays, where boxes are suppressed
FEWER = 500  # scenes, at most, for what language does and for another hand
PART = 400  # scenes: the same detections judged in parts of so many score higher, the more so the less is right
NOTO_SIZE = 109  # pixels, the only one of that font's bitmaps
PHRASES = 10  # in the prompts that are timed
IN_A_PROCESS = """
import json, os, sys, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
import torch
plain = resident()
import torch._dynamo  # torch's own compiler; torchvision imports it
empty, start = resident(), time.perf_counter()
import supervision, timm, torchvision
from transformers import BertModel
libraries, imported = resident(), time.perf_counter()
import gdino_lib as gd
detector = gd.Detector.from_pretrained(sys.argv[1])
loaded = time.perf_counter()
from PIL import Image
image = Image.open(sys.argv[2]).convert("RGB")
times = {"new_phrases": [], "same_phrases": []}
for phrases in json.loads(sys.argv[3]):
    for kept in times.values():
        began = time.perf_counter()
        detector(image, phrases)
        kept.append(time.perf_counter() - began)
model = resident() - libraries
matrix, seconds = torch.rand(1536, 1536), []
for _ in range(20):
    began = time.perf_counter()
    matrix @ matrix
    seconds.append(time.perf_counter() - began)
print(json.dumps({
    "libraries_s": imported - start, "load_s": loaded - imported,
    "times_s": {name: kept[10:] for name, kept in times.items()},
    "compiler_mb": empty - plain, "libraries_mb": libraries - empty, "model_mb": model,
    "gflops": 2e-9 * 1536**3 / sorted(seconds)[10],
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--model", default="nano", help="a name, a weight file or a folder (default: nano)")
    parser.add_argument("--noto", type=Path, metavar="FILE", help="NotoColorEmoji.ttf")
    parser.add_argument("--scenes", type=int, default=2000, help="of each kind (default: 2000)")
    parser.add_argument("--choosing", action="store_true", help="scenes to choose by, not to judge by")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="that the detector resizes images to")
    parser.add_argument("--only", choices=["precision", "language", "noto", "speed"], nargs="+", metavar="PART")
    options = parser.parse_args()
    parts = options.only or ["precision", "language", *(["noto"] if options.noto else []), "speed"]
    if options.scenes < 1:
        parser.error(f"--scenes: expected a whole number of at least 1, got {options.scenes}")
    if options.short_side and "speed" in parts:
        parser.error("--short-side: the speed is that of the model as it is; name other parts with --only")
    if "noto" in parts and not (options.noto and options.noto.is_file()):
        parser.error(f"--only noto: --noto must be the file NotoColorEmoji.ttf, is {options.noto}")
    model = loading.load(options.model, "cpu")
    if options.short_side:
        model.config = model.config.replace(short_side=options.short_side, long_side=2 * options.short_side)
    detector = Detector(model)
    threads = torch.get_num_threads()
    figures: dict[str, Any] = {"on": f"{platform.machine()} CPU, {threads} threads, torch {torch.__version__}"}
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"seen": pictograms.seen(), "unseen": pictograms.unseen()}
        if options.choosing:
            kinds = {"seen": kinds["seen"], "near-twins": pictograms.near_twins()}
        seed = CHOOSING if options.choosing else SEED
        if "speed" in parts:
            picture = Scenes.drawn(Path(folder) / "picture", 1, kinds["seen"], seed)
            figures["speed"] = speed(options.model, picture.images / picture.records.images[0].file_name)
        fewer = min(FEWER, options.scenes)
        count = options.scenes if "precision" in parts else fewer if "language" in parts else 0
        sets = {kind: Scenes.drawn(Path(folder) / kind, count, things, seed) for kind, things in kinds.items() if count}
        if "precision" in parts:
            figures |= {kind: scenes.measure(detector, absent=True) for kind, scenes in sets.items()}
        if "language" in parts:
            figures["language"] = {kind: language(model, scenes.first(fewer)) for kind, scenes in sets.items()}
        if "noto" in parts:
            for kind, things in kinds.items():
                hands = dict(zip(("noto", "openmoji"), in_two_hands(things, options.noto), strict=True))
                figures.setdefault("another_hand", {})[kind] = {
                    hand: Scenes.drawn(Path(folder) / f"{kind}-{hand}", fewer, drawn, seed).measure(detector)
                    for hand, drawn in hands.items()
                }
    report(figures, options.json)


class Scenes(NamedTuple):
    """Scenes in a folder, and how well a detector does in them."""

    records: Dataset
    images: Path

    @classmethod
    def drawn(cls, folder: Path, count: int, things: Sequence[Pictogram], seed: str) -> Scenes:
        """New ones."""
        return cls(write_scenes(folder, count, things=things, seed=seed), folder / "images")

    def first(self, count: int) -> Scenes:
        """Some of them."""
        return self._replace(records=replace(self.records, images=self.records.images[:count]))

    def measure(self, detector: Detector, absent: bool = False, names: dict[str, str] | None = None) -> dict[str, Any]:
        """COCO's AP, and the share of things that any box finds, whatever its name.

        Args:
            absent: also AP after suppression, AP where each box has one name, its best, AP50 in parts of `PART` scenes, and
                how many boxes are found for 8 names that an image does not show.
            names: call things by others' names.
        """
        records = self.records if names is None else renamed(self.records, names)
        found = detect_all(detector, records, self.images, negatives=ABSENT)
        measured = average_precision(records, found)
        hits, things = 0, 0
        for record in records.images:
            truth = torch.tensor([box.xyxy for box in record.boxes], dtype=torch.float32).reshape(-1, 4)
            boxes = torch.from_numpy(found[record.file_name].xyxy).float()
            best = box_iou(truth, boxes).amax(1) if len(boxes) else torch.zeros(len(truth))
            hits, things = hits + int((best >= 0.5).sum()), things + len(truth)
        result = {"scenes": len(records.images), "ap": measured.ap, "ap50": measured.ap50, "recall50": hits / things}
        if absent:
            best = {name: boxes[boxes.data["best"]] for name, boxes in found.items()}
            for name, boxes in (
                ("suppressed", suppressed(found)),
                ("one_name_a_box", best),
                ("one_name_a_box_suppressed", suppressed(best)),
            ):
                again = average_precision(records, boxes)
                result[name] = {"ap": again.ap, "ap50": again.ap50}
            starts = range(0, len(records.images) - PART + 1, PART)
            parts = [replace(records, images=records.images[start : start + PART]) for start in starts]
            result["ap50_in_parts"] = [
                average_precision(part, {image.file_name: found[image.file_name] for image in part.images}).ap50
                for part in parts
            ]
            result["boxes_per_image_for_absent_names"] = self.ask_for_absent(detector)
        return result

    def ask_for_absent(self, detector: Detector) -> float:
        """Boxes an image, at the detector's default thresholds, where it is asked for 8 names that it does not show."""
        names, boxes = class_names(self.records), 0
        for record in self.records.images:
            asked = random.Random(record.file_name).sample(absent_names(record, names), ABSENT)
            boxes += len(detector(self.images / record.file_name, asked))
        return boxes / len(self.records.images)


def suppressed(found: dict[str, sv.Detections]) -> dict[str, sv.Detections]:
    """What `nms_iou=OVERLAP` leaves."""
    kept = {}
    for name, boxes in found.items():
        columns = (torch.from_numpy(column) for column in (boxes.xyxy, boxes.confidence, boxes.class_id))
        kept[name] = boxes[phrase_wise_nms(*columns, OVERLAP).numpy()]
    return kept


def renamed(records: Dataset, names: dict[str, str]) -> Dataset:
    """The same boxes under other labels."""
    images = tuple(
        replace(record, boxes=tuple(replace(box, label=names[box.label]) for box in record.boxes))
        for record in records.images
    )
    return replace(records, images=images)


def language(model: GroundingDINO, scenes: Scenes) -> dict[str, Any]:
    """What is left of AP when the words say nothing."""
    names = [box.label for record in scenes.records.images for box in record.boxes]
    names = list(dict.fromkeys(names))
    random.Random(0).shuffle(names)
    turned = dict(zip(names, [*names[1:], names[0]], strict=True))
    result = {
        "as it is": scenes.measure(Detector(model)),
        "others' names": scenes.measure(Detector(model), names=turned),
    }
    with random_text(model):
        result["random text features"] = scenes.measure(Detector(model))
    result["no fusion"] = scenes.measure(Detector(without_fusion(model)))
    return result


@contextmanager
def random_text(model: GroundingDINO) -> Iterator[None]:
    """BERT's features replaced by noise of their mean and deviation, the same for a phrase whenever it is asked for."""
    generator = torch.Generator().manual_seed(0)

    def noise(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        output.last_hidden_state = torch.randn(hidden.shape, generator=generator) * hidden.std() + hidden.mean()
        return output

    handle = model.text_encoder.bert.register_forward_hook(noise)
    try:
        yield
    finally:
        handle.remove()


def without_fusion(model: GroundingDINO) -> GroundingDINO:
    """The same weights, but image and text do not meet in the enhancer."""
    apart = GroundingDINO(model.config.replace(fusion=False))
    state = model.state_dict()
    apart.load_state_dict({name: state[name] for name in apart.state_dict()})
    return apart.eval()


def in_two_hands(things: Sequence[Pictogram], font_file: Path) -> tuple[list[Pictogram], list[Pictogram]]:
    """The same emojis in Noto's drawings and in OpenMoji's.

    They are the emojis of a single character, which needs no shaping, that Noto's font has.
    """
    font = ImageFont.truetype(font_file, NOTO_SIZE, layout_engine=ImageFont.Layout.BASIC)
    noto, openmoji = [], []
    for thing in things:
        drawn = {text: picture for text in thing.drawings if len(text) == 1 and (picture := _noto(font, text))}
        if drawn:
            noto.append(thing._replace(drawings=tuple(drawn.values())))
            openmoji.append(thing._replace(drawings=tuple(drawn)))
    return noto, openmoji


def _noto(font: ImageFont.FreeTypeFont, character: str) -> str | None:
    """An SVG file with the font's bitmap."""
    image = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((0, 0), character, font=font, embedded_color=True)
    if not image.getchannel("A").getbbox():
        return None
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    head = f'{SVG}xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 136 128" '
    return f'{head}width="136" height="128"><image width="136" height="128" xlink:href="data:image/png;base64,{data}"/></svg>'


def speed(model: str, image: Path, processes: int = 3) -> dict[str, Any]:
    """One image of 256 x 256, ten phrases, new ones and those asked last; the medians of some processes.

    "gflops", of a large float32 matrix product right after it, says how fast the cores were then: others may share them.
    """
    names = [thing.name for thing in pictograms.seen()]
    prompts = [names[start : start + PHRASES] for start in range(0, 40 * PHRASES, PHRASES)]
    runs = []
    for _ in range(processes):
        command = [sys.executable, "-c", IN_A_PROCESS, model, str(image), json.dumps(prompts)]
        ended = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(ended.stdout.splitlines()[-1]))
        time.sleep(0.5)
    figures = {
        f"{name}_ms": round(1000 * statistics.median(t for run in runs for t in run["times_s"][name]), 1)
        for name in ("new_phrases", "same_phrases")
    }
    for name in ("libraries_s", "load_s", "compiler_mb", "libraries_mb", "model_mb", "gflops"):
        figures[name] = round(statistics.median(run[name] for run in runs), 2)
    return figures


if __name__ == "__main__":
    main()
