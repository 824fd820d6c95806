"""`Detector.explain` against hooks on the model, and against what each layer really returned."""

import threading

import numpy as np
import pytest
import torch
from small_detectors import ALL, build, picture
from torchvision.ops import box_convert

import gdino_lib as gd
from gdino_lib.model.query_selection import token_anchors
from gdino_lib.ops.deform_attn import ms_deform_attn_reference

PHRASES = ["snail", "hot pepper", "tropical fish"]
BUILDERS = {
    "nano": lambda: gd.Detector.from_pretrained("nano", device="cpu"),
    "small Swin": lambda: build(encoder_layers=2),
    "five levels, a box head a layer": lambda: build(levels=5, shared_box_head=False, scaled_logits=True),
}


@pytest.fixture(scope="module", params=BUILDERS)
def detector(request):
    return BUILDERS[request.param]()


@pytest.fixture(scope="module")
def explained(detector):
    """(the explanation of a picture with sides of 90 and 60, what every module of the model returned in a plain call)."""
    returned, image = {}, picture()

    def hook(name):
        def record(_module, arguments, keywords, result):
            returned[name] = arguments, keywords, result

        return record

    modules = list(detector.model.named_modules())
    hooks = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules]
    with torch.inference_mode():
        detector(image, PHRASES, **ALL)
    for each in hooks:
        each.remove()
    count = returned["query_selection"][0][0].features.shape[1]
    return detector.explain(image, PHRASES, image_tokens=range(count), **ALL), returned


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=atol)


def in_pixels(boxes):
    corners = box_convert(boxes, "cxcywh", "xyxy") * torch.tensor([90, 60, 90, 60])
    return torch.minimum(corners.clamp(min=0), torch.tensor([90.0, 60, 90, 60]))


def cosines(image, text):
    return torch.nn.functional.cosine_similarity(image.features[0][:, None], text.features[0][None], dim=-1)


def test_detections_boxes_and_logits_are_those_of_a_plain_call(detector, explained):
    explanation, returned = explained
    (queries, *_), _, states = returned["decoder"]
    close(explanation.boxes, torch.stack([in_pixels(b[0]) for b in (queries.boxes, *(box for _, box in states))]), 1e-3)
    heads = [returned[f"contrastive_heads.{n}"][2][0] for n in range(len(states))]
    close(explanation.logits[1:], torch.stack(heads), 1e-4)
    token_logits = returned["query_selection.contrastive_head"][2][0]
    close(explanation.logits[0], token_logits[explanation.query_tokens], 1e-4)
    for options in (ALL, {}, {**ALL, "nms_iou": 0.3, "top_k": 5, "score": "max"}, {**ALL, "every_phrase": True}):
        plain = detector(picture(), PHRASES, **options)
        found = detector.explain(picture(), PHRASES, **options).detections
        assert np.array_equal(found.xyxy, plain.xyxy)
        assert np.array_equal(found.confidence, plain.confidence)
        assert np.array_equal(found.data["class_name"], plain.data["class_name"])
        last = explanation.boxes[-1]
        for box, name, sure, query in zip(
            found.xyxy, found.data["class_name"], found.confidence, found.data["query"], strict=True
        ):
            close(torch.tensor(box), last[query], 1e-3)
            score = explanation.scores_of(name, options.get("score", "mean"))[-1, query]
            assert sure == pytest.approx(float(score), abs=1e-5)


def test_the_stages_are_those_of_hooks(explained):
    explanation, returned = explained
    layers = [value[2] for name, value in returned.items() if name.startswith("feature_enhancer.layers.")]
    layers = [value for value in layers if isinstance(value, tuple)]
    (image, text), _, _ = returned["feature_enhancer"]
    pairs = [(image, text), *(pair for pair in layers if hasattr(pair[0], "shapes"))]
    assert [stage.name for stage in explanation.stages] == [
        "backbone",
        *(f"enhancer layer {n}" for n in range(1, len(pairs))),
    ]
    for stage, pair in zip(explanation.stages, pairs, strict=True):
        close(stage.similarity, cosines(*pair))
    last = returned["query_selection.contrastive_head"][2][0]
    close(explanation.stages[-1].logits, last, 1e-4)
    close(explanation.selection_scores, last.amax(1), 1e-4)


def test_the_head_reads_earlier_stages_as_it_reads_the_last(detector, explained):
    explanation, returned = explained
    (image, text), _, _ = returned["feature_enhancer"]
    with torch.no_grad():
        selection = detector.model.query_selection
        features = selection.norm(selection.projection(image.features[0] * token_anchors(image)[1][0][:, None]))
        expected = features @ text.features[0].T
        if selection.contrastive_head.bias is not None:
            expected = expected / features.shape[-1] ** 0.5 + selection.contrastive_head.bias
    close(explanation.stages[0].logits, expected, 1e-4)


