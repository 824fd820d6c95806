"""The command line: `python -m data_prep --help`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_prep import __version__
from data_prep.arguments import Parser
from data_prep.audit import audit, repair_all, report
from data_prep.convert import voc_to_csv
from data_prep.formats import coco, csv_table, odvg, voc
from data_prep.records import Dataset

READERS = {"voc": voc.read, "csv": csv_table.read, "coco": coco.read, "odvg": odvg.read}
WRITERS = {"voc": voc.write, "csv": csv_table.write, "coco": coco.write, "odvg": odvg.write}
FILES = {"voc": "a folder of .xml files", "csv": "a .csv file", "coco": "a .json file", "odvg": "a .jsonl file"}
SUFFIXES = {".csv": "csv", ".json": "coco", ".jsonl": "odvg"}
SHOWN = 30  # findings printed in full; the files have all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0: done. 1: done, but some files could not be used and were left out. 2: nothing was done, and one line says
            why.
        130: interrupted; nothing half-written is left.

    Raises:
        SystemExit: 143, on SIGTERM; nothing half-written is left.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file name must not fail on a terminal that lacks its letters
    options = _parser().parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that what was begun is removed
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError, RecursionError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m data_prep", description="Convert, split and audit detection data sets.")
    parser.add_argument("--version", action="version", version=f"data_prep {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("voc-to-csv", help="Pascal VOC folders to a split, audited CSV set")
    command.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    command.add_argument("--annotations", type=Path, required=True, metavar="DIR", help="folder of .xml files")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    command.add_argument(
        "--train", type=_count, required=True, metavar="N", help="how many images train; the rest test"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another split (default: 0)")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the images (the default)")
    how.add_argument("--link", action="store_true", help="make symbolic links to the images")
    command.add_argument("--strict", action="store_true", help="stop at the first file that cannot be used")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    command.set_defaults(run=_voc_to_csv)

    command = commands.add_parser("audit", help="say what is wrong with a data set")
    command.add_argument("--data", type=Path, required=True, metavar="PATH", help="; ".join(FILES.values()))
    command.add_argument("--images", type=Path, metavar="DIR", help="check the image files, too")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for audit.json and audit.txt")
    command.set_defaults(run=_audit)

    command = commands.add_parser("sample", help="draw a small VOC set to try things on, faults included")
    command.add_argument("out", type=Path, metavar="DIR", help="folder to make")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other people (default: 0)")
    command.set_defaults(run=_sample)

    for source in READERS:
        for target in WRITERS:
            if source == target or (source, target) == ("voc", "csv"):
                continue
            command = commands.add_parser(f"{source}-to-{target}", help=f"{FILES[source]} to {FILES[target]}")
            command.add_argument("input", type=Path, metavar="INPUT", help=FILES[source])
            command.add_argument("output", type=Path, metavar="OUTPUT", help=FILES[target])
            command.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
            command.set_defaults(run=_convert, source=source, target=target)
    return parser


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of images, as in --train 14, got {text[:40]!r}") from None


def _voc_to_csv(options: argparse.Namespace) -> int:
    result = voc_to_csv(
        options.images,
        options.annotations,
        options.out,
        train=options.train,
        seed=options.seed,
        link=options.link,
        strict=options.strict,
        overwrite=options.overwrite,
    )
    print(result.to_text(SHOWN), end="")
    empty = sum(part["without boxes"] for part in result.parts.values())
    _note("a CSV has no row for an", {"image without boxes": empty} if empty else {})
    print(f"written to {options.out}")
    return int(result.has_skipped)


def _audit(options: argparse.Namespace) -> int:
    if options.data.is_dir():
        if options.images is None:
            raise ValueError(f"--data {options.data} is a folder of .xml files: --images DIR is needed, too")
        sources, findings = voc.read_folder(options.images, options.data)
        records, more = repair_all((source.annotation.name, source.record) for source in sources)
        result = report([source.record for source in sources], {"all": Dataset(records)}, findings + more)
    elif options.data.suffix.lower() in SUFFIXES:
        _, result = audit(READERS[SUFFIXES[options.data.suffix.lower()]](options.data), options.images)
    else:
        raise ValueError(f"--data {options.data}: expected {', '.join(FILES.values())}")
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    print(result.to_text(SHOWN), end="")
    print(f"written to {options.out}; the data are as they were: only a conversion with voc-to-csv repairs")
    return int(result.has_skipped)


def _sample(options: argparse.Namespace) -> int:
    from data_prep.sample import cartoon_faces

    faults = cartoon_faces.write(options.out, options.seed)
    print(f"images/ and annotations/ written to {options.out}; planted faults: {len(faults)}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    if SUFFIXES.get(options.output.suffix.lower(), options.target) != options.target:
        command = f"{options.source}-to-{options.target}"
        raise ValueError(f"cannot write {options.output}: {command} writes {FILES[options.target]}")
    written = [options.output] + [odvg.label_map_path(options.output)] * (options.target == "odvg")
    for path in written:
        if path.exists() and not options.overwrite:
            raise FileExistsError(f"{path} exists; choose another name, or pass --overwrite to replace it")
    dataset = READERS[options.source](options.input)
    if options.target == "csv":
        _note("a CSV has no column for", csv_table.left_out(dataset))
    elif options.target in ("voc", "odvg"):
        # neither has a place for what COCO says of the whole set; the label map is ODVG's own
        kept = {"label_map"} if options.target == "odvg" else set()
        _note(f"{options.target} has no place for", {name: 1 for name in dataset.extra if name not in kept})
        dataset = replace(dataset, extra={name: value for name, value in dataset.extra.items() if name in kept})
    label_map = None
    if options.target == "voc":
        voc.write(dataset, options.output, options.overwrite)
    elif options.target == "odvg":
        label_map = odvg.write(dataset, options.output)
    else:
        WRITERS[options.target](dataset, options.output)
    boxes = sum(len(record.boxes) for record in dataset.images)
    names = f" and {label_map}" if label_map else ""
    print(f"{len(dataset.images)} images, {boxes} boxes written to {options.output}{names}")
    return 0


def _note(what: str, lost: dict[str, int]) -> None:
    """Nothing is dropped silently."""
    if lost:
        print(f"note: {what} " + ", ".join(f"{name} ({count})" for name, count in lost.items()), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
