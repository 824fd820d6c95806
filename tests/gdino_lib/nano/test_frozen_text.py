"""The frozen text encoder: BERT encodes each phrase once, and only training adds noise."""

import torch
from small_runs import model

from gdino_lib.nano.frozen_text import FrozenTextEncoder
from gdino_lib.prompts import tokenize


def test_each_phrase_is_encoded_once_and_its_features_stay_the_same(monkeypatch):
    m = model().eval()
    prompts = [["cat", "red hat", "sunflower seed oil"], ["red hat"]]
    with torch.no_grad():
        before = m.text_encoder(tokenize(prompts)).features
    calls, kind = [], type(m.text_encoder.bert)
    read = kind.forward
    monkeypatch.setattr(kind, "forward", lambda bert, **inputs: calls.append(1) or read(bert, **inputs))
    m.text_encoder = FrozenTextEncoder(m.text_encoder, [phrase for prompt in prompts for phrase in prompt])
    with torch.no_grad():  # without gradients
        torch.testing.assert_close(m.text_encoder(tokenize(prompts)).features, before)
    calls.clear()
    first, again = (m.text_encoder(tokenize(batch)).features for batch in (prompts, prompts[::-1]))
    torch.testing.assert_close(first, before, atol=1e-5, rtol=1e-4)
    assert torch.equal(again[1], first[0])  # bit for bit, whatever the other phrases are
    assert len(calls) == 1  # all phrases at once, before the first step


def test_noise_moves_all_tokens_of_a_phrase_alike_and_only_in_training():
    m = model().eval()
    m.text_encoder = FrozenTextEncoder(m.text_encoder, ["black cat", "dog"], noise=0.5)
    prompt = tokenize([["black cat", "dog"], ["dog"]])  # [CLS] black cat . dog . [SEP] | [CLS] dog . [SEP]
    with torch.no_grad():
        plain = m.text_encoder.encode(prompt)
    torch.manual_seed(0)
    one, other = (m.text_encoder.encode(prompt) - plain for _ in range(2))
    torch.testing.assert_close(
        one[0, 1:4], one[0, 1:2].expand(3, -1), atol=1e-4, rtol=1e-4
    )  # one vector for each phrase
    assert (one[0, 1] - one[0, 4]).abs().max() > 0.1
    assert not one[1, 4:].any()  # padding stays 0
    assert (one - other)[prompt.mask].abs().amax(-1).min() > 0.1  # a new vector in each step
    assert 0.3 < (one[0, 1].std() / plain[prompt.mask].std()).item() < 0.7


def test_the_state_dict_is_that_of_the_original_encoder():
    m = model()
    m.text_encoder.set_landmarks(["cat"])
    before = m.state_dict()
    m.text_encoder = FrozenTextEncoder(m.text_encoder, ["cat"])
    after = m.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


def test_whole_sentences_are_not_stored():
    m = model(text_mode="whole-sentence").eval()
    with torch.no_grad():
        before = m.text_encoder(tokenize([["cat", "dog"]])).features
    m.text_encoder = FrozenTextEncoder(m.text_encoder, ["cat", "dog"])
    torch.testing.assert_close(m.text_encoder(tokenize([["cat", "dog"]])).features, before)
    stored = m.text_encoder._cache.tokens
    m.text_encoder(tokenize([["dog", "cat"]]))
    assert m.text_encoder._cache.tokens == stored
