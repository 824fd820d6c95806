import itertools
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gdino_lib.prompts import ENDS, QUOTES, bare, chunk, split_phrases, tokenize, tokenizer, word_pieces

PHRASES = st.text(min_size=1, max_size=12)


def words(prompt, row=0):
    return tokenizer().convert_ids_to_tokens(prompt.ids[row].tolist())


def test_tokens_blocks_and_positions_of_a_small_prompt():
    prompt = tokenize([["remote control", "cat"]])
    assert words(prompt) == ["[CLS]", "remote", "control", ".", "cat", ".", "[SEP]"]
    assert prompt.phrases.tolist() == [[-1, 0, 0, -1, 1, -1, -1]]
    assert prompt.blocks.tolist() == [[0, 1, 1, 1, 2, 2, 3]]
    assert prompt.positions.tolist() == [[0, 0, 1, 2, 0, 1, 0]]
    blocks = prompt.block_mask[0].int().tolist()
    assert blocks[1] == blocks[2] == blocks[3] == [0, 1, 1, 1, 0, 0, 0]
    assert blocks[0] == [1, 0, 0, 0, 0, 0, 0]


@given(
    st.lists(
        st.lists(st.sampled_from(["cat", "remote control", "a red circle", "dog."]), min_size=1), min_size=1, max_size=4
    )
)
def test_the_tokens_are_those_of_the_official_caption(prompts):
    prompts = [[phrase.replace(".", "") for phrase in phrases] for phrases in prompts]
    captions = [" . ".join(phrases) + " ." for phrases in prompts]
    assert torch.equal(tokenize(prompts).ids, tokenizer()(captions, padding=True, return_tensors="pt")["input_ids"])


@given(st.text(max_size=40))
def test_word_pieces_are_those_of_transformers(text):
    words = bare(text).replace("_", " ")
    assert list(word_pieces(text)) == tokenizer()(words, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.parametrize(
    "text", ["[CLS] cat [SEP]", "naïve café", "猫 cat", "don't", "C++", "x" * 200, "[MASK]", "\uff23\uff21\uff34", "🐱"]
)
def test_word_pieces_of_special_texts_are_those_of_transformers(text):
    assert list(word_pieces(text)) == tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_padding_belongs_to_nothing_and_sees_only_itself():
    prompt = tokenize([["cat"], ["a long phrase"]])
    assert prompt.mask[0].tolist() == [True] * 4 + [False] * 2
    assert prompt.block_mask[0, 4].tolist() == [False] * 4 + [True, False]
    assert prompt.phrases[0, 4:].tolist() == [-1, -1]


def test_a_stop_inside_a_phrase_does_not_end_it():
    prompt = tokenize([["St. Bernard", "who?"]])
    assert words(prompt) == ["[CLS]", "st", ".", "bernard", ".", "who", "?", ".", "[SEP]"]
    assert prompt.phrases.tolist() == [[-1, 0, 0, 0, -1, 1, 1, -1, -1]]
    assert prompt.blocks.tolist() == [[0, 1, 1, 1, 1, 2, 2, 2, 3]]


@pytest.mark.parametrize(
    ("one", "other"),
    [("with_mask", "with mask"), ("CAT", "cat"), ("café", "cafe"), ("  a   dog ", "a dog"), ("Éléphant", "elephant")],
)
def test_spellings_that_are_the_same_to_bert(one, other):
    assert word_pieces(one) == word_pieces(other)


NAMES = [
    "cat",
    "tropical fish",
    "no. 5",
    "st. bernard",
    "C++",
    "who?",
    ".NET",
    '19" monitor',
    "dogs'",
    "rock 'n' roll",
    "a, b; c",
]
AROUND = st.text(st.sampled_from(sorted(set(ENDS) - {"."})), max_size=4)
AFTER = st.text(st.sampled_from(ENDS), max_size=4)


@given(st.sampled_from(NAMES), st.lists(st.tuples(st.sampled_from(QUOTES), AROUND, AFTER), max_size=2), AROUND, AFTER)
def test_separators_and_quotes_around_a_phrase_are_no_part_of_it(name, layers, before, after):
    text = before + name + after
    for quotes, before, after in layers:
        if not set(quotes) & set(text):  # nobody quotes a text with quotes that it holds itself
            text = before + quotes[0] + text + quotes[1] + after
    assert bare(text) == name
    assert word_pieces(text) == word_pieces(name)
    one, other = (tokenize([[phrase, "dog"], ["dog"]]) for phrase in (text, name))
    assert all(torch.equal(getattr(one, field), getattr(other, field)) for field in vars(one))


@pytest.mark.parametrize(
    "phrase", [*NAMES, "'quoted' \"twice\"", "5'", '"', ".", ",", ";", '""', '"."', "...", "- cat", "cat!", "(cat)"]
)
def test_what_belongs_to_a_phrase_stays(phrase):
    assert bare(phrase) == phrase


@pytest.mark.parametrize(
    "text", ["," * 100_000 + "cat", "cat" + " ." * 50_000, '"' * 100_000, "'\"" * 50_000 + "\"'" * 50_000]
)
def test_long_rows_of_punctuation_take_no_time(text):
    start = time.perf_counter()
    bare(text)
    assert time.perf_counter() - start < 1


@given(st.text(max_size=20))
def test_a_bare_phrase_stays_bare_and_is_never_empty(text):
    assert bare(bare(text)) == bare(text)
    assert bool(bare(text)) == bool(text)


def test_an_empty_batch_has_no_tokens():
    assert tokenize([]).ids.shape == (0, 0)


@pytest.mark.parametrize("text", ["", " . ", "...", "\n"])
def test_a_string_without_phrases(text):
    assert split_phrases(text) == []


def test_a_string_is_split_on_stops_only():
    assert split_phrases("cat . remote control.dog, big? . ") == ["cat", "remote control", "dog, big?"]


@given(st.lists(st.lists(st.integers(0, 9), max_size=30).map(tuple), max_size=40), st.integers(34, 60))
def test_chunks_hold_every_phrase_once_in_order_and_fit(phrases, limit):
    chunks = chunk(phrases, limit)
    assert [index for members in chunks for index in members] == list(range(len(phrases)))
    for members in chunks:
        assert members
        assert 2 + sum(len(phrases[index]) + 1 for index in members) <= limit
    for members, following in itertools.pairwise(chunks):
        used = 2 + sum(len(phrases[index]) + 1 for index in members)
        assert used + len(phrases[following[0]]) + 1 > limit, "another one would have fitted"


def test_a_phrase_that_fits_no_prompt_is_refused():
    assert chunk([(1,) * 253]) == [[0]]
    with pytest.raises(ValueError, match="a phrase has 254 tokens; expected at most 253"):
        chunk([(1,) * 254])


@given(PHRASES)
def test_any_text_tokenises(phrase):
    prompt = tokenize([[phrase, "cat"]], max_tokens=10_000)
    assert prompt.phrases.max() == 1
