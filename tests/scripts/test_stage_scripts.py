"""The scripts of the stages as their users meet them: what a run says and leaves, and what only one script does."""

import json
import re
import shutil

import pytest

from finetune.data.chat_template import IM_END, IM_START
from finetune.objectives.model_with_head import HEAD_FORMAT
from finetune.stages import cold_start
from finetune.stages import reward as reward_stage
from finetune.stages import sft as sft_stage
from gpt import Tokenizer
from gpt.training.checkpoint import has_checkpoint, load_checkpoint, load_run, load_state
from gpt.training.log import read_log
from scripts import classify, dpo, export, grpo, ppo, reward, sft
from tests.finetune.small import few_items
from tests.scripts.preference_files import write_model
from tests.scripts.running import assert_says, forge, output_of, refusal, run_here
from tests.scripts.runs import RHYTHM, arguments_of

pytestmark = pytest.mark.usefixtures("reward_run")

SAYS = {  # of runs in runs.py, with {} for the folder of what is given, and {run} for the run's
    "sft": "data: 9 conversations to learn from, 1 to test on ... asked | the word? / ",  # from a JSON array
    "reward, longer": """with a new head: ... data: 90 pairs of replies to learn from, 10 to test on
        accuracy  how often it scores the chosen reply higher ... 0 | validation loss 0.6 ... 20/20 | loss
        Held-out pairs, and their scores before and after training ... | Say 90? ... | yes!
        it gets 10 of 10 held-out pairs right; a coin would in 0.001 of cases ... trained 20 steps, 80 pairs,
        python scripts/ppo.py --init-from "{}/chat" --reward-model {run}""",
    "dpo": """starting from the weights in {}/chat, which are also the reference
        data: 27 pairs of replies to learn from, 3 to test on ... rewards/margins  how much higher its reward
        0 | validation loss 0.6931 ... 4/4 | loss ... Replies before and after ... Say 27?
        trained 4 steps, 8 pairs, ... python scripts/chat.py --model""",
    "ppo": """reward model: {}/reward; it gets 10 of 10 held-out pairs right
        data: 18 questions to learn from, 2 to test on ... objective/kl  how far the policy has moved
        4/8 | loss ... 8/8 | loss ... Replies before and after ... Say 18?
        trained 8 steps, ... python scripts/chat.py --model""",
    "classify": """with a head for cat, dog ... of which 32 are trained; the head has 32
        data: 32 texts of 2 classes to learn from, 8 to test on ... to beat:
        language loss  the loss as a language model
        4/4 | loss ... true, and taken for ... texts that are not learned from (most frequent class: ... sure)
        only the head was trained, and nothing is forgotten
        python scripts/classify.py --predict "some text" --model {run}""",
}
COLUMNS = {  # of the log
    "sft": "val_loss loss num_tokens",
    "reward, longer": "accuracy margin num_pairs learning_rate",
    "dpo": "rewards/chosen rewards/rejected rewards/accuracies rewards/margins logps/chosen logps/rejected num_pairs"
    " learning_rate grad_norm",
    "ppo": "objective/scores objective/kl",
    "classify": "val_loss accuracy language_loss loss num_texts",
}


