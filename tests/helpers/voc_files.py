"""VOC files and folders for tests."""

from PIL import Image


def voc_xml(filename="a.jpg", size=(40, 30), objects=(("cat", (1, 2, 11, 12)),), declaration=""):
    """The text of a VOC file; `objects` are (name, corners) pairs."""
    width, height = size
    text = f"{declaration}<annotation><folder>images</folder><filename>{filename}</filename>"
    text += f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size><segmented>0</segmented>"
    for name, corners in objects:
        box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
        text += f"<object><name>{name}</name><pose>Left</pose><difficult>1</difficult><bndbox>{box}</bndbox></object>"
    return text + "</annotation>"


class VocFolder:
    """A VOC folder; `add` adds a picture with its annotation."""

    def __init__(self, root):
        self.images, self.annotations = root / "images", root / "annotations"
        self.images.mkdir(parents=True)
        self.annotations.mkdir()

    def add(self, stem="a", suffix=".jpg", size=(40, 30), xml=None, **options):
        Image.new("RGB", size, "teal").save(self.images / f"{stem}{suffix}")
        if xml is None:
            xml = voc_xml(**{"filename": f"{stem}{suffix}", "size": size} | options)
        self.write(stem, xml)
        return self

    def write(self, stem, xml):
        (self.annotations / f"{stem}.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
