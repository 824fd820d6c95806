"""Sound data whose meaning is easily lost: pictures in another frame than their boxes, chains of formats, files off the path."""

import json

import numpy as np
from fuzz import FaultError, check_nothing_aside, run
from fuzz_data import NAMES
from PIL import Image, ImageDraw, ImageOps
from voc_files import voc_xml

from data_prep.__main__ import main
from data_prep.formats import coco, csv_table, odvg, voc

# the formats that keep fields of others
READ = {"coco": coco.read, "csv": csv_table.read, "odvg": odvg.read, "voc": voc.read}
RED, TEAL = (230, 20, 20), (0, 128, 128)


def attack(rng, place):
    """One of the ways."""
    rng.choice([_frames, _frames, _chain, _off_the_path])(rng, place)
    check_nothing_aside(place)


def _frames(rng, place):
    """Boxes must lie where the things are, whatever happened to the picture after (or before) they were drawn."""
    (place / "images").mkdir()
    (place / "annotations").mkdir()
    names = [f"{stem}.jpg" for stem in "abc"]
    for name in names:
        _picture(rng, place, name)
    where = ["--images", place / "images", "--annotations", place / "annotations"]
    ran = run(main, ["voc-to-csv", *where, "--out", place / "out", "--train", "1"])
    if ran.status == 2:
        return
    said = (place / "out" / "audit.txt").read_text("utf-8")
    records = {}
    for part in ("train", "test"):
        for record in csv_table.read(place / "out" / part / "annotations.csv").images:
            records[record.file_name] = record
    for name in names:
        if name not in records:
            if name.removesuffix(".jpg") + ".xml" not in said:
                raise FaultError("silent loss", f"{name} is left out without a word")
            continue
        upright = ImageOps.exif_transpose(Image.open(place / "images" / name))
        if (records[name].width, records[name].height) != upright.size:
            raise FaultError("silent loss", f"{name}: its size is not that of the upright picture")
        (box,) = records[name].boxes
        overlap = _overlap(box.xyxy, _red(upright))
        if overlap < 0.7:
            raise FaultError(
                "silent loss", f"{name}: the box overlaps its thing by {overlap:.2f}; {_about(said, name)}"
            )


def _about(said, name):
    lines = [line for line in said.splitlines() if name.removesuffix("jpg") in line]
    return " ".join(" ".join(lines).split())[:200]


def _picture(rng, place, name):
    """A red thing on teal, annotated in one frame and stored in another."""
    width, height = rng.sample(range(80, 160), 2)
    x1, y1 = rng.randint(0, width - 50), rng.randint(0, height - 50)
    box = (x1, y1, x1 + rng.randint(30, 50), y1 + rng.randint(30, 50))
    picture = Image.new("RGB", (width, height), TEAL)
    ImageDraw.Draw(picture).rectangle((*box[:2], box[2] - 1, box[3] - 1), RED)
    size, exif = (width, height), Image.Exif()
    way = rng.choice(["as it is", "scaled", "annotated upright", "annotated as stored", "swapped corners"])
    if way == "scaled":  # after it was annotated
        picture = picture.resize(_scaled(size, rng))
    elif way.startswith("annotated"):
        # of a mirrored picture, or of one that stands on its head, the size does not tell in which frame the boxes are
        orientation = rng.randint(5 if way == "annotated as stored" else 2, 8)
        exif[0x0112] = orientation
        upright = ImageOps.exif_transpose(_with_exif(picture, exif))
        if way == "annotated upright":
            size, box = upright.size, _red(upright)
    elif way == "swapped corners":
        box = (box[2], box[3], box[0], box[1])
    picture.save(place / "images" / name, quality=98, exif=exif)
    text = voc_xml(filename=name, size=size, objects=(("thing", tuple(map(int, box))),))
    (place / "annotations" / f"{name.removesuffix('.jpg')}.xml").write_text(text, "utf-8")


def _scaled(size, rng):
    factor = rng.choice([0.5, 2, 3])
    return [round(side * factor) for side in size]


def _with_exif(picture, exif):
    picture = picture.copy()
    picture.getexif()[0x0112] = exif[0x0112]
    return picture


