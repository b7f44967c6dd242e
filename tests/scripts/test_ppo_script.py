"""scripts/ppo.py as its users meet it."""

import shutil

import pytest

from finetune.data.chat_template import IM_END, IM_START
from finetune.stages import ppo as ppo_stage
from gpt import Tokenizer
from gpt.training.checkpoint import load_run
from gpt.training.log import read_log
from minigrad import use_kernels
from scripts import ppo, reward
from tests.scripts.preference_files import write_model, write_pairs, write_questions
from tests.scripts.running import output_of, refusal, run_here

SMALL = ["--total-iterations", "4", "--batch-size", "6", "--response-length", "6", "--eval-interval", "2"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model, a reward model that was trained from it, and a file of questions."""
    folder = tmp_path_factory.mktemp("given")
    write_model(folder / "sft")
    options = ["--init-from", folder / "sft", "--data", write_pairs(folder / "pairs.jsonl", n=100)]
    more = ["--batch-size", "4", "--max-iters", "20", "--eval-interval", "0", "--learning-rate", "1e-2"]
    assert run_here(reward.main, *options, "--out-dir", folder / "reward", *more) == 0
    write_questions(folder / "questions.jsonl")
    use_kernels("textbook")
    return folder


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, output_of(ppo.main, *options(given, folder))


def options(given, folder, *more):
    models = ["--init-from", given / "sft", "--reward-model", given / "reward"]
    return [*models, "--data", given / "questions.jsonl", "--out-dir", folder, *SMALL, *more]


def test_a_run_says_what_it_does_and_leaves_its_files(given, finished):
    folder, output = finished
    for part in (
        f"reward model: {given / 'reward'}; it gets 10 of 10 held-out pairs right",
        "data: 18 questions to answer, 2 to test on",
        "objective/kl  how far the policy has moved",
        "4/16 | loss ",
        "16/16 | loss ",
        "Replies before and after",
        "Say 18?",
        "reinforced in 4 iterations,",
        "python scripts/chat.py --model",
    ):
        assert part in output, part
    assert (folder / "reinforcement.png").exists() == ("no picture" not in output)
    rows = read_log(folder / "log.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16]
    assert abs(rows[0]["objective/kl"]) < 1e-4  # nothing has moved yet
    load_run(folder)  # a plain model, as every other script takes it


def test_a_run_without_a_price_is_drawn_beside_another(given, finished, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert run_here(ppo.main, *options(given, tmp_path, "--kl-coef", "0", "--beside", finished[0])) == 0
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert f"both runs: {tmp_path}/comparison.png" in capsys.readouterr().out


def test_the_built_in_questions_are_judged(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ppo_stage, "TRAIN_ITEMS", 12)
    monkeypatch.setattr(ppo_stage, "TEST_ITEMS", 3)
    models = ["--init-from", write_model(tmp_path / "sft", block_size=192), "--reward-model", given / "reward"]
    # The reward model reads 64 tokens: that is too few for these questions, and it is said before anything is written.
    assert run_here(ppo.main, *models, "--out-dir", tmp_path / "run", *SMALL) == 1
    assert "reads 64 tokens" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_reward_model_no_better_than_chance_is_refused(given, tmp_path, capsys):
    data = ["--init-from", given / "sft", "--data", given / "pairs.jsonl", "--out-dir", tmp_path / "coin"]
    assert run_here(reward.main, *data, "--max-iters", "1", "--learning-rate", "0", "--batch-size", "4") == 0
    message = refusal(ppo.main, capsys, *options(given, tmp_path / "run", "--reward-model", tmp_path / "coin"))
    assert "is no better than chance: it gets" in message and "a coin would do as well in" in message
    assert not (tmp_path / "run").exists()


def test_a_reward_model_with_another_tokenizer_and_a_folder_without_one_are_refused(given, tmp_path, capsys):
    message = refusal(ppo.main, capsys, *options(given, tmp_path / "run", "--reward-model", given / "sft"))
    assert "minigrad-gpt-with-head" in message
    tokenizer = Tokenizer.train(["another text, another text"], 260)
    tokenizer.add_special_tokens([IM_START, IM_END])
    other = shutil.copytree(given / "reward", tmp_path / "other")
    tokenizer.save(other)
    message = refusal(ppo.main, capsys, *options(given, tmp_path / "run", "--reward-model", other))
    assert f"the reward model in {other} has another tokenizer" in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more, words",
    [
        (["--kl-coef", "-1"], "kl_coef must be a number >= 0, got -1.0"),
        (["--response-length", "60"], "questions.jsonl, line 1: the question has"),
        (["--batch-size", "1"], "1 replies cannot be dealt to 2 mini-batches"),
        (["--reward-model", "nowhere"], "there is no checkpoint in nowhere"),
        (["--kl", "1"], "unrecognized arguments: --kl 1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(given, tmp_path, capsys, more, words):
    assert words in refusal(ppo.main, capsys, *options(given, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()
