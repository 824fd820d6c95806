"""The command line: `python -m data_prep --help`."""

from __future__ import annotations

import argparse
import io
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep import __version__
from data_prep.arguments import Parser, one_line, printable
from data_prep.atomic import check_free, reserved
from data_prep.audit import audit, first_records, repair_all, report
from data_prep.convert import voc_to_csv
from data_prep.findings import Faults, Finding, note_all
from data_prep.formats import voc
from data_prep.formats.registry import BY_SUFFIX, FORMATS, Format
from data_prep.records import Dataset

SHOWN = 30  # findings printed in full; the files have all
FOLDER: dict[str, Any] = {"type": Path, "metavar": "DIR"}  # an option that takes a folder
SEED: dict[str, Any] = {"type": int, "default": 0, "metavar": "N"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0: done. 1: done, but something could not be used as it stands, and is named. 2: nothing was done, and one line says
            why.
        130: interrupted; nothing half-written is left.

    Raises:
        SystemExit: 143, on SIGTERM; nothing half-written is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name must not fail on a terminal that lacks its letters
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that what was begun is removed
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.run(options)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError, RecursionError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m data_prep", description="Convert, split and audit detection data sets.")
    parser.add_argument("--version", action="version", version=f"data_prep {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_voc_to_csv(commands)
    _add_audit(commands)
    _add_sample(commands)
    for source in FORMATS:
        for target in FORMATS:
            if source != target and (source, target) != ("voc", "csv"):
                _add_conversion(commands, source, target)
    return parser


def _add_voc_to_csv(commands: Any) -> None:
    command = commands.add_parser("voc-to-csv", help="Pascal VOC folders to a split, audited CSV set")
    command.add_argument("--images", **FOLDER, required=True, help="folder of images")
    command.add_argument("--annotations", **FOLDER, required=True, help="folder of .xml files")
    command.add_argument("--out", **FOLDER, required=True, help="folder to make")
    command.add_argument(
        "--train", type=_image_count, required=True, metavar="N", help="how many images train; the rest test"
    )
    command.add_argument("--seed", **SEED, help="another seed, another split (default: 0)")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the images (the default)")
    how.add_argument("--link", action="store_true", help="make symbolic links to the images")
    _add_strict(command)
    command.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    command.set_defaults(run=_voc_to_csv)


def _add_audit(commands: Any) -> None:
    command = commands.add_parser("audit", help="say what is wrong with a data set")
    known = "; ".join(each.description for each in FORMATS.values())
    command.add_argument("--data", type=Path, required=True, metavar="PATH", help=known)
    command.add_argument("--images", **FOLDER, help="check the image files, too")
    command.add_argument("--out", **FOLDER, required=True, help="folder for audit.json and audit.txt")
    command.set_defaults(run=_audit)


def _add_sample(commands: Any) -> None:
    command = commands.add_parser("sample", help="draw a small VOC set to try things on, faults included")
    command.add_argument("out", **FOLDER, help="folder to make")
    command.add_argument("--seed", **SEED, help="another seed, other people (default: 0)")
    command.set_defaults(run=_sample)


def _add_conversion(commands: Any, source: str, target: str) -> None:
    read, written = FORMATS[source].description, FORMATS[target].description
    command = commands.add_parser(f"{source}-to-{target}", help=f"{read} to {written}")
    command.add_argument("input", type=Path, metavar="INPUT", help=read)
    command.add_argument("output", type=Path, metavar="OUTPUT", help=written)
    _add_strict(command)
    command.add_argument("--overwrite", action="store_true", help="replace OUTPUT")
    command.set_defaults(run=_convert, source=source, target=target)


def _add_strict(command: argparse.ArgumentParser) -> None:
    command.add_argument("--strict", action="store_true", help="stop at the first fault, and write nothing")


def _image_count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of images, as in --train 14, got {text[:40]!r}") from None


def _voc_to_csv(options: argparse.Namespace) -> int:
    how = {"train": options.train, "seed": options.seed, "link": options.link, "strict": options.strict}
    result = voc_to_csv(options.images, options.annotations, options.out, **how, overwrite=options.overwrite)
    print(result.to_text(SHOWN), end="")
    print(printable(f"written to {options.out}"))
    return int(result.has_skipped)


def _audit(options: argparse.Namespace) -> int:
    if options.data.is_dir():
        if options.images is None:
            raise ValueError(f"--data {options.data} is a folder of .xml files: --images DIR is needed, too")
        sources, findings = voc.read_folder(options.images, options.data)
        named = [(source.name, source.record) for source in sources]
        records, more = repair_all(named, [source.numbers for source in sources])
        result = report([source.record for source in sources], {"all": Dataset(records)}, findings + more)
    elif options.data.suffix.lower() in BY_SUFFIX:
        found: list[Finding] = []
        dataset = BY_SUFFIX[options.data.suffix.lower()].read(options.data, found)
        _, result = audit(dataset, options.images, found)
    else:
        expected = ", ".join(each.description for each in FORMATS.values())
        raise ValueError(f"--data {options.data}: expected {expected}")
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    print(result.to_text(SHOWN), end="")
    print(printable(f"written to {options.out}; the data are as they were: only a conversion with voc-to-csv repairs"))
    return int(result.has_skipped)


def _sample(options: argparse.Namespace) -> int:
    from data_prep.sample import cartoon_faces

    faults = cartoon_faces.write(options.out, options.seed)
    print(printable(f"images/ and annotations/ written to {options.out}; planted faults: {len(faults)}"))
    return 0


def _convert(options: argparse.Namespace) -> int:
    source, target = FORMATS[options.source], FORMATS[options.target]
    suffix = options.output.suffix.lower()
    if suffix in BY_SUFFIX and suffix not in target.suffixes:
        raise ValueError(f"cannot write {options.output}: {source.name}-to-{target.name} writes {target.description}")
    for path in target.files(options.output):
        check_free(path, options.overwrite)
    with reserved(options.output, options.overwrite):
        return _convert_free(options, source, target)


def _convert_free(options: argparse.Namespace, source: Format, target: Format) -> int:
    found: list[Finding] = []
    dataset = source.read(options.input, None if options.strict else found)
    dataset, seconds = first_records(dataset)
    note_all(seconds, Faults(options.input, found, strict=options.strict))
    dataset, lost = target.fit(dataset)
    _print_findings(found)
    _print_lost(target, lost)
    second_file = target.write(dataset, options.output)
    boxes = sum(len(record.boxes) for record in dataset.images)
    names = f" and {second_file}" if second_file else ""
    print(printable(f"{len(dataset.images)} images, {boxes} boxes written to {options.output}{names}"))
    return int(any(finding.is_fault for finding in found))


def _print_findings(found: Sequence[Finding]) -> None:
    """Say on standard error what of the input is not as it should be, the first of it in full."""
    for finding in found[:SHOWN]:
        line = f"{finding.kind}: {finding.file}: {finding.detail} ({finding.action})"
        print(printable(line), file=sys.stderr)
    if len(found) > SHOWN:
        print(f"... and {len(found) - SHOWN} more; data_prep audit lists them all", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Pillow's, say: a line on standard error, above the progress bar."""
    tqdm.write(f"warning: {one_line(message)}", file=sys.stderr)


def _print_lost(target: Format, lost: Mapping[str, int]) -> None:
    """Say on standard error which fields a format has no place for, so that nothing is dropped silently."""
    if lost:
        names = ", ".join(f"{name} ({count})" for name, count in lost.items())
        print(printable(f"note: {target.name} has no {target.place} for {names}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
