"""Properties of the whole model, tested on small models with random weights."""

import subprocess
import sys

import pytest
import torch
from peers import SMALL, randomise

import gdino_lib as gd
from gdino_lib.model.grounding_dino import Predictions, build_image_backbone
from gdino_lib.model.image_backbone import ImageBackbone
from gdino_lib.model.swin import Swin
from gdino_lib.model.text_encoder import LANDMARK_SHARE, LANDMARK_TEMPERATURE

CONFIG = SMALL.replace(logit_epsilon=1e-3)
PROMPTS = [["cat", "remote control"], ["a dog"]]


def build(config=CONFIG):
    model = gd.GroundingDINO(config)
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


def images(batch=2, height=96, width=130):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def run(model, *arguments):
    return model(*arguments)


def assert_same(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_shapes_and_ranges(model):
    out = run(model, images(), PROMPTS)
    assert out.logits.shape == (2, 20, 7)  # [CLS] cat . remote control . [SEP]
    assert out.boxes.shape == (2, 20, 4)
    assert out.phrase_of_token.tolist() == [[-1, 0, -1, 1, 1, -1, -1], [-1, 0, 0, -1, -1, -1, -1]]
    assert len(out.layers) == 2
    for stage in (out, out.proposals, *out.layers):
        assert isinstance(stage, Predictions)
        assert torch.isfinite(stage.boxes).all()
        assert ((stage.boxes >= 0) & (stage.boxes <= 1)).all()
        assert torch.isfinite(stage.logits[0]).all()
        assert torch.isneginf(stage.logits[1, :, 5:]).all()  # [CLS] a dog . [SEP], then padding
        assert torch.isfinite(stage.logits[1, :, :5]).all()


def test_a_batch_equals_its_images_one_by_one(model):
    both = run(model, images(), PROMPTS)
    for number in range(2):
        alone = run(model, images()[number : number + 1], PROMPTS[number : number + 1])
        length = alone.logits.shape[-1]
        assert_same(both.boxes[number], alone.boxes[0])
        assert_same(both.logits[number, :, :length], alone.logits[0])


def test_padding_tokens_of_another_prompt_change_nothing(model):
    short = run(model, images()[:1], [["cat"]])
    long = run(model, images(), [["cat"], ["a very long phrase about many things", "dog", "bus"]])
    assert_same(long.boxes[0], short.boxes[0])
    assert_same(long.logits[0, :, : short.logits.shape[-1]], short.logits[0])


def test_letter_case_changes_nothing(model):
    assert torch.equal(run(model, images()[:1], [["CaT"]]).logits, run(model, images()[:1], [["cat"]]).logits)


def test_a_mask_of_true_equals_no_mask(model):
    mask = torch.ones(2, 96, 130, dtype=torch.bool)
    assert torch.equal(run(model, images(), PROMPTS, mask).boxes, run(model, images(), PROMPTS).boxes)


def test_enhancer_selection_and_decoder_ignore_padding(model):
    # the backbone and the group norms do see the padding pixels, as in the official model; so only features are changed
    pixels, mask = images(1), torch.ones(1, 96, 130, dtype=torch.bool)
    mask[:, :, 64:] = False
    image = model.image_backbone(pixels, mask)
    changed = image.with_features(torch.where(image.mask[..., None], image.features, 99.0))
    prompt = gd.prompts.tokenize([["cat"]])
    text = model.text_encoder(prompt)
    for part in (image, changed):
        enhanced = model.feature_enhancer(part, text)
        boxes = model.decoder(model.query_selection(*enhanced), *enhanced)[-1][1]
        if part is image:
            expected = boxes
    assert_same(boxes, expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (33, 37), (64, 64), (65, 31)])
def test_small_images_get_at_most_one_query_per_token(model, size):
    out = run(model, images(1, *size), [["cat"]])
    assert 0 < out.boxes.shape[1] <= 20
    assert torch.isfinite(out.boxes).all()


