"""`OnnxDetector` finds what `Detector` finds, and needs neither PyTorch nor transformers."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_detectors import ALL, LONG, WORDS, assert_same, build, picture

from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.export.detector import OnnxDetector, text_file
from gdino_lib.export.onnx_file import ExportOptions, export_onnx

ROOT = Path(__file__).parents[3]
ALONE = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "transformers", "timm", "onnx", "safetensors", "huggingface_hub"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
from gdino_lib.export.detector import OnnxDetector
found = OnnxDetector(sys.argv[1], threads=1)(sys.argv[2], json.loads(sys.argv[3]), 0.0, 0.0, nms_iou=0.8, top_k=9)
print(json.dumps([found.xyxy.tolist(), found.confidence.tolist(), found.data["class_name"].tolist()]))
"""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A detector, and its exported files as one."""
    ours = build(max_tokens=32)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(ours.model, path, ExportOptions())
    return ours, OnnxDetector(path, threads=1)


@pytest.mark.parametrize(
    ("phrases", "options"),
    [
        (["cat", "remote control"], {}),
        ("cat . remote control . CAT .", {"score": "max"}),
        (WORDS, {"nms_iou": 0.5, "top_k": 7}),
        (LONG, {"every_phrase": True}),
        (LONG, {"nms_iou": 0.7}),
        (LONG, {"every_phrase": True, "nms_iou": 0.3, "top_k": 20}),
        (["dog", "Cat", "bus"], {"box_threshold": 0.55, "text_threshold": 0.5}),
        (["dog", "cat"], {"box_threshold": 1.0}),
        (["\u0007"], {}),
        (["dog", "cat"], {"thresholds": Thresholds(0.4, {"cat": 0.6}, {})}),
        (["dog", "cat"], {"negatives": ["bus", "remote control"], "nms_iou": 0.7}),
        ({"pet": ["dog", "cat"], "bus": ["red bus", "bus"]}, {"every_phrase": True, "negatives": "remote control ."}),
        ({"pet": LONG[::2], "other": LONG[1::2]}, {"every_phrase": True, "nms_iou": 0.6}),
    ],
)
def test_finds_what_the_detector_finds(pair, phrases, options, recwarn):
    options = {} if "thresholds" in options else ALL | options
    options |= {"thresholds": Thresholds(0.4, {"cat": 0.6}, {})} if not options else {}
    ours, theirs = (detector(picture(4, (121, 67)), phrases, **options) for detector in pair)
    assert_same(ours, theirs)
    assert (ours.xyxy.dtype, ours.confidence.dtype) == (theirs.xyxy.dtype, theirs.confidence.dtype)
    assert ours.class_id.dtype == theirs.class_id.dtype
    assert ours.data.keys() == theirs.data.keys()
    if len(ours):
        assert np.all(np.diff(theirs.confidence) <= 0)
        names = ["cat", "remote control", "CAT"] if isinstance(phrases, str) else list(phrases)
        assert theirs.data["class_name"].tolist() == [names[index] for index in theirs.class_id]
        assert theirs.data["wording"].tolist() == ours.data["wording"].tolist()


def test_lists_of_images_and_of_phrases(pair, tmp_path):
    picture(2, (50, 80)).save(tmp_path / "a.png")
    images = [picture(0), str(tmp_path / "a.png"), np.asarray(picture(1, (64, 64)))]
    for phrases in (["cat", "dog"], [["cat"], ["dog", "red bus"], WORDS]):
        results = [detector(images, phrases, **ALL) for detector in pair]
        assert len(results[1]) == 3
        for ours, theirs in zip(*results, strict=True):
            assert_same(ours, theirs)
    assert pair[1]([], ["cat"]) == []
    assert_same(pair[0].refer(images[0], "the cat"), pair[1].refer(images[0], "the cat"))


def test_threads_get_the_sequential_results(pair):
    detector, images = pair[1], [picture(number, (60 + number, 70)) for number in range(6)]
    expected = [detector(image, [f"cat {number}"], **ALL) for number, image in enumerate(images)]
    found = [None] * 6
    detector._prompt.cache_clear()

    def work(number):
        found[number] = detector(images[number], [f"cat {number}"], **ALL)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_needs_neither_torch_nor_transformers(pair, tmp_path):
    picture(3).save(tmp_path / "a.png")
    phrases = ["remote control", *WORDS]
    arguments = [str(pair[1].path), str(tmp_path / "a.png"), json.dumps(phrases)]
    result = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    boxes, scores, names = json.loads(result.stdout)
    expected = pair[0](picture(3), phrases, **ALL, nms_iou=0.8, top_k=9)
    np.testing.assert_allclose(boxes, expected.xyxy, atol=0.05)
    np.testing.assert_allclose(scores, expected.confidence, atol=1e-4)
    assert names == expected.data["class_name"].tolist()


def test_a_file_with_phrases_finds_these_in_any_order_and_no_others(tmp_path):
    ours, path = build(), tmp_path / "a.onnx"
    export_onnx(ours.model, path, ExportOptions(("remote control", "cat")))
    detector = OnnxDetector(path, threads=1)
    for given in (["remote control", "cat"], ["Cat.", "remote control", "cat"]):
        assert_same(ours(picture(), given, **ALL), detector(picture(), given, **ALL))
    assert_same(ours(picture(), ["remote control", "cat"], **ALL), detector(picture(), **ALL))
    for other in (["cat"], "cat . remote control . dog"):
        with pytest.raises(
            ValueError, match=r"a\.onnx was exported with 2 phrases .* 'remote control \. cat', got 'cat"
        ):
            detector(picture(), other)
    assert repr(detector) == f"<OnnxDetector: {path}, for 2 phrases>"


def test_bad_arguments_are_refused_as_the_detector_refuses_them(pair):
    for phrases, options in (
        ([], {}),
        ([" "], {}),
        (7, {}),
        ([["cat"]], {}),
        (["word " * 40], {}),
        (["cat"], {"top_k": 0}),
    ):
        said = []
        for detector in pair:
            with pytest.raises((ValueError, TypeError)) as caught:
                detector(picture(), phrases, **options)
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]
    with pytest.raises(TypeError, match=r"^phrases: expected phrases to look for, got None"):
        pair[1](picture())
    with pytest.raises(TypeError, match=r"^image: expected one image, got list"):
        pair[1].refer([picture()], "cat")
    with pytest.raises(ValueError, match=r"^phrases: expected one prompt, got phrases for"):
        pair[1].predict(picture(), LONG)


def test_files_that_cannot_be_used_are_refused_in_one_line(pair, tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(FileNotFoundError, match=r"a\.onnx: no such file, expected a file that gdino export wrote$"):
        OnnxDetector(path)
    path.write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"a\.onnx: expected an ONNX file that ONNX Runtime can run, got ") as caught:
        OnnxDetector(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(pair[1].path.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"a\.text\.onnx: no such file"):
        OnnxDetector(path)
    graph = onnx.load(path)
    del graph.metadata_props[:]
    onnx.save(graph, path)
    with pytest.raises(ValueError, match=r"got an ONNX file without its metadata$"):
        OnnxDetector(path)
    assert text_file("b/nano.onnx") == Path("b/nano.text.onnx")


def test_without_onnxruntime_one_line_names_the_extra(monkeypatch, pair):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"^onnxruntime not installed; pip install 'gdino_lib\[export\]'$"):
        OnnxDetector(pair[1].path)