def test_heat_maps_are_means_over_the_tokens_of_a_phrase(explained):
    explanation, _ = explained
    for phrase in PHRASES:
        tokens = explanation.tokens_of(phrase)
        assert [explanation.phrase_of_token[token] for token in tokens] == [PHRASES.index(phrase)] * len(tokens)
        assert "".join(explanation.pieces[t] for t in tokens).replace("##", "") == phrase.replace(" ", "")
        for stage in range(len(explanation.stages)):
            for measure in ("score", "similarity"):
                maps = explanation.heat_maps(phrase, stage, measure)
                assert [tuple(each.shape) for each in maps] == list(explanation.shapes)
                values = explanation.stages[stage]
                values = values.logits.sigmoid() if measure == "score" else values.similarity
                close(torch.cat([each.flatten() for each in maps]), values[:, tokens].mean(1))


def test_fusion_weights_give_what_the_layer_returned(detector, explained):
    explanation, returned = explained
    for number, attention in enumerate(explanation.enhancer):
        layer = detector.model.feature_enhancer.layers[number].fusion
        (image, text, *_), _, (new_image, new_text) = returned[f"feature_enhancer.layers.{number}.fusion"]
        close(attention.over_text.sum(2), torch.ones_like(attention.over_text[..., 0]))
        close(attention.over_image.sum(1), torch.ones_like(attention.over_image[:, 0]))
        with torch.no_grad():
            image, text = layer.image_norm(image[0]), layer.text_norm(text[0])
            text_values = layer.text_value(text).chunk(layer.heads, -1)
            image_values = layer.image_value(image).chunk(layer.heads, -1)
            seen = torch.cat([w @ v for w, v in zip(attention.over_text, text_values, strict=True)], -1)
            close(new_image[0], image + layer.image_scale * layer.image_output(seen), 1e-4)
            seen = torch.cat([w.T @ v for w, v in zip(attention.over_image, image_values, strict=True)], -1)
            close(new_text[0], text + layer.text_scale * layer.text_output(seen), 1e-4)


def test_text_attention_gives_what_the_layer_returned(detector, explained):
    explanation, returned = explained
    for number, attention in enumerate(explanation.decoder):
        module = detector.model.decoder.layers[number].text_attention
        (_, text, _), _, (result, _) = returned[f"decoder.layers.{number}.text_attention"]
        close(attention.text.sum(-1), torch.ones_like(attention.text[..., 0]))
        width = text.shape[-1]
        with torch.no_grad():
            values = text[0] @ module.in_proj_weight[2 * width :].T + module.in_proj_bias[2 * width :]
            heads = values.chunk(module.num_heads, -1)
            seen = torch.cat([attention.text[:, head] @ value for head, value in enumerate(heads)], -1)
            close(module.out_proj(seen), result[0], 1e-4)


def test_sampling_points_give_what_the_layers_returned(detector, explained):
    explanation, returned = explained
    names = {
        **{f"feature_enhancer.layers.{n}.image_layer.attention": a for n, a in enumerate(explanation.enhancer)},
        **{f"decoder.layers.{n}.image_attention": a for n, a in enumerate(explanation.decoder)},
    }
    for name, attention in names.items():
        module = detector.model.get_submodule(name)
        (_, _, memory, shapes, _), _, result = returned[name]
        close(attention.weights.sum((2, 3)), torch.ones_like(attention.weights[..., 0, 0]))
        locations = attention.points / torch.tensor([90, 60])
        with torch.no_grad():
            value = module.value_projection(memory).unflatten(-1, (module.heads, -1))
            sampled = ms_deform_attn_reference(value, shapes, locations[None], attention.weights[None])
            close(module.output_projection(sampled), result, 1e-3)


def test_image_tokens_may_be_chosen(detector, explained):
    every, _ = explained
    some = detector.explain(picture(), PHRASES, image_tokens=[7, 0])
    assert some.image_tokens == (7, 0)
    none = detector.explain(picture(), PHRASES)
    for of_all, of_some, of_none in zip(every.enhancer, some.enhancer, none.enhancer, strict=True):
        close(of_some.points, of_all.points[[7, 0]], 1e-3)
        close(of_some.weights, of_all.weights[[7, 0]])
        assert of_none.points.shape == (0, *of_all.points.shape[1:])
        assert of_none.weights.shape == (0, *of_all.weights.shape[1:])


def test_each_query_knows_its_image_token(detector, explained):
    explanation, returned = explained
    (image, _), _, queries = returned["query_selection"]
    selection, scores = detector.model.query_selection, returned["query_selection.contrastive_head"][2][0].amax(1)
    anchors, usable = token_anchors(image)
    tokens = explanation.query_tokens
    with torch.no_grad():  # the token's own proposal is the query's first box
        features = selection.norm(selection.projection(image.features[0] * usable[0][:, None]))[tokens]
        close((selection.box_head(features) + anchors[0, tokens]).sigmoid(), queries.boxes[0])
    starts = np.cumsum([0, *(height * width for height, width in image.shapes)])
    for number, token in enumerate(tokens.tolist()):
        query = explanation.query(number)
        assert query.rank == sum(float(score) > float(scores[token]) for score in scores)
        assert query.rank == explanation.ranks[token] <= number
        place = query.place
        height, width = image.shapes[place.level]
        assert place.token == token == starts[place.level] + place.row * width + place.column
        assert (place.x, place.y) == pytest.approx(((place.column + 0.5) / width * 90, (place.row + 0.5) / height * 60))
        if torch.isfinite(anchors[0, token]).all():  # the anchor lies around the token's centre
            close(anchors[0, token, :2].sigmoid() * torch.tensor([90, 60]), torch.tensor([place.x, place.y]), 1e-3)


