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
from data_prep.arguments import Parser, counted, one_line, printable
from data_prep.atomic import check_free, reserved
from data_prep.audit import Report, audit, check_report_free, first_records, repair_all, report
from data_prep.convert import voc_to_csv
from data_prep.findings import Faults, Finding, note_all
from data_prep.formats import voc
from data_prep.formats.registry import BY_SUFFIX, FORMATS, KNOWN, Format, format_of
from data_prep.records import Dataset

SHOWN = 30  # findings to print; the report files list all findings
FOLDER: dict[str, Any] = {"type": Path, "metavar": "DIR"}  # arguments of add_argument for a folder
SEED: dict[str, Any] = {"type": int, "default": 0, "metavar": "N"}  # the same for a seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status. 0: the command did everything. 1: the command finished, but an input could not be used as it is; a
        line or the report names each such input. 2: the command did nothing, and one line says why. 130: the command was
        interrupted; no half-written file is left.

    Raises:
        SystemExit: 143, on SIGTERM; no half-written file is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters of file names that the terminal cannot encode
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    previous = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # an exception, so that partial files are removed
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
    command = commands.add_parser("voc-to-csv", help="convert Pascal VOC folders to a split, audited CSV data set")
    command.add_argument("--images", **FOLDER, required=True, help="folder of images")
    command.add_argument("--annotations", **FOLDER, required=True, help="folder of .xml files")
    command.add_argument("--out", **FOLDER, required=True, help="folder to create")
    command.add_argument(
        "--train",
        type=_image_count,
        required=True,
        metavar="N",
        help="number of training images; the remaining images are test images",
    )
    command.add_argument(
        "--val",
        type=_image_count,
        default=0,
        metavar="N",
        help="number of validation images, written to val/ (default: 0, no val/); --train 500 --val 100 gives the same test "
        "images as --train 600",
    )
    command.add_argument("--seed", **SEED, help="another seed gives another split (default: 0)")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the images (default)")
    how.add_argument("--link", action="store_true", help="make symbolic links to the images")
    _add_strict(command)
    help_text = "replace an earlier result; if DIR holds a file that no run wrote, nothing is replaced"
    command.add_argument("--overwrite", action="store_true", help=help_text)
    command.set_defaults(run=_voc_to_csv)


def _add_audit(commands: Any) -> None:
    command = commands.add_parser("audit", help="report the faults of a data set")
    command.add_argument("--data", type=Path, required=True, metavar="PATH", help=f"the data set: {KNOWN}")
    command.add_argument("--images", **FOLDER, help="folder of images, to check the image files, too")
    command.add_argument("--out", **FOLDER, required=True, help="folder for audit.json and audit.txt")
    command.add_argument("--overwrite", action="store_true", help="replace audit.json and audit.txt in this folder")
    command.set_defaults(run=_audit)


def _add_sample(commands: Any) -> None:
    command = commands.add_parser(
        "sample", help="draw a small VOC data set with planted faults, to try the commands on"
    )
    command.add_argument("out", **FOLDER, help="folder to create")
    command.add_argument("--seed", **SEED, help="another seed gives other people (default: 0)")
    command.set_defaults(run=_sample)


def _add_conversion(commands: Any, source: str, target: str) -> None:
    read, written = FORMATS[source].description, FORMATS[target].description
    command = commands.add_parser(f"{source}-to-{target}", help=f"convert {read} to {written}")
    command.add_argument("input", type=Path, metavar="INPUT", help=read)
    command.add_argument("output", type=Path, metavar="OUTPUT", help=written)
    if FORMATS[source].uses_images:
        command.add_argument("--images", **FOLDER, help="folder of the images, to take their sizes from")
    _add_strict(command)
    command.add_argument(
        "--overwrite", action="store_true", help="replace OUTPUT; a folder only if a run wrote all its files"
    )
    command.set_defaults(run=_convert, source=source, target=target, images=None)


def _add_strict(command: argparse.ArgumentParser) -> None:
    command.add_argument("--strict", action="store_true", help="stop at the first fault and write nothing")


