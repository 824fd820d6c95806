"""A thousand runs with odd inputs and options: each ends with the expected status and number of error lines."""

import io
import os
import random
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from detect_runs import TABLES, document, files, status
from PIL import Image

from data_prep.formats import coco, csv_table
from gdino_lib.images import read_image

GOOD, BAD = True, False
PROMPTS = [
    (text, GOOD)
    for text in (
        *(
            "cat . dog",
            "cat",
            "CAT.Dog.cat",
            "a/b, c; d?",
            "naïve café",
            "猫 . кошка",
            "😀",
            "\u200b",
            "\u202eright to left",
        ),
        *(
            "[SEP] . [PAD] . [UNK]",
            "'\"$(x)`",
            "'; DROP TABLE",
            "%s {}",
            "x" * 10_000,
            "a" * 101 + " cat",
            "cat\n.\tdog .",
        ),
        " . ".join(f"thing {n}" for n in range(90)),
    )
]
PROMPTS += [
    (text, BAD)
    for text in (
        *("", " ", ".", " . . .", "\n", "a\x00b", "a\x07b", "cat\ndog", "cat\tdog"),
        *("\ud800", "cat . \udcff", "\u2028x\u2028y"),
    )
]
PROMPTS.append(
    ("cat " * 2_500, "late")
)  # refused only after the model is loaded, thus after errors about missing inputs
NUMBERS = [("0", GOOD), ("1", GOOD), ("0.5", GOOD), ("1e-3", GOOD), (" .2 ", GOOD), ("-0", GOOD), ("\u0660", GOOD)] + [
    (text, BAD)
    for text in ("nan", "inf", "-inf", "-1", "2", "1e400", "1.0000001", "x", "", "0,5", "0x1", "1_", "--", "½")
]
COUNTS = [("1", GOOD), ("3", GOOD), ("1" * 30, GOOD)] + [
    (text, BAD) for text in ("0", "-3", "x", "1.5", "", "nan", "9" * 5_000)
]


def huge_header(side):
    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


def odd_images(folder, rng):
    """Write image files, whole and damaged. Returns {path: whether `read_image` can read it}."""
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    contents = {}
    for form, modes in {
        "PNG": ["RGB", "L", "LA", "RGBA", "P", "1", "I;16"],
        "JPEG": ["RGB", "L", "CMYK"],
        "TIFF": ["RGB", "CMYK", "F", "I;16", "LAB"],
        "GIF": ["P"],
        "BMP": ["RGB"],
        "WEBP": ["RGB", "RGBA"],
        "PPM": ["RGB"],
    }.items():
        for mode in modes:
            file = io.BytesIO()
            whole = Image.new("I;16", (50, 40), 999) if mode == "I;16" else image.convert(mode)
            if mode == "LAB":
                whole = Image.merge("LAB", image.split())
            whole.save(file, form)
            contents[form, mode.replace(";", "")] = file.getvalue()
    whole = list(contents.items())
    for number in range(120):
        (form, _), data = rng.choice(whole)
        damaged = bytearray(data[: rng.randrange(len(data) + 1)] if number % 2 else data)
        if number % 3 == 0:
            for _ in range(rng.randrange(1, 30)):
                damaged and damaged.__setitem__(rng.randrange(len(damaged)), rng.randrange(256))
        contents[form, f"damaged{number}"] = bytes(damaged)
    for number in range(30):
        contents["PNG", f"garbage{number}"] = rng.randbytes(rng.choice([0, 1, 7, 100, 5_000]))
    for side in (20_000, 60_000, 2**31 - 1, 0):
        contents["PNG", f"header{side}"] = huge_header(side)
    for size in ((1, 1), (1, 300), (300, 1), (2, 2)):
        file = io.BytesIO()
        image.resize(size).save(file, "PNG")
        contents["PNG", f"size{size[0]}x{size[1]}"] = file.getvalue()
    extensions = ["png", "jpg", "JPEG", "tiff", "gif", "bmp", "webp", "txt", "", "mp4.png", "jpg.exe"]
    readable = {}
    for number, ((form, name), data) in enumerate(contents.items()):
        extra = rng.choice(["", " with space", "猫", "😀", "[x]", "%d", "'", "\n", "x" * 150, "-"])
        path = folder / f"{form}{name}{extra}{number}.{rng.choice(extensions)}"
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_image(path)
            readable[str(path)] = GOOD
        except ValueError:
            readable[str(path)] = BAD
    assert 40 < sum(readable.values()) < len(readable) - 40
    return readable


