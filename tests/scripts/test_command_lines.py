"""Command lines that are absurd, or with options that would be ignored: each is refused in a sentence."""

import importlib

import pytest

from minigrad import __version__
from scripts import lesson
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model
from tests.scripts.running import refusal, run_here, write_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    save_model(folder / "base", *small_chat_model(n_layer=1, n_embd=64, block_size=32))
    write_text(folder / "text.txt", words=1500)
    (folder / "tiny.txt").write_text("ab", encoding="utf-8")
    (folder / "empty.txt").write_bytes(b"")
    rows = [f"{'cat' if i % 2 else 'dog'} {i}\t{i % 2}\n" for i in range(20)]
    (folder / "pets.tsv").write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    return folder


REFUSED = [
    # options that would be ignored
    ("lora", "--compare --merge {}/run", "--compare does not go with --merge"),
    ("lora", "--merge {}/run --r 4", "--r does not go with --merge"),
    ("lora", "--compare --method lora", "--method does not go with --compare"),
    ("lora", "--compare --init-from resume", "--compare goes on by itself"),
    ("lora", "--method full --r 4", "--r sets up adapters, which --method full does not have"),
    ("lora", "--method full --lora-dropout 0.1", "--lora-dropout sets up adapters"),
    ("lora", "--data tasks --sample-interval 5", "--sample-interval is for texts"),
    ("quantize", "--compare --bits 4", "--bits does not go with --compare"),
    ("quantize", "--method nf4 --sequences 4", "--sequences is for gptq and awq"),
    ("classify", "--compare --train all", "--train does not go with --compare"),
    ("classify", "--compare --init-from resume", "--compare does not resume"),
    ("classify", "--model {}/base --predict x --max-iters 5", "--max-iters does not go with --model"),
    ("sft", "--show-mask 1 --max-iters 5", "--max-iters does not go with --show-mask"),
    ("lesson", "find cache --html", "--html needs a lesson, or all"),
    ("exercise", "list --jobs 2", "--jobs does not go with list"),
    ("exercise", "check mul --all", "check takes a NAME or --all, not both"),
    ("verify_gpt2", "--reference a.npz --save-reference b.npz", "--save-reference does not go with --reference"),
    ("dpo", "--label-smoothing 0.1", "--label-smoothing is for --loss-type robust"),
    # what is not there, or cannot be
    ("classify", "--train some", "must be head, all, or a number of blocks, got 'some'"),
    ("classify", "--init-from {}/base --data {}/pets.tsv --language {}/tiny.txt", "tiny.txt is too short"),
    ("exercise", "list --workspace {}/text.txt", "text.txt is a file: give a folder"),
    ("evaluate", "--model {}/base --data {}/text.txt --tokens 20 --html {}", "is a folder: give the path of a file"),
    ("lora", "--merge {}/absent", "there is no checkpoint in {}/absent"),
    ("classify", "--model {}/base --predict x", "does not describe a minigrad-gpt-with-head"),
    ("ppo", "--beside {}/absent", "there is no checkpoint in {}/absent"),
    ("ppo", "--beside {}/base", "is of pretraining, not of "),
    ("train", "--precision tf32 --device cpu --out-dir {}/new", "--precision tf32 needs a GPU"),
    ("generate", "--model {}/base --adapter {}/absent", "there is no adapter in {}/absent"),
    ("pipeline", "--short --out-dir {}", "holds files that are not of a pipeline"),
    ("generate", "--model nowhere", "there is no folder nowhere; names that need none are gpt2,"),
    ("generate", "--model runs/none", "there is no run in runs/none: scripts/train.py makes one, and scripts/demo.py"),
    ("generate", "--model {}/base --top-p 2", "top_p must be in (0, 1], got 2.0"),
    ("generate", "--model {}/base --temperature -1", "temperature must be a number >= 0, got -1.0"),
    ("generate", "--model {}/base --temperature inf", "temperature must be a number >= 0, got inf"),
    ("generate", "--top-k 0", "argument --top-k: must be an integer >= 1, got 0"),
    ("generate", "--model {}/base --repetition-penalty nan", "repetition_penalty must be a number > 0, got nan"),
    ("generate", "--max-new-tokens -1", "must be an integer >= 0"),
    ("generate", "--model {}/base --stop xyz", "--stop 'xyz' is 3 tokens, not one"),
    ("generate", "--device tpu", "unknown device 'tpu'"),
    ("generate", "--speculate --num-samples 2", "--speculate is for one text"),
    ("chat", "--model nowhere", "there is no folder nowhere"),
    ("chat", "--model {}/base --top-p 2", "top_p must be in (0, 1], got 2.0"),
    ("evaluate", "--model {}/base --data {}/text.txt --stride 33", "stride must be from 1 to the block size of 32"),
    ("evaluate", "--data x --stride 0", "must be an integer >= 1, got 0"),
    ("evaluate", "--model {}/base --data nothing.txt", "nothing.txt does not exist"),
    ("evaluate", "--model {}/base --data {}/empty.txt", "there is nothing to predict; this one has 0"),
    ("explain", "--text abc", "--model and --text go together"),
    ("explain", "--model {}/base --stage dpo --text a|b", "needs --text 'prompt|better|worse'"),
    ("explain", "--model {}/base --text " + "the" * 200, "must have 2 to 33 tokens; it has"),
    ("explain", "--model {}/base --text a --as-script", "--as-script is for the small model"),
    ("explore", "--model {}/base --text " + "the" * 60, "the model reads 1 to 32"),
    ("exercise", "check sofmax", "did you mean softmax"),
    ("exercise", "solution", "needs a name"),
    ("exercise", "mark", "needs a folder"),
    ("exercise", "mark nowhere", "not a folder"),
    ("exercise", "list --exercises nowhere", "no folder"),
    ("exercise", "frobnicate", "invalid choice"),
    ("exercise", "run tanh --workspace {}/new", "has not passed yet"),
    ("exercise", "run --all --workspace {}/new", "no exercise has passed"),
    ("gradcheck", "sofmax", "there is no op 'sofmax'; did you mean softmax or log_softmax?"),
    ("gradcheck", "xyzzy", "there is no op 'xyzzy'; without a name, all ops are listed"),
    ("gradcheck", "--seed x", "argument --seed: invalid integer value: 'x'"),
    ("gradcheck", "--seed -1", "argument --seed: must be an integer >= 0, got -1"),
    ("gradcheck", "mul add", "unrecognized arguments: add"),
    ("verify_gpt2", "--model {}/base --reference nothing.npz", "nothing.npz"),
    ("verify_gpt2", "--model {}/base --reference {}/base/config.json", "is not a reference from --save-reference"),
    ("verify_gpt2", "--dtype float16", "invalid choice: 'float16'"),
    # empty values
    ("generate", "--prompt=", "--prompt is empty"),
    ("verify_gpt2", "--prompt=", "--prompt is empty"),
    ("train", "--out-dir=", "--out-dir is empty"),
    ("evaluate", "--data=", "--data is empty"),
    ("export", "--gguf F16", "the following arguments are required: RUN, FOLDER"),
    # other people's spellings, and slips
    ("train", "--lr 1e-3", "unrecognized arguments: --lr 1e-3; did you mean --learning-rate?"),
    ("train", "--max_iters=100", "did you mean --max-iters?"),
    ("train", "--dataset shakespeare", "did you mean --data?"),
    ("train", "--batchsize 4", "did you mean --batch-size?"),
    ("generate", "--start x", "did you mean --prompt?"),
    ("lora", "--rank 8", "did you mean --r?"),
    ("chat", "--temprature 1", "did you mean --temperature?"),
    ("break", "", "name a bug: no_mask, no_scale"),
    ("break", "no_such_bug", "invalid choice: 'no_such_bug'"),
    ("lesson", "1", "'1' is not a lesson: did you mean 00_gradients?"),
    ("lesson", "atention", "did you mean raw_attention"),
    ("lesson", "attention", "did you mean 421_raw_attention?"),
]


