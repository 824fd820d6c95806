"""`gdino scenes`: draw scenes of pictograms, with their boxes."""

from __future__ import annotations

import argparse

from gdino_lib.cli.options import add_out, add_overwrite, count
from gdino_lib.messages import printable

HELP = "draw scenes of pictograms, with their boxes"
DESCRIPTION = (
    "Draw pictures of named pictograms, and write their boxes as VOC, COCO, ODVG or CSV. The same options give the same "
    "pictures. The drawings are by OpenMoji, under the licence CC BY-SA 4.0, which holds for the pictures, too."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_out(command, "folder to create")
    command.add_argument("--count", required=True, type=count, metavar="N", help="number of pictures")
    command.add_argument(
        "--size", type=count, default=256, metavar="N", help="width and height of a picture in pixels (default: 256)"
    )
    command.add_argument(
        "--names",
        choices=["seen", "unseen"],
        default="seen",
        help="names that the embedded model was trained on, or names that it has never seen (default: seen)",
    )
    command.add_argument(
        "--format", choices=["voc", "coco", "odvg", "csv"], default="coco", help="format of the boxes (default: coco)"
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed gives other pictures (default: 0)"
    )
    add_overwrite(command, "replace earlier scenes in DIR")


def run(options: argparse.Namespace) -> int:
    """Draw and write the scenes. Returns the exit status."""
    for name, value, most in (("--size", options.size, 10_000), ("--count", options.count, 10**9)):
        if value > most:
            raise ValueError(f"{name}: expected at most {most}, got {str(value)[:40]}")
    from gdino_lib.nano import pictograms
    from gdino_lib.nano.scenes import write_scenes

    dataset = write_scenes(
        options.out,
        options.count,
        things=pictograms.seen() if options.names == "seen" else pictograms.unseen(),
        annotations=options.format,
        seed=options.seed,
        size=options.size,
        overwrite=options.overwrite,
    )
    boxes = sum(len(record.boxes) for record in dataset.images)
    done = f"{len(dataset.images)} images, {boxes} boxes, {len(dataset.categories)} names"
    print(printable(f"{done} written to {options.out}"))
    print(pictograms.ATTRIBUTION)
    return 0
