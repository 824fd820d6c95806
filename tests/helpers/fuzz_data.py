"""Damaged data sets for `python -m data_prep`: whatever is lost is named, and what is written is whole."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

from fuzz import FaultError, check_nothing_aside, run
from picture_folders import draw_images
from PIL import Image

from data_prep.__main__ import main
from data_prep.formats import csv_table
from data_prep.formats.registry import FORMATS
from data_prep.records import Box, Dataset, ImageRecord

NAMES = {name: f"in{'' if format.writes_folder else format.suffixes[0]}" for name, format in FORMATS.items()}
LABELS = ["cat", "dog", "with_mask", "no. 5", "C++", "naïve café", "猫", "a, b; c", '"quoted"', "[x]", "x" * 80, "😀"]
STEMS = ["a", "b b", "猫", "naïve", "[x]", "a.b", "-", "0001", "IMG_1", "ж"]
TEXTS = [
    "",
    " ",
    "0",
    "-1",
    "1e400",
    "nan",
    "NaN",
    "inf",
    "1,5",
    "1.0",
    "12abc",
    "9" * 19,
    "9" * 400,
    "true",
    "null",
    "\u0661",
]
TEXTS += [
    "C:\\x\\a.jpg",
    "/home/x/a.jpg",
    "../a.jpg",
    "images/a.jpg",
    "a\\b.jpg",
    "./a.jpg",
    "cafe\u0301.jpg",
    "x" * 300,
]
TEXTS += ["\x1b[2J", "\u202egpj", "\u2028", "&amp;", "<b>", "a\tb", "%s", "a\nb", "\ufeff", "\ud800"]
VALUES = [*TEXTS, None, True, False, 0, -1, 1.5, 10**19, 1e308, [], {}, [1], [[1, 2, 3, 4]], {"a": 1}, [1, 2, 3], "1"]


def draw_set(rng):
    """[(file name, (width, height), [(label, x1, y1, x2, y2), ...]), ...]; all boxes lie inside."""
    stems = rng.sample(STEMS, rng.randint(1, 4))
    records = []
    for stem in stems:
        width, height = rng.randint(8, 60), rng.randint(8, 60)
        boxes = []
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            x1, y1 = rng.randint(0, width - 2), rng.randint(0, height - 2)
            boxes.append((rng.choice(LABELS), x1, y1, rng.randint(x1 + 1, width), rng.randint(y1 + 1, height)))
        records.append((f"{stem}.{rng.choice(['jpg', 'png', 'JPG', 'jpeg'])}", (width, height), boxes))
    return records


def write_set(records, kind, place, rng):
    """Write a set in a format's plain words; the files that hold annotations."""
    path = place / NAMES[kind]
    if kind == "coco":
        names = sorted({box[0] for _, _, boxes in records for box in boxes})
        images, annotations = [], []
        for number, (name, (width, height), boxes) in enumerate(records, 1):
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for label, x1, y1, x2, y2 in boxes:
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": names.index(label) + 1}
                entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                annotations.append(entry)
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        path.write_text(json.dumps(document, ensure_ascii=rng.random() < 0.5), "utf-8")
        return [path]
    if kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(csv_table.COLUMNS)
            for name, size, boxes in records:
                writer.writerows([*box, name, *size] for box in boxes)
        return [path]
    if kind == "odvg":
        lines = []
        for name, (width, height), boxes in records:
            instances = [{"bbox": list(box[1:]), "label": 0, "category": box[0]} for box in boxes]
            labels = sorted({box[0] for _, _, all_boxes in records for box in all_boxes})
            for instance in instances:
                instance["label"] = labels.index(instance["category"])
            line = {"filename": name, "height": height, "width": width, "detection": {"instances": instances}}
            lines.append(json.dumps(line, ensure_ascii=rng.random() < 0.5))
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return [path]
    if kind == "voc":
        path.mkdir()
        return [_write_xml(path, *record) for record in records]
    FORMATS[kind].write(as_dataset(records), path)
    if FORMATS[kind].uses_images:
        draw_images(as_dataset(records), path / "images" if kind == "yolo" else place / "pictures")
    files = [file for file in path.rglob("*") if file.suffix in (".txt", ".yaml", ".json")] if path.is_dir() else [path]
    return sorted(file for file in files if not file.name.startswith("."))


def as_dataset(records):
    images = [ImageRecord(name, *size, tuple(Box(*box) for box in boxes)) for name, size, boxes in records]
    return Dataset(tuple(images))