@pytest.mark.parametrize("name", SAYS)
def test_a_run_says_what_it_does_and_leaves_its_files(name, given, finished, reward_run):
    folder, output = reward_run if name == "reward, longer" else finished(name)
    assert_says(output, *SAYS[name].format(given, run=folder.as_posix()).split("\n        "))
    rows = read_log(folder / "log.jsonl")
    assert set(COLUMNS[name].split()) <= {column for row in rows for column in row}
    if name in ("reward, longer", "dpo"):
        assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    if name == "reward, longer":
        assert load_checkpoint(folder, format=HEAD_FORMAT).model.labels == ["reward"] and rows[-1]["accuracy"] == 1
    if name == "dpo":
        assert rows[1]["step"] == 1 and abs(rows[1]["rewards/chosen"]) < 1e-5  # policy and reference are still one
        lines = (folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        kept = [json.loads(line) for line in lines]  # with what the reference thinks of them
        assert len(kept) == 27 and all(x["ref_chosen_logps"] < 0 and x["ref_rejected_logps"] < 0 for x in kept)
    if name == "ppo":
        assert [row["step"] for row in rows] == [4, 8] and abs(rows[0]["objective/kl"]) < 1e-4  # nothing has moved yet
        load_run(folder)  # a plain model, as every other script takes it
    if name == "classify":
        before, after = re.search(r"story.txt\): ([\d.]+) before, ([\d.]+) after", output).groups()
        assert before == after


# --- instruction tuning -----------------------------------------------------------------------------------------------


def test_sft_on_the_built_in_questions(given, tmp_path, monkeypatch):
    few_items(monkeypatch, sft_stage, TRAIN_ITEMS=40, TEST_ITEMS=20)
    run = tmp_path / "run"
    output = output_of(sft.main, "--init-from", given / "base", "--out-dir", run, *RHYTHM.split())
    assert_says(
        output,
        f"starting from the weights in {given / 'base'}, 2 tokens added",
        "data: 40 conversations to learn from, 20 to test on ... are the assistant's and are learned from",
        "<|im_start|>assistant\n[ ... mean_token_accuracy  how often",
        "0 | validation loss 5. ... exact match 0.0000, format 0.0000 ... 4/4 | loss ",
        "held-out questions in the chat template ... held-out questions without a template",
        "12 questions of general knowledge ... right answers by type of question",
        f"asked | ... before | ... after | ... right | ... python scripts/chat.py --model {run.as_posix()}",
    )
    assert output.replace("\ufffd", "?").encode("cp1252")  # an untrained model writes any bytes
    assert {"exact_match", "format", "val_loss"} <= read_log(run / "log.jsonl")[-1].keys()


def test_the_mask_is_shown_and_nothing_is_trained(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = output_of(sft.main, "--init-from", given / "base", "--data", given / "alpaca.json", "--show-mask", "2")
    assert output.count("<|im_start|>user") == 2 and "[<|im_end|>]" in output
    assert list(tmp_path.iterdir()) == []


# --- preferences ------------------------------------------------------------------------------------------------------


def test_built_in_pairs_are_told_apart_by_what_they_differ_in(tmp_path, monkeypatch):
    few_items(monkeypatch, reward_stage, TRAIN_PAIRS=30, TEST_PAIRS=9)
    model = write_model(tmp_path / "sft", block_size=192)
    output = output_of(reward.main, "--init-from", model, "--out-dir", tmp_path / "run", *RHYTHM.split())
    said = "data: 30 pairs of replies to learn from, 9 to test on ... that differ in courtesy: ... the answer: "
    assert_says(output, said)


def test_the_options_reach_the_loss_of_dpo(given, tmp_path):
    options = ["--loss-type", "hinge", "--beta", "0.01"]
    output = output_of(dpo.main, *arguments_of("dpo", given), "--out-dir", tmp_path, *options)
    rows = [row for row in read_log(tmp_path / "log.jsonl") if "val_loss" in row]
    assert [row["val_loss"] for row in rows] == pytest.approx([1 - row["rewards/margins"] for row in rows])
    assert 0 < rows[-1]["rewards/margins"] < 0.1  # beta times a few nats
    assert (tmp_path / "loss.png").exists() == ("no picture" not in output)


# --- reinforcement learning -------------------------------------------------------------------------------------------


def test_ppo_without_a_price_is_drawn_beside_another_run(given, finished, tmp_path):
    pytest.importorskip("matplotlib")
    beside = ["--kl-coef", "0", "--beside", finished("ppo")[0], "--out-dir", tmp_path]
    output = output_of(ppo.main, *arguments_of("ppo", given), *beside)
    assert (tmp_path / "comparison.png").stat().st_size > 10_000 and (tmp_path / "reinforcement.png").exists()
    assert f"both runs: {tmp_path}/comparison.png" in output


def test_a_reward_model_that_cannot_judge_is_refused(given, tmp_path, capsys):
    data = ["--init-from", given / "chat", "--data", given / "pairs.jsonl", "--out-dir", tmp_path / "coin"]
    assert run_here(reward.main, *data, "--max-iters", "1", "--learning-rate", "0", "--batch-size", "4") == 0
    tokenizer = Tokenizer.train(["another text, another text"], 260)
    tokenizer.add_special_tokens([IM_START, IM_END])
    tokenizer.save(shutil.copytree(given / "reward", tmp_path / "other"))
    forge(tmp_path / "other", ["inputs"], {})
    longer = ["--init-from", write_model(tmp_path / "sft", block_size=192)]
    for model, more, words in (
        (tmp_path / "coin", [], "coin is no better than chance: it gets"),
        (tmp_path / "other", [], "other has another tokenizer"),
        (given / "reward", longer, "reads 64 tokens, and the model to be trained writes up to 192"),
    ):
        options = ["--reward-model", model, "--out-dir", tmp_path / "run", *more]
        assert words in refusal(ppo.main, capsys, *arguments_of("ppo", given), *options)
        assert not has_checkpoint(tmp_path / "run")


def test_grpo_from_a_new_model_and_its_control_run(tmp_path, monkeypatch):
    few_items(monkeypatch, cold_start, WORKED_EXAMPLES=40, TRAIN_ITEMS=30, TEST_ITEMS=6)
    chains = ["--terms", "4", "--total-iterations", "2", "--eval-interval", "1"]
    groups = ["--batch-size", "2", "--num-generations", "2", "--sft-steps", "3"]
    output = output_of(grpo.main, "--out-dir", tmp_path / "run", *chains, *groups)
    assert_says(
        output,
        "has learned from 40 worked examples: loss ",
        "6 questions to test on, such as ",
        "data: 30 questions to learn from",
        "majority@8  share of questions whose most frequent answer is right ... 8/8 | loss ",
        "6 held-out questions, 8 answers each ... trained 8 steps,",
    )
    assert (tmp_path / "run" / "loss.png").exists() == ("no picture" not in output)
    rows = read_log(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in rows] == [0, 4, 4, 8, 8] and "pass@8" in rows[-1]
    start = ["--init-from", tmp_path / "run" / "worked", "--out-dir", tmp_path / "control"]
    output = output_of(grpo.main, *start, "--control", *chains)
    assert "data: 40 worked examples to learn from" in output and "its target changes" not in output
    rows = read_log(tmp_path / "control" / "log.jsonl")
    assert "mean_token_accuracy" in rows[-2] and {"exact", "pass@8", "majority@8", "thought"} <= rows[-1].keys()
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 16, 32]  # 2 iterations of 4 x 4 steps


# --- classification ---------------------------------------------------------------------------------------------------


def test_a_text_is_classified_also_by_an_exported_classifier(finished, tmp_path):
    folder = finished("classify")[0]
    exported = tmp_path / "hf"
    lines = output_of(classify.main, "--model", folder, "--predict", "the cat sat").splitlines()
    shares = [float(line.split("%")[0]) for line in lines]
    assert {line.split()[-1] for line in lines} == {"cat", "dog"} and shares == sorted(shares)[::-1]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert run_here(export.main, folder, exported) == 0
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and config["id2label"]["1"] == "dog"
    assert output_of(classify.main, "--model", exported, "--predict", "the cat sat").splitlines() == lines


@pytest.mark.slow
def test_all_three_ways_to_classify_side_by_side_and_going_on(given, tmp_path, capsys):
    output = output_of(classify.main, *arguments_of("classify", given), "--out-dir", tmp_path, "--compare")
    table = output.splitlines()[-4:]
    assert table[0].split() == ["trained", "parameters", "accuracy", "language", "loss", "before", "after", "seconds"]
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert list(rows) == ["head", "last-block", "all"] and rows["head"][2] == rows["head"][3]
    assert rows["all"][2] != rows["all"][3] and rows["head"][0] == "32"
    assert load_state(tmp_path / "all")["settings"]["trained_blocks"] is None
    resume = ["--init-from", "resume", "--out-dir", tmp_path / "all", "--train"]
    assert "resuming" in output_of(classify.main, *resume, "all")
    assert "has trained_blocks None, not 1" in refusal(classify.main, capsys, *resume, "1")