def _red(picture):
    """Where the thing is, xyxy."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    ys, xs = np.nonzero((pixels[..., 0] > 120) & (pixels[..., 1] < 90))
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def _overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


def _chain(rng, place):
    """COCO through up to three other formats and back: each field is the same, or a line names it."""
    extra = {"iscrowd": rng.choice([0, 1]), "area": rng.choice([12, 12.5]), "score": rng.choice([0.5, 1.0, 1])}
    extra |= {
        "segmentation": rng.choice([[], [[1, 2, 9, 2, 9, 9]]]),
        "tags": rng.choice(["1", "true", "", None, [1, "1"]]),
    }
    fields = {name: extra[name] for name in rng.sample(sorted(extra), 3)}
    bbox = rng.choice([[1, 2, 9, 8], [1.5, 2.25, 9.125, 8.0], [0.1, 0.2, 0.3, 0.7]])
    annotation = {"id": rng.choice([7, "7"]), "image_id": 3, "category_id": 2, "bbox": bbox, **fields}
    image = {"id": 3, "file_name": "a.jpg", "width": 40, "height": 30, "license": rng.choice([1, "1", None])}
    document = {"images": [image], "annotations": [annotation], "categories": [{"id": 2, "name": "cat"}]}
    path, kind = place / "start.json", "coco"
    path.write_text(json.dumps(document), "utf-8")
    truth, said, steps = READ["coco"](path), "", ["coco"]
    for number in range(rng.randint(1, 3)):
        targets = [name for name in READ if name != kind and (kind, name) != ("voc", "csv")]
        target = rng.choice(targets)
        out = place / f"{number}{NAMES[target].removeprefix('in')}"
        ran = run(main, [f"{kind}-to-{target}", path, out])
        if ran.status == 2:
            return
        path, kind, said = out, target, said + ran.err
        steps.append(target)
    result = READ[kind](path)
    (before,), (after,) = truth.images[0].boxes, result.images[0].boxes
    fields = {name: value for name, value in before.extra.items() if not name.startswith("coco_")}
    for name, value in fields.items():
        now = after.extra.get(name)
        if (type(now), now) != (type(value), value) and name not in said:
            raise FaultError("silent loss", f"{' '.join(steps)}: {name} was {value!r} and is {now!r}")
    if any(abs(one - other) > 1e-9 for one, other in zip(before.xyxy, after.xyxy, strict=True)):
        raise FaultError("silent loss", f"{' '.join(steps)}: {before.xyxy} became {after.xyxy}")
    license_now = result.images[0].extra.get("license")
    if license_now != image["license"] and "license" not in said:
        raise FaultError("silent loss", f"{' '.join(steps)}: license was {image['license']!r} and is {license_now!r}")


def _off_the_path(rng, place):
    """Pictures and annotations where, or as, nobody looks: read or named."""
    images, annotations = place / "images", place / "annotations"
    images.mkdir()
    annotations.mkdir()
    Image.new("RGB", (40, 30), TEAL).save(images / "a.jpg")
    (annotations / "a.xml").write_text(voc_xml(), "utf-8")
    odd = rng.choice(
        ["image in a folder", "annotation in a folder", "other suffix", "path", "no box", "dangling", "folder"]
    )
    if odd == "image in a folder":
        (images / "sub").mkdir()
        Image.new("RGB", (40, 30), TEAL).save(images / "sub" / "odd.jpg")
    elif odd == "annotation in a folder":
        (annotations / "sub").mkdir()
        Image.new("RGB", (40, 30), TEAL).save(images / "odd.jpg")
        (annotations / "sub" / "odd.xml").write_text(voc_xml(filename="odd.jpg"), "utf-8")
    elif odd == "other suffix":
        (images / f"odd{rng.choice(['.heic', '.dng', '.avif', '.jp2', '.jfif', '.tga'])}").write_bytes(b"a picture")
    elif odd == "path":
        name = rng.choice(["C:\\x\\odd.jpg", "/home/x/odd.jpg", "images/odd.jpg", "./odd.jpg"])
        Image.new("RGB", (40, 30), TEAL).save(images / "odd.jpg")
        (annotations / "odd.xml").write_text(voc_xml(filename=name), "utf-8")
    elif odd == "no box":
        text = voc_xml(filename="odd.jpg").replace("bndbox>", "polygon>")
        Image.new("RGB", (40, 30), TEAL).save(images / "odd.jpg")
        (annotations / "odd.xml").write_text(text, "utf-8")
    elif odd == "dangling":
        (annotations / "odd.xml").symlink_to("nowhere.xml")
    else:
        (annotations / "odd.xml").mkdir()
    arguments = ["--images", images, "--annotations", annotations, "--out", place / "out", "--train", "1"]
    ran = run(main, ["voc-to-csv", *arguments])
    if ran.status == 2:
        raise FaultError("silent loss", f"{odd}: one bad detail costs the whole set: {ran.err}")
    if "odd" not in (place / "out" / "audit.txt").read_text("utf-8") + ran.err:
        used = any("odd" in path.name for path in (place / "out").rglob("*"))
        if not used:
            raise FaultError("silent loss", f"{odd}: neither read nor named")
