"""Command lines that are absurd, or with options that would be ignored: each is refused in a sentence."""

import errno
import importlib

import pytest

from finetune.stages import cold_start
from minigrad import __version__
from scripts import demo, generate, lora, quantize
from scripts.shared.command_line import from_here
from tests.finetune.small import few_items
from tests.scripts.running import ROOT, output_of, refusal

FILES = {
    "tiny.txt": b"ab",
    "tiny-line.txt": b"abcde",
    "short.txt": b"few words only, of a text",
    "binary.txt": b"\xff\xfe",
    "bad.jsonl": b'{"prompt": "x"}\n',
}


@pytest.fixture(scope="module")
def folder(given, reward_run):
    for name, content in FILES.items():
        (given / name).write_bytes(content)
    return given


# A command line that is right but for what follows it: "..." in a row of REFUSED.
RIGHT = {
    "train": "--out-dir {new}",
    "sft": "--init-from {}/base --data {}/alpaca.json --out-dir {new}",
    "reward": "--init-from {}/chat --data {}/pairs.jsonl --out-dir {new}",
    "dpo": "--init-from {}/chat --data {}/pairs.jsonl --out-dir {new}",
    "ppo": "--init-from {}/chat --reward-model {}/reward --data {}/questions.jsonl --response-length 6 --out-dir {new}",
    "grpo": "--init-from {}/chat --terms 4 --batch-size 2 --num-generations 2 --out-dir {new}",
    "lora": "--init-from {}/wide --data {}/story.txt --out-dir {new}",
    "classify": "--init-from {}/base --data {}/pets.tsv --language {}/story.txt --out-dir {new}",
    "quantize": "--model {}/wide --calibration {}/story.txt --out-dir {new}",
}

ORACLE = pytest.mark.oracle
READING = [name for name in RIGHT if name not in ("grpo", "quantize")]
WRITING = {**RIGHT, "demo": "", "explain": "", "break": "no_mask", "pipeline": "--short"}
NO_FOLDER = "story.txt/x: this folder cannot be written (Not a directory): choose another"

