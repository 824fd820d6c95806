"""Read Pascal VOC files together with the images that they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from data_prep.audit import pixel_findings
from data_prep.findings import SKIPPED, Faults, Finding, note_all
from data_prep.formats.file_per_image import search_annotations
from data_prep.formats.voc_reading import Contents, note_path, read_contents
from data_prep.frames import fit
from data_prep.pictures import Folder, measure, search_images, undescribed
from data_prep.records import ImageRecord, base_name, check_file_name, picture_key


@dataclass(frozen=True, slots=True)
class Source:
    """One annotation file and the image that it belongs to.

    Attributes:
        annotation: the XML file; name: its path relative to the folder of annotations, "/" between folders.
        image: the image file.
        record: the contents of the XML file, with the name and the size of the image file. Boxes are in pixels of the
            upright image and not yet repaired.
        numbers: for each box, the number of its object in the XML file, counted from 1.
    """

    annotation: Path
    name: str
    image: Path
    record: ImageRecord
    numbers: tuple[int, ...]


def read_folder(
    images: Path | str, annotations: Path | str, strict: bool = False
) -> tuple[list[Source], list[Finding]]:
    """Read every XML file in a folder and its sub-folders, and find the image of each file.

    An annotation belongs to the image with the same stem in the same sub-folder (`sub/a.xml`, `sub/a.jpg`), whatever its
    `<filename>` is. If there is no such image, it belongs to the image at the path in `<filename>`; else to the only image
    with its stem in any sub-folder; else to the only image with the name in `<filename>`.

    The size of an image is taken from its pixels. If the annotation states another size, the boxes are converted to the
    image's frame where the two sizes determine how (`data_prep.frames.fit`); otherwise the file is left out.

    Args:
        images: folder of images; annotations: folder of XML files.
        strict: raise the first fault instead of leaving out the file, object or field with the fault.

    Returns:
        (sources, ordered by the names of their annotation files; findings). For each file, object and field that cannot be
        used there is a finding with the action "skipped".

    Raises:
        FileNotFoundError: a folder does not exist, or holds nothing to read.
        ValueError: `strict`, and a file, object or field cannot be used as it is.
    """
    folder, files = search_images(images), search_annotations(annotations, ".xml")
    findings: list[Finding] = []
    note_all(folder.findings, Faults(folder.path, findings, strict=strict))
    faults = Faults(files.path, findings, strict=strict)
    note_all(files.findings, faults)
    pairs = _pair(folder, files, findings, strict)
    broken = {PurePosixPath(f.file).stem: f.file for f in findings if f.kind == "annotation unreadable"}

    def why(name: str) -> str:
        file = broken.get(PurePosixPath(name).stem)
        return f"its {file} cannot be used" if file else "no .xml file describes it"

    findings += undescribed(folder, list(pairs), why)
    sources = []
    paths = [folder.path / name for name in pairs]
    for (name, (file, contents)), path, picture in zip(pairs.items(), paths, measure(paths), strict=True):
        if isinstance(picture, str):
            note_all([Finding("image unreadable", file, None, picture, SKIPPED)], faults)
            continue
        fitted = fit(contents.boxes, contents.size, picture)
        note_all(pixel_findings(file, path.name, contents.size, picture, fitted), faults)
        if fitted.boxes is not None:
            record = ImageRecord(name, *picture.size, fitted.boxes, extra=contents.extra)
            sources.append(Source(files.path / file, file, path, record, contents.numbers))
    return sources, findings


class _Images:
    """The images of a folder, indexed by stem and by name, to find the image of an annotation."""

    def __init__(self, folder: Folder) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._ignore_case = folder.ignores_case()
        for name in folder.names:
            path = PurePosixPath(name)
            for key in {self.stem_key(name), self._key(path.stem)}:
                self._by_stem[key].append(name)
            for spelling in {name, path.name}:
                self._by_key[self._key(spelling)].append(name)

    def of(self, file: str, stated: str) -> str:
        """The name of the image that an annotation file belongs to.

        Args:
            file: path of the annotation file, relative to the folder of annotations.
            stated: the text of `<filename>`, which may be empty.

        Raises:
            ValueError: no image fits, or several images fit equally well.
        """
        path, plain = PurePosixPath(file), PurePosixPath(stated.replace("\\", "/"))
        base = base_name(stated)
        own = self._by_stem[self.stem_key(file)]
        folder = self._key(str(path.parent))
        inside = [name for name in own if self._key(str(PurePosixPath(name).parent)) == folder]
        if inside:
            return self._named(inside, base) or inside[0]
        exact = [
            name for name in self._by_key[self._key(str(plain))] if stated and self._key(name) == self._key(str(plain))
        ]
        candidates = exact or self._by_stem[self._key(path.stem)] or (self._by_key[self._key(base)] if base else [])
        if not candidates:
            raise ValueError(f"there is no image {path.stem}.*, and none with the name in <filename>, {stated!r}")
        if len(candidates) > 1:
            by_path = [name for name in candidates if f"/{plain}".endswith(f"/{name}")]
            if len(by_path) != 1:
                raise ValueError(f"several images fit: {', '.join(candidates[:3])}")
            candidates = by_path
        return candidates[0]

    def stem_key(self, name: str) -> str:
        """A key that an annotation shares with the image of the same stem in the same sub-folder."""
        return self._key(name[: len(name) - len(PurePosixPath(name).suffix)])

    def _key(self, name: str) -> str:
        return picture_key(name, self._ignore_case)

    def _named(self, names: Sequence[str], base: str) -> str:
        """The path among `names` whose last part is `base`; "" if there is none."""
        return next((name for name in names if self._key(PurePosixPath(name).name) == self._key(base)), "")


def _pair(folder: Folder, files: Folder, found: list[Finding], strict: bool) -> dict[str, tuple[str, Contents]]:
    """{name of an image: (its annotation file, the contents of that file)} for all files that can be used."""
    images = _Images(folder)
    owner_of = {images.stem_key(file): file for file in files.names}
    pairs: dict[str, tuple[str, Contents]] = {}
    for file in tqdm(files.names, desc="reading", unit=" files", delay=1, disable=None):
        faults = Faults(files.path / file, found, file, strict)
        with faults.costing("annotation unreadable"):
            check_file_name(file)
            contents = read_contents(faults.path, faults)
            with faults.costing("file without image"):
                name = images.of(file, contents.filename)
                check_file_name(name)
                other = pairs[name][0] if name in pairs else owner_of.get(images.stem_key(name), file)
                if other != file and (name in pairs or images.stem_key(file) != images.stem_key(name)):
                    faults.add("image annotated twice", f"{name} has {other} already")
                    continue
                _note_other_name(contents.filename, name, faults)
                pairs[name] = file, contents
    return pairs


def _note_other_name(stated: str, name: str, faults: Faults) -> None:
    """Add a finding if `<filename>` is not the name of the image that its file belongs to."""
    note_path(stated, name, faults)
    if stated and picture_key(base_name(stated)) != picture_key(PurePosixPath(name).name):
        faults.add("file name differs", f"<filename> {stated}, image {name}", action="kept")
