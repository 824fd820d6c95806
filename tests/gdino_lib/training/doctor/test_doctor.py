"""The doctor: a small model that is well, and planted faults, each of which is told in one line."""

import copy
import itertools
import json
import random

import pytest
import torch
from peers import SMALL
from PIL import Image

import data_prep
import gdino_lib as gd
from data_prep import Box, ImageRecord
from data_prep.formats import csv_table
from gdino_lib.cli.main import main
from gdino_lib.config import PRESETS
from gdino_lib.data.transforms import TrainingTransform
from gdino_lib.training.doctor import check as doctor
from gdino_lib.training.doctor.check import check
from gdino_lib.weights.loading import save

COLOURS = {"red square": (220, 30, 30), "green square": (30, 200, 40), "blue_square": (40, 60, 230)}
CONFIG = SMALL.replace(
    short_side=64, long_side=128, swin_depths=(1, 1, 1, 1), encoder_layers=1, decoder_layers=2, logit_epsilon=1e-3
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """So small a model is slower on several where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def drawn():
    """For tests in which pictures are drawn; in others that would take most of the time."""


@pytest.fixture(autouse=True)
def not_drawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(doctor, "draw_sample", lambda *_: None)


def model_of(config=CONFIG):
    torch.manual_seed(0)
    return gd.GroundingDINO(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures 0.png to 5.png of 96 x 72, each with two coloured squares."""
    folder = tmp_path_factory.mktemp("squares")
    for number, boxes in enumerate(SQUARES):
        image = Image.new("RGB", (96, 72), (128, 128, 128))
        for box in boxes:
            image.paste(COLOURS[box.label], box.xyxy)
        image.save(folder / f"{number}.png")
    return folder


def squares():
    rng = random.Random(0)
    for _ in range(6):
        boxes = []
        for place, label in enumerate(rng.sample(sorted(COLOURS), 2)):
            x, y, side = rng.randint(0, 12) + 48 * place, rng.randint(0, 36), rng.randint(20, 34)
            boxes.append(Box(label, x, y, x + side, y + side))
        yield tuple(boxes)


SQUARES = list(squares())
RECORDS = data_prep.Dataset(tuple(ImageRecord(f"{n}.png", 96, 72, boxes) for n, boxes in enumerate(SQUARES)))


def with_images(*images, categories=()):
    return data_prep.Dataset((*RECORDS.images, *images), categories)


def examine(records, folder, out, model=None, **options):
    return check(model or model_of(), records, folder, out / "report", progress=False, **{"overfit": False} | options)


def texts(report, level, about=None):
    return [f.text for f in report.findings if f.level == level and about in (None, f.about)]


def one_problem(report):
    """The only problem's text, a line."""
    assert len(report.problems) == 1, report.problems
    assert not report.is_healthy
    assert "\n" not in report.problems[0].text
    return report.problems[0].text


def warning(report, beginning):
    found = [text for text in texts(report, "warning") if text.startswith(beginning)]
    assert len(found) == 1, report.findings
    return found[0]


# a model that is well


def test_four_images_are_learned_by_heart(folder, tmp_path, drawn):
    model = model_of().train()
    model.text_encoder.projection.weight.grad = torch.ones(64, 48)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random_state = torch.get_rng_state()

    report = examine(RECORDS, folder, tmp_path, model, overfit=True, lr=5e-4, seed=1)
    assert report.is_healthy, report.problems
    assert texts(report, "warning") == []
    result = report.overfitting
    assert result.recalls[-1] == 1
    assert result.losses[-1] < 0.05 * result.losses[0]
    assert result.recalls[0] < 1
    assert result.seconds < 120
    assert result.missing == ()
    assert texts(report, "ok", "overfitting")[0].startswith("the batch is learned by heart: recall 1.00, loss ")

    names = {"check.json", "overfitting.png", *(f"batch-{n}.png" for n in range(1, 5))}
    assert {path.name for path in (tmp_path / "report").iterdir()} == names
    for path in (tmp_path / "report").glob("*.png"):
        assert min(Image.open(path).size) > 300
    values = json.loads((tmp_path / "report" / "check.json").read_text("utf-8"))
    assert values == json.loads(json.dumps(report.to_json()))
    assert values["healthy"]
    assert len(values["prompts"]) == 4
    assert {part["part"] for part in values["parts"]} >= {
        "image_backbone.backbone", "image_backbone.projections", "image_backbone.level_embedding", "text_encoder.bert",
        "text_encoder.projection", "feature_enhancer.layers.0.fusion", "feature_enhancer.layers.0.text_layer",
        "feature_enhancer.layers.0.image_layer", "query_selection.contents", "query_selection.box_head",
        "decoder.layers.0", "decoder.layers.1", "decoder.box_heads", "decoder.norm", "decoder.position_head",
    }  # fmt: skip
    assert sum(part.parameters for part in report.parts) == sum(p.numel() for p in model.parameters())

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.text_encoder.projection.weight.grad.eq(1).all()
    assert sum(parameter.grad is not None for parameter in model.parameters()) == 1
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.slow
def test_the_nano_model_learns_four_images_by_heart(folder, tmp_path):
    options = {"overfit": True, "frozen": ["text_encoder.bert"], "seconds": 300}  # 126 and 142 s on a busy core
    report = examine(RECORDS, folder, tmp_path, model_of(PRESETS["nano"]()), **options)
    assert report.is_healthy, report.problems
    assert report.overfitting.recalls[-1] == 1
    assert report.overfitting.losses[-1] < 0.05 * report.overfitting.losses[0]


def test_the_same_seed_gives_the_same_report(folder, tmp_path):
    one, other = (examine(RECORDS, folder, tmp_path / str(n), seed=3) for n in range(2))
    assert one.to_json() == other.to_json()


# the data


def test_an_image_that_is_missing(folder, tmp_path):
    report = examine(with_images(ImageRecord("gone.png", 96, 72, SQUARES[0])), folder, tmp_path)
    assert one_problem(report) == f"'{folder / 'gone.png'}': no such file, expected an image"
    assert texts(report, "ok", "gradients"), "the others are examined"


def test_images_of_no_use(folder, tmp_path):
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
    assert "mend the data first" in warning(report, "no gradients")


def test_classes_that_are_the_same_words(folder, tmp_path):
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
    assert "1 of 8 images have no boxes (1.png)" in warning(report, "1 of 8")
    assert "the first is 0.png: blue_square of 1.8 x 32.9" in warning(
        report, "1 of 14 boxes have a side below 4 pixels"
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


# the batch


class NotANumber(TrainingTransform):
    def __call__(self, image, boxes, phrases, rng):
        result = super().__call__(image, boxes, phrases, rng)
        if image.getpixel((SQUARES[2][0].x1, SQUARES[2][0].y1)) == COLOURS[SQUARES[2][0].label]:
            result.pixel_values[0, 3, 3] = torch.nan
        return result


def test_pixels_that_are_not_finite(folder, tmp_path):
    records = data_prep.Dataset(RECORDS.images[2:4])
    report = examine(records, folder, tmp_path, transform=NotANumber(64, 128), overfit=True)
    assert one_problem(report) == "2.png: its pixels are not finite (NaN or infinity)"
    assert report.overfitting is None


def test_crowded_images_are_left_for_others(folder, tmp_path):
    crowd = tuple(Box("red square", 1, 1, 20 + n, 30) for n in range(20))
    records = data_prep.Dataset((*(ImageRecord(f"{n}.png", 96, 72, crowd) for n in (0, 1)), *RECORDS.images[2:]))
    assert {name for name, _ in examine(records, folder, tmp_path).prompts} == {"2.png", "3.png", "4.png", "5.png"}


# gradients


def test_a_part_that_is_frozen_by_mistake(folder, tmp_path):
    model = model_of()
    model.feature_enhancer.layers[0].fusion.requires_grad_(False)
    model.text_encoder.bert.requires_grad_(False)
    report = examine(RECORDS, folder, tmp_path, model, frozen=["text_encoder.bert"])
    text = one_problem(report)
    assert text.startswith("frozen (requires_grad is off), which nobody asked for: feature_enhancer.layers.0.fusion; ")
    assert "frozen on purpose: text_encoder.bert" in texts(report, "ok", "gradients")
    trained = {part.part: part.trained for part in report.parts}
    assert trained["text_encoder.bert"] == trained["feature_enhancer.layers.0.fusion"] == 0
    assert model.decoder.norm.weight.requires_grad


def test_parts_frozen_on_purpose(folder, tmp_path):
    model = model_of()
    report = examine(RECORDS, folder, tmp_path, model, frozen=["text_encoder", "image_backbone.backbone"])
    assert report.is_healthy, report.problems
    assert texts(report, "ok", "gradients")[0] == "frozen on purpose: text_encoder, image_backbone.backbone"
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(
        ValueError, match="no parameter's name begins with 'text'; the model's parts are text_encoder, "
    ):
        examine(RECORDS, folder, tmp_path / "2", model, frozen=["text"])
    report = examine(RECORDS, folder, tmp_path / "3", model.requires_grad_(False))
    assert one_problem(report).startswith("every part is frozen")


def test_a_part_that_no_gradient_reaches(folder, tmp_path):
    model = model_of()
    model.text_encoder.projection.register_forward_hook(lambda module, inputs, output: output.detach())
    text = one_problem(examine(RECORDS, folder, tmp_path, model))
    assert text.startswith("no gradient reaches text_encoder.bert, text_encoder.projection: ")
    model = model_of()
    model.decoder.norm.unused = torch.nn.Parameter(torch.ones(3))
    text = one_problem(examine(RECORDS, folder, tmp_path / "2", model))
    assert text.startswith("no gradient reaches decoder.norm.unused: ")


def test_a_gradient_that_is_not_finite(folder, tmp_path):
    def spoil(module, inputs, output):
        output.register_hook(lambda gradient: gradient * torch.nan)

    model = model_of()
    model.decoder.position_head.register_forward_hook(spoil)
    report = examine(RECORDS, folder, tmp_path, model, overfit=True)
    text = one_problem(report)
    assert text.startswith("gradients are not finite (NaN or infinity): ")
    assert "decoder.position_head.layers.0.weight" in text
    assert report.overfitting is None


def test_weights_that_are_not_finite(folder, tmp_path):
    model = model_of()
    with torch.no_grad():
        model.decoder.norm.weight[3] = torch.nan
    text = one_problem(examine(RECORDS, folder, tmp_path, model))
    assert text == "weights are not finite (NaN or infinity): decoder.norm.weight"


def test_predictions_that_are_not_finite_name_the_image(folder, tmp_path):
    model = model_of()
    model.decoder.norm.register_forward_hook(lambda module, inputs, output: output / 0)
    text = one_problem(examine(RECORDS, folder, tmp_path, model, overfit=True))
    assert text.startswith("one step: ")
    assert ".png: the model's predictions are not finite" in text


def test_logits_that_are_all_padding(folder, tmp_path):
    model = model_of()
    model.contrastive_heads[-1].register_forward_hook(lambda *parts: torch.full_like(parts[-1], -torch.inf))
    problems = [finding.text for finding in examine(RECORDS, folder, tmp_path, model).problems]
    assert sum("all logits are those of padding" in text for text in problems) == 4


# overfitting


@pytest.fixture
def hasty(monkeypatch):
    """A few steps are enough to judge by."""
    monkeypatch.setattr(doctor, "ENOUGH", 2)
    return {"overfit": True, "seconds": 2.0}


def test_a_loss_that_is_flat(folder, tmp_path, hasty):
    report = examine(RECORDS, folder, tmp_path, frozen=["image_backbone.backbone"], lr=1e-12, **hasty)
    first, *boxes = texts(report, "problem", "overfitting")
    assert first.startswith("the loss is flat: recall 0.")
    assert "100.0% of its start" in first
    assert first.endswith("these do not train: image_backbone.backbone")
    assert len(boxes) == 6, "five boxes, and how many more"
    assert all(".png: box " in text and " is not found: " in text for text in boxes[:-1])
    assert boxes[-1].endswith("more boxes are not found")
    prompts = texts(report, "warning", "overfitting")
    assert len(prompts) == 4
    assert all(" was asked for: " in text and " . " in text for text in prompts)


def test_a_trained_model_has_less_far_to_fall(folder, tmp_path, monkeypatch):
    found = iter([0.5, *[1.0] * 99])
    monkeypatch.setattr(doctor, "_recall", lambda *_: (next(found), []))
    monkeypatch.setattr(doctor, "SETTLED", 8)
    monkeypatch.setattr(doctor, "GOAL", 0.0)
    report = examine(RECORDS, folder, tmp_path, overfit=True)
    assert texts(report, "ok", "overfitting")[0].startswith("all boxes are found; a trained model's loss has less far")
    assert 9 <= len(report.overfitting.losses) < 50
    monkeypatch.setattr(doctor, "_recall", lambda *_: (1.0, []))
    report = examine(RECORDS, folder, tmp_path / "2", overfit=True, seconds=0.5, lr=1e-9)
    assert texts(report, "warning")[-1].startswith("all boxes are found, but the loss hardly falls: recall 1.00")
    assert report.is_healthy


def test_a_loss_that_explodes(folder, tmp_path):
    model, calls = model_of(), itertools.count()
    model.decoder.norm.register_forward_hook(lambda module, inputs, output: output / (next(calls) < 8))
    report = examine(RECORDS, folder, tmp_path, model, overfit=True)
    first = texts(report, "problem", "overfitting")[0]
    assert first.startswith("diverged in step 3: ")
    assert ".png: the model's predictions are not finite" in first
    values = json.loads((tmp_path / "report" / "check.json").read_text("utf-8"))
    assert values["overfitting"]["losses"][-1] is None


def test_too_little_time_proves_nothing(folder, tmp_path):
    report = examine(RECORDS, folder, tmp_path, overfit=True, seconds=0.01)
    assert report.is_healthy
    assert "proves nothing" in texts(report, "warning", "overfitting")[0]


def test_a_box_that_is_taken_for_another(folder):
    from types import SimpleNamespace

    logits = torch.full((1, 2, 4), -9.0)
    logits[0, 0, 2] = 9.0  # the second phrase, where the first is
    target = SimpleNamespace(boxes=torch.tensor([[0.5, 0.5, 0.4, 0.4]]), phrases=torch.tensor([0]), name="a.png")
    out = SimpleNamespace(
        logits=logits, boxes=torch.tensor([[[0.5, 0.5, 0.4, 0.4]] * 2]), phrase_of_token=torch.tensor([[-1, 0, 1, -1]])
    )
    batch = SimpleNamespace(targets=[target], prompts=[["cat", "dog"]])
    recall, lines = doctor._recall(out, batch)
    assert recall == 0
    assert lines == ["a.png: box 1, 'cat', is not found: no 'cat' is sure enough, it is taken for dog"]
    logits[0, 1, 1] = 9.0
    assert doctor._recall(out, batch) == (1, [])
    target.boxes, target.phrases = target.boxes.repeat(2, 1), target.phrases.repeat(2)
    assert doctor._recall(out, batch)[0] == 0.5, "one box found does not count twice"


# where it is written


def test_the_folder(folder, tmp_path):
    examine(RECORDS, folder, tmp_path)
    with pytest.raises(FileExistsError, match="--overwrite"):
        examine(RECORDS, folder, tmp_path)
    examine(RECORDS, folder, tmp_path, overwrite=True)
    (tmp_path / "report" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds more than a report \(mine\.txt\)"):
        examine(RECORDS, folder, tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        examine(RECORDS, tmp_path / "none", tmp_path / "2")
    assert not (tmp_path / "2").exists() or not list((tmp_path / "2").iterdir())
    for name in ("lr", "seconds"):
        with pytest.raises(ValueError, match=f"{name}: expected a number above 0, got 0"):
            examine(RECORDS, folder, tmp_path / "2", **{name: 0})


# the command


@pytest.fixture
def table(tmp_path):
    csv_table.write(RECORDS, tmp_path / "boxes.csv")
    return tmp_path / "boxes.csv"


@pytest.fixture
def small_presets(monkeypatch):
    monkeypatch.setitem(PRESETS, "nano", lambda: CONFIG)


def test_the_command(folder, tmp_path, table, small_presets, capsys):
    arguments = ["check", "--data", str(table), "--images", str(folder), "--out", str(tmp_path / "report")]
    assert main([*arguments, "--from-scratch", "nano", "--no-overfit", "--freeze", "text_encoder.bert"]) == 0
    printed = capsys.readouterr().out
    assert "  ok       6 images, 12 boxes: " in printed
    assert "  ok       frozen on purpose: text_encoder.bert\n" in printed
    assert "decoder.layers.1" in printed
    assert printed.splitlines()[-2:] == ["healthy", f"written to {tmp_path / 'report'}"]

    model = model_of()
    with torch.no_grad():
        model.decoder.norm.weight[3] = torch.nan
    save(model, tmp_path / "sick.safetensors")
    arguments += ["--init", str(tmp_path / "sick.safetensors")]
    assert main([*arguments, "--overwrite"]) == 1
    printed = capsys.readouterr().out
    assert "  problem  weights are not finite (NaN or infinity): decoder.norm.weight\n" in printed
    assert printed.splitlines()[-2] == "1 problem"


def test_the_command_can_do_nothing(folder, tmp_path, table, small_presets, capsys):
    def refused(*arguments):
        assert main(["check", *map(str, arguments)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    common = ["--from-scratch", "nano", "--out", tmp_path / "report", "--no-overfit"]
    assert "none.csv" in refused("--data", tmp_path / "none.csv", "--images", folder, *common)
    assert "no folder of images" in refused("--data", table, "--images", tmp_path / "none", *common)
    init = ["--init", tmp_path / "none.safetensors", "--out", tmp_path / "report"]
    assert "no weight file at" in refused("--data", table, "--images", folder, *init)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    assert "holds more than a report" in refused("--data", table, "--images", folder, *common)
