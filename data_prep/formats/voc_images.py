"""Pascal VOC files and the images that they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from data_prep.audit import pixel_findings
from data_prep.findings import SKIPPED, Faults, Finding, note_all
from data_prep.formats.voc_reading import Contents, note_path, read_contents, search_annotations
from data_prep.frames import fit
from data_prep.pictures import Folder, measure, search_images, undescribed
from data_prep.records import ImageRecord, base_name, check_file_name, picture_key


@dataclass(frozen=True, slots=True)
class Source:
    """One annotation file and the image it belongs to.

    Attributes:
        annotation: the XML file; name: its path in the folder of annotations, "/" between folders.
        image: the image file.
        record: what the XML says, with the image file's own name and size; boxes in pixels of the upright image, and
            otherwise as they stand, unrepaired.
        numbers: of the boxes' objects in the file, from 1.
    """

    annotation: Path
    name: str
    image: Path
    record: ImageRecord
    numbers: tuple[int, ...]


def read_folder(
    images: Path | str, annotations: Path | str, strict: bool = False
) -> tuple[list[Source], list[Finding]]:
    """Read every XML file in a folder and the folders in it, and find its image.

    An annotation belongs to the image of its own stem in the folder of its own name (`sub/a.xml`, `sub/a.jpg`), whatever its
    `<filename>` says; where there is none, to the image that `<filename>` names, or to the only image of its stem in any
    folder, or to the only one of the name in `<filename>`.

    The image decides the size. Where the annotation has another one, boxes are brought into the frame of the image if the two
    sizes tell how (`data_prep.frames.fit`); else the file is left out.

    Args:
        images: folder of images; annotations: folder of XML files.
        strict: raise at the first fault instead of leaving out what it is in.

    Returns:
        (sources in the order of their annotation files' names, findings). Files that cannot be used are among the
        findings, with the action "skipped", and not among the sources; so are objects and fields.

    Raises:
        FileNotFoundError: a folder is not there, or holds nothing to read.
        ValueError: `strict`, and there is something that cannot be used as it stands.
    """
    folder, files = search_images(images), search_annotations(annotations)
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
    """The images of a folder by what an annotation may know of them."""

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
        """The name of the image of an annotation file.

        Args:
            file: the annotation's path in its folder; stated: its `<filename>`, which may be empty.

        Raises:
            ValueError: no image, or several of which nothing tells the right one.
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
            raise ValueError(f"no image is called {path.stem}.*, or as <filename> {stated!r} says")
        if len(candidates) > 1:
            by_path = [name for name in candidates if f"/{plain}".endswith(f"/{name}")]
            if len(by_path) != 1:
                raise ValueError(f"several images may be meant: {', '.join(candidates[:3])}")
            candidates = by_path
        return candidates[0]

    def stem_key(self, name: str) -> str:
        """What a file shares with the image of its own stem in the folder of its own name."""
        return self._key(name[: len(name) - len(PurePosixPath(name).suffix)])

    def _key(self, name: str) -> str:
        return picture_key(name, self._ignore_case)

    def _named(self, names: Sequence[str], base: str) -> str:
        """The one of `names` that is called `base`, or ""."""
        return next((name for name in names if self._key(PurePosixPath(name).name) == self._key(base)), "")


def _pair(folder: Folder, files: Folder, found: list[Finding], strict: bool) -> dict[str, tuple[str, Contents]]:
    """{image name: (annotation file, its contents)} for each file that can be used."""
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
    """Say where `<filename>` differs from the image that it belongs to."""
    note_path(stated, name, faults)
    if stated and picture_key(base_name(stated)) != picture_key(PurePosixPath(name).name):
        faults.add("file name differs", f"<filename> {stated}, image {name}", action="kept")
