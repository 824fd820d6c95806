"""Folders of images for formats that do not state image sizes."""

from PIL import Image

from data_prep.formats.registry import FORMATS


def draw_images(dataset, folder):
    """Save a black image of the right size for each record."""
    for record in dataset.images:
        path = folder / record.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.new("1", (record.width, record.height)).save(path, "BMP")  # the reader looks at the content
    return folder


def written(format, dataset, path):
    """Write a data set, and put its images where the format's reader looks for them. Returns the folder of images."""
    format.write(dataset, path)
    if format.name == "yolo":
        return draw_images(dataset, path / "images")
    return draw_images(dataset, path.parent / "pictures") if format.uses_images else None


def round_trip(name, dataset, folder):
    """A data set after it was written and read in the format of this name."""
    format = FORMATS[name]
    path = folder / f"set{'' if format.writes_folder else format.suffixes[0]}"
    images = written(format, dataset, path)
    return format.load(path, None, images)
