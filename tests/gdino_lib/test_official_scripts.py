"""Scripts written for the official package run with one import changed."""

import runpy
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from gdino_lib.images import prepare
from gdino_lib.inference import Model, predict

pytestmark = pytest.mark.usefixtures("no_device_warnings")


@pytest.fixture
def scripts(workplace, monkeypatch):
    """Run a script in that folder, with its import changed, and return its variables."""
    monkeypatch.chdir(workplace)
    try:
        import cv2  # noqa: F401
    except ImportError:  # such scripts need OpenCV, which this package does not
        import supervision  # noqa: F401 (imported first, because it would take the stand-in for the real OpenCV)

        monkeypatch.setitem(sys.modules, "cv2", opencv())

    def run(text):
        assert text.count("groundingdino.util.inference") == 1
        file = workplace / "script.py"
        file.write_text(text.replace("groundingdino.util.inference", "gdino_lib.inference"), "utf-8")
        return runpy.run_path(str(file))

    return run


def opencv():
    module = ModuleType("cv2")
    module.imread = lambda path: np.array(Image.open(path).convert("RGB"))[..., ::-1]
    module.imwrite = lambda path, frame: Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(path)
    return module


DRAW = """
from groundingdino.util.inference import load_model, load_image, predict, annotate
import cv2

model = load_model("config.py", "weights.pth")
image_source, image = load_image("image.jpg")
boxes, logits, phrases = predict(
    model=model, image=image, caption="chair . person . dog .", box_threshold=0.35, text_threshold=0.25
)
annotated_frame = annotate(image_source=image_source, boxes=boxes, logits=logits, phrases=phrases)
cv2.imwrite("annotated_image.jpg", annotated_frame)
"""

TUTORIAL = """
import cv2
import torch
from groundingdino.util.inference import load_model, load_image, predict, annotate
from gdino_lib.detect.postprocess import suppress_by_phrase

model = load_model("config.py", "weights.pth", device="cpu")
found = {}
for file in ["image.jpg"]:
    image_source, image = load_image(file)
    boxes, logits, phrases = predict(
        model, image, "with_mask . without_mask . mask_weared_incorrect .", BOX_THRESHOLD, 0.40, device="cpu"
    )
    height, width = image_source.shape[:2]
    kept = suppress_by_phrase(boxes, logits, phrases, (width, height), iou=0.3)
    cv2.imwrite("fine_tuned.jpg", annotate(image_source, *kept))
"""

CLASSES = """
import cv2
import supervision as sv
from groundingdino.util.inference import Model

model = Model(model_config_path="config.py", model_checkpoint_path="weights.pth")
image = cv2.imread("image.jpg")
classes = ["chair", "person", "dog"]
detections = model.predict_with_classes(image=image, classes=classes, box_threshold=0.35, text_threshold=0.25)
detections = detections[[class_id is not None for class_id in detections.class_id]]
detections.class_id = detections.class_id.astype(int)
labels = [f"{classes[class_id]} {score:.2f}" for class_id, score in zip(detections.class_id, detections.confidence)]
scene = sv.BoxAnnotator().annotate(scene=image.copy(), detections=detections)
scene = sv.LabelAnnotator().annotate(scene=scene, detections=detections, labels=labels)
cv2.imwrite("classes.png", scene)
captioned, phrases = model.predict_with_caption(image=image, caption="chair. person. dog")
"""


def test_script_that_draws(scripts, workplace):
    found = scripts(DRAW)
    boxes, logits, phrases = found["boxes"], found["logits"], found["phrases"]
    assert len(boxes) == len(logits) == len(phrases) > 0
    assert (logits > 0.35).all()
    assert found["image_source"].shape == found["annotated_frame"].shape == (60, 400, 3)
    assert found["annotated_frame"].dtype == np.uint8
    assert not np.array_equal(found["annotated_frame"], found["image_source"][..., ::-1])
    assert Image.open(workplace / "annotated_image.jpg").size == (400, 60)


@pytest.mark.parametrize("threshold", ["0.8", "0.999999"])
def test_script_of_the_tutorial(scripts, workplace, threshold):
    found = scripts(TUTORIAL.replace("BOX_THRESHOLD", threshold))
    boxes, scores, phrases = found["kept"]
    assert 0 < len(boxes) == len(scores) == len(phrases) <= len(found["boxes"])
    # boxes that stay do not overlap under one label; each box that goes overlaps a better one
    from torchvision.ops import box_convert, box_iou

    overlaps = box_iou(*[box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([400, 60, 400, 60])] * 2)
    for row, label in enumerate(phrases):
        assert all(overlaps[row, other] <= 0.3 for other in range(row) if phrases[other] == label)
    assert set(phrases) == set(found["phrases"])
    assert Image.open(workplace / "fine_tuned.jpg").size == (400, 60)


def test_script_with_the_model_class(scripts, workplace):
    found = scripts(CLASSES)
    detections, captioned = found["detections"], found["captioned"]
    assert 0 < len(detections) <= len(captioned) == len(found["phrases"])
    for box, name in zip(detections.xyxy, detections.class_id, strict=True):
        row = captioned.xyxy.tolist().index(box.tolist())
        assert found["classes"][name] in found["phrases"][row]
    assert (workplace / "classes.png").is_file()
    # the same as by hand, in RGB
    image = prepare(np.ascontiguousarray(found["image"][..., ::-1]))
    boxes, scores, phrases = predict(found["model"].model, image, "chair. person. dog", 0.35, 0.25)
    by_hand = Model.post_process_result(60, 400, boxes, scores)
    np.testing.assert_array_equal(by_hand.confidence, captioned.confidence)
    np.testing.assert_array_equal(by_hand.xyxy, captioned.xyxy)
    assert phrases == found["phrases"]
