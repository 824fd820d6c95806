"""The official functions under our name: what they return, and scripts that change one import."""

import json
import math
import random
import warnings
from types import SimpleNamespace

import numpy as np
import official
import official_phrases
import pytest
import torch
from official_config_file import CONFIG
from PIL import Image
from torch import nn

from gdino_lib import inference
from gdino_lib.detect.postprocess import label_boxes
from gdino_lib.images import prepare, read_image
from gdino_lib.inference import Model, annotate, load_image, load_model, predict
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.prompts import tokenize_captions, tokenizer

RECORD = json.loads(official_phrases.RECORD.read_text("utf-8"))


class Stub(nn.Module):
    """Answers with given logits and boxes."""

    config = SimpleNamespace(max_tokens=256)

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def forward(self, images, prompt):
        assert images.shape[0] == len(prompt.ids) == 1
        logits = official_phrases.logits(prompt.ids.shape[1], self.seed)
        return SimpleNamespace(
            logits=logits[None], boxes=official_phrases.boxes(self.seed)[None], phrase_of_token=prompt.phrases
        )


pytestmark = pytest.mark.usefixtures("no_device_warnings")


def some_captions(count, seed=0):
    words = "cat|remote control|tricycle|don't|U.S.A|3.5 mm|façade|日本|🙂|a/b|[SEP]|[CLS]|x_y|..|?.|".split("|")  # noqa: SIM905
    choose = random.Random(seed)
    captions = ["", ".", "..", "?", "cat", "cat.", "cat . dog", "cat? dog.", ".. cat . . dog ."]
    while len(captions) < count:
        parts = [
            choose.choice(words) + choose.choice([" . ", ".", " ", "?", " ? "]) for _ in range(choose.randint(1, 7))
        ]
        captions.append("".join(parts).removesuffix(choose.choice([".", "?", " "])))
    return captions


@pytest.mark.parametrize("group", range(4))
def test_captions_are_cut_by_the_official_rule(group):
    """Each block ends with its delimiter and restarts the positions; [CLS], [SEP] and tokens of an open block stand alone."""
    for caption in some_captions(400)[group::4]:
        ids = tokenizer()(caption)["input_ids"]
        delimiters = tokenizer().convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
        mask = [[row == column for column in range(len(ids))] for row in range(len(ids))]
        positions, phrases = [0] * len(ids), [-1] * len(ids)
        start, block = 1, 0
        for place in range(1, len(ids) - 1):
            if ids[place] in delimiters:
                for row in range(start, place + 1):
                    positions[row] = row - start
                    phrases[row] = block if row < place else -1
                    for column in range(start, place + 1):
                        mask[row][column] = True
                start, block = place + 1, block + 1
        prompt = tokenize_captions([caption])
        assert prompt.ids.tolist() == [ids], caption
        assert prompt.block_mask.tolist() == [mask], caption
        assert prompt.positions.tolist() == [positions], caption
        assert prompt.phrases.tolist() == [phrases], caption


@pytest.mark.parametrize("remove_combined", [False, True])
def test_predict_equals_the_definition(remove_combined):
    for seed, caption in enumerate(some_captions(60, seed=1)):
        text = caption.lower().strip()
        text = text if text.endswith(".") else text + "."
        ids = tokenizer()(text)["input_ids"]
        wanted = []
        for logits, box in zip(official_phrases.logits(len(ids), seed), official_phrases.boxes(seed), strict=True):
            probabilities = [1 / (1 + math.exp(-value)) for value in logits.tolist()]
            best = max(range(len(ids)), key=lambda place: probabilities[place])
            if probabilities[best] <= 0.5:
                continue
            marked = [place for place in range(1, len(ids)) if probabilities[place] > 0.3 and place < 255]
            if remove_combined:
                ends = [place for place, piece in enumerate(tokenizer().convert_ids_to_tokens(ids))
                        if piece in ("[CLS]", "[SEP]", ".")]  # fmt: skip
                right = min(place for place in ends if place >= best)
                left = max((place for place in ends if place < best), default=len(ids))
                marked = [place for place in marked if left < place < right]
            label = tokenizer().decode([ids[place] for place in marked], clean_up_tokenization_spaces=True)
            wanted.append((box, probabilities[best], label.replace(".", "")))
        boxes, scores, phrases = predict(Stub(seed), torch.zeros(3, 8, 8), caption, 0.5, 0.3, "cpu", remove_combined)
        assert boxes.shape == (len(wanted), 4)
        assert all(torch.equal(box, other) for box, (other, _, _) in zip(boxes, wanted, strict=True))
        torch.testing.assert_close(scores, torch.tensor([score for _, score, _ in wanted]))
        assert phrases == [label for _, _, label in wanted], caption