REFUSED = [
    # options that would be ignored
    ("lora", "--compare --merge {}/run", "--compare does not go with --merge"),
    ("lora", "--merge {}/run --rank 4", "--r does not go with --merge"),
    ("lora", "--compare --method lora", "--method does not go with --compare"),
    ("lora", "--compare --model resume", "--compare continues by itself"),
    ("lora", "--method full --r 4", "--r sets up adapters, which --method full does not have"),
    ("lora", "--data tasks --sample-interval 5", "--sample-interval is for texts"),
    ("quantize", "--method nf4 --sequences 4", "--sequences is for gptq and awq"),
    ("quantize", "--compare --bits 4", "--bits does not go with --compare"),
    ("classify", "--compare --train all", "--train does not go with --compare"),
    ("classify", "... --compare --will-it-fit", "--will-it-fit does not go with --compare"),
    ("classify", "--compare --init-from resume", "--compare does not resume"),
    ("classify", "--model {}/base --predict x --max-iters 5", "--max-iters does not go with --model"),
    ("sft", "--show-mask 1 --max-iters 5", "--max-iters does not go with --show-mask"),
    ("lesson", "find cache --html", "--html needs a lesson, or all"),
    ("exercise", "list --jobs 2", "--jobs does not go with list"),
    ("exercise", "stubs {new} --assignment nowhere.txt", "nowhere.txt does not exist"),
    ("lesson", "421 --answers --html", "--html does not go with --answers"),
    ("lesson", "--answers", "--answers needs a lesson, or all"),
    ("exercise", "check mul --all", "check takes a NAME or --all, not both"),
    ("verify_gpt2", "--reference a.npz --save-reference b.npz", "--save-reference does not go with --reference"),
    ("dpo", "--label-smoothing 0.1", "--label-smoothing is for --loss-type robust"),
    ("train", "... --init-from resume --will-it-fit", "--init-from does not go with --will-it-fit, which tries"),
    ("train", "... --data-parallel --will-it-fit", "--data-parallel does not go with --will-it-fit"),
    ("lora", "... --compare --will-it-fit", "--will-it-fit does not go with --compare"),
    # settings of runs and methods
    ("train", "... --n-embd 10 --n-head 3", "n_embd 10 cannot be divided among 3 heads"),
    ("train", "... --steps 0", "argument --max-iters: must be an integer >= 1, got 0"),
    ("train", "... --n-layer 1000000000", "parameters needs at least 3,172,352 GB of memory, and this machine has "),
    ("train", "... --batch-size 10000000000000", "10,000,000,000,000 sequences of 64 tokens needs at least"),
    ("train", "... --learning-rate 1 --lr nan", "learning_rate must be a number >= 0, got nan"),
    ("train", "... --vocab-size 256", "must be an integer >= 257"),
    ("train", "... --n-lay 3", "unrecognized arguments: --n-lay"),
    ("train", "... --data nowhere.txt", "there is no corpus or file 'nowhere.txt'"),
    ("train", "... --data {}/tiny.txt", "0.1 of 2 characters leaves none for training or for validation"),
    ("train", "... --data {}/tiny-line.txt --block-size 2", "is too short: its last tenth, to test on, must have 2"),
    ("train", "... --data {}/binary.txt", "is not UTF-8 text"),
    ("train", "... --init-from resume", "there is no checkpoint in {new}: no checkpoint-N/state.json"),
    ("sft", "... --data nowhere.jsonl", "nowhere.jsonl does not exist"),
    ("lora", "... --init-from {}/absent --data {}/bad.jsonl", "bad.jsonl, line 1: there is no field 'completion'"),
    *[(name, "... --init-from {}/absent --data {}/binary.txt", "binary.txt is not UTF-8 text") for name in READING],
    ("dpo", "... --init-from {}/base", "fine-tune the model on conversations first"),
    ("ppo", "... --response-length 60", "questions.jsonl, line 1: the question has"),
    ("ppo", "... --reward-model {}/chat", "minigrad-gpt-with-head"),
    ("grpo", "--terms 1000 --out-dir {new}", "terms must be in [2, 32], got 1000"),
    ("grpo", "... --sft-steps 3", "--sft-steps is for a new model"),
    ("grpo", "... --control", "--batch-size does not go with --control"),
    ("lora", "... --r 100000", "r must be in [1, 4096], got 100000"),
    ("lora", "... --merge nowhere", "--init-from does not go with --merge"),
    ("classify", "... --language {}/tiny.txt", "tiny.txt is too short"),
    ("classify", "... --predict x", "--predict and --model go together"),
    ("classify", "... --model {}/base --predict x", "--init-from does not go with --model"),
    ("quantize", "... --bits 3", "argument --bits: invalid choice: "),
    ("quantize", "... --calibration {}/short.txt", "is too short for a model that reads 32 tokens at a time"),
    # what is not there, or cannot be
    ("classify", "--train some", "must be head, all, or a number of blocks, got 'some'"),
    ("exercise", "list --workspace {}/story.txt", "story.txt is a file: give a folder"),
    ("evaluate", "--model {}/base --data x --html {}/story.txt", "--html writes a page: its name must end in .html"),
    ("evaluate", "--model {}/base", "one of the arguments --data --choices is required"),
    ("evaluate", "--model {}/base --choices builtin --stride 4", "--stride is for a text (--data)"),
    ("evaluate", "--model {}/base --choices nope", "nope does not exist; builtin is the exam that comes with"),
    ("evaluate", "--model {}/base --data x --form letters", "--form is for an exam (--choices)"),
    ("evaluate", "--model {}/base --choices builtin --shots 200", "--shots 200 leaves no question to ask: builtin"),
    ("classify", "--model {}/base --predict x", "does not describe a minigrad-gpt-with-head"),
    ("classify", "--model {}/reward --predict x", "reward holds a reward model, which scores replies"),
    # folders that cannot be made
    ("export", "{}/base {}/story.txt/x", NO_FOLDER),
    ("site", "{new} --fetch --assets {}/story.txt/x", NO_FOLDER),
    *[(name, f"{RIGHT.get(name, more)} --out-dir {{}}/story.txt/x", NO_FOLDER) for name, more in WRITING.items()],
    # ports
    ("explore", "--port 65536", "--port: must be an integer from 0 to 65535, got 65536"),
    ("ppo", "--beside {}/absent", "there is no checkpoint in {}/absent"),
    ("ppo", "--beside {}/base", "holds a model and no run"),
    ("train", "--precision tf32 --device cpu --out-dir {new}", "--precision tf32 needs a GPU"),
    ("generate", "--model {}/base --adapter {}/absent", "there is no adapter in {}/absent"),
    ("generate", "--model nowhere", "there is no folder nowhere; names that need none are gpt2,"),
    ("generate", "--model runs/none", "there is no run in runs/none: scripts/train.py makes one, and scripts/demo.py"),
    ("generate", "--speculate --num-samples 2", "--speculate is for one text"),
    ("generate", "--speculate --will-it-fit", "--will-it-fit measures one token at a time"),
    ("generate", "--json name:text", "argument --json: must be KEY:KIND with a KIND of string, number, boolean, got"),
    ("generate", "--json a:string a:number", "--json has a key twice: give each once"),
    ("generate", "--model {}/base --one-of a\udcffb", "'a\\udcffb' is not UTF-8 text: convert it"),
    ("generate", "--one-of a b --max-new-tokens 5", "--max-new-tokens is not for a form, which ends by itself"),
    ("generate", "--model {}/base --draft {}/chat", "chat has another vocabulary than --model: use one with the same"),
    ("explain", "--text abc", "--model and --text go together"),
    ("explain", "--model {}/wide --stage dpo --text a|b", "needs --text 'prompt|better|worse'"),
    ("explain", "--model {}/wide --text " + "the" * 200, "must have 2 to 33 tokens; it has"),
    ("exercise", "check sofmax", "did you mean softmax"),
    ("exercise", "solution", "needs a name"),
    ("exercise", "stubs", "needs a folder"),
    ("exercise", "mark nowhere", "not a folder"),
    ("exercise", "list --exercises nowhere", "there are no exercises (files named NN_name.py) in nowhere"),
    ("exercise", "run tanh --workspace {new}", "has not passed as it is now"),
    ("exercise", "run --all --workspace {new}", "no exercise has passed"),
    ("gradcheck", "sofmax", "there is no op 'sofmax'; did you mean softmax or log_softmax?"),
    ("verify_gpt2", "--model {}/base --reference nothing.npz", "nothing.npz"),
    pytest.param("compare_torch", "--tokens 99", "99 is longer than the model's context: use 64", marks=ORACLE),
    # empty values
    ("generate", "--prompt=", "--prompt is empty"),
    ("export", "--gguf F16", "the following arguments are required: RUN, FOLDER"),
    # slips
    ("train", "--max_iters=100", "did you mean --max-iters?"),
    ("break", "", "name a bug: no_mask, no_scale"),
    ("lesson", "1", "'1' is not a lesson: did you mean 00_gradients?"),
    ("lesson", "attention", "did you mean 421_raw_attention, 457_linear_attention?"),
    ("lesson", "41", "more than one lesson"),
    ("lesson", "421 422", "421 takes no further words"),
    ("lesson", "find", "find needs a word"),
    ("lesson", "find tempertaure", "did you mean temperature"),
]