def _write_xml(folder, name, size, boxes):
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    sizes = ElementTree.SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (*size, 3), strict=True):
        ElementTree.SubElement(sizes, tag).text = str(value)
    for label, *corners in boxes:
        thing = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(thing, "name").text = label
        bounds = ElementTree.SubElement(thing, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(bounds, tag).text = str(value)
    path = folder / f"{name.rpartition('.')[0]}.xml"
    path.write_bytes(ElementTree.tostring(root, "utf-8"))
    return path


# --- damage -------------------------------------------------------------------------------------------------------------


def damage(path, kind, rng):
    """Change a file as accidents and programs do."""
    data = path.read_bytes()
    way = rng.choice(["bytes", "bytes", "text", "structure", "structure", "structure", "encoding"])
    if way == "bytes":
        data = _damaged_bytes(data, rng)
    elif way == "encoding":
        text = data.decode("utf-8")
        with_mark = rng.choice(
            ["utf-8-sig", "utf-16", "utf-32", "latin-1", "gb18030", "shift_jis", "cp1252", "utf-16-le"]
        )
        data = text.replace("\n", rng.choice(["\n", "\r\n", "\r"])).encode(with_mark, "replace")
    elif way == "text" or kind in ("voc", "cvat", "yolo", "openimages"):
        text = data.decode("utf-8")
        places = [match.span() for match in re.finditer(r"[\w.]+|>[^<]*<", text)]
        start, end = rng.choice(places or [(0, 0)])  # the label file of an image without boxes is empty
        new = rng.choice([str(value) for value in TEXTS if "\ud800" not in str(value)])
        if text[start:end].startswith(">"):
            start, end = start + 1, end - 1
        data = (text[:start] + new + text[end:]).encode("utf-8")
    elif kind == "csv":
        data = _damaged_table(data.decode("utf-8"), rng).encode("utf-8", "surrogatepass")
    else:
        lines = data.decode("utf-8").split("\n") if kind == "odvg" else [data.decode("utf-8")]
        number = rng.randrange(len(lines) - (kind == "odvg") or 1)
        lines[number] = json.dumps(_damaged_value(json.loads(lines[number]), rng))
        data = "\n".join(lines).encode("utf-8")
    path.write_bytes(data)


def _damaged_bytes(data, rng):
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not damaged:
            break
        place = rng.randrange(len(damaged))
        way = rng.randrange(4)
        if way == 0:
            damaged[place] = rng.randrange(256)
        elif way == 1:
            del damaged[place : place + rng.choice([1, 3, 50])]
        elif way == 2:
            damaged[place:place] = rng.randbytes(rng.choice([1, 4]))
        else:
            damaged = (
                damaged[:place]
                if rng.random() < 0.3
                else damaged[:place] + damaged[place : place + 20] + damaged[place:]
            )
    return bytes(damaged)


def _damaged_table(text, rng):
    rows = list(csv.reader(text.splitlines()))
    row = rng.randrange(len(rows))
    way = rng.randrange(6)
    if way == 0:
        rows[row][rng.randrange(len(rows[row]))] = str(rng.choice(TEXTS))
    elif way == 1:
        rows[row] = rows[row] + [""] if rng.random() < 0.5 else rows[row][:-1]
    elif way == 2:
        rows = [[str(number - 1) if number else "", *values] for number, values in enumerate(rows)]  # pandas' index
    elif way == 3:
        rows.insert(row, rng.choice([[], [""] * len(rows[0]), rows[row]]))
    elif way == 4:
        rows = rows[1:]
    delimiter = rng.choice([",", ",", ",", ";", "\t"])
    return "\n".join(delimiter.join(_quoted(value, delimiter) for value in values) for values in rows) + "\n"


def _quoted(value, delimiter):
    return '"' + value.replace('"', '""') + '"' if {delimiter, '"', "\n"} & set(value) else value


def _damaged_value(value, rng):
    """JSON in which one value, anywhere, is lacking, doubled, or another."""
    places = []

    def visit(holder):
        for key, below in holder.items() if isinstance(holder, dict) else enumerate(holder):
            places.append((holder, key))
            if isinstance(below, dict | list):
                visit(below)

    visit(value)
    if not places:
        return value
    holder, key = rng.choice(places)
    way = rng.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, list):
        holder.append(holder[key])
    elif way == 2:
        holder[key] = str(holder[key])
    else:
        holder[key] = rng.choice(VALUES)
    return value


# --- the attack ---------------------------------------------------------------------------------------------------------


def count_objects(paths, kind):
    """How many objects the files hold for a plain reader that knows no rule; None where even such a reader is at a loss."""
    try:
        if kind == "voc":
            return sum(len(ElementTree.fromstring(path.read_bytes()).findall("object")) for path in paths)
        if kind in ("csv", "openimages"):
            rows = list(csv.reader(paths[0].read_bytes().decode("utf-8-sig").splitlines()))
            return sum(any(value.strip() for value in row) for row in rows[1:])
        if kind in ("coco", "lvis"):
            return len(json.loads(paths[0].read_bytes())["annotations"])
        if kind == "labelme":
            return sum(len(json.loads(path.read_bytes())["shapes"]) for path in paths)
        if kind == "labelstudio":
            return sum(len(task["annotations"][0]["result"]) for task in json.loads(paths[0].read_bytes()))
        if kind == "cvat":
            return len(ElementTree.fromstring(paths[0].read_bytes()).findall("image/box"))
        if kind == "yolo":
            labels = [path for path in paths if "labels" in path.parts]
            return sum(bool(line.strip()) for path in labels for line in path.read_text("utf-8").splitlines())
        lines = [json.loads(line) for line in paths[0].read_text("utf-8").split("\n") if line.strip()]
        return sum(len(line["detection"]["instances"]) for line in lines)
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError, csv.Error, LookupError):
        return None


