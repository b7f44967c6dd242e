"""scripts/lora.py as its users meet it."""

import json

import pytest

from gpt import Llama
from gpt.training.loading import load_model
from gpt.training.log import read_log
from scripts import generate, lora
from tests.finetune.small import small_chat_model
from tests.gpt import smollm
from tests.gpt.gguf_files import block_llama, write_llama
from tests.gpt.small import save_model
from tests.scripts.running import output_of, refusal, run_here, write_text

QUICK = ["--max-iters", "4", "--batch-size", "2", "--eval-interval", "2", "--log-interval", "2", "--warmup-iters", "1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"), *small_chat_model(n_layer=2, n_embd=64, block_size=32))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "story.txt", words=1500)


def options(base, text, folder, *more):
    return ["--init-from", base, "--data", text, "--out-dir", folder, *QUICK, "--r", "2", *more]


def test_a_run_then_resume_then_merge(base, text, tmp_path):
    run, merged = tmp_path / "run", tmp_path / "merged"
    output = output_of(lora.main, *options(base, text, run, "--slices", "q", "v"))
    for part in (
        f"starting from the weights in {base}; of 121,344 parameters, 4,096 (3.4% as many) are trained",
        "0 | validation loss 5.",
        "4/4 | loss ",
        "before     after",
        "trained 4 steps in ",
        f"adapter for PEFT: {run / 'adapter'} (0.0",
        f"python scripts/generate.py --model {run.as_posix()}",
    ):
        assert part in output, part
    settings = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["r"] == 4 and settings["base_model_name_or_path"] == str(base)  # q and v have rank 2 each
    assert run_here(lora.main, "--init-from", "resume", "--out-dir", run) == 0
    assert run_here(lora.main, "--merge", run, "--out-dir", merged) == 0
    model, _ = load_model(merged)
    assert model.num_parameters() == load_model(base)[0].num_parameters()


def test_generating_with_the_adapter_is_generating_with_the_merged_model(base, text, tmp_path, capsys):
    run, merged = tmp_path / "run", tmp_path / "merged"
    assert run_here(lora.main, *options(base, text, run)) == 0
    assert run_here(lora.main, "--merge", run, "--out-dir", merged) == 0
    texts = []
    for model in ([base], [base, "--adapter", run / "adapter"], [merged]):
        capsys.readouterr()
        assert run_here(generate.main, "--model", *model, "--temperature", "0", "--max-new-tokens", "20") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1] == texts[2]


def test_the_comparison_ends_in_a_table_and_a_picture(base, text, tmp_path, capsys):
    assert run_here(lora.main, *options(base, text, tmp_path / "all", "--compare")) == 0
    output = capsys.readouterr().out
    table = output[output.index("  method ") :].splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["base", "full", "lora", "qlora"]
    assert "peak   the most bytes in use at one time in a step" in output
    assert (tmp_path / "all" / "comparison.png").exists()
    rates = [read_log(tmp_path / "all" / name / "log.jsonl")[1]["learning_rate"] for name in ("full", "lora", "qlora")]
    assert rates[0] < rates[1] == rates[2]
    assert run_here(lora.main, *options(base, text, tmp_path / "all", "--compare")) == 0
    assert capsys.readouterr().out.count("finished already") == 3


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--target-modules", "q_proj"],
            "the target 'q_proj' fits no module; linear layers here are c_attn, c_proj, c_fc",
        ),
        (["--target-modules", "c_fc", "--slices", "q"], "slices q are of c_attn, which is not in target_modules"),
        (["--r", "0"], "argument --r: must be an integer >= 1, got 0"),
        (["--r", "100000"], "adapters of rank 100,000 need "),
        (["--batch-size", "1000000000"], "a step on batches of 1,000,000,000 needs at least "),
        (["--alpha", "-1"], "alpha must be a number > 0"),
        (["--lora-dropout", "1"], "dropout must be in [0, 1)"),
        (["--method", "dora"], "invalid choice: 'dora'"),
        (["--rank", "8"], "unrecognized arguments: --rank 8"),
        (["--data", "nowhere.txt"], "there is no corpus or file 'nowhere.txt'"),
        (["--merge", "nowhere"], "--init-from does not go with --merge"),
        (["--init-from", "nowhere"], "nowhere"),
    ],
)
def test_refusals_are_one_sentence(more, sentence, base, text, tmp_path, capsys):
    assert sentence in refusal(lora.main, capsys, *options(base, text, tmp_path / "run", *more))
    assert not (tmp_path / "run" / "trainer_state.json").exists()


def test_resume_refuses_other_settings(base, text, tmp_path, capsys):
    run = tmp_path / "run"
    assert run_here(lora.main, *options(base, text, run)) == 0
    sentence = refusal(lora.main, capsys, "--init-from", "resume", "--out-dir", run, "--r", "3")
    assert f"the run in {run} has r 2, not 3" in sentence


@pytest.mark.oracle("gguf")
def test_adapters_beside_the_bits_of_a_file(text, tmp_path, capsys):
    model = block_llama(vocab_size=len(smollm.smollm_tokenizer()), block_size=32)
    path = write_llama(tmp_path / "small.gguf", model, "Q4_1", **smollm.metadata())
    run, merged = tmp_path / "run", tmp_path / "merged"
    assert run_here(lora.main, *options(path, text, run, "--packed")) == 0
    assert read_log(run / "log.jsonl")[-1]["val_loss"] > 0
    assert run_here(lora.main, "--init-from", "resume", "--out-dir", run) == 0
    assert run_here(lora.main, "--merge", run, "--out-dir", merged) == 0
    assert "are now in the float ones" in capsys.readouterr().out
    assert type(load_model(merged)[0]) is Llama
    writing = ["--prompt", "the cat", "--max-new-tokens", 4, "--temperature", 0]
    assert run_here(generate.main, "--model", path, "--packed", "--adapter", run / "adapter", *writing) == 0
    beside = capsys.readouterr().out
    assert run_here(generate.main, "--model", merged, *writing) == 0
    assert capsys.readouterr().out == beside
    sentence = refusal(lora.main, capsys, *options(path, text, tmp_path / "no", "--packed", "--method", "qlora"))
    assert "packed weights stay as they are" in sentence
    sentence = refusal(lora.main, capsys, *options(merged, text, tmp_path / "no", "--packed"))
    assert "there are no packed weights to keep" in sentence and not (tmp_path / "no").exists()