def test_the_longest_prompt_fits_and_one_more_token_does_not(model):
    phrases = ["cat"] * 127  # 2 tokens each; with [CLS] and [SEP] 256
    assert run(model, images(1), [phrases]).logits.shape[-1] == 256
    with pytest.raises(ValueError, match="prompt 0 has 258 tokens; expected at most 256"):
        model(images(1), [[*phrases, "dog"]])


@pytest.mark.parametrize(
    ("pixels", "prompts", "mask", "message"),
    [
        (torch.zeros(1, 96, 96), [["cat"]], None, r"pixel_values: expected float \[B, 3, H, W\]"),
        (torch.zeros(1, 3, 96, 96, dtype=torch.uint8), [["cat"]], None, "pixel_values: expected float"),
        (torch.zeros(2, 3, 96, 96), [["cat"]], None, "expected 2 lists of phrases, one per image, got 1"),
        (torch.zeros(1, 3, 96, 96), "cat", None, "got a string"),
        (torch.zeros(1, 3, 96, 96), [[]], None, "prompt 0 has no phrases"),
        (torch.zeros(1, 3, 96, 96), [["cat"]], torch.ones(1, 3, 96), "pixel_mask: expected bool"),
    ],
)
def test_wrong_input_is_refused(model, pixels, prompts, mask, message):
    with pytest.raises(ValueError, match=message):
        model(pixels, prompts, mask)


def test_a_string_in_place_of_a_list_of_phrases_is_refused(model):
    with pytest.raises(TypeError, match="prompt 0: expected a list of phrases, got the string 'cat'"):
        model(torch.zeros(1, 3, 96, 96), ["cat"])


def loss_of(out):
    """A number that depends on everything the model returns."""
    stages = [out, *out.layers] + ([out.proposals] if out.proposals else [])
    return sum(stage.boxes.sum() + stage.logits[torch.isfinite(stage.logits)].square().sum() for stage in stages)


GRADIENT_CONFIGS = {
    "small": CONFIG,
    "mm": CONFIG.replace(scaled_logits=True, shared_box_head=False),
    "no fusion": CONFIG.replace(fusion=False),
    "static queries": CONFIG.replace(language_guided=False),
    "no text cross-attention": CONFIG.replace(text_cross_attention=False),
    "whole sentence": CONFIG.replace(text_mode="whole-sentence"),
    "word by word": CONFIG.replace(text_mode="word-by-word"),
    "efficientnet": CONFIG.replace(backbone="tf_efficientnet_lite0", levels=3),
}


