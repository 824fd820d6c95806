"""With copied weights, each part gives the results of the port in transformers, so a difference is found where it arises."""

import pytest
import torch
from peers import ODD, SMALL, captions, hugging_face, ours_from

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.position import image_positions
from gdino_lib.model.query_selection import Queries
from gdino_lib.prompts import tokenize

MM = SMALL.replace(scaled_logits=True, shared_box_head=False)
FOUR_MAPS = SMALL.replace(swin_maps=4, levels=5)  # as the paper's Swin-L
CONFIGS = {"small": SMALL, "odd": ODD, "mm": MM, "four maps": FOUR_MAPS}
PROMPTS = [["cat", "remote control"], ["a person with an umbrella"], ["dog", "fire hydrant", "bus"]]
SIZES = {"multiple": (128, 160), "odd": (151, 203), "narrow": (40, 333)}


@pytest.fixture(scope="module", params=CONFIGS, ids=CONFIGS.keys())
def pair(request):
    peer = hugging_face(CONFIGS[request.param])
    return peer, ours_from(peer, CONFIGS[request.param])


def inputs(height, width, batch=3, padded=True, dtype=torch.float32):
    """Random images; the second is padded at the bottom and the right."""
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height)).to(dtype)
    mask = torch.ones(batch, height, width, dtype=torch.bool)
    if padded and batch > 1:
        mask[1, height * 3 // 4 :] = False
        mask[1, :, width * 2 // 3 :] = False
    return images * mask[:, None], mask, PROMPTS[:batch]


def run_both(pair, images, mask, prompts):
    """(the port's output, our output, the port's intermediate results by name, ours)."""
    peer, ours = pair
    seen = {"peer": {}, "ours": {}}

    def watch(side, name, module, pick=lambda output: output):
        return module.register_forward_hook(lambda _, __, output: seen[side].__setitem__(name, pick(output)))

    hooks = [
        watch("peer", "backbone", peer.model.backbone.conv_encoder.model, lambda o: o.feature_maps),
        watch("ours", "backbone", ours.image_backbone.backbone),
        watch("peer", "text", peer.model.text_projection),
        watch("ours", "text", ours.text_encoder.projection),
        watch("ours", "queries", ours.query_selection),
    ]
    for number, (theirs, mine) in enumerate(zip(peer.model.encoder.layers, ours.feature_enhancer.layers, strict=True)):
        hooks += [
            watch("peer", f"enhancer {number}", theirs, lambda o: (o[0][0], o[0][1])),
            watch("ours", f"enhancer {number}", mine),
        ]
    with torch.no_grad():
        theirs = peer(pixel_values=images, pixel_mask=mask.long(), **captions(prompts))
        mine = ours(images, prompts, mask)
    for hook in hooks:
        hook.remove()
    return theirs, mine, seen["peer"], seen["ours"]


def close(actual, expected, tolerance=1e-4, what=""):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, msg=lambda text: f"{what}: {text}")


def compare(pair, images, mask, prompts, tolerance=1e-4, logit_tolerance=None):
    theirs, mine, peer, ours = run_both(pair, images, mask, prompts)
    real = tokenize(prompts).mask
    for a, b in zip(ours["backbone"], peer["backbone"], strict=True):
        close(a, b, tolerance, "backbone")
    close(ours["text"][real], peer["text"][real], tolerance, "text encoder")
    for name in (name for name in ours if name.startswith("enhancer")):
        image, text = ours[name]
        close(image.features, peer[name][0], tolerance, f"{name}, image")
        close(text.features[real], peer[name][1][real], tolerance, f"{name}, text")

    # Scores of the chosen tokens, in falling order. If they agree, the choices differ among tokens of equal score only.
    # The boxes then come in another order, so our decoder gets the port's.
    scores = mine.proposals.logits.max(-1).values
    best = theirs.enc_outputs_class.max(-1).values.topk(scores.shape[1], dim=1).values.to(scores)
    close(scores, best, logit_tolerance or tolerance, "selection")
    logits, boxes = mine.logits, mine.boxes
    if not torch.allclose(ours["queries"].boxes, theirs.init_reference_points, rtol=0, atol=tolerance):
        queries = Queries(ours["queries"].features, theirs.init_reference_points)
        with torch.no_grad():
            features, boxes = pair[1].decoder(queries, image, text)[-1]
            logits = pair[1].contrastive_heads[-1](features, text.features, text.mask)
    close(boxes, theirs.pred_boxes, tolerance, "boxes")
    length = real.shape[1]
    finite = real[:, None].expand_as(logits)
    close(logits[finite], theirs.logits[..., :length][finite].to(logits), logit_tolerance or tolerance, "logits")
    assert torch.isneginf(logits[~finite]).all()
    assert torch.isneginf(theirs.logits[..., length:]).all()
    return boxes is mine.boxes


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_padded_batch_with_different_prompts(pair, size):
    assert compare(pair, *inputs(*size)), "no tokens of equal score, so the comparison must run from end to end"


def test_one_image(pair):
    assert compare(pair, *inputs(130, 170, batch=1))


def test_double_precision(pair, monkeypatch):
    # Both models compute the image's positions in float32, and the last bit of a sine depends on the memory layout. So the
    # port gets our positions.
    peer, ours = pair

    def positions(values, mask):
        height, width = mask.shape[1:]
        embedded = image_positions(mask, ours.config.width, ours.config.position_temperature)
        return embedded.unflatten(1, (height, width)).permute(0, 3, 1, 2)

    monkeypatch.setattr(peer.model.backbone.position_embedding, "forward", positions)
    try:  # the port returns its logits in float32
        compare((peer.double(), ours.double()), *inputs(151, 203, dtype=torch.float64), 1e-9, 1e-5)
    finally:
        peer.float(), ours.float()


def test_positions_equal_those_of_the_port(pair):
    peer, ours = pair
    mask = inputs(37, 53)[1]
    theirs = peer.model.backbone.position_embedding(torch.zeros(1), mask)
    mine = image_positions(mask, ours.config.width, ours.config.position_temperature)
    close(mine, theirs.flatten(2).transpose(1, 2), 1e-6)


def test_each_decoder_layer(pair):
    peer, ours = pair
    images, mask, prompts = inputs(120, 150)
    states = []
    hooks = [layer.register_forward_hook(lambda _, __, output: states.append(output)) for layer in ours.decoder.layers]
    with torch.no_grad():
        theirs = peer(pixel_values=images, pixel_mask=mask.long(), **captions(prompts))
        mine = ours(images, prompts, mask)
        for number, state in enumerate(states):
            close(ours.decoder.norm(state), theirs.intermediate_hidden_states[:, number], what=f"layer {number}")
            # the layer's boxes and logits, computed by the port's heads
            reference = (
                theirs.init_reference_points if number == 0 else theirs.intermediate_reference_points[:, number - 1]
            )
            hidden = theirs.intermediate_hidden_states[:, number]
            boxes = (peer.bbox_embed[number](hidden) + torch.special.logit(reference, eps=1e-5)).sigmoid()
            text = theirs.encoder_last_hidden_state_text
            logits = peer.class_embed[number](hidden, text, tokenize(prompts).mask)[
                ..., : mine.phrase_of_token.shape[1]
            ]
            stage = [*mine.layers, mine][number]
            close(stage.boxes, boxes, what=f"boxes of layer {number}")
            close(stage.logits, logits, what=f"logits of layer {number}")
    for hook in hooks:
        hook.remove()


def test_the_encoders_proposals(pair):
    peer, ours = pair
    images, mask, prompts = inputs(120, 150)
    with torch.no_grad():
        theirs = peer(pixel_values=images, pixel_mask=mask.long(), **captions(prompts))
        mine = ours(images, prompts, mask)
    length = mine.phrase_of_token.shape[1]
    best = theirs.enc_outputs_class.max(-1).values.topk(ours.config.queries, dim=1).indices
    boxes = theirs.enc_outputs_coord_logits.gather(1, best[..., None].expand(-1, -1, 4)).sigmoid()
    logits = theirs.enc_outputs_class.gather(1, best[..., None].expand(-1, -1, theirs.enc_outputs_class.shape[-1]))
    close(mine.proposals.boxes, boxes)
    close(mine.proposals.logits, logits[..., :length])


def test_full_size_swin_t():
    config = GroundingDINOConfig.tiny(logit_epsilon=1e-5)
    peer = hugging_face(config)
    compare((peer, ours_from(peer, config)), *inputs(320, 427, batch=2))
