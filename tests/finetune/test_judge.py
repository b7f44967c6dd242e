"""The judge: qualities, win rates and KL, each against a hand-made case."""

from types import SimpleNamespace

import numpy as np
import pytest

from finetune.built_in.tasks import CLOSING, TaskItem
from finetune.evaluation import judge as judging
from finetune.evaluation.answering import Reply, ask, chat_template, replies_of, scores
from finetune.evaluation.judge import Judge, judge, kl_of_replies, qualities
from finetune.stages.dpo import DPOConfig
from tests.finetune.small import question, small_policy
from tests.gpt.small import log_softmax, save_model, small_gpt

ITEM = TaskItem("repeat", 'Say "kelo".', "kelo")


def test_being_right_counts_first_and_courtesy_second():
    replies = [("kelo", True), ("kelo" + CLOSING, True), ("kelu" + CLOSING, True), ("kelo", False)]
    assert qualities([ITEM] * 4, [Reply(text, ended, []) for text, ended in replies]).tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize(
    "written, text, right",
    [
        ("kelo<|im_end|>", "kelo", True),
        ("kelo", "kelo", False),  # cut off
        ("<|im_start|>kelo<|im_end|>", "<|im_start|>kelo", False),
        ("ke<|im_start|>lo<|im_end|>", "ke<|im_start|>lo", False),
    ],
)
def test_replies_are_scored_as_they_were_written(template, written, text, right):
    ids = template.tokenizer.encode(written, allowed_special="all")
    model = SimpleNamespace(generate=lambda prompts, *_, **options: [ids for _ in prompts])
    (reply,) = ask(model, template.tokenizer, [ITEM.question], chat_template(template.tokenizer))
    assert reply == Reply(text, written.endswith("<|im_end|>"), ids)
    assert scores([ITEM], [reply])["exact_match"] == right
    rollout = SimpleNamespace(replies=lambda: [ids], ended=[reply.ended])
    assert replies_of(template.tokenizer, rollout) == [reply]


@pytest.mark.parametrize("batch_size", [2, 50])
def test_kl_of_replies_is_the_sum_over_their_tokens(template, batch_size):
    model, reference = (small_policy(template, seed, "float64") for seed in (1, 2))
    prompts, replies = [[3, 4, 5], [6], [7, 8]], [[9, 10], [11, 12, 13], [14]]
    total = 0.0
    for prompt, reply in zip(prompts, replies):
        p, q = (log_softmax(m(np.array([prompt + reply])).data[0, len(prompt) - 1 : -1]) for m in (model, reference))
        total += (np.exp(p) * (p - q)).sum()
    assert kl_of_replies(model, reference, prompts, replies, batch_size) == pytest.approx(total / 3, rel=1e-9)
    noisy = small_gpt(dropout=0.5)  # in training mode
    long, room = [3] * 99, model.config.block_size - 1  # what does not fit into the context does not count
    fits = kl_of_replies(model, reference, [[6]], [long[:room]])
    assert fits > 0 and kl_of_replies(model, reference, [[6], long], [long, [4]]) == pytest.approx(fits / 2)
    assert kl_of_replies(noisy, noisy, prompts, replies) == pytest.approx(0, abs=1e-6) and noisy.training


def test_a_verdict_on_two_models(template, monkeypatch):
    model, reference = small_policy(template, 1), small_policy(template, 2)
    said = {id(model): "kelo" + CLOSING, id(reference): "kelo"}
    seeds = []

    def ask(model, tokenizer, questions, encode, temperature, seed):
        seeds.append((temperature, seed))
        return [Reply(said[id(model)], True, [5, 6]) for _ in questions]

    monkeypatch.setattr(judging, "ask", ask)
    before, verdict = judge(model, reference, template.tokenizer, [ITEM, TaskItem("repeat", 'Say "x".', "x")], seed=4)
    assert verdict[:3] == (1.0, 0.5, 0.5) and verdict.kl > 0
    assert [temperature for temperature, _ in seeds] == [1.0, 1.0] and seeds[0][1] != seeds[1][1]


def test_the_reference_is_loaded_for_the_comparison(template, tmp_path, capsys):
    model, reference = small_policy(template, 1, block_size=192), small_policy(template, 2, block_size=192)
    judge = Judge(model, template.tokenizer, DPOConfig(str(tmp_path / "sft")), [question("Why?")] * 3)
    assert judge.validate().keys() == {"right", "courteous"}
    judge.show_change()
    assert "no comparison" in capsys.readouterr().out
    save_model(tmp_path / "sft", reference, template.tokenizer)
    judge.show_change()
    output = capsys.readouterr().out
    assert judge.items[0].prompt in output and output.count("50.0%") == 2 and "0.00 nats" in output


def test_without_checkable_questions_nothing_is_measured(template, tmp_path, capsys):
    model = small_policy(template)
    save_model(tmp_path, model, template.tokenizer)
    judge = Judge(model, template.tokenizer, DPOConfig(str(tmp_path), "questions.jsonl"), [question("Why?")])
    assert judge.validate() == {}
    judge.show_change()
    output = capsys.readouterr().out
    assert "Why?" in output and "better than before" not in output
