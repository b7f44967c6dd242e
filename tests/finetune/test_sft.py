"""Instruction tuning: what is learned from, the loss, the run, and how its result is judged."""

import numpy as np
import pytest

from finetune.built_in.tasks import TaskItem, instruction_tasks
from finetune.data.chat_template import ChatTemplate, add_chat_tokens
from finetune.data.datasets import IGNORE, Example, read_examples
from finetune.evaluation.answering import Reply, ask, chat_template, no_template, other_template, scores, scores_by_task
from finetune.objectives.sft import balanced_rows, collate, encode_examples, pack, packed_sft_loss, sft_loss
from finetune.stages.sft import SFTConfig, train_sft
from gpt import Tokenizer, load_checkpoint
from gpt.training.checkpoint import has_checkpoint, load_state
from gpt.training.log import read_log
from gpt.training.run import start
from gpt.training.training_config import TrainingConfig
from minigrad import use_kernels
from tests.finetune.small import small_chat_model, write_rows
from tests.gpt.small import assert_same, gradients_of, save_model, small_gpt, small_llama

TALK = [{"role": "user", "content": "the word?"}, {"role": "assistant", "content": "kel"}]


@pytest.fixture
def chat():
    """A small model with chat tokens, and its template."""
    model, tokenizer = small_chat_model()
    add_chat_tokens(model, tokenizer)
    return model, ChatTemplate(tokenizer)


# --- what is learned from ---------------------------------------------------------------------------------------------


def test_padding_is_not_learned_from_even_if_its_id_is_a_token(chat):
    model, _ = chat
    short = ([0, 5, 0, 0], [False, False, True, True])  # 0 is what is padded with, and a token
    long = ([7, 8, 9, 3, 2, 1], [False] * 5 + [True])
    _, targets = collate([short, long])
    assert targets.tolist() == [[IGNORE, 0, 0, IGNORE, IGNORE], [IGNORE] * 4 + [1]]
    together, count, _ = sft_loss(model, collate([short, long]))
    alone = [sft_loss(model, collate([each]))[0].item() for each in (short, long)]
    assert count == 3 and together.item() == pytest.approx(sum(alone), rel=1e-5)


def test_loss_is_that_of_the_whole_sequence_with_a_mask():
    model = small_gpt(dtype="float64")
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 37, (3, 8)), rng.integers(0, 37, (3, 8))
    targets[rng.random((3, 8)) < 0.5] = IGNORE
    loss, count, metrics = sft_loss(model, (ids, targets))
    assert loss.item() == pytest.approx(model.loss(ids, targets, IGNORE, "sum").item(), rel=1e-12)
    best = model(ids).data.argmax(axis=-1)
    assert count == (targets != IGNORE).sum() and metrics == {"mean_token_accuracy": (best == targets).sum()}


def test_cut_conversations_are_counted_and_empty_ones_named(chat):
    _, template = chat
    examples = [Example(TALK, "f.jsonl, line 1"), Example([*TALK, *TALK], "f.jsonl, line 2")]
    conversations, shortened = encode_examples(examples, template, block_size=len(template.encode(TALK)[0]))
    assert conversations == [template.encode(TALK)] * 2 and shortened == 1
    with pytest.raises(ValueError, match="f.jsonl, line 1: there is nothing to learn from: the answer begins only"):
        encode_examples(examples, template, block_size=3)


@pytest.mark.parametrize("completion", [1, 2, 3, 4])
def test_what_the_assistant_says_in_a_prompt_is_not_learned(chat, completion):
    _, template = chat
    example = Example([*TALK, *TALK], completion=completion)
    ids, loss_mask = template.encode(example.messages, completion=completion)
    whole = template.encode(example.messages)
    prompt = template.encode(example.messages[:-completion], True)[0] if completion < 4 else []
    assert ids == whole[0] and loss_mask == [mark and i >= len(prompt) for i, mark in enumerate(whole[1])]
    assert encode_examples([example], template, len(ids))[0] == [(ids, loss_mask)]
    (shorter,), cut = encode_examples([example], template, len(ids) - 3)  # without its first turn
    assert cut == 1 and shorter == template.encode(TALK)
    assert template.marked(example.messages, completion).count("[") == sum(loss_mask)


