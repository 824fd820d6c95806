"""Faults of one image, box or field in each format: {name of the fault: (what a reader leaves out, function that adds it)}."""

import json

from PIL import Image
from voc_files import voc_xml

from data_prep.formats import csv_table


def coco_bbox(bbox):
    return lambda image, box: box.update(bbox=bbox)


def coco_image(**fields):
    return lambda image, box: image.update(fields)


def coco_box(**fields):
    return lambda image, box: box.update(fields)


COCO_FAULTS = {
    "bbox []": ("box", coco_bbox([])),
    "bbox of three": ("box", coco_bbox([1, 2, 3])),
    "bbox with NaN": ("box", coco_bbox([1, 2, float("nan"), 3])),
    "bbox with a huge number": ("box", coco_bbox([1, 2, 10**400, 3])),
    "bbox of texts": ("nothing", coco_bbox(["1", "2", "3.5", "4"])),
    "bbox of words": ("box", coco_bbox(["1", "two", "3", "4"])),
    "polygon without bbox": (
        "box",
        lambda image, box: (box.pop("bbox"), box.update(segmentation=[[1, 2, 3, 4, 5, 6]])),
    ),
    "unknown image": ("box", coco_box(image_id=999)),
    "unknown category": ("box", coco_box(category_id=999)),
    "image id is a list": ("box", coco_box(image_id=[1])),
    "area NaN": ("nothing", coco_box(area=float("inf"))),
    "area a text": ("nothing", coco_box(area="12.5")),
    "area a word": ("nothing", coco_box(area="large")),
    "flag a text": ("nothing", coco_box(iscrowd="0")),
    "id a float": ("nothing", lambda image, box: box.update(id=float(box["id"]))),
    "id null": ("nothing", coco_box(id=None)),
    "id twice": ("nothing", lambda image, box: box.update(id=box["id"] - 1)),
    "image id a text": ("nothing", lambda image, box: box.update(image_id=str(box["image_id"]))),
    "image id a float": ("nothing", lambda image, box: image.update(id=float(image["id"]))),
    "category id a text": ("nothing", lambda image, box: box.update(category_id=str(box["category_id"]))),
    "width a text": ("nothing", coco_image(width="40")),
    "width a float": ("nothing", coco_image(width=40.0)),
    "width 0": ("image", coco_image(width=0)),
    "width a fraction": ("image", coco_image(width=40.5)),
    "no height": ("image", lambda image, box: image.pop("height")),
    "no name": ("image", lambda image, box: image.pop("file_name")),
    "name null": ("image", coco_image(file_name=None)),
    "control character": ("image", coco_image(file_name="a\x1b[31m.jpg")),
    "backslashes": ("nothing", lambda image, box: image.update(file_name="images\\" + image["file_name"])),
    "Windows path": ("nothing", lambda image, box: image.update(file_name="C:\\me\\" + image["file_name"])),
    "absolute path": ("nothing", lambda image, box: image.update(file_name="/home/me/" + image["file_name"])),
    "path out of the folder": ("nothing", lambda image, box: image.update(file_name="../../" + image["file_name"])),
    "LVIS": ("nothing", lambda image, box: image.update(coco_url=f"http://x/val2017/{image.pop('file_name')}")),
    "caption a number": ("nothing", coco_image(caption=5)),
    "unpaired surrogate": ("nothing", coco_box(note=["\ud83d"])),
    "unpaired surrogate in a name": ("nothing", coco_box(**{"\ud83d": 1})),
}


def write_coco(path, faults):
    images, annotations = [], []
    for number in range(len(faults) + 1):
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30})
        for place in (2, 3):
            box = {"id": 10 * number + place, "image_id": number, "category_id": 1, "bbox": [place, 2, 3, 4]}
            annotations.append(box)
        if number:
            faults[number - 1](images[-1], annotations[-1])
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(document))


def odvg_instance(**fields):
    return lambda line: line["detection"]["instances"][1].update(fields)


ODVG_FAULTS = {
    "bbox []": ("box", odvg_instance(bbox=[])),
    "bbox with NaN": ("box", odvg_instance(bbox=[1, 2, float("nan"), 4])),
    "bbox of texts": ("nothing", odvg_instance(bbox=["1", "2", "5", "6"])),
    "another category": ("box", odvg_instance(category="dog")),
    "no category": ("box", lambda line: line["detection"]["instances"][1].pop("category")),
    "label a text": ("nothing", odvg_instance(label="0")),
    "label negative": ("box", odvg_instance(label=-1)),
    "field NaN": ("nothing", odvg_instance(score=float("nan"))),
    "instance a number": ("box", lambda line: line["detection"]["instances"].__setitem__(1, 5)),
    "no instances": ("image", lambda line: line["detection"].pop("instances")),
    "no kind": ("image", lambda line: line.pop("detection")),
    "no name": ("image", lambda line: line.pop("filename")),
    "width a text": ("nothing", lambda line: line.update(width="40")),
    "height missing": ("image", lambda line: line.pop("height")),
    "backslashes": ("nothing", lambda line: line.update(filename="images\\" + line["filename"])),
    "absolute path": ("nothing", lambda line: line.update(filename="/home/me/" + line["filename"])),
    "unpaired surrogate": ("nothing", odvg_instance(note="\ud83d")),
    "unpaired surrogate in a name": ("nothing", odvg_instance(**{"\ud83d": 1})),
    "truncated": ("image", lambda line: line.update(cut=True)),
}