@pytest.mark.parametrize("case", RECORD["stubs"], ids=lambda case: f"{case['seed']}-{case['thresholds']}")
def test_predict_equals_the_official_function(case):
    image, thresholds = torch.zeros(3, 8, 8), case["thresholds"]
    for remove in (False, True):
        boxes, scores, phrases = predict(Stub(case["seed"]), image, case["caption"], *thresholds, "cpu", remove)
        assert phrases == case[f"remove_combined={remove}"]
        assert torch.equal(boxes, official_phrases.boxes(case["seed"])[case["queries"]])
        torch.testing.assert_close(scores, torch.tensor(case["scores"]))
        assert boxes.dtype == scores.dtype == torch.float32
        assert boxes.device.type == scores.device.type == "cpu"


def test_predict_equals_the_official_function_model_included():
    model = official.ours(official.CONFIGS["small"])
    for case in RECORD["model"]:
        for remove in (False, True):
            arguments = (official_phrases.image(), case["caption"], *case["thresholds"], "cpu", remove)
            boxes, scores, phrases = predict(model, *arguments)
            assert phrases == case[f"remove_combined={remove}"]
            torch.testing.assert_close(boxes, torch.tensor(case["boxes"]), atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(scores, torch.tensor(case["scores"]), atol=1e-4, rtol=1e-3)


def test_small_functions_equal_the_official_ones():
    for caption, wanted in RECORD["preprocess_caption"]:
        assert inference.preprocess_caption(caption) == wanted
    for phrases, classes, wanted in RECORD["phrases2classes"]:
        assert Model.phrases2classes(phrases, classes).tolist() == wanted


def test_exact_labels_beside_the_merged_ones():
    """On the same tensors, the official rule merges and cuts phrases; ours gives one of the caller's phrases."""
    caller, merged = ["red block", "orange block", "tricycle"], []
    caption = " . ".join(caller) + " ."
    for seed in range(20):
        merged += predict(Stub(seed), torch.zeros(3, 8, 8), caption, 0.35, 0.25, "cpu")[2]
        out = Stub(seed)(torch.zeros(1, 3, 8, 8), tokenize_captions([caption]))
        boxes, phrase, scores, *_ = label_boxes(out.logits[0], out.boxes[0], out.phrase_of_token[0], 3, 0.35, 0.25)
        assert len(boxes) == len(phrase) == len(scores) > 0
        sums = torch.stack([out.logits[0].sigmoid()[:, out.phrase_of_token[0] == k].mean(1) for k in range(3)], 1)
        kept = (out.logits[0].sigmoid()[:, out.phrase_of_token[0] >= 0].amax(1) >= 0.35) & (sums.amax(1) >= 0.25)
        assert sorted(phrase.tolist()) == sorted(sums[kept].argmax(1).tolist())
    assert any("red" in label and "orange" in label for label in merged)
    assert any("##cycle" in label for label in merged)
    assert not set(merged) <= set(caller)


def test_posmap():
    tokenized = {"input_ids": tokenizer()("tricycle . cat .")["input_ids"]}
    posmap = torch.zeros(256, dtype=torch.bool)
    posmap[[0, 2, 4]] = True
    before = posmap.clone()
    assert inference.get_phrases_from_posmap(posmap, tokenized, tokenizer()) == "##cycle cat"
    assert inference.get_phrases_from_posmap(posmap, tokenized, tokenizer(), 2, 9) == "cat"
    assert inference.get_phrases_from_posmap(posmap, tokenized, tokenizer(), 0, 4) == "##cycle"
    assert torch.equal(posmap, before)
    with pytest.raises(ValueError, match="one dimension"):
        inference.get_phrases_from_posmap(posmap[None], tokenized, tokenizer())


def test_a_caption_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="258 tokens; expected at most 256"):
        predict(Stub(0), torch.zeros(3, 8, 8), "cat " * 255, 0.3, 0.3, "cpu")