def test_a_query_has_its_rows_of_everything(explained):
    explanation, _ = explained
    number = explanation.boxes.shape[1] - 1
    query = explanation.query(number)
    assert query.query == number
    assert torch.equal(query.boxes, explanation.boxes[:, number])
    assert torch.equal(query.logits, explanation.logits[:, number])
    for layer, attention in enumerate(explanation.decoder):
        assert torch.equal(query.text_attention[layer], attention.text[number])
        assert torch.equal(query.points[layer], attention.points[number])
        assert torch.equal(query.weights[layer], attention.weights[number])


def test_places_and_tokens_are_inverse(explained):
    explanation, _ = explained
    for token in range(sum(height * width for height, width in explanation.shapes)):
        place = explanation.place(token)
        assert explanation.token_at(place.x, place.y, place.level) == token
    assert explanation.token_at(-5, 1e6, 0) == explanation.shapes[0][1] * (explanation.shapes[0][0] - 1)


def test_everything_is_on_the_cpu_in_float32_and_of_the_documented_shape(explained):
    explanation, _ = explained
    tokens, count = sum(height * width for height, width in explanation.shapes), len(explanation.pieces)
    layers, queries = len(explanation.decoder), len(explanation.query_tokens)
    heads, levels, points = explanation.decoder[0].weights.shape[1:]
    shapes = [
        (explanation.boxes, (1 + layers, queries, 4)),
        (explanation.logits, (1 + layers, queries, count)),
        (explanation.selection_scores, (tokens,)),
        *((stage.similarity, (tokens, count)) for stage in explanation.stages),
        *((stage.logits, (tokens, count)) for stage in explanation.stages),
    ]
    for layer in explanation.enhancer:
        fusion_heads = len(layer.over_text)
        shapes += [(layer.over_text, (fusion_heads, tokens, count)), (layer.over_image, (fusion_heads, tokens, count))]
        shapes += [(layer.points, (tokens, heads, levels, points, 2)), (layer.weights, (tokens, heads, levels, points))]
    for layer in explanation.decoder:
        shapes += [(layer.text, (queries, heads, count)), (layer.points, (queries, heads, levels, points, 2))]
        shapes += [(layer.weights, (queries, heads, levels, points))]
    for tensor, shape in shapes:
        assert (tensor.dtype, tensor.device.type, tuple(tensor.shape)) == (torch.float32, "cpu", shape)
        assert tensor.isfinite().all()
        assert not tensor.is_inference(), "usable in a computation with gradients"
        assert not tensor.requires_grad
    assert explanation.size == (90, 60)
    assert explanation.boxes.amin() >= 0
    assert explanation.boxes[..., [0, 2]].amax() <= 90
    assert explanation.boxes[..., [1, 3]].amax() <= 60


def state(model):
    """What a hook, a flag or a patched method would change."""
    return [(name, module.training, {k: len(v) if isinstance(v, dict) else id(v) for k, v in vars(module).items()})
            for name, module in model.named_modules()]  # fmt: skip


def test_nothing_stays_on_the_model(detector, monkeypatch):
    before = state(detector.model)
    detector.explain(picture(), PHRASES)
    assert state(detector.model) == before
    seen = []

    def fail(*_):
        seen.append(sum(len(module._forward_hooks) for module in detector.model.modules()))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(detector.model.contrastive_heads[-1], "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            detector.explain(picture(), PHRASES)
    assert seen[0] > 0
    assert state(detector.model) == before


def test_threads_that_explain_and_detect_at_once(detector):
    images = [picture(seed, size) for seed, size in enumerate([(90, 60), (60, 90), (64, 64), (90, 60)])]
    alone = [detector.explain(image, PHRASES, **ALL) for image in images]
    start, results, errors = threading.Barrier(2 * len(images)), {}, []

    def run(number, image, explain):
        start.wait()
        try:
            for _ in range(3):
                if explain:
                    results[number] = detector.explain(image, PHRASES, **ALL)
                else:
                    results[number, "plain"] = detector(image, PHRASES, **ALL)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(number, image, explain))
        for number, image in enumerate(images)
        for explain in (True, False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for number, expected in enumerate(alone):
        found = results[number]
        assert found.size == expected.size
        close(found.boxes, expected.boxes, 1e-2)
        close(found.decoder[-1].points, expected.decoder[-1].points, 1e-2)
        close(found.enhancer[0].over_image, expected.enhancer[0].over_image)
        assert len(results[number, "plain"]) == len(expected.detections)
    assert not any(module._forward_hooks for module in detector.model.modules())
