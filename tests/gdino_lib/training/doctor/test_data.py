"""Planted faults of the data; the doctor names each in one line."""

from PIL import Image
from squares_to_learn import CONFIG, SQUARES, examine, model_of, one_problem, texts, warning, with_images

import data_prep
from data_prep import Box, ImageRecord


def test_an_image_that_is_missing(folder, tmp_path):
    report = examine(with_images(ImageRecord("gone.png", 96, 72, SQUARES[0])), folder, tmp_path)
    assert one_problem(report) == f"'{folder / 'gone.png'}': no such file, expected an image"
    assert texts(report, "ok", "gradients"), "the others are examined"


def test_images_that_cannot_be_used(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in folder.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "0.png").write_bytes((folder / "0.png").read_bytes()[:100])
    Image.new("RGB", (40, 40)).save(images / "1.png")
    Image.new("F", (96, 72), float("nan")).save(images / "nan.tif")
    Image.new("RGB", (40, 40)).save(images / "more.png")
    report = examine(with_images(ImageRecord("nan.tif", 96, 72, SQUARES[0])), images, tmp_path)
    whole, size, kind = (problem.text for problem in report.problems)
    assert whole.startswith(f"'{images / '0.png'}': expected a whole image")
    assert size.startswith(
        f"'{images / '1.png'}': its boxes were drawn in 96 x 72 pixels, the upright image has 40 x 40"
    )
    assert kind.startswith(f"'{images / 'nan.tif'}': mode F has no fixed range")
    assert warning(report, "1 images have no record") == "1 images have no record and are not used: more.png"


def test_many_missing_images_are_counted(folder, tmp_path):
    records = data_prep.Dataset(tuple(ImageRecord(f"{n}.jpg", 96, 72, SQUARES[0]) for n in range(20)))
    report = examine(records, folder, tmp_path)
    assert [problem.text for problem in report.problems[5:]] == [
        "15 more images cannot be used",
        "nothing to learn from: none of 0 records has a box or a class to ask for",
    ]
    assert "mend the data first" in warning(report, "gradients and overfitting were not examined")


def test_two_records_for_one_image(folder, tmp_path):
    records = data_prep.Dataset((*with_images().images, ImageRecord("./0.png", 96, 72, SQUARES[0])))
    report = examine(records, folder, tmp_path)
    assert one_problem(report) == "two records for the image '0.png'; expected one with all its boxes"
    assert "second record of 0.png" in warning(report, "image annotated twice (1)")


def test_more_boxes_than_queries(folder, tmp_path):
    boxes = tuple(Box("red square", 1, 1, 30, 30 + n / 100) for n in range(CONFIG.queries + 1))
    report = examine(with_images(ImageRecord("0.png", 96, 72, boxes)), folder, tmp_path)
    text = warning(report, f"1 images have more boxes than the model has queries ({CONFIG.queries})")
    assert text.endswith(f"0.png has {CONFIG.queries + 1}")


def test_files_that_are_not_read(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in folder.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "phone.heic").touch()
    report = examine(with_images(), images, tmp_path)
    assert (
        warning(report, "1 files among the images are not read")
        .split(": ")[1]
        .startswith("phone.heic (expected one of")
    )


def test_classes_that_tokenise_alike(folder, tmp_path):
    twin = ImageRecord("0.png", 96, 72, (Box("Red_Square", 1, 1, 30, 30), Box("a cat", 5, 5, 20, 20)))
    text = one_problem(examine(with_images(twin), folder, tmp_path))
    assert "'Red_Square' and 'red square' are the same words to the model" in text


def test_labels_without_letters(folder, tmp_path):
    records = with_images(ImageRecord("0.png", 96, 72, (Box("\N{ZERO WIDTH SPACE}", 1, 1, 30, 30),)))
    assert "no letters that the model can read" in one_problem(examine(records, folder, tmp_path))


def test_boxes_and_classes_worth_a_warning(folder, tmp_path):
    odd = (Box("red square", 10, 10, 200, 40), Box("red square", 10, 10, 10, 40), Box("blue_square", 3, 3, 5, 40))
    records = with_images(ImageRecord("0.png", 96, 72, odd), ImageRecord("1.png", 96, 72), categories=("a kite",))
    report = examine(records, folder, tmp_path)
    assert report.is_healthy
    assert "0.png, object 1: red square (10, 10, 200, 40) in 96 x 72 (clipped)" in warning(report, "box outside (1)")
    assert warning(report, "box degenerate (1)").endswith("(dropped)")
    assert "1 of 6 images have no boxes (1.png)" in warning(report, "1 of 6")
    assert "the first is 0.png: blue_square of 1.8 x 32.9" in warning(
        report, "1 of 10 boxes have a side below 4 pixels"
    )
    assert warning(report, "1 classes have no box").endswith("a kite")
    assert report.classes["a kite"] == 0


def test_fractions_in_place_of_pixels(folder, tmp_path):
    records = data_prep.Dataset((ImageRecord("0.png", 96, 72, (Box("cat", 0.1, 0.2, 0.5, 0.9),)),))
    assert one_problem(examine(records, folder, tmp_path)).startswith("all coordinates are at most 1: fractions")


def test_prompts_that_approach_the_limit(folder, tmp_path):
    model = model_of(CONFIG.replace(max_tokens=40))  # 2 of them for [CLS] and [SEP], one for each closing "."
    classes = tuple(f"class number {n}" for n in range(8))
    report = examine(with_images(categories=classes), folder, tmp_path, model)
    assert "(43 tokens) fill a prompt (40)" in warning(report, "all classes together")

    def crowded(count):
        boxes = tuple(Box(f"thing number {n}", 1, 1, 30, 30 + n / 10) for n in range(count))
        return data_prep.Dataset((ImageRecord("0.png", 96, 72, boxes),))

    report = examine(crowded(9), folder, tmp_path / "2", model)
    assert warning(report, "the phrases that 0.png shows").endswith("take 38 of the 40 tokens of a prompt")
    report = examine(crowded(10), folder, tmp_path / "3", model)
    assert "the 10 phrases that it shows have 42 tokens, expected at most 40" in one_problem(report)


def test_captions(folder, tmp_path, drawn):
    boxes = (Box("a red square", 5, 5, 40, 40), Box("the $5 one", 50, 5, 90, 40))
    records = data_prep.Dataset(
        (
            ImageRecord("0.png", 96, 72, boxes, "a red square and the $5 one"),
            ImageRecord("1.png", 96, 72, (), "nothing"),
        )
    )
    report = examine(records, folder, tmp_path)
    assert report.is_healthy, report.problems
    assert "left out: 1" in warning(report, "records with neither a box")
    assert sorted(report.prompts[0][1]) == ["a red square", "the $5 one"]


def test_nothing_to_learn_from(folder, tmp_path):
    records = data_prep.Dataset((ImageRecord("0.png", 96, 72),), ("cat",))
    assert one_problem(examine(records, folder, tmp_path)) == "no image has a box; expected some to learn from"
    assert "nothing to learn from" in one_problem(examine(data_prep.Dataset(), folder, tmp_path / "2"))
