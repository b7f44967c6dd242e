"""Every script that trains with --device cuda, on the stand-in for a GPU: it runs, and learns what the CPU learns."""

import json

import pytest

from gpt.training.checkpoint import load_state, save_checkpoint
from gpt.training.log import read_log
from minigrad import use_kernels
from scripts import classify, dpo, evaluate, generate, lora, ppo, reward, sft, train
from tests.finetune.small import small_chat_model
from tests.scripts.preference_files import write_model, write_pairs
from tests.scripts.running import SMALL_RUN, refusal, run_here, write_text

pytestmark = pytest.mark.cpu_only("these tests have a GPU of their own")
RHYTHM = ["--max-iters", "4", "--batch-size", "2", "--eval-interval", "2", "--log-interval", "1", "--warmup-iters", "1"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with models and data for all of them."""
    folder = tmp_path_factory.mktemp("given")
    for name, width in {"base": 16, "wide": 64}.items():
        model, tokenizer = small_chat_model(block_size=48, n_embd=width)
        save_checkpoint(folder / name, model)
        tokenizer.save(folder / name)
    write_model(folder / "chat")
    write_pairs(folder / "pairs.jsonl", n=100)
    write_text(folder / "story.txt", words=500)
    talks = [{"instruction": "the word?", "input": f"word {i}", "output": "a cat"} for i in range(10)]
    (folder / "alpaca.json").write_text(json.dumps(talks), encoding="utf-8")
    pets = "".join(f"{'the cat sat' if i % 2 else 'a dog ran'} {i}\t{'cat' if i % 2 else 'dog'}\n" for i in range(40))
    (folder / "pets.tsv").write_text("text\tlabel\n" + pets, encoding="utf-8")
    questions = [{"prompt": f"Say {i}?", "completion": "yes"} for i in range(20)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
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
    "lora": (lora, ["--init-from", "{}/base", "--data", "{}/story.txt", "--r", "2", *RHYTHM]),
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
    assert run_here(script.main, *arguments, *common) == 0
    return read_log(out_dir / "log.jsonl")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_what_it_is_on_the_cpu(name, given, tmp_path, cuda):
    on_cpu, on_cuda = (run_on(device, name, given, tmp_path / device) for device in ("cpu", "cuda"))
    assert load_state(tmp_path / "cuda")["arithmetic"]["device"] == "cuda:0"
    assert len(on_cpu) == len(on_cuda) > 1
    for one, other in zip(on_cpu, on_cuda, strict=True):
        for row in (one, other):
            for clock in [key for key in row if key == "ms" or key.endswith("_per_second")]:
                del row[clock]
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_a_model_trained_there_writes_and_is_judged_anywhere(given, tmp_path, capsys, cuda):
    run_on("cuda", "train", given, tmp_path / "run")
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
