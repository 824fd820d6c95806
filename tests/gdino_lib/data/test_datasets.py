"""Data sets over records: prompts name what a picture shows, and targets agree with them."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from squares import COLOURS, EVALUATION, TRAIN, box, with_images

import data_prep
from data_prep import ImageRecord
from data_prep.formats import coco, csv_table, odvg, voc
from data_prep.sample import cartoon_faces
from gdino_lib.data.datasets import GroundingDataset, read_records
from gdino_lib.data.loader import build_loader, collate
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.images import prepare
from gdino_lib.prompts import tokenize, word_pieces

# samples


def test_a_sample(records, folder):
    dataset = GroundingDataset(records, folder, EVALUATION)
    assert len(dataset) == 6
    assert dataset.classes == tuple(COLOURS)
    for index, record in enumerate(records.images):
        sample = dataset[index]
        assert torch.equal(sample.pixel_values, prepare(folder / record.file_name, 64, 128))
        assert sorted(sample.prompt) == sorted(COLOURS), "all classes, letter for letter"
        assert [sample.prompt[phrase] for phrase in sample.target.phrases] == [b.label for b in record.boxes]
        x, y, w, h = sample.target.boxes[0] * torch.tensor([100, 80, 100, 80])
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        assert [round(value.item(), 3) for value in corners] == list(record.boxes[0].xyxy)
        assert sample.target.name == record.file_name
    assert len({tuple(dataset[index].prompt) for index in range(6)}) > 1, "shuffled"


def test_targets_show_their_colour_after_training_transforms(records, folder):
    dataset = GroundingDataset(records, folder, TRAIN)
    seen = 0
    for epoch in range(8):
        dataset.set_epoch(epoch)
        for record, sample in zip(records.images, dataset, strict=True):
            shown = {b.label for b in record.boxes}
            found = {sample.prompt[phrase] for phrase in sample.target.phrases}
            assert set(sample.prompt) & shown == found, "no prompt names a class whose boxes the crop cut off"
            height, width = sample.pixel_values.shape[1:]
            assert len(sample.target.boxes) >= 1
            for (x, y, _, _), phrase in zip(sample.target.boxes, sample.target.phrases, strict=True):
                pixel = sample.pixel_values[:, int(y * height), int(x * width)]
                strongest = sample.prompt[phrase].split()[0].split("_")[0]
                assert ["red", "green", "blue"][pixel.argmax()] == strongest
                seen += 1
    assert seen > 50


def test_the_order_of_iteration_ends(records, folder):
    assert len(list(GroundingDataset(records, folder, EVALUATION))) == 6


# prompts

WORDS = ["cat", "dog", "person", "remote control", "fire hydrant", "a_long_class_name", "st. bernard", "Bus", "kite"]


@settings(max_examples=40)
@given(
    shown=st.lists(st.sampled_from(WORDS), max_size=6),
    negatives=st.one_of(st.none(), st.integers(0, 12)),
    max_tokens=st.integers(40, 60),
    seed=st.integers(0, 99),
)
def test_prompts_always_have_the_classes_that_are_shown(folder, shown, negatives, max_tokens, seed):
    record = ImageRecord("0.png", 100, 80, tuple(box(name) for name in shown))
    dataset = GroundingDataset(
        with_images([record], categories=tuple(WORDS)),
        folder,
        EVALUATION,
        negatives=negatives,
        seed=seed,
        max_tokens=max_tokens,
    )
    sample = dataset[0]
    assert set(shown) <= set(sample.prompt) <= set(WORDS)
    assert len(set(sample.prompt)) == len(sample.prompt)
    assert [sample.prompt[phrase] for phrase in sample.target.phrases] == shown
    tokenize([sample.prompt], max_tokens)
    absent = len(sample.prompt) - len(set(shown))
    available = len(WORDS) - len(set(shown))
    if negatives is not None:
        assert absent <= max(negatives, not shown)
    left = max_tokens - tokenize([sample.prompt]).ids.shape[1]
    if negatives is None or negatives >= available:
        rest = set(WORDS) - set(sample.prompt)
        assert all(len(word_pieces(name)) + 1 > left for name in rest), "only names that do not fit are left out"


def test_negatives_differ_from_epoch_to_epoch(records, folder):
    names = tuple(f"class {n}" for n in range(50))
    dataset = GroundingDataset(
        data_prep.Dataset(records.images, (*COLOURS, *names)), folder, EVALUATION, negatives=5, seed=3
    )
    prompts = set()
    for epoch in range(5):
        dataset.set_epoch(epoch)
        prompt = dataset[0].prompt
        assert len(prompt) == len({b.label for b in records.images[0].boxes}) + 5
        prompts.add(tuple(sorted(prompt)))
    assert len(prompts) == 5


def test_shown_classes_that_do_not_fit(folder):
    record = ImageRecord("0.png", 100, 80, tuple(box(f"thing number {n}") for n in range(80)))
    with pytest.raises(
        ValueError, match=r"'0\.png': the 80 phrases that it shows have 322 tokens, expected at most 256"
    ):
        GroundingDataset(with_images([record]), folder, EVALUATION)


def test_a_class_that_never_fits(folder):
    record = ImageRecord("0.png", 100, 80, (box("cat"),))
    with pytest.raises(ValueError, match=r"the label 'dog dog .*\.\.\.' has 300 tokens, expected at most 253"):
        GroundingDataset(with_images([record], categories=("cat", "dog " * 300)), folder, EVALUATION)
    with pytest.raises(ValueError, match=r"the label 'a b c d' has 4 tokens, expected at most 3"):
        GroundingDataset(with_images([record], categories=("cat", "a b c d")), folder, EVALUATION, max_tokens=6)


@pytest.mark.parametrize(("one", "other"), [("with_mask", "with mask"), ("Cat", "cat")])
def test_classes_that_the_model_cannot_tell_apart(folder, one, other):
    record = ImageRecord("0.png", 100, 80, (box(one), box(other)))
    with pytest.raises(ValueError, match="are the same words to the model"):
        GroundingDataset(with_images([record]), folder, EVALUATION)


def test_a_label_without_words(folder):
    record = ImageRecord("0.png", 100, 80, (box("\N{ZERO WIDTH SPACE}"),))
    with pytest.raises(ValueError, match="no letters that the model can read"):
        GroundingDataset(with_images([record]), folder, EVALUATION)


def test_grounding_and_detection_together(folder):
    caption = "A red square and the Red Square beside a blue one"
    records = with_images(
        [
            ImageRecord("0.png", 100, 80, (box("cat"),)),
            ImageRecord(
                "0.png",
                100,
                80,
                (box("a red square"), box("A Red Square", 50, 0, 80, 30), box("a blue one", 5, 5, 9, 9)),
                caption,
            ),
            ImageRecord("1.png", 100, 80, (box("dog"),)),
        ],
        categories=("cat", "dog", "person"),
    )
    dataset = GroundingDataset(records, folder, EVALUATION)
    assert dataset.classes == ("cat", "dog", "person"), "phrases are no classes"
    pixel_values, pixel_mask, prompts, targets = collate([dataset[index] for index in range(3)])
    assert pixel_values.shape == (3, 3, 64, 80)
    assert pixel_mask.all()
    assert sorted(prompts[0]) == sorted(prompts[2]) == ["cat", "dog", "person"]
    assert sorted(prompts[1]) == ["a blue one", "a red square"], (
        "phrases that tokenise alike are one, and none is absent"
    )
    assert [prompts[1][phrase] for phrase in targets[1].phrases] == ["a red square", "a red square", "a blue one"]


def test_captions_without_regions_are_left_out_and_named(folder):
    records = [ImageRecord("0.png", 100, 80, (), "nothing"), ImageRecord("1.png", 100, 80, (box("a dog"),), "a dog")]
    with pytest.warns(UserWarning, match=r"left out: 1, the first is '0\.png'"):
        dataset = GroundingDataset(with_images(records), folder, EVALUATION)
    assert [record.file_name for record in dataset.records] == ["1.png"]
    with pytest.raises(ValueError, match="nothing to learn from: none of 1 records"):
        GroundingDataset(with_images(records[:1]), folder, EVALUATION)
    with pytest.raises(ValueError, match="nothing to learn from: none of 0 records"):
        GroundingDataset(with_images([]), folder, EVALUATION)


def test_the_prompt_of_an_image_without_boxes_is_not_empty(folder):
    records = with_images([ImageRecord("0.png", 100, 80)], categories=("cat", "dog"))
    sample = GroundingDataset(records, folder, TRAIN, negatives=0)[0]
    assert len(sample.prompt) == 1
    assert sample.target.boxes.shape == (0, 4)


def test_crowds_are_no_targets_and_their_classes_are_not_absent(folder):
    boxes = (box("cat"), box("dog", iscrowd=1))
    records = with_images([ImageRecord("0.png", 100, 80, boxes)], categories=("cat", "dog", "person"))
    sample = GroundingDataset(records, folder, EVALUATION)[0]
    assert sorted(sample.prompt) == ["cat", "person"]
    assert len(sample.target.boxes) == 1


def test_boxes_are_repaired_as_in_the_audit(folder):
    boxes = (box("cat", -10, 20, 120, 60), box("cat", 20, 20, 20, 40), box("dog", 150, 10, 160, 20))
    records = with_images([ImageRecord("0.png", 100, 80, boxes)], categories=("cat", "dog"))
    repairs = r"boxes were repaired: box outside \(2\), box degenerate \(1\); the first is 0\.png, object 1: cat .* \(clipped\)"
    with pytest.warns(UserWarning, match=repairs):
        dataset = GroundingDataset(records, folder, EVALUATION)
    torch.testing.assert_close(dataset[0].target.boxes, torch.tensor([[0.5, 0.5, 1.0, 0.5]]))
    assert [finding.action for finding in dataset.findings] == ["clipped", "dropped", "dropped"]


def test_boxes_given_twice_are_kept_without_a_warning(folder):
    records = with_images([ImageRecord("0.png", 100, 80, (box("cat"), box("cat")))], categories=("cat",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = GroundingDataset(records, folder, EVALUATION)
    assert len(dataset[0].target.boxes) == 2


# formats


def test_csv_coco_and_odvg_give_the_same_samples(records, folder, tmp_path):
    csv_table.write(records, tmp_path / "a.csv")
    coco.write(records, tmp_path / "a.json")
    odvg.write(records, tmp_path / "a.jsonl")
    sets = [
        GroundingDataset(read_records(tmp_path / f"a.{suffix}"), folder, TRAIN) for suffix in ("csv", "json", "jsonl")
    ]
    for index in range(6):
        target = sets[0][index].target
        for other in sets[1:]:
            assert torch.equal(other[index].target.boxes, target.boxes)
            assert sorted(other[index].prompt) == sorted(sets[0][index].prompt)
    with pytest.raises(ValueError, match=r"a\.txt: expected a folder of \.xml files, a \.csv file, "):
        read_records(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "b.csv")


def test_cartoon_faces(tmp_path):
    cartoon_faces.write(tmp_path / "faces")
    sources, _ = voc.read_folder(tmp_path / "faces" / "images", tmp_path / "faces" / "annotations", strict=False)
    faces = data_prep.Dataset(tuple(source.record for source in sources), cartoon_faces.CLASSES)
    with pytest.warns(UserWarning, match=r"box outside \(1\), box degenerate \(1\)"):
        dataset = GroundingDataset(faces, tmp_path / "faces" / "images", EvaluationTransform(64, 96))
    for batch in build_loader(dataset, 5, shuffle=True, workers=0):
        for prompt, target in zip(batch.prompts, batch.targets, strict=True):
            assert sorted(prompt) == sorted(cartoon_faces.CLASSES)
            assert len(target.boxes) == len(target.phrases) > 0


def test_settings(records, folder):
    with pytest.raises(ValueError, match="negatives: expected"):
        GroundingDataset(records, folder, TRAIN, negatives=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GroundingDataset(records, folder, TRAIN)