@pytest.mark.parametrize("config", GRADIENT_CONFIGS.values(), ids=GRADIENT_CONFIGS.keys())
def test_every_parameter_receives_a_gradient(config):
    model = build(config.replace(backbone_drop_path=0.0, fusion_drop_path=0.0)).train()
    loss_of(model(images(2, 128, 160), [["tricycle", "remote control"], ["a dog"]])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_only_word_embeddings_of_tokens_in_the_prompts_get_a_gradient():
    model = build().train()
    loss_of(model(images(), PROMPTS)).backward()
    table = model.text_encoder.bert.embeddings.word_embeddings.weight.grad
    assert set(table.abs().sum(1).nonzero().flatten().tolist()) == set(
        gd.prompts.tokenize(PROMPTS).ids.flatten().tolist()
    ) - {0}


def test_training_does_not_change_the_statistics_of_frozen_batch_norms():
    model = build(GRADIENT_CONFIGS["efficientnet"]).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(images(), PROMPTS)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("switch", [{"fusion": False}, {"language_guided": False}, {"text_cross_attention": False}])
def test_an_ablation_has_fewer_parameters_and_runs(switch):
    ablated = build(CONFIG.replace(**switch))
    assert sum(p.numel() for p in ablated.parameters()) < sum(p.numel() for p in build().parameters())
    out = run(ablated, images(), PROMPTS)
    assert torch.isfinite(out.boxes).all()
    assert (out.proposals is None) == (switch == {"language_guided": False})


def test_without_fusion_image_features_do_not_depend_on_the_text():
    for fusion, same in ((True, False), (False, True)):
        model = build(CONFIG.replace(fusion=fusion))
        image = model.image_backbone(images(1), torch.ones(1, 96, 130, dtype=torch.bool))
        seen = [
            model.feature_enhancer(image, model.text_encoder(gd.prompts.tokenize([[phrase]])))[0].features
            for phrase in ("cat", "fire hydrant")
        ]
        assert torch.allclose(*seen, atol=1e-6) == same


def test_static_queries_are_the_same_for_every_image_and_text():
    model = build(CONFIG.replace(language_guided=False))
    mask = torch.ones(2, 96, 130, dtype=torch.bool)
    tokens = model.image_backbone(images(), mask)
    queries = model.query_selection(tokens, model.text_encoder(gd.prompts.tokenize(PROMPTS)))
    assert torch.equal(queries.boxes[0], queries.boxes[1])


def test_text_modes_differ_in_what_a_phrase_depends_on():
    def features(mode, phrases):
        model = build(CONFIG.replace(text_mode=mode))
        prompt = gd.prompts.tokenize([phrases])
        return model.text_encoder.encode(prompt)[0][prompt.phrases[0] == 0]

    for mode, alone in (("sub-sentence", True), ("word-by-word", True), ("whole-sentence", False)):
        first, second = features(mode, ["red circle", "cat"]), features(mode, ["red circle", "blue square"])
        assert torch.allclose(first, second, atol=1e-5) == alone, mode
    # word by word, the features of "circle" do not depend on the colour before it; in a phrase they do
    for mode, alone in (("word-by-word", True), ("sub-sentence", False)):
        red, blue = features(mode, ["red circle"])[-1], features(mode, ["blue circle"])[-1]
        assert torch.allclose(red, blue, atol=1e-5) == alone, mode


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_autocast_on_the_cpu_stays_finite(model, dtype):
    with torch.autocast("cpu", dtype=dtype):
        out = run(model, images(), PROMPTS)
    assert torch.isfinite(out.boxes).all()
    assert torch.isfinite(out.logits[0]).all()
    exact = run(model, images(), PROMPTS)
    assert (out.boxes.float() - exact.boxes).abs().median() < 0.02


def test_a_model_in_bfloat16_runs():
    out = run(build().bfloat16(), images().bfloat16(), PROMPTS)
    assert torch.isfinite(out.boxes).all()


def test_a_built_module_replaces_the_part_of_the_configuration():
    swin = Swin(width=12, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=5)
    backbone = ImageBackbone(swin, CONFIG.width, CONFIG.levels, temperature=20.0)
    model = gd.GroundingDINO(CONFIG, image_backbone=backbone).eval()
    assert model.image_backbone is backbone
    assert torch.isfinite(run(model, images(), PROMPTS).boxes).all()


def test_the_paper_s_swin_l_takes_four_maps_from_its_backbone():
    large = gd.GroundingDINOConfig.large()
    config = CONFIG.replace(swin_maps=large.swin_maps, levels=large.levels)
    encoded = build_image_backbone(config).eval()(
        torch.randn(1, 3, 100, 140), torch.ones(1, 100, 140, dtype=torch.bool)
    )
    assert encoded.shapes == [(25, 35), (13, 18), (7, 9), (4, 5), (2, 3)]  # strides 4, 8, 16, 32, 64
    with pytest.raises(ValueError, match="levels: expected at least the 4 of swin_maps, got 3"):
        CONFIG.replace(swin_maps=4, levels=3)


def test_nano_is_small():
    model = gd.GroundingDINO(gd.GroundingDINOConfig.nano())
    others = sum(
        p.numel() for n, p in model.named_parameters() if ".bert." not in n and "image_backbone.backbone" not in n
    )
    assert others < 3.5e6
    out = run(model.eval(), torch.randn(1, 3, 256, 256), [["cat"]])
    assert out.boxes.shape == (1, 100, 4)


def test_configurations_survive_json_and_refuse_wrong_values():
    import json

    config = gd.GroundingDINOConfig.base(fusion=False)
    assert gd.GroundingDINOConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown fields in the model's configuration: colour"):
        gd.GroundingDINOConfig.from_dict({"colour": 1})
    for wrong in ({"text_mode": "letters"}, {"heads": 7}, {"width": 100}, {"levels": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            gd.GroundingDINOConfig.tiny(**wrong)


def test_importing_needs_no_compiler_network_or_gpu():
    """The package imports each public name at first use, so the test asks for all of them."""
    code = """if True:
        import socket
        def connect(*_):
            raise SystemExit("something wants the network")
        socket.socket.connect = socket.getaddrinfo = connect
        import gdino_lib
        for name in gdino_lib.__all__:
            getattr(gdino_lib, name)
        import torch
        print(len(gdino_lib.__all__), torch.cuda.is_initialized())
    """
    environment = {"PATH": "/nonexistent", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    count, initialised = result.stdout.split()
    assert 0 < int(count) <= 12
    assert initialised == "False"


def test_framed_phrases_are_read_between_cls_and_sep():
    encoder = build(CONFIG.replace(text_framed=True)).text_encoder
    prompt, vocabulary = gd.prompts.tokenize([["remote control", "cat"]]), gd.prompts.tokenizer()
    phrase = prompt.blocks[0] == 1  # with its "."
    with torch.inference_mode():
        read = torch.tensor([[vocabulary.cls_token_id, *prompt.ids[0][phrase].tolist(), vocabulary.sep_token_id]])
        expected = encoder.bert(input_ids=read).last_hidden_state[0, 1:-1]
        torch.testing.assert_close(encoder.encode(prompt)[0][phrase], expected, rtol=1e-4, atol=1e-5)


def test_a_landmark_moves_the_words_of_a_phrase_and_no_other_tokens():
    encoder = build(CONFIG.replace(text_framed=True)).text_encoder
    prompt = gd.prompts.tokenize([["remote control", "dog"]])  # [CLS] remote control . dog . [SEP]
    words, dog = prompt.phrases[0] == 0, prompt.phrases[0] == 1
    with torch.inference_mode():
        plain = encoder.encode(prompt)[0]
        encoder.set_landmarks(["dog"])
        drawn = encoder.encode(prompt)[0]
    aside = LANDMARK_SHARE * (plain[dog].mean(0) - plain[words].mean(0))
    torch.testing.assert_close(drawn[words], plain[words] + aside, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        drawn[~words], plain[~words], rtol=1e-4, atol=1e-5
    )  # special tokens, ".", and the landmark itself
    assert aside.abs().max() > 0.01


def test_a_phrase_moves_most_towards_the_landmarks_most_like_it():
    """Expected features are computed by hand. `set_landmarks` is called twice: the second call replaces the landmarks."""
    encoder, names = build(CONFIG).text_encoder, ["red cat", "blue house", "car"]

    def words(phrase):
        prompt = gd.prompts.tokenize([[phrase]])
        return encoder.encode(prompt)[0, prompt.phrases[0] == 0]

    with torch.inference_mode():
        plain, means = words("red dog"), torch.stack([words(name).mean(0) for name in names])
        for landmarks in (["dog"], names):
            encoder.set_landmarks(landmarks)
        drawn = words("red dog")
    mean = plain.mean(0)
    shares = (torch.cosine_similarity(means, mean, dim=-1) / LANDMARK_TEMPERATURE).softmax(0)
    torch.testing.assert_close(drawn, plain + LANDMARK_SHARE * (shares @ means - mean), rtol=1e-4, atol=1e-5)
    assert shares.max() > 1.5 * shares.min()
    with pytest.raises(ValueError, match="names: expected at least one learned name, got none"):
        encoder.set_landmarks([])
    assert len(encoder.landmarks) == 3
