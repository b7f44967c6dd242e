"""Answers in a given form: every text is whole and can be read, and the model's probabilities decide among those."""

import json

import numpy as np
import pytest
import regex

from gpt import Tokenizer
from gpt.model.batch_generation import stream
from gpt.model.constrained_decoding import begins_utf8, in_form, json_object, one_of
from gpt.model.generation import Sampling
from tests.gpt.small import small_gpt
from tests.gpt.smollm import smollm_tokenizer

KINDS = {"näme": "string", "age": "number", "city": "string", "tall": "boolean"}
CHOICES = ["no", "not", "nothing at all", "はい", "да"]
OURS = Tokenizer.train('{"name": "Ann", "age": 12.5}, nothing; はい, да, nö? ' * 3, 290)
FORMS = {"json": json_object(KINDS), "choices": one_of(CHOICES)}
forms = pytest.mark.parametrize("form", FORMS)
tokenizers = pytest.mark.parametrize("tokenizer", [OURS, smollm_tokenizer()], ids=["ours", "smollm"])


def written(model, tokenizer, form, sampling, prompts):
    """What follows each prompt, without the token that ends it, which each has."""
    ids, texts = [tokenizer.encode(prompt) for prompt in prompts], [[] for _ in prompts]
    for tokens in stream(model, ids, 250, sampling, 0, [tokenizer.eos_token_id], process=in_form(form, tokenizer)):
        for text, token in zip(texts, tokens):
            text += [token] if token >= 0 else []
    assert all(text[-1] == tokenizer.eos_token_id for text in texts)
    return [tokenizer.decode(text[:-1], errors="strict") for text in texts]


def kinds_in(text):
    """The keys of a JSON object, each with the kind of its value; None if it cannot be read."""
    try:
        kinds = {key: type(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError):  # not JSON, or not an object
        return None
    return {key: {str: "string", bool: "boolean"}.get(kind, "number") for key, kind in kinds.items()}


@forms
@tokenizers
@pytest.mark.parametrize("sampling", [Sampling(1.5), Sampling(1, 3, 0.8, 1.2), Sampling(0)], ids=["1.5", "cut", "0"])
def test_every_text_has_the_form(form, tokenizer, sampling):
    """The model has random weights, so almost none of its texts has it by chance; its context is cut several times."""
    model = small_gpt(vocab_size=len(tokenizer) + 3, block_size=40)  # as some models, with rows that no token has
    texts = written(model, tokenizer, FORMS[form], sampling, ["Q"] * 6)
    assert all(kinds_in(text) == KINDS if form == "json" else text in CHOICES for text in texts)
    assert len(set(texts)) > 1 or sampling.temperature < 1.5


@forms
@tokenizers
def test_a_token_may_come_where_the_form_matches_partially(form, tokenizer):
    """As the library regex says, which matches partially; tokens may end within a character, but not break one."""
    rng = np.random.default_rng(0)
    restricted = in_form(FORMS[form], tokenizer)
    new = []
    whole = regex.compile(FORMS[form][0])
    special = tokenizer.special_tokens.values()
    eos = tokenizer.eos_token_id
    for _ in range(100):
        text = tokenizer.decode_bytes(new)
        texts = [text + tokenizer.vocab[id] for id in range(len(tokenizer))]
        expected = np.array([bool(whole.fullmatch(each, partial=True)) and begins_utf8(each) for each in texts])
        expected[[*special]] = False
        expected[eos] = whole.fullmatch(text) is not None
        logits = rng.standard_normal(len(tokenizer))
        probs, free = (Sampling().probabilities(each) for each in (restricted(logits, new), logits))
        np.testing.assert_allclose(probs, free * expected / (free @ expected))
        token = int(rng.choice(np.flatnonzero(expected)))
        new = [] if token == eos else [*new, token]


def test_an_object_without_keys_is_two_braces():
    whole, beginning = json_object({})
    assert regex.fullmatch(whole, b"{}") and regex.fullmatch(beginning, b"{") and not regex.fullmatch(beginning, b"}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: one_of([]), "there are no choices"),
        (lambda: json_object({"a": "int"}), "the value of 'a' must be one of string, number, boolean, got 'int'"),
        (lambda: in_form(one_of(["no"]), OURS)(np.zeros(289), []), "has 290 tokens, but the model knows 289"),
    ],
)
def test_constrained_decoding_that_cannot_be_written_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_strings_and_numbers_have_a_largest_length():
    """A string: 40 bytes, and the rest of a character that begins there. A number: 12 digits, and 6 decimals."""
    for kind, longest in (("string", f'"{39 * "9"}は"'), ("number", 12 * "9"), ("number", f"-0.{6 * '9'}")):
        for pattern in json_object({"a": kind}):
            assert regex.fullmatch(pattern, f'{{"a": {longest}}}'.encode())
            assert not regex.fullmatch(pattern, f'{{"a": {longest.replace("9", "99", 1)}}}'.encode())


def test_a_vocabulary_that_cannot_write_the_form_is_refused():
    tokenizer = smollm_tokenizer()  # has no token for this control character
    with pytest.raises(ValueError, match=r"no token with which b'a' can go on in this form"):
        in_form(one_of(["a\x04"]), tokenizer)(np.zeros(len(tokenizer)), tokenizer.encode("a"))
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="a form needs a tokenizer with an eos_token"):
        in_form(one_of(["a"]), tokenizer)