def write_odvg(path, faults):
    lines = []
    for number in range(len(faults) + 1):
        instances = [{"bbox": [place, 2, 9, 9], "label": 0, "category": "cat"} for place in (2, 3)]
        line = {"filename": f"{number}.jpg", "width": 40, "height": 30, "detection": {"instances": instances}}
        if number:
            faults[number - 1](line)
        lines.append(json.dumps(line)[: -9 if line.get("cut") else None])
    path.write_text("\n".join(lines))


def csv_field(column, text):
    return lambda rows: rows[1].__setitem__(csv_table.COLUMNS.index(column), text)


CSV_FAULTS = {
    "word": ("box", csv_field("bbox_x1", "left")),
    "NaN": ("box", csv_field("bbox_y2", "nan")),
    "infinite number": ("box", csv_field("bbox_y2", "1e400")),
    "no label": ("box", csv_field("label_name", "")),
    "another size": ("box", csv_field("image_width", "41")),
    "fraction of a pixel": ("box", csv_field("image_width", "40.5")),
    "too few fields": ("box", lambda rows: rows[1].pop()),
    "too many fields": ("box", lambda rows: rows[1].append("5")),
    "backslashes": ("nothing", lambda rows: [row.__setitem__(5, "images\\" + row[5]) for row in rows]),
    "absolute path": ("nothing", lambda rows: [row.__setitem__(5, "/home/me/" + row[5]) for row in rows]),
    "no name": ("image", lambda rows: [row.__setitem__(5, "") for row in rows]),
}


def write_csv(path, faults):
    lines = [",".join(csv_table.COLUMNS)]
    for number in range(len(faults) + 1):
        rows = [["cat", str(place), "2", "9", "9", f"{number}.jpg", "40", "30"] for place in (2, 3)]
        if number:
            faults[number - 1](rows)
        lines += [",".join(row) for row in rows]
    path.write_text("\n".join(lines))


def in_xml(old, new, last=True):
    def spoil(xml):
        head, found, tail = xml.rpartition(old) if last else xml.partition(old)
        return f"{head}{new}{tail}" if found else xml

    return spoil


DEEP = "<a>" * 3000 + "</a>" * 3000
VOC_FAULTS = {
    "no bndbox": (
        "box",
        lambda xml: xml[: xml.rindex("<bndbox>")] + "<polygon><x1>1</x1></polygon></object></annotation>",
    ),
    "no label": ("box", in_xml("<name>cat</name>", "")),
    "two labels": ("box", in_xml("<name>cat</name>", "<name>cat</name><name>dog</name>")),
    "word": ("box", in_xml("<xmin>3<", "<xmin>left<")),
    "NaN": ("box", in_xml("<xmin>3<", "<xmin>nan<")),
    "corner twice": ("box", in_xml("<xmin>3<", "<xmin>4</xmin><xmin>3<")),
    "nested 3,000 deep": ("nothing", in_xml("</annotation>", f"{DEEP}</annotation>")),
    "nested in an object": ("nothing", in_xml("</object>", f"{DEEP}</object>")),
    "Windows path": ("nothing", in_xml("<filename>", "<filename>C:\\me\\", last=False)),
    "absolute path": ("nothing", in_xml("<filename>", "<filename>/home/me/", last=False)),
    "path out of the folder": ("nothing", in_xml("<filename>", "<filename>../../", last=False)),
    "another folder": ("nothing", in_xml("<filename>", "<filename>images/", last=False)),
    "invalid JSON": ("nothing", in_xml("</annotation>", '<id data_prep="json">{</id></annotation>')),
    "truncated": ("image", lambda xml: xml[:-30]),
    "another element": ("image", lambda xml: "<html/>"),
    "entities": ("image", lambda xml: '<!DOCTYPE a [<!ENTITY x "y">]>' + xml),
}


def write_voc(path, faults):
    path.mkdir()
    for number in range(len(faults) + 1):
        xml = voc_xml(f"{number}.jpg", objects=[("cat", (place, 2, 9, 9)) for place in (2, 3)])
        (path / f"{number}.xml").write_text(faults[number - 1](xml) if number else xml)


def labelme_shape(**fields):
    return lambda document: document["shapes"][1].update(fields)


LABELME_FAULTS = {
    "line": ("box", labelme_shape(shape_type="line")),
    "one point": ("box", labelme_shape(points=[[1, 2]])),
    "NaN": ("box", labelme_shape(points=[[1, float("nan")], [3, 4]])),
    "no label": ("box", lambda document: document["shapes"][1].pop("label")),
    "shape a number": ("box", lambda document: document["shapes"].__setitem__(1, 5)),
    "field NaN": ("nothing", labelme_shape(score=float("nan"))),
    "width a text": ("nothing", lambda document: document.update(imageWidth="40")),
    "no height": ("image", lambda document: document.pop("imageHeight")),
    "no shapes": ("image", lambda document: document.pop("shapes")),
    "no name": ("image", lambda document: document.update(imagePath="")),
}


