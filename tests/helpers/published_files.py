"""Small data sets in the form in which COCO, LVIS, ODinW, RefCOCO and Flickr30k Entities are published."""

import json
import pickle

from made_up_detectors import COLOURS, RECORDS, SQUARES, draw

from data_prep.formats import coco
from data_prep.records import Dataset

WIDTH, HEIGHT = 100, 80


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def xywh(label):
    x1, y1, x2, y2 = SQUARES[label]
    return [x1, y1, x2 - x1, y2 - y1]


def area(label):
    x1, y1, x2, y2 = SQUARES[label]
    return (x2 - x1) * (y2 - y1)


def instances(file_name="{:012d}.jpg", categories=COLOURS, **of_image):
    """The content of a COCO file of the five pictures of `made_up_detectors`, with ids from 1 on."""
    ids = {name: number for number, name in enumerate(categories, start=1)}
    images, annotations = [], []
    for number, record in enumerate(RECORDS, start=1):
        name = file_name.format(number)
        images.append({"id": number, "width": WIDTH, "height": HEIGHT, "file_name": name, "license": 3, **of_image})
        for box in record.boxes:
            fields = {"id": 100 + len(annotations), "image_id": number, "category_id": ids[box.label]}
            outline = [[*map(float, SQUARES[box.label])]]
            fields |= {"bbox": xywh(box.label), "area": area(box.label), "iscrowd": 0, "segmentation": outline}
            annotations.append(fields)
    categories = [{"id": number, "name": name, "supercategory": "square"} for name, number in ids.items()]
    info = {"info": {"year": 2017}, "licenses": [{"id": 3, "name": "a licence"}]}
    return info | {"images": images, "annotations": annotations, "categories": categories}


def draw_as(folder, file_name="{:012d}.jpg"):
    """Draw the five pictures under other names, without the loss that JPEG would bring."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(RECORDS, folder)
    for number, record in enumerate(RECORDS, start=1):
        (folder / record.file_name).rename(folder / file_name.format(number))


def write_coco(root):
    write_json(root / "annotations" / "instances_val2017.json", instances())
    draw_as(root / "val2017")


def lvis_instances():
    """LVIS's file: "red square" is rare and "blue_square" frequent.

    The first image is annotated for "red square" alone, the fourth not exhaustively for "green square".
    """
    content = instances(neg_category_ids=[], not_exhaustive_category_ids=[])
    for number, image in enumerate(content["images"]):
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{name}"
        shown = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = [] if number == 0 else sorted({1, 2, 3} - shown)
    content["images"][3]["not_exhaustive_category_ids"] = [2]
    for category, frequency in zip(content["categories"], "rcf", strict=True):
        category |= {"frequency": frequency, "image_count": 5, "synonyms": [category["name"]], "synset": "square.n.01"}
        category.pop("supercategory")
    for annotation in content["annotations"]:
        annotation.pop("iscrowd")
    return content


def write_lvis(root, file="lvis_v1_val.json", content=None):
    write_json(root / "annotations" / file, content or lvis_instances())
    draw_as(root / "val2017")


def write_coco_set(folder, file="valid/annotations_without_background.json", labels=COLOURS):
    """One set of ODinW: a COCO file beside its pictures."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(RECORDS, path.parent)
    coco.write(Dataset(RECORDS, tuple(labels)), path)


def refs(split="val", texts=("the {}", "a {} over there")):
    """The content of a refs file: two expressions for each object."""
    content = instances("COCO_train2014_{:012d}.jpg")
    entries, sent_id = [], 0
    for number, annotation in enumerate(content["annotations"]):
        label = list(COLOURS)[annotation["category_id"] - 1]
        sentences = []
        for text in texts:
            words = text.format(label)
            sentences.append({"tokens": words.split(), "raw": words.title(), "sent_id": sent_id, "sent": words})
            sent_id += 1
        entries.append(
            {
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "file_name": f"COCO_train2014_{annotation['image_id']:012d}_{number}.jpg",
                "ann_id": annotation["id"],
                "ref_id": number,
                "image_id": annotation["image_id"],
                "split": split,
                "sentences": sentences,
                "category_id": annotation["category_id"],
            }
        )
    return entries


def write_refcoco(root, name="refcoco", file="refs(unc).p", content=None):
    write_json(root / name / "instances.json", instances("COCO_train2014_{:012d}.jpg"))
    (root / name / file).write_bytes(pickle.dumps(content or refs(), protocol=2))
    draw_as(root / "train2014", "COCO_train2014_{:012d}.jpg")


def flickr_xml(number, objects):
    """An annotation file; objects are (names, box or None)."""
    parts = []
    for names, box in objects:
        inner = "".join(f"<name>{name}</name>" for name in names)
        if box is None:
            inner += "<nobndbox>1</nobndbox><scene>0</scene>"
        else:
            corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            inner += "<bndbox>" + "".join(f"<{name}>{value}</{name}>" for name, value in corners) + "</bndbox>"
        parts.append(f"<object>{inner}</object>")
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{number}.jpg</filename>{size}{''.join(parts)}</annotation>"


def write_flickr(root, split="test"):
    """Five pictures; each sentence names every square, and something that has no box."""
    for name in ("Sentences", "Annotations"):
        (root / name).mkdir(parents=True, exist_ok=True)
    draw_as(root / "flickr30k-images", "{}.jpg")
    entity = {label: str(number) for number, label in enumerate(COLOURS, start=11)}
    for number, record in enumerate(RECORDS, start=1):
        labels = [box.label for box in record.boxes]
        phrases = [f"[/EN#{entity[label]}/other {label}]" for label in labels]
        lines = [f"{' and '.join([*phrases, '[/EN#0/notvisual air]'])} , line {line} .\n" for line in range(2)]
        (root / "Sentences" / f"{number}.txt").write_text("".join(lines), "utf-8")
        objects = [([entity[label]], SQUARES[label]) for label in labels]
        (root / "Annotations" / f"{number}.xml").write_text(flickr_xml(number, [*objects, (["0"], None)]), "utf-8")
    (root / f"{split}.txt").write_text("".join(f"{number}\n" for number in range(1, 6)))
