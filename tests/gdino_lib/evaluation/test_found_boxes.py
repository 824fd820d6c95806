"""Results that do not belong to the images and classes are refused."""

from dataclasses import replace

import numpy as np
import pytest
import supervision as sv
from made_up_detectors import ColourDetector, detections, perfect, unnamed

from gdino_lib.evaluation.calibration import choose_thresholds
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.evaluate import evaluate
from gdino_lib.evaluation.matching import match_all


def with_result(dataset, result):
    return perfect(dataset) | {"1.png": result}


def shuffled(dataset):
    found = perfect(dataset)["1.png"]
    found.class_id = found.class_id[::-1].copy()
    return found


@pytest.mark.parametrize("call", [average_precision, match_all])
def test_results_for_other_images_or_classes_are_refused(dataset, call):
    found = perfect(dataset)
    with pytest.raises(ValueError, match=r"1 images without result, the first is '0\.png'"):
        call(dataset, {name: result for name, result in found.items() if name != "0.png"})
    with pytest.raises(ValueError, match=r"1 results without image, the first is '9\.png'"):
        call(dataset, found | {"9.png": detections()})
    with pytest.raises(ValueError, match=r"'1\.png': class id 1 is 'green square' here and 'red square' in the result"):
        call(dataset, with_result(dataset, shuffled(dataset)))
    for class_id in (-1, 3):
        with pytest.raises(ValueError, match=f"expected class ids of 0 to 2, got {class_id}"):
            call(dataset, with_result(dataset, unnamed(class_id)))
    with pytest.raises(ValueError, match="outside the image, which has 100 x 80 pixels"):
        call(dataset, with_result(dataset, detections(("red square", (0, 0, 10, 90), 0.5))))
    with pytest.raises(ValueError, match="expected finite"):
        call(dataset, with_result(dataset, detections(("red square", (0, 0, 10, 9), float("nan")))))
    with pytest.raises(ValueError, match="expected a class_id and a confidence"):
        call(dataset, with_result(dataset, sv.Detections(xyxy=np.array([[0, 0, 9, 9]], np.float32))))
    relative = {name: detections() for name in found} | {"0.png": detections(("red square", (0.1, 0.1, 0.3, 0.3), 0.5))}
    with pytest.raises(ValueError, match=r"expected xyxy in pixels, not in 0\.\.1"):
        call(dataset, relative)


def test_two_records_for_one_image_are_refused(dataset):
    twice = replace(dataset, images=(*dataset.images, dataset.images[0]))
    with pytest.raises(ValueError, match=r"two records for the image '0\.png'"):
        average_precision(twice, perfect(dataset))


def test_data_without_objects_are_refused(dataset, folder):
    empty = replace(dataset, images=dataset.images[4:])
    with pytest.raises(ValueError, match="no objects in 1 images"):
        average_precision(empty, perfect(empty))
    with pytest.raises(ValueError, match="no objects"):
        choose_thresholds(match_all(empty, perfect(empty)))
    with pytest.raises(ValueError, match="none of 1 records has a box"):
        evaluate(ColourDetector(), empty, folder)