def write_labelme(path, faults):
    path.mkdir()
    for number in range(len(faults) + 1):
        shapes = [{"label": "cat", "shape_type": "rectangle", "points": [[place, 2], [9, 9]]} for place in (2, 3)]
        document = {"shapes": shapes, "imagePath": f"{number}.jpg", "imageWidth": 40, "imageHeight": 30}
        if number:
            faults[number - 1](document)
        (path / f"{number}.json").write_text(json.dumps(document))


YOLO_FAULTS = {
    "class": ("box", lambda line: line.replace("0 ", "7 ", 1)),
    "class a float": ("nothing", lambda line: line.replace("0 ", "0.0 ", 1)),
    "class a word": ("box", lambda line: line.replace("0 ", "cat ", 1)),
    "NaN": ("box", lambda line: line.replace("0.2", "nan", 1)),
    "pixels": ("box", lambda line: line.replace("0.2", "20", 1)),
    "too few numbers": ("box", lambda line: line[:-4]),
    "odd number of points": ("box", lambda line: f"{line} 0.1 0.2 0.3"),
    "another encoding": ("image", lambda line: f"{line}\udce9"),
}


def write_yolo(path, faults):
    (path / "images").mkdir(parents=True)
    (path / "labels").mkdir()
    (path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    for number in range(len(faults) + 1):
        lines = [f"0 0.{place} 0.5 0.2 0.2" for place in (3, 4)]
        if number:
            lines[1] = faults[number - 1](lines[1])
        Image.new("RGB", (40, 30)).save(path / "images" / f"{number}.jpg")
        (path / "labels" / f"{number}.txt").write_bytes("\n".join(lines).encode(errors="surrogateescape"))


CVAT_FAULTS = {
    name: (costs, in_xml(old, new))
    for name, costs, old, new in (
        ("line", "box", "<box", "<polyline"),
        ("no corner", "box", 'xtl="3"', ""),
        ("word", "box", 'xtl="3"', 'xtl="left"'),
        ("no label", "box", 'label="cat"', ""),
        ("no size", "image", 'width="40"', ""),
        ("size 0", "image", 'width="40"', 'width="0"'),
        ("backslashes", "nothing", 'name="', 'name="images\\'),
        ("path out of the folder", "nothing", 'name="', 'name="../'),
    )
}


def write_cvat(path, faults):
    images = []
    for number in range(len(faults) + 1):
        boxes = [f'<box label="cat" xtl="{place}" ytl="2" xbr="9" ybr="9"/>' for place in (2, 3)]
        image = f'<image id="{number}" name="{number}.jpg" width="40" height="30">{"".join(boxes)}</image>'
        image = faults[number - 1](image) if number else image
        images.append(image)
    path.write_text(f"<annotations>{''.join(images)}</annotations>")


def studio_value(**fields):
    return lambda task: task["annotations"][0]["result"][1]["value"].update(fields)


STUDIO_FAULTS = {
    "brush": ("box", lambda task: task["annotations"][0]["result"][1].update(type="brushlabels")),
    "number a text": ("box", studio_value(x="1")),
    "NaN": ("box", studio_value(x=float("nan"))),
    "pixels": ("box", studio_value(width=4000)),
    "no labels": ("box", studio_value(rectanglelabels=[])),
    "no data": ("image", lambda task: task.pop("data")),
    "no address": ("image", lambda task: task["data"].update(image="")),
    "path out of the folder": ("nothing", lambda task: task["data"].update(image="../" + task["data"]["image"])),
}


def write_studio(path, faults):
    tasks = []
    for number in range(len(faults) + 1):
        results = []
        for place in (2, 3):
            value = {"x": place, "y": 2, "width": 9, "height": 9, "rectanglelabels": ["cat"]}
            size = {"original_width": 40, "original_height": 30}
            results.append({"type": "rectanglelabels", "value": value, **size})
        tasks.append({"id": number, "data": {"image": f"{number}.jpg"}, "annotations": [{"result": results}]})
        if number:
            faults[number - 1](tasks[-1])
    path.write_text(json.dumps(tasks))


FORMATS = {
    "labelme": (LABELME_FAULTS, write_labelme, "labelme"),
    "yolo": (YOLO_FAULTS, write_yolo, "yolo"),
    "cvat": (CVAT_FAULTS, write_cvat, "a.xml"),
    "labelstudio": (STUDIO_FAULTS, write_studio, "a.json"),
    "coco": (COCO_FAULTS, write_coco, "a.json"),
    "odvg": (ODVG_FAULTS, write_odvg, "a.jsonl"),
    "csv": (CSV_FAULTS, write_csv, "a.csv"),
    "voc": (VOC_FAULTS, write_voc, "annotations"),
}
