"""`gdino edit`: remove, blur, recolour or replace what phrases name in images."""

from __future__ import annotations

import argparse

from gdino_lib.cli.options import EXIT_STATUS, add_detection, announce_model, count, detection_options, pixels, share
from gdino_lib.weights import hub

HELP = "remove, blur, recolour or replace what phrases name"
DESCRIPTION = (
    "Edit what phrases name, and nothing else: each object gets a mask, and pixels outside the masks stay. Writes the edited "
    "images, and detections.json, detections.csv and detections.coco.json with boxes and masks."
)
EPILOG = EXIT_STATUS


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("images", nargs="+", metavar="IMAGE", help="an image, a folder or a pattern")
    command.add_argument(
        "--find", required=True, action="append", metavar="TEXT", help='"dog . cat": in quotes, divided by "."'
    )
    command.add_argument(
        "--negatives",
        action="append",
        metavar="TEXT",
        help="what must stay, like --find: a box is not edited if it fits one of these phrases best",
    )
    command.add_argument("--do", required=True, choices=["remove", "blur", "recolour", "replace"], help="what to do")
    command.add_argument(
        "--with",
        dest="with_",
        metavar="TEXT",
        help='to recolour, a colour: teal, "#008080"; to replace, a pictogram: fox; with --diffusion, a prompt',
    )
    _add_masks(command)
    add_detection(command, out="edited")
    command.add_argument("--png", action="store_true", help="write PNGs, which keep all other pixels exactly")
    painting = command.add_argument_group("diffusion model, to replace or remove")
    painting.add_argument(
        "--diffusion", metavar="MODEL", help="an inpainting model of diffusers: a folder, or a name on the hub"
    )
    painting.add_argument("--seed", type=int, metavar="N", help="another seed, another picture (default: 0)")
    painting.add_argument("--strength", type=share, metavar="X", help="how much may change, 0..1 (default: 1)")
    painting.add_argument("--steps", type=count, metavar="N", help="denoising steps (default: 30)")


def _add_masks(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mask",
        default="grabcut",
        metavar="HOW",
        help="grabcut: the object by its colours; box: the whole box; sam2: by SAM 2, or its folder (default: grabcut)",
    )
    command.add_argument("--grow", type=pixels, metavar="N", help="pixels around the mask (default: 1/64 of the image)")
    command.add_argument("--feather", type=pixels, metavar="N", help="pixels to fade over (default: half of --grow)")


def run(options: argparse.Namespace) -> int:
    """Edit files; the command's exit status."""
    hub.check(options.model)
    announce_model(options.model)

    from gdino_lib.apps.detect_files import read_phrases
    from gdino_lib.apps.edit_files import EditOptions, edit_files

    painting = {name: value for name in ("seed", "strength", "steps") if (value := getattr(options, name)) is not None}
    how = EditOptions(
        options.do,
        options.with_,
        options.grow,
        options.feather,
        options.mask,
        options.png,
        options.diffusion,
        painting,
    )
    negatives = read_phrases(options.negatives, None) if options.negatives else []
    return edit_files(
        options.images,
        read_phrases(options.find, None),
        how,
        options.model,
        options.out,
        **detection_options(options),
        negatives=negatives,
    )