@pytest.mark.parametrize("script, arguments, words", REFUSED)
def test_a_bad_command_line_is_refused_in_one_sentence(script, arguments, words, folder, tmp_path, capsys, monkeypatch):
    few_items(monkeypatch, cold_start, TRAIN_ITEMS=40, TEST_ITEMS=8)
    main = importlib.import_module(f"scripts.{script}").main
    new = tmp_path / "new"
    parts = arguments.replace("...", RIGHT.get(script, "")).split()
    assert words.format(folder, new=new) in refusal(main, capsys, *(part.format(folder, new=new) for part in parts))
    assert not new.exists() or (new / "log.jsonl").exists()  # then it can be started again


@pytest.mark.parametrize("place, found", [(".", "scripts/"), ("scripts", ""), ("tests/gpt", "../../scripts/")])
def test_commands_are_named_as_they_are_reached_from_here(place, found, monkeypatch, capsys):
    monkeypatch.chdir(ROOT / place)
    error = refusal(generate.main, capsys, "--model", "runs/none")
    assert f"runs/none: {found}train.py makes one, and {found}demo.py makes" in error
    assert from_here("my/scripts/train.py, scripts/train.py") == f"my/scripts/train.py, {found}train.py"


def test_a_folder_in_use_advises_options_that_exist(folder, finished, capsys):
    adapters, pretrained = finished("lora")[0], finished("train")[0]
    for main, arguments, run, resumes in (
        (quantize.main, ["--model", folder / "base", "--calibration", folder / "story.txt"], adapters, False),
        (lora.main, ["--merge", adapters], adapters, False),
        (lora.main, [], adapters, True),
        (demo.main, [], pretrained, False),
    ):
        sentence = refusal(main, capsys, *arguments, "--out-dir", run)
        assert "holds a run already" in sentence and ("--init-from resume" in sentence) == resumes


@pytest.mark.parametrize("script", ["train", "chat", "export"])
def test_the_version_is_told(script):
    assert output_of(importlib.import_module(f"scripts.{script}").main, "--version") == f"minigrad {__version__}\n"


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(), "not enough memory (MemoryError): use a smaller model or batch"),
        (OSError(errno.EMFILE, "Too many open files"), "error: too many files are open at once: raise the limit"),
    ],
)
def test_what_ran_out_is_a_sentence(error, words, capsys):
    def main(argv):
        raise error

    assert words in refusal(main, capsys)
