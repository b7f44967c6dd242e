"""Preference pairs as tokens: one prompt for both replies, nothing silently empty, padding by length."""

import numpy as np
import pytest

from finetune.data.datasets import Preference
from finetune.data.pairs import encode_pairs, pair_batch
from tests.finetune.small import preferences, question


def decoded(template, reply):
    return template.tokenizer.decode(reply.ids)


def said(*texts):
    """A conversation of the user and the assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


CALL = {"role": "tool", "content": "It is 1."}
TALKS = [said("Say 1?"), said("One?", "yes.", "Say 1?"), said("a", " no", "b", "no no ", "c"), [*said("a?", "b"), CALL]]


@pytest.mark.parametrize("prompt", [*TALKS, *([{"role": "system", "content": "Ask."}, *talk] for talk in TALKS)])
def test_only_the_reply_of_a_pair_is_learned_from(template, prompt):
    (pair,), shortened = encode_pairs([Preference(prompt, "yes!", "no")], template, 200)
    start = template.render(prompt, add_generation_prompt=True)
    assert shortened == 0
    for reply, text in ((pair.chosen, "yes!"), (pair.rejected, "no")):
        assert decoded(template, reply) == f"{start}{text}<|im_end|>"
        learned = [id for id, learn in zip(reply.ids, reply.loss_mask, strict=True) if learn]
        assert template.tokenizer.decode(learned) == f"{text}<|im_end|>"
        assert reply.ids[: -len(learned)] == template.encode(prompt, add_generation_prompt=True)[0]  # as in generation


def test_a_batch_holds_the_chosen_replies_first(template):
    pairs, _ = encode_pairs(preferences(3), template, 48)
    batch = pair_batch(pairs)
    replies = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    assert batch.size == 3 and len(batch.tokens) == 6 and batch.lengths.tolist() == [len(r.ids) for r in replies]
    inputs, targets = batch.shifted()
    for row, reply in enumerate(replies):
        n = len(reply.ids)
        assert batch.tokens[row, :n].tolist() == reply.ids and not batch.loss_mask[row, n:].any()
        wanted = [id if learn else -100 for id, learn in zip(reply.ids, reply.loss_mask)][1:]
        assert targets[row, : n - 1].tolist() == wanted and (targets[row, n - 1 :] == -100).all()
        assert inputs[row, : n - 1].tolist() == reply.ids[:-1]


def test_both_replies_keep_the_same_prompt_when_turns_have_to_go(template):
    talk = [*question("One? " * 4), {"role": "assistant", "content": "yes"}, *question("Two?")]
    (pair,), shortened = encode_pairs([Preference(talk, "yes", "no, no, no, no")], template, 40)
    assert shortened == 1
    for reply in (pair.chosen, pair.rejected):
        assert decoded(template, reply).startswith("<|im_start|>user\nTwo?<|im_end|>")
        assert len(reply.ids) <= 40
    (pair,), shortened = encode_pairs([Preference(talk, "yes", "no, no, no, no")], template, 400)
    assert shortened == 0 and "One?" in decoded(template, pair.chosen)


def test_a_reply_that_is_too_long_loses_its_end(template):
    (pair,), shortened = encode_pairs([Preference(question("Say?"), "yes", "no" * 60)], template, 40)
    assert shortened == 1 and len(pair.rejected.ids) == 40 and pair.rejected.loss_mask[-1]
    assert decoded(template, pair.chosen).endswith("yes<|im_end|>")


def test_pairs_of_which_nothing_is_left_are_named(template):
    long = [*said("a?", "b"), {**CALL, "content": "no " * 60}]
    for prompt, chosen, rejected, words in (
        (question("Say?"), "no" * 60 + "a", "no" * 60 + "b", "differ only after the 40 tokens"),
        (question("Say? " * 30), "yes", "no", "nothing to learn from"),
        (long, "yes", "no", "nothing to learn from"),
    ):
        for place, name in (("", "pair 2"), ("my.jsonl, line 7", "my.jsonl, line 7")):
            with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
                encode_pairs([preferences(1)[0], Preference(prompt, chosen, rejected, place)], template, 40)


def test_a_reply_of_the_token_that_rows_are_padded_with(template):
    pairs, _ = encode_pairs([Preference(question("Say?"), template.tokenizer.decode([0]), "no no no")], template, 48)
    batch = pair_batch(pairs)
    learned = np.flatnonzero(batch.loss_mask[0])
    assert batch.tokens[0, learned].tolist() == [0, template.end] and learned[-1] == batch.lengths[0] - 1