def odd_folders(work, out_number):
    """(argument for --out, whether results can be written there) pairs."""
    fresh = f"out/{out_number}"
    return [
        *[(fresh, GOOD)] * 6, (f"{fresh}/deep/er", GOOD), (f"{fresh} 猫\n", GOOD), (f"out/../out/./{out_number}/", GOOD),
        ("file.txt", BAD), ("file.txt/x", BAD), ("", BAD), ("a\0b", BAD), ("full", BAD), ("x" * 300, BAD), ("x" * 252, BAD),
        (".", BAD), ("/", BAD), ("loop/x", BAD),
    ]  # fmt: skip


MISSING = ("nowhere.png", "", "a\0b.png", "no/*.jpg", "empty", "x" * 300 + ".png", "[", "**/none*", "images/x\ud800")


def odd_run(rng, number, good, bad, work):
    """A random run: (inputs, options, folder of results, expected exit status, expected number of error lines)."""
    fine = number % 2  # in half of the runs, only the files are odd, and all options are valid
    lost = rng.sample(MISSING, rng.choice([0, 0, 0, 1, 2]))
    unreadable = rng.sample([*bad, "bad.mp4"], rng.choice([0, 0, 1, 2]))
    inputs = lost + unreadable + rng.sample(good, rng.choice([0, 1, 1, 2]) if lost or unreadable else 1)
    rng.shuffle(inputs)

    def choose(options):
        return rng.choice([option for option in options if option[1] is GOOD or not fine])

    prompt, prompt_kind = choose(PROMPTS)
    out, out_kind = choose(odd_folders(work, number))
    arguments = [f"--phrases={prompt}", f"--out={out}"]
    kinds = [prompt_kind is not BAD, out_kind]
    for flag, options, odds in (
        ("box-threshold", NUMBERS, 0.4), ("text-threshold", NUMBERS, 0.2), ("nms", NUMBERS, 0.2), ("top-k", COUNTS, 0.2),
    ):  # fmt: skip
        if rng.random() < odds:
            value, kind = choose(options)
            arguments.append(f"--{flag}={value}")
            kinds.append(kind)
    if number % 5 == 0 and out_kind is not GOOD:
        arguments.append("--overwrite")
    if not all(kinds):
        return inputs, arguments, out, 2, 1
    if prompt_kind == "late" and len(inputs) > len(lost):
        return inputs, arguments, out, 2, len(lost) + 1
    count = len(lost) + len(unreadable)
    return inputs, arguments, out, 0 if count == 0 else 2 if count == len(inputs) else 1, count


def check_results(out, count, case):
    assert files(out) > TABLES, case
    images = document(out)["images"]
    assert files(out) == TABLES | {image["drawn"] for image in images}, case
    assert len(images) == count, case
    assert len(coco.read(Path(out) / "detections.coco.json").images) == len(images), case
    csv_table.read(Path(out) / "detections.csv")


def test_a_thousand_odd_inputs(work, capsys):
    rng = random.Random(4)
    readable = odd_images(work / "images", rng)
    good, bad = ([path for path, kind in readable.items() if kind is wanted] for wanted in (GOOD, BAD))
    Path("empty").mkdir()
    Path("file.txt").write_text("mine")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    os.symlink("loop", "loop")
    Path("bad.mp4").write_bytes(b"no film")
    before = {path.relative_to(work) for path in work.rglob("*")}
    seen = {0: 0, 1: 0, 2: 0}
    for number in range(1_000):
        inputs, arguments, out, expected, count = odd_run(rng, number, good, bad, work)
        case = f"case {number}: {inputs!r} {arguments!r}"[:600]
        try:
            ended = status(["detect", *arguments, "--", *inputs])
        except Exception as error:
            raise AssertionError(case) from error
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert all(line.startswith(("error: ", "warning: ", "note: ")) for line in lines), (case, lines)
        assert len(lines) == captured.err.count("\n"), (case, lines)
        assert (ended, len(errors)) == (expected, count), (case, lines)
        seen[ended] += 1
        if ended == 2:
            assert captured.out == "", case
        else:
            check_results(out, len(inputs) - count, case)
            shutil.rmtree(out)
    shutil.rmtree("out")
    assert {path.relative_to(work) for path in work.rglob("*")} == before, "failed runs leave no files"
    assert Path("full/mine.txt").read_text() == Path("file.txt").read_text() == "mine"
    assert min(seen.values()) > 100, seen