def test_nothing_found(workplace):
    boxes, logits, phrases = predict(Stub(0), torch.zeros(3, 8, 8), "cat", 1.0, 0.3, "cpu")
    assert boxes.shape == (0, 4)
    assert logits.shape == (0,)
    assert phrases == []
    source = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(annotate(source, boxes, logits, phrases), source[..., ::-1])
    detections = Model.post_process_result(20, 30, boxes, logits)
    assert detections.xyxy.shape == (0, 4)
    assert Model.phrases2classes([], ["cat"]).shape == (0,)


def test_annotate_leaves_the_source_alone():
    source = np.full((60, 80, 3), (200, 100, 0), dtype=np.uint8)
    source.setflags(write=False)
    frame = annotate(source, torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.tensor([0.5]), ["cat"])
    assert (frame[-1, -1] == (0, 100, 200)).all()  # BGR
    assert (source == (200, 100, 0)).all()
    drawn = (frame != (0, 100, 200)).any(-1)
    assert drawn[45, 20:61].all()  # the lower edge
    assert not drawn[48:].any()
    assert not drawn[20:42, 24:56].any()


def test_boxes_in_pixels():
    detections = Model.post_process_result(100, 200, torch.tensor([[0.5, 0.5, 0.2, 0.4]]), torch.tensor([0.75]))
    np.testing.assert_allclose(detections.xyxy, [[80, 30, 120, 70]], atol=1e-4)
    assert detections.xyxy.dtype == detections.confidence.dtype == np.float32
    assert detections.confidence.tolist() == [0.75]
    assert detections.class_id is None


