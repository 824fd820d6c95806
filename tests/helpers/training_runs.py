"""Training runs of a few seconds: start them, interrupt them, read their logs."""

from pathlib import Path

from small_runs import SETTINGS, SIDE, model, shapes

from data_prep.formats import csv_table
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.training.log import read_log
from gdino_lib.training.trainer import Trainer

STEPS = 6  # two epochs of twelve pictures, four pictures a step


def run(tmp_path, name="run", settings=SETTINGS, *, data, seed=0, **options):
    options = {"workers": 0, "device": "cpu", "progress": False} | options
    return Trainer(model(seed), data, settings, tmp_path / name, **options)


def losses(out):
    steps, _ = read_log(out)
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    return [(entry["loss"], entry["gradient_norm"], entry["parts"]) for entry in steps]


class KilledError(Exception):
    """Stands for SIGKILL: the trainer neither catches it nor cleans up."""


class Interrupting(EvaluationTransform):
    """A transform that calls `act` when the n-th image is read."""

    def __init__(self, number, act):
        super().__init__(SIDE, SIDE)
        object.__setattr__(self, "left", number)
        object.__setattr__(self, "act", act)

    def __call__(self, *arguments):
        object.__setattr__(self, "left", self.left - 1)
        out = super().__call__(*arguments)
        return (self.act(out) or out) if self.left == 0 else out

    def __repr__(self):  # the same repr, so that a resumed run finds the same data
        return repr(EvaluationTransform(SIDE, SIDE))


def csv_of(tmp_path):
    records = shapes(tmp_path / "images")
    csv_table.write(records, tmp_path / "shapes.csv")
    return ["--train", str(tmp_path / "shapes.csv"), "--images", str(tmp_path / "images")]


SCRIPT = """
import sys
from pathlib import Path
from dataclasses import replace
from data_prep.formats import csv_table
sys.path.append({tests!r})
from small_runs import SETTINGS, model
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation
folder = Path({folder!r})
records = csv_table.read(folder / "shapes.csv")
data = GroundingDataset(records, folder / "images", EvaluationTransform(64, 64))
settings = replace(SETTINGS, **{changes!r})
judged_by = replace(records, images=records.images[:11])  # an odd number, so that two processes share it unevenly
Trainer(model(), data, settings, folder / sys.argv[1], workers={workers}, device="cpu", progress=False,
        resume="--resume" in sys.argv, validation=Validation(judged_by, folder / "images")).fit()
"""


def script(tmp_path, workers=0, **changes):
    csv_of(tmp_path)
    path = tmp_path / "script.py"
    path.write_text(
        SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), changes=changes, workers=workers)
    )
    return path