def _image_count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of images, such as 14, got {text[:40]!r}") from None


def _voc_to_csv(options: argparse.Namespace) -> int:
    result = voc_to_csv(
        options.images,
        options.annotations,
        options.out,
        train=options.train,
        val=options.val,
        seed=options.seed,
        link=options.link,
        strict=options.strict,
        overwrite=options.overwrite,
    )
    print(result.to_text(SHOWN), end="")
    print(printable(f"written to {options.out}"))
    return int(result.has_skipped)


def _audit(options: argparse.Namespace) -> int:
    check_report_free(options.out, options.overwrite)  # before the audit, which may take minutes
    result = _audit_data(options.data, options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out, options.overwrite)
    print(result.to_text(SHOWN), end="")
    print(printable(f"written to {options.out}; the data set is unchanged: only voc-to-csv repairs"))
    return int(result.has_skipped)


def _audit_data(data: Path, images: Path | None) -> Report:
    format = format_of(data)
    if format.name == "voc":
        if images is None:
            raise ValueError(f"--data {data} is a folder of .xml files: --images DIR is needed, too")
        sources, findings = voc.read_folder(images, data)
        named = [(source.name, source.record) for source in sources]
        records, more = repair_all(named, [source.numbers for source in sources])
        return report([source.record for source in sources], {"all": Dataset(records)}, findings + more)
    if images is None and format.image_folder is not None:
        images = format.image_folder(data)
    found: list[Finding] = []
    return audit(format.load(data, found, images), images, found)[1]


def _sample(options: argparse.Namespace) -> int:
    from data_prep.sample import cartoon_faces

    faults = cartoon_faces.write(options.out, options.seed)
    print(printable(f"images/ and annotations/ written to {options.out}; planted faults: {len(faults)}"))
    return 0


def _convert(options: argparse.Namespace) -> int:
    source, target = FORMATS[options.source], FORMATS[options.target]
    suffix = options.output.suffix.lower()
    if suffix in BY_SUFFIX and (target.writes_folder or suffix not in target.suffixes):
        raise ValueError(f"cannot write {options.output}: {source.name}-to-{target.name} writes {target.description}")
    for path in target.files(options.output):
        check_free(path, options.overwrite)
    with reserved(options.output, options.overwrite):
        return _convert_free(options, source, target)


def _convert_free(options: argparse.Namespace, source: Format, target: Format) -> int:
    found: list[Finding] = []
    dataset = source.load(options.input, None if options.strict else found, options.images)
    dataset, seconds = first_records(dataset)
    note_all(seconds, Faults(options.input, found, strict=options.strict))
    dataset, lost = target.fit(dataset)
    _print_findings(found)
    _print_lost(target, lost)
    second_file = target.write(dataset, options.output)
    images = counted(len(dataset.images), "image", "images")
    boxes = counted(sum(len(record.boxes) for record in dataset.images), "box", "boxes")
    names = f" and {second_file}" if second_file else ""
    print(printable(f"{images}, {boxes} written to {options.output}{names}"))
    return int(any(finding.is_fault for finding in found))


def _print_findings(found: Sequence[Finding]) -> None:
    """Print the first findings, and the number of the others, on standard error."""
    for finding in found[:SHOWN]:
        line = f"{finding.kind}: {finding.file}: {finding.detail} ({finding.action})"
        print(printable(line), file=sys.stderr)
    if len(found) > SHOWN:
        print(f"... and {len(found) - SHOWN} more; python -m data_prep audit lists them all", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning, for example one of Pillow's, as one line on standard error, above the progress bar."""
    tqdm.write(f"warning: {one_line(message)}", file=sys.stderr)


def _print_lost(target: Format, lost: Mapping[str, int]) -> None:
    """Name on standard error the fields that a format has no place for, so that no field is dropped silently."""
    if lost:
        names = ", ".join(f"{name} ({count})" for name, count in lost.items())
        print(printable(f"note: {target.name} has no {target.place} for {names}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
