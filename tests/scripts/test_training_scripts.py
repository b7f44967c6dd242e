"""Every script that trains, in small: stopped by Ctrl-C it goes on to the same end; and with --device cuda, on the
stand-in for a GPU, it learns what the CPU learns."""

import itertools
import json
import signal

import pytest

from finetune.stages import grpo as grpo_stage
from gpt.training.checkpoint import load_state
from minigrad import use_kernels
from minigrad.optim import AdamW
from scripts import classify, dpo, evaluate, generate, grpo, lora, ppo, reward, sft, train
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model
from tests.scripts.preference_files import write_model, write_pairs, write_questions
from tests.scripts.running import SMALL_RUN, assert_same_run, log_without_times, refusal, run_here, write_text

RHYTHM = ["--max-iters", "4", "--batch-size", "2", "--eval-interval", "2", "--log-interval", "1", "--warmup-iters", "1"]

CHAINS = [
    *("--init-from", "{}/chat", "--terms", "4", "--total-iterations", "2", "--eval-interval", "1"),
    *("--num-mini-batches", "2", "--response-length", "4"),
]


@pytest.fixture(autouse=True)
def few_questions(monkeypatch, no_pictures):
    for name, count in {"WORKED_EXAMPLES": 40, "TRAIN_ITEMS": 40, "TEST_ITEMS": 8}.items():
        monkeypatch.setattr(grpo_stage, name, count)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with models and data for all of them."""
    folder = tmp_path_factory.mktemp("given")
    for name, width in {"base": 16, "wide": 64}.items():
        save_model(folder / name, *small_chat_model(block_size=48, n_embd=width))
    write_model(folder / "chat")
    write_pairs(folder / "pairs.jsonl", n=100)
    write_text(folder / "story.txt", words=500)
    talks = [{"instruction": "the word?", "input": f"word {i}", "output": "a cat"} for i in range(10)]
    (folder / "alpaca.json").write_text(json.dumps(talks), encoding="utf-8")
    pets = "".join(f"{'the cat sat' if i % 2 else 'a dog ran'} {i}\t{'cat' if i % 2 else 'dog'}\n" for i in range(40))
    (folder / "pets.tsv").write_text("text\tlabel\n" + pets, encoding="utf-8")
    write_questions(folder / "questions.jsonl")
    trained = ["--init-from", folder / "chat", "--data", folder / "pairs.jsonl", "--out-dir", folder / "reward"]
    more = ["--batch-size", "4", "--max-iters", "20", "--eval-interval", "0", "--learning-rate", "1e-2"]
    assert run_here(reward.main, *trained, *more) == 0
    use_kernels("textbook")
    return folder


RUNS = {
    "train": (train, ["--data", "{}/story.txt", *SMALL_RUN, "--max-iters", "4", "--gradient-accumulation-steps", "2"]),
    "train in bfloat16": (train, ["--data", "{}/story.txt", *SMALL_RUN, "--max-iters", "2", "--precision", "bfloat16"]),
    "sft": (sft, ["--init-from", "{}/base", "--data", "{}/alpaca.json", *RHYTHM]),
    "reward": (reward, ["--init-from", "{}/chat", "--data", "{}/pairs.jsonl", *RHYTHM]),
    "dpo": (dpo, ["--init-from", "{}/chat", "--data", "{}/pairs.jsonl", *RHYTHM]),
    "ppo": (
        ppo,
        [
            *("--init-from", "{}/chat", "--reward-model", "{}/reward", "--data", "{}/questions.jsonl"),
            *("--total-iterations", "2", "--batch-size", "4", "--response-length", "4", "--eval-interval", "1"),
        ],
    ),
    "grpo": (grpo, [*CHAINS, "--batch-size", "2", "--num-generations", "2"]),
    "grpo, control": (grpo, [*CHAINS, "--control"]),
    "lora": (lora, ["--init-from", "{}/base", "--data", "{}/story.txt", "--r", "2", *RHYTHM]),
    "lora, full": (lora, ["--init-from", "{}/base", "--data", "{}/story.txt", "--method", "full", *RHYTHM]),
    "lora, dropout": (lora, ["--init-from", "{}/base", "--data", "{}/story.txt", "--lora-dropout", "0.1", *RHYTHM]),
    "lora, quantized": (
        lora,
        ["--init-from", "{}/wide", "--data", "{}/story.txt", "--r", "2", "--method", "qlora", *RHYTHM],
    ),
    "classify": (
        classify,
        ["--init-from", "{}/base", "--data", "{}/pets.tsv", "--language", "{}/story.txt", *RHYTHM],
    ),
}


def run_on(device, name, given, out_dir):
    script, arguments = RUNS[name]
    arguments = [part.format(given) for part in arguments]
    common = ["--out-dir", out_dir, "--device", device, "--kernels", "textbook", "--seed", "1"]
    return run_here(script.main, *arguments, *common)


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("train")])
def test_ctrl_c_saves_and_a_resumed_run_equals_one_that_never_stopped(name, given, tmp_path, monkeypatch, capsys):
    assert run_on("cpu", name, given, tmp_path / "whole") == 0
    step, steps = AdamW.step, itertools.count()

    def interrupted_step(optimizer):
        if next(steps) == 1:
            signal.raise_signal(signal.SIGINT)
        step(optimizer)

    monkeypatch.setattr(AdamW, "step", interrupted_step)
    assert run_on("cpu", name, given, tmp_path / "run") == 130
    monkeypatch.undo()
    script, output = RUNS[name][0], capsys.readouterr().out
    assert f"python scripts/{script.__name__.split('.')[1]}.py --init-from resume --out-dir" in output
    assert 2 <= load_state(tmp_path / "run")["step"] < load_state(tmp_path / "whole")["step"]
    resume = ["--init-from", "resume", "--out-dir", tmp_path / "run", "--kernels", "textbook"]
    assert run_here(script.main, *resume) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("lora, full", "lora, dropout")])
def test_a_run_is_what_it_is_on_the_cpu(name, given, tmp_path, cuda):
    for device in ("cpu", "cuda"):
        assert run_on(device, name, given, tmp_path / device) == 0
    assert load_state(tmp_path / "cuda")["arithmetic"]["device"] == "cuda:0"
    on_cpu, on_cuda = (log_without_times(tmp_path / device) for device in ("cpu", "cuda"))
    assert len(on_cpu) > 1
    for one, other in zip(on_cpu, on_cuda, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_a_model_trained_there_writes_and_is_judged_anywhere(given, tmp_path, capsys, cuda):
    assert run_on("cuda", "train", given, tmp_path / "run") == 0
    outputs = []
    for device in ("cpu", "cuda"):
        capsys.readouterr()
        common = ["--model", tmp_path / "run", "--device", device, "--kernels", "textbook"]
        assert run_here(generate.main, *common, "--prompt", "the cat", "--max-new-tokens", 8, "--seed", 1) == 0
        assert run_here(evaluate.main, *common, "--data", given / "story.txt") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_without_a_gpu_the_reason_is_given(given, tmp_path, capsys):
    arguments = ["--data", given / "story.txt", "--out-dir", tmp_path, *SMALL_RUN, "--device", "cuda"]
    error = refusal(train.main, capsys, *arguments)
    assert "device 'cuda' cannot be used: CuPy is " in error
    assert run_here(train.main, *arguments[:-1], "auto", "--max-iters", "1") == 0  # falls back without a word
    assert "cuda" not in capsys.readouterr().out.lower()