@pytest.mark.parametrize(("script", "arguments", "words"), REFUSED)
def test_a_bad_command_line_is_refused_in_one_sentence(script, arguments, words, folder, capsys):
    main = importlib.import_module(f"scripts.{script}").main
    assert words.replace("{}", str(folder)) in refusal(main, capsys, *arguments.replace("{}", str(folder)).split())


@pytest.mark.oracle
def test_more_tokens_than_the_context_are_refused(folder, capsys):
    from scripts import compare_torch

    for model in ([], ["--model", folder / "base"]):
        sentence = refusal(compare_torch.main, capsys, "--tokens", "1000000", *model)
        assert "--tokens 1000000 is longer than the model's context: use" in sentence


def test_a_folder_in_use_advises_only_options_that_the_script_has(folder, tmp_path, capsys):
    from scripts import demo, lora, quantize

    text = ["--calibration", folder / "text.txt"]
    for main, arguments in (
        (quantize.main, ["--model", folder / "base", *text, "--out-dir", folder / "base"]),
        (lora.main, ["--merge", folder / "base", "--out-dir", folder / "base"]),
    ):
        assert "--init-from resume" not in refusal(main, capsys, *arguments)
    assert "--init-from resume" in refusal(lora.main, capsys, "--out-dir", folder / "base")
    assert "--init-from resume" not in refusal(demo.main, capsys, "--out-dir", folder / "base")


def test_a_word_that_is_nowhere_gets_a_suggestion(capsys):
    assert run_here(lesson.main, "find", "tempertaure") == 1
    assert "did you mean temperature" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["train", "chat", "export"])
def test_the_version_is_told(script, capsys):
    assert run_here(importlib.import_module(f"scripts.{script}").main, "--version") == 0
    assert capsys.readouterr().out == f"minigrad {__version__}\n"


def test_memory_that_ran_out_is_a_sentence(capsys):
    def main(argv):
        raise MemoryError

    assert "not enough memory (MemoryError): take a smaller model or batch" in refusal(main, capsys)