def test_load_image_is_the_official_one(tmp_path):
    """EXIF orientation is ignored in both results, and the pixels are PIL's."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").size == (30, 45)
    array, tensor = load_image(tmp_path / "turned.png")
    assert np.array_equal(array, pixels)
    assert array.dtype == np.uint8
    assert array.flags.writeable
    assert torch.equal(tensor, prepare(pixels))
    assert tensor.shape == (3, 800, 1200)
    assert torch.equal(Model.preprocess_image(pixels[..., ::-1]), tensor)

    Image.fromarray(np.full((8, 8), 5, dtype=np.uint8)).convert("LA").save(tmp_path / "grey.png")
    assert (load_image(str(tmp_path / "grey.png"))[0] == 5).all()


def test_images_that_cannot_be_read(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_image(tmp_path / "absent.jpg")
    for path in (tmp_path / "text.jpg", tmp_path):
        with pytest.raises(ValueError, match="expected an image file") as error:
            load_image(path)
        assert "\n" not in str(error.value)
    for image in (None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match="expected a BGR uint8 array"):
            Model.preprocess_image(image)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"swin_T_224_1k"', '"resnet50"', r"config\.py, line 4: backbone: expected one of swin_T_224_1k, .*, got 'resnet50'"),
        ('"swin_T_224_1k"', "['swin_T_224_1k']", "backbone: expected one of"),
        ("nheads = 4", "nheads = 4.0", "nheads: expected a positive whole number, got 4.0"),
        ("nheads = 4", "nheads = True", "nheads: expected a positive whole number, got True"),
        ("nheads = 4", "nheads = -4", "nheads: expected a positive whole number, got -4"),
        ("nheads = 4", "nheads = 5", "width 64 is not a multiple of heads 5"),
        ("nheads = 4\n", "", "is no configuration of Grounding DINO: missing nheads"),
        ("dropout = 0.0\nnheads", "dropout = '0'\nnheads", "dropout: expected a number from 0 on, got '0'"),
        ("use_fusion_layer = True", "use_fusion_layer = 1", "use_fusion_layer: expected True or False, got 1"),
        ("dec_n_points = 4", "dec_n_points = 8", "dec_n_points: expected 4, as enc_n_points, got 8"),
        ("pe_temperatureW = 20", "pe_temperatureW = 40", "pe_temperatureW: expected 20, as pe_temperatureH, got 40"),
        ('"standard"', '"no"', "two_stage_type: expected 'standard', got 'no'"),
        ("[1, 2, 3]", "[2, 3]", "return_interm_indices: expected"),
        ("[1, 2, 3]", "[0, 1, 2, 3]", r"swin_maps = 4, but .*weights\.pth has 3"),
        ("embed_init_tgt = True", "embed_init_tgt = 1", "embed_init_tgt: expected True, got 1"),
        ('"bert-base-uncased"', '"roberta-base"', "text_encoder_type: expected 'bert-base-uncased'"),
        ('"bert-base-uncased"', "None", "text_encoder_type: expected 'bert-base-uncased'"),
        ("num_queries = 30", "num_queries = 900", r"num_queries = 900, but .*weights\.pth has 30"),
        ("enc_layers = 1", "enc_layers = 6", r"enc_layers = 6, but .*weights\.pth has 1"),
        ("swin_T_224_1k", "swin_B_384_22k", r"swin_width = 128, but .*weights\.pth has 96"),
        ("nheads = 4", "nheads = 2", r"nheads \* enc_n_points = 8, but .*weights\.pth has 16"),
        ("use_fusion_layer = True", "use_fusion_layer = False", "use_fusion_layer = False, but"),
    ],
)  # fmt: skip
def test_configurations_that_do_not_fit(workplace, tmp_path, before, after, message):
    assert before in CONFIG
    (tmp_path / "config.py").write_text(CONFIG.replace(before, after, 1), "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        load_model(tmp_path / "config.py", workplace / "weights.pth", "cpu")
    assert "\n" not in str(error.value)


def test_missing_files(workplace, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration file at .*absent\.py"):
        load_model(tmp_path / "absent.py", workplace / "weights.pth", "cpu")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_model(workplace / "config.py", tmp_path / "absent.pth", "cpu")


def test_loaded_models(workplace, tmp_path):
    """Official files and our own give the same model; fields that tensors do not show come from the configuration."""
    model = load_model(workplace / "config.py", workplace / "weights.pth", "cpu")
    assert isinstance(model, GroundingDINO)
    assert not model.training
    ours = load_model(workplace / "config.py", workplace / "ours.safetensors", "cpu")
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in model.state_dict().items())
    text = CONFIG.replace("sub_sentence_present = True", "sub_sentence_present = False")
    text = text.replace("pe_temperatureH = 20", "pe_temperatureH = 40").replace(
        "pe_temperatureW = 20", "pe_temperatureW = 40"
    )
    (tmp_path / "config.py").write_text(text.replace("bert-base", "/models/bert-base"), "utf-8")
    other = load_model(tmp_path / "config.py", workplace / "weights.pth", "cpu")
    assert other.config == model.config.replace(text_mode="whole-sentence", position_temperature=40.0)


@pytest.mark.parametrize(
    ("image", "caption", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), "cat", r"second result of load_image, got uint8 \[8, 8, 3\]"),
        (torch.zeros(1, 3, 8, 8), "cat", r"got torch.float32 \[1, 3, 8, 8\]"),
        (torch.zeros(8, 8, 3), "cat", r"got torch.float32 \[8, 8, 3\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "cat", r"got torch.uint8 \[3, 8, 8\]"),
        ([torch.zeros(3, 8, 8)], "cat", "got list"),
        (torch.zeros(3, 8, 8), ["cat"], "caption: expected one string"),
    ],
)
def test_what_predict_cannot_take_is_named(image, caption, message):
    with pytest.raises(ValueError, match=message):
        predict(Stub(0), image, caption, 0.3, 0.3, "cpu")


def test_without_cuda_the_cpu_with_one_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    inference._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            predict(Stub(0), torch.zeros(3, 8, 8), "cat", 0.3, 0.3)
    assert [str(one.message) for one in caught] == ["device 'cuda': this machine has no CUDA device, using the CPU"]
    assert caught[0].filename == __file__
    assert inference.available("cpu") == torch.device("cpu")
