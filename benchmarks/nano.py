"""Measure the embedded model: `python benchmarks/nano.py --json FILE [--model FILE] [--noto FILE]`.

The model detects in fixed pictogram scenes of 256 x 256 pixels, with names that it learned and names that it never saw. Each
prompt holds the names of all things in the scene and 8 absent names. Precision is measured as in the official evaluation: a
box is a detection of every name for which it has a score. To show what language contributes, AP is also measured with wrong
names, with random text features and without fusion. `--noto NotoColorEmoji.ttf` (from Debian's fonts-noto-color-emoji) adds
scenes with another artist's drawings. Finally, processes of their own measure the time of a detection, of importing the
libraries (without torch and its compiler) and of loading the model, and the memory of each.

`--choosing` draws other scenes, for choosing between models: with learned names and with near-twins, whose emojis the model
never saw either.
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
ABSENT = 8  # absent names in each prompt
OVERLAP = 0.7  # IoU threshold of phrase-wise NMS
FEWER = 500  # the most scenes for the measurements of language and of Noto's drawings
PART = 400  # scenes; AP50 is also measured in parts of this size, which raises it, most of all for a weak model
NOTO_SIZE = 109  # pixels, the only size of the font's bitmaps
PHRASES = 10  # phrases in each timed prompt
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
    parser.add_argument("--scenes", type=int, default=2000, help="scenes of each kind (default: 2000)")
    parser.add_argument("--choosing", action="store_true", help="draw the scenes for choosing between models")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="short side that images are resized to")
    parser.add_argument("--only", choices=["precision", "language", "noto", "speed"], nargs="+", metavar="PART")
    options = parser.parse_args()
    parts = options.only or ["precision", "language", *(["noto"] if options.noto else []), "speed"]
    if options.scenes < 1:
        parser.error(f"--scenes: expected a whole number of at least 1, got {options.scenes}")
    if options.short_side and "speed" in parts:
        parser.error("--short-side: speed is measured at the model's own size only; choose other parts with --only")
    if "noto" in parts and not (options.noto and options.noto.is_file()):
        parser.error(f"--noto: expected the file NotoColorEmoji.ttf, got {options.noto}")
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
    """Scenes in a folder, and measurements of a detector on them."""

    records: Dataset
    images: Path

    @classmethod
    def drawn(cls, folder: Path, count: int, things: Sequence[Pictogram], seed: str) -> Scenes:
        """Draw new scenes into a folder."""
        return cls(write_scenes(folder, count, things=things, seed=seed), folder / "images")

    def first(self, count: int) -> Scenes:
        """The first `count` scenes."""
        return self._replace(records=replace(self.records, images=self.records.images[:count]))

    def measure(self, detector: Detector, absent: bool = False, names: dict[str, str] | None = None) -> dict[str, Any]:
        """COCO's AP, and the share of things that any box finds, whatever its name.

        Args:
            detector: to measure.
            absent: also measure AP after NMS, AP with only the best name of each box, AP50 in parts of `PART` scenes, and the
                number of boxes that are found for 8 absent names.
            names: {name: other name}; prompts call each thing by the other name.
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
        """Boxes per image, at the detector's default thresholds, when it is asked for 8 absent names."""
        names, boxes = class_names(self.records), 0
        for record in self.records.images:
            asked = random.Random(record.file_name).sample(absent_names(record, names), ABSENT)
            boxes += len(detector(self.images / record.file_name, asked))
        return boxes / len(self.records.images)


def suppressed(found: dict[str, sv.Detections]) -> dict[str, sv.Detections]:
    """The boxes that phrase-wise NMS at the IoU `OVERLAP` keeps."""
    kept = {}
    for name, boxes in found.items():
        columns = (torch.from_numpy(column) for column in (boxes.xyxy, boxes.confidence, boxes.class_id))
        kept[name] = boxes[phrase_wise_nms(*columns, OVERLAP).numpy()]
    return kept


def renamed(records: Dataset, names: dict[str, str]) -> Dataset:
    """The same records with other labels, given as {label: other label}."""
    images = tuple(
        replace(record, boxes=tuple(replace(box, label=names[box.label]) for box in record.boxes))
        for record in records.images
    )
    return replace(records, images=images)


def language(model: GroundingDINO, scenes: Scenes) -> dict[str, Any]:
    """AP with the right names, with wrong names, with random text features and without fusion."""
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
    """Replace BERT's features by noise with their mean and standard deviation; the cache keeps each phrase's noise."""
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
    """A model with the same weights, but without fusion of image and text in the enhancer."""
    apart = GroundingDINO(model.config.replace(fusion=False))
    state = model.state_dict()
    apart.load_state_dict({name: state[name] for name in apart.state_dict()})
    return apart.eval()


def in_two_hands(things: Sequence[Pictogram], font_file: Path) -> tuple[list[Pictogram], list[Pictogram]]:
    """The same emojis in Noto's drawings and in OpenMoji's.

    Only emojis of a single character that Noto's font contains are used, because sequences would need text shaping.
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
    """An SVG file with the font's bitmap of a character; None if the font does not have the character."""
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
    """Times for one image of 256 x 256 pixels and ten phrases, new phrases and repeated ones; medians over all processes.

    "gflops" is the speed of a large float32 matrix product right afterwards. It tells how fast the cores were at that time,
    because other programs may share them.
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