# --- packing ----------------------------------------------------------------------------------------------------------


def talks_of(*lengths):
    """Conversations of random tokens, of which the second half is learned from, and perhaps some tokens more."""
    rng = np.random.default_rng(lengths)
    return [(rng.integers(0, 37, n).tolist(), [i >= n // 2 or rng.random() < 0.2 for i in range(n)]) for n in lengths]


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@pytest.mark.parametrize("make", [small_gpt, small_llama])
@pytest.mark.parametrize("lengths, rows", [((3, 7, 2, 5, 4, 6, 3), 2), ((13, 4, 5, 3), 2), ((13,), 1), ((8, 8, 8), 3)])
def test_packed_loss_and_gradients_are_those_of_padding(kernels, make, lengths, rows):
    model = make(dtype="float64")  # reads 12 tokens: one less than a conversation has
    batch = collate(talks_of(*lengths))
    assert len(pack(*batch, max_row=12)[0]) == rows
    results = []
    for loss_fn in (sft_loss, packed_sft_loss):
        model.zero_grad()
        with use_kernels(kernels):
            loss, *rest = loss_fn(model, batch)
            loss.backward()
        results.append((loss.item(), rest, gradients_of(model)))
    (padded, *expected, gradients), (packed, *found, packed_gradients) = results
    assert packed == pytest.approx(padded, rel=1e-12) and found == expected
    assert_same(packed_gradients, gradients, atol=1e-10)


@pytest.mark.parametrize("kernels", ["textbook", "fast"])
@pytest.mark.parametrize("make", [small_gpt, small_llama])
def test_nothing_leaks_from_one_conversation_into_another(kernels, make):
    model = make()
    ids, _, attention_mask = pack(*collate(talks_of(4, 5, 4)), max_row=12)
    others = attention_mask != 2
    assert attention_mask.tolist() == [[1] * 4 + [2] * 3 + [3] * 3]
    with use_kernels(kernels):
        before = model(ids, attention_mask=attention_mask).data
        after = model(np.where(others, ids, (ids + 1) % 37), attention_mask=attention_mask).data
    assert np.array_equal(after[others], before[others])
    assert (after[~others] != before[~others]).all()


def test_each_conversation_is_in_one_row_that_is_not_too_long():
    rng = np.random.default_rng(0)
    for max_row in (60, 64, 100, 512):
        lengths = rng.integers(1, 61, size=rng.integers(1, 40))
        rows = balanced_rows(lengths, max_row)
        assert sorted(sum(rows, [])) == list(range(len(lengths)))
        assert max(lengths[row].sum() for row in rows) <= max_row


def test_rows_from_which_nothing_is_learned_can_be_packed(chat):
    model, _ = chat
    batch = collate([([1, 2, 3], [False] * 3), ([4, 5], [False, True])])
    assert packed_sft_loss(model, batch)[0].item() == pytest.approx(sft_loss(model, batch)[0].item(), rel=1e-6)
    loss, count, _ = packed_sft_loss(model, collate([([1, 2, 3], [False] * 3)]))
    assert loss.item() == count == 0


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), *small_chat_model(n_embd=32))


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A file of conversations: what the cat says, always the same."""
    rows = [{"prompt": f"the {name}?", "completion": f"{name} sat"} for name in ("cat", "dog", "mat", "river") * 10]
    return write_rows(tmp_path_factory.mktemp("data") / "talks.jsonl", rows)


def config(base, data, out_dir, max_iters=100):
    rhythm = {"warmup_iters": 5, "eval_interval": 50, "log_interval": 50}
    training = TrainingConfig(max_iters=max_iters, learning_rate=0.02, **rhythm)
    return SFTConfig(str(base), str(data), str(out_dir), batch_size=8, seed=1, training=training)


@pytest.fixture(scope="module")
def tuned(base, talks, tmp_path_factory):
    with use_kernels("fast"):
        return start(train_sft, config(base, talks, tmp_path_factory.mktemp("tuned") / "run"))


def test_a_model_learns_to_answer_and_to_stop(tuned):
    template = ChatTemplate(tokenizer := Tokenizer.load(tuned.out_dir))
    model = load_checkpoint(tuned.out_dir).model
    questions = [[{"role": "user", "content": f"the {name}?"}] for name in ("cat", "river")]
    replies = ask(model, tokenizer, questions, chat_template(tokenizer))
    assert [(reply.text, reply.ended) for reply in replies] == [("cat sat", True), ("river sat", True)]
    assert replies[0].ids[-1] == template.end
    for wrong in (no_template, other_template):  # the same model, asked in the wrong way
        assert [r.text for r in ask(model, tokenizer, questions, wrong(tokenizer))] != ["cat sat", "river sat"]


def test_a_run_leaves_a_log_with_the_usual_names_and_its_data(tuned):
    rows = read_log(tuned.out_dir / "log.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert {"loss", "mean_token_accuracy", "grad_norm", "learning_rate", "num_tokens"} <= steps[0].keys()
    assert rows[0].keys() >= {"val_loss", "mean_token_accuracy"}
    assert rows[-1]["mean_token_accuracy"] > 0.95 > rows[0]["mean_token_accuracy"]
    assert len(read_examples(tuned.out_dir / "data" / "train.jsonl")) == 36
    assert load_state(tuned.out_dir)["stage"] == "sft"


def test_what_cannot_be_learned_from_is_named_first(base, tmp_path):
    good, empty, long = ({"prompt": p, "completion": c} for p, c in (("a", "b"), ("a", ""), ("word " * 100, "b")))
    for rows, words in (
        ([good, empty], r"bad\.jsonl, line 2: the assistant's last message is empty"),
        ([good], "has one conversation only"),
        ([long, good], r"bad\.jsonl, line 1: there is nothing to learn from"),
    ):
        with pytest.raises(ValueError, match=words):
            start(train_sft, config(base, write_rows(tmp_path / "bad.jsonl", rows), tmp_path / "out"))
    assert not has_checkpoint(tmp_path / "out")


# --- judging ----------------------------------------------------------------------------------------------------------

ITEMS = [TaskItem("repeat", "?", "kel"), TaskItem("repeat", "?", "dor"), TaskItem("join", "?", "kel-dor")]


def test_only_a_right_answer_that_ends_is_an_exact_match():
    replies = [Reply("kel", True, []), Reply("dor", False, []), Reply("dor-kel", True, [])]
    assert scores(ITEMS, replies) == {"exact_match": 1 / 3, "format": 2 / 3}
    assert scores_by_task(ITEMS, replies) == {"repeat": 0.5, "join": 0.0}


def test_replies_do_not_depend_on_who_else_is_asked(chat):
    model, template = chat
    questions = [item.question for item in instruction_tasks("test", 5, seed=0)]
    encode = chat_template(template.tokenizer)
    together = ask(model, template.tokenizer, questions, encode, max_new_tokens=6)
    alone = ask(model, template.tokenizer, questions, encode, max_new_tokens=6, batch_size=1)
    assert [r.ids for r in together] == [r.ids for r in alone]
    drawn = [ask(model, template.tokenizer, questions[:1] * 6, encode, 6, n, temperature=1.0) for n in (2, 6)]
    assert drawn[0] == drawn[1] and len({tuple(reply.ids) for reply in drawn[0]}) > 3  # none shares its numbers


# --- the mask, made visible -------------------------------------------------------------------------------------------


def test_the_mask_as_text_marks_what_is_learned_and_nothing_else(chat):
    _, template = chat
    ids, loss_mask = template.encode(TALK)
    marked = "".join(f"[{template.tokenizer.decode([id])}]" for id, learn in zip(ids, loss_mask) if learn)
    assert template.marked(TALK) == f"<|im_start|>user\nthe word?<|im_end|>\n<|im_start|>assistant\n{marked}"