def attack(rng, place):
    """One set, damaged or not, through one command."""
    records = draw_set(rng)
    kind = rng.choice([name for name in FORMATS if name not in ("yolo", "lvis") or any(boxes for *_, boxes in records)])
    paths = write_set(records, kind, place, rng)
    whole = rng.random() < 0.15
    if not whole:
        damage(rng.choice(paths), kind, rng)
    way = rng.choice(["convert", "convert", "audit"] + ["voc-to-csv"] * 3 * (kind == "voc"))
    if way == "convert":
        _convert(records, kind, paths, whole, rng, place)
    elif way == "audit":
        _audit(records, kind, rng, place)
    else:
        _voc_to_csv(records, paths, whole, rng, place)
    check_nothing_aside(place)


def _convert(records, kind, paths, whole, rng, place):
    target = rng.choice([name for name in FORMATS if name != kind and (kind, name) != ("voc", "csv")])
    out = place / NAMES[target].replace("in", "out")
    images = ["--images", place / "pictures"] if kind in ("openimages", "labelstudio") else []
    before = sorted(path.name for path in place.iterdir())
    ran = run(main, [f"{kind}-to-{target}", place / NAMES[kind], out, *images])
    if ran.status == 2:
        if sorted(path.name for path in place.iterdir()) != before:
            raise FaultError("half-written", f"{kind}-to-{target} refused and left files")
        if whole and any(boxes for *_, boxes in records):  # YOLO and LVIS need a class
            raise FaultError("silent loss", f"{kind}-to-{target} refused a whole set: {ran.err}")
        return
    if out.is_dir() and all(file.name.startswith(".") for file in out.rglob("*")):
        return  # no image was of use; a folder without files is refused as a data set
    got = _read(target, out, records, place)
    found = sum(len(record.boxes) for record in got.images)
    expected = count_objects(paths, kind)
    if expected is not None and found < expected and not ran.err:
        raise FaultError("silent loss", f"{kind}-to-{target}: {expected} objects, {found} written, nothing said")
    if whole:
        truth = Counter((name, *box) for name, _, boxes in records for box in boxes)
        written = Counter((r.file_name, b.label, *b.xyxy) for r in got.images for b in r.boxes)
        if truth != written:
            raise FaultError("silent loss", f"{kind}-to-{target} changed a whole set: {truth - written}")


def _read(target, out, records, place):
    """The data set that a conversion wrote, with the pictures where its reader looks for them."""
    format = FORMATS[target]
    images = out / "images" if target == "yolo" else place / "pictures"
    if format.uses_images:
        images.mkdir(exist_ok=True)
        draw_images(as_dataset(records), images)
    return format.load(out, [], images)


def _draw_pictures(records, rng, place):
    folder = place / "images"
    folder.mkdir()
    for name, size, _ in records:
        if rng.random() < 0.95:
            Image.new("RGB", size, "teal").save(folder / name)
            if rng.random() < 0.1:
                (folder / name).write_bytes(_damaged_bytes((folder / name).read_bytes(), rng))
    return folder


def _audit(records, kind, rng, place):
    images = ["--images", _draw_pictures(records, rng, place)] if kind == "voc" or rng.random() < 0.7 else []
    ran = run(main, ["audit", "--data", place / NAMES[kind], *images, "--out", place / "report"])
    if ran.status == 2:
        if (place / "report").exists():
            raise FaultError("half-written", "a refused audit left its folder")
        return
    json.loads((place / "report" / "audit.json").read_text("utf-8"))


def _voc_to_csv(records, paths, whole, rng, place):
    images = _draw_pictures(records, rng, place)
    out = place / "out"
    train = rng.randint(0, len(records))
    options = [option for option in ("--strict", "--link") if rng.random() < 0.15]
    arguments = ["--images", images, "--annotations", place / "in", "--out", out, "--train", train, *options]
    expected = count_objects(paths, "voc")
    ran = run(main, ["voc-to-csv", *arguments])
    if ran.status == 2:
        if out.exists():
            raise FaultError("half-written", "a refused voc-to-csv left its folder")
        return
    report = json.loads((out / "audit.json").read_text("utf-8"))
    written = sum(
        len(r.boxes) for part in ("train", "test") for r in csv_table.read(out / part / "annotations.csv").images
    )
    if expected is not None and written < expected and not report["findings"]:
        raise FaultError("silent loss", f"voc-to-csv: {expected} objects, {written} written, nothing found")
    if not report["findings"] and ran.status == 0 and whole:
        truth = Counter((name, *box) for name, _, boxes in records for box in boxes)
        got = Counter(
            (r.file_name, b.label, *b.xyxy)
            for part in ("train", "test")
            for r in csv_table.read(out / part / "annotations.csv").images
            for b in r.boxes
        )
        if truth != got:
            raise FaultError("silent loss", f"voc-to-csv changed a whole set: {truth - got}")
    if ran.status == 1 and not any(finding["action"] == "skipped" for finding in report["findings"]):
        raise FaultError("silent loss", "voc-to-csv left files out and names none")
