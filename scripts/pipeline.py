"""The whole pipeline: tokenizer, pretraining, instruction tuning, reward model, DPO, LoRA, 4 bits, and a final table.

About four minutes on two cores. Finished stages are kept: after Ctrl-C, the same command resumes. With --init-from,
the pipeline starts from a model that is already trained and skips pretraining.
"""
# The page in order: the stages, each a command that you could type; the loop that runs them; what is measured after
# each stage, and the table; the notes on what has been done.

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from start import command_line

from finetune.built_in.tasks import instruction_examples, instruction_tasks, preference_pairs
from finetune.data.chat_template import add_chat_tokens
from finetune.data.datasets import Example, write_jsonl
from finetune.evaluation.answering import ask, chat_template, scores, shorten
from finetune.evaluation.judge import judge, qualities, quality_rates, sampled
from finetune.quantization import memory
from gpt.console import quoted, show
from gpt.corpora.corpus import load_corpus
from gpt.files import read_json, write_text
from gpt.training import folder_lock
from gpt.training.batches import open_tokens, prepare, sequential_batches
from gpt.training.checkpoint import has_checkpoint, load_state, save_checkpoint
from gpt.training.evaluation import mean_loss
from gpt.training.loading import load_model
from gpt.training.log import read_log
from gpt.training.run_folder import new_folder, remove_run, replacing_run
from gpt.weights import hub

EXAMPLES = """examples:
  python scripts/pipeline.py
  python scripts/pipeline.py --ppo            also PPO against the reward model; finished stages are kept
  python scripts/pipeline.py --init-from smollm2 --out-dir runs/smollm2       a real model (tens of minutes, gigabytes)
  python scripts/pipeline.py --short --out-dir runs/short      a small model and few steps, to see whether all works
"""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its name and folder, the stages that it depends on, what it teaches, and its command.

    In the command, {} is the pipeline's folder. Its other options are added by `run_command`.
    """

    name: str
    needs: tuple[str, ...]
    teaches: str
    command: str


STAGES = [
    Stage(
        "pretrained", (), "a tokenizer, and then the next token, from plain text", "demo --data english --processes 1"
    ),
    Stage(
        "sft", ("pretrained",), "to answer questions, from conversations", "sft --init-from {}/pretrained --processes 1"
    ),
    Stage(
        "reward",
        ("sft",),
        "which of two replies is better, from pairs: the reward model",
        "reward --init-from {}/sft --processes 1",
    ),
    Stage("dpo", ("sft",), "to give the preferred reply, from the same pairs", "dpo --init-from {}/sft --processes 1"),
    Stage(
        "ppo",
        ("sft", "reward"),
        "to reply as the reward model likes, from its own replies",
        "ppo --init-from {}/sft --reward-model {}/reward",
    ),
    Stage(
        "lora",
        ("sft",),
        "the preferred replies alone, with low-rank adapters on frozen weights, then merged",
        "lora --init-from {}/sft --data {}/preferred.jsonl",
    ),
    Stage(
        "quantized",
        ("dpo",),
        "nothing: the model after DPO, with 4 bits per weight",
        "quantize --method nf4 --model {}/dpo --calibration {}/pretrained/data",
    ),
]
# Options of each stage; for what is not given, the defaults of its script are right. c_attn: queries, keys, values.
OWN = {
    "sft": "--max-iters 800 --warmup-iters 50 --eval-interval 400",
    "lora": "--target-modules c_attn --batch-size 32 --max-iters 100 --learning-rate 2e-3 --warmup-iters 10",
}
# A model that is trained already knows most of it, and one that is large needs its time: fewer and smaller steps.
TRAINED = {
    "sft": "--data {}/conversations.jsonl --batch-size 8 --max-iters 120 --learning-rate 1e-4 --warmup-iters 24",
    "reward": "--data {}/pairs.jsonl --batch-size 8 --max-iters 60 --learning-rate 1e-4 --warmup-iters 12",
    "dpo": "--data {}/pairs.jsonl --batch-size 8 --max-iters 40 --learning-rate 2e-5 --warmup-iters 8",
    "ppo": "--data {}/conversations.jsonl --total-iterations 4",
    "lora": "--batch-size 8 --max-iters 60 --learning-rate 1e-3 --warmup-iters 10",
}
# With --short. A small model that was pretrained for 100 steps answers its first questions rightly after 150 to 200
# steps of tuning.
SHORT = {
    "pretrained": "--short",
    "sft": "--max-iters 300 --learning-rate 3e-3 --warmup-iters 50",
    "reward": "--max-iters 40 --learning-rate 1e-3 --warmup-iters 8",
    "dpo": "--max-iters 10 --warmup-iters 2",
    "ppo": "--total-iterations 2",
    "lora": "--target-modules c_attn --batch-size 32 --max-iters 10 --learning-rate 2e-3 --warmup-iters 2",
}
SHORT_TRAINED = {
    "sft": "--data {}/conversations.jsonl --batch-size 8 --max-iters 6 --learning-rate 1e-4 --warmup-iters 1",
    "reward": "--data {}/pairs.jsonl --batch-size 8 --max-iters 3 --learning-rate 1e-4 --warmup-iters 0",
    "dpo": "--data {}/pairs.jsonl --batch-size 8 --max-iters 2 --learning-rate 2e-5 --warmup-iters 0",
    "ppo": "--data {}/conversations.jsonl --total-iterations 2",
    "lora": "--batch-size 8 --max-iters 3 --learning-rate 1e-3 --warmup-iters 0",
}
PAIRS, TRAINED_PAIRS = 3000, 800  # in the data that the pipeline writes; see `write_data`
MEASURED_ON, MEASURED_CHARACTERS = "english", 60_000  # the last ones: text for a model that was trained elsewhere
NOTES = "pipeline.json"  # in the pipeline's folder: what each finished stage was made from, and its row of the table
QUESTIONS, SHORT_QUESTIONS = 300, 40  # asked after each stage
TEXT_TOKENS = 4096  # as COLUMNS says
COLUMNS = """\
    seconds  of training
  text loss  nats per token on the first 4,096 tokens of pretraining's held-out text: what is forgotten shows here
     format  share of held-out questions answered in the form that was taught, right or wrong (most likely reply)
      right  share answered rightly (most likely reply)
  courteous  share answered rightly and courteously, which is what was preferred (replies at temperature 1)
    against  how often these replies are better than the sft model's: right counts first, courtesy second, draws half
         KL  how far the model has moved from the sft model, in nats per reply
         MB  megabytes of weights in memory"""
_FORMATS = {"seconds": ".0f", "text loss": ".3f", "KL": ".2f", "MB": ".1f"}  # the others are shares


def main(argv: list[str] | None = None) -> int:
    """Run all stages that are not finished, and print the table. Returns the exit status."""
    started = time.perf_counter()
    parser = command_line.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    text = f"start from this model instead of pretraining one: {command_line.SOURCES}"
    add("--init-from", default=None, metavar="MODEL", help=text)
    add("--out-dir", default="runs/pipeline", help="the folder for all stages, each in its own subfolder")
    add("--short", action="store_true", help="a small model and few steps, to see whether everything works")
    add("--ppo", action="store_true", help="also train the model against the reward model (PPO)")
    command_line.add_shared(parser, "kernels", "device", "seed")
    options = parser.parse_args(argv)
    command_line.set_up(options)
    stages = [stage for stage in STAGES if options.ppo or stage.name != "ppo"]
    settings = {"short": options.short, "seed": options.seed}
    if options.init_from is not None:
        hub.find(options.init_from)  # raises before the folder is marked as that of a mistyped name
        settings["init_from"] = options.init_from
        stages[0] = Stage("pretrained", (), f"nothing: {options.init_from}, as it is", "")  # see `take_over`
    with folder_lock.locked(options.out_dir):
        notes = Notes(Path(options.out_dir), settings)
        write_data(notes.folder, options)
        status = run_stages(stages, notes, options)
    if status != 0:
        show("\nthe pipeline stopped here; run it again to continue")
        return status
    rows = {stage.name: notes.stages[stage.name]["row"] for stage in stages}
    show(f"\n=== what each stage changed ({time.perf_counter() - started:.0f} s for this call)\n\n{COLUMNS}\n")
    show_table(rows)
    show_samples(rows)
    return 0


# --- the loop ---------------------------------------------------------------------------------------------------------


def run_stages(stages: list[Stage], notes: Notes, options: argparse.Namespace) -> int:
    """Run the stages that are not finished. Returns the exit status of the last one: 0, or 130 after Ctrl-C."""
    for number, stage in enumerate(stages, start=1):
        show(f"\n=== {number}/{len(stages)} {stage.name}: {stage.teaches}")
        folder = notes.folder / stage.name
        origin = {name: fingerprint(notes.folder / name) for name in stage.needs}
        noted = notes.stages.get(stage.name, {})
        if "row" in noted and noted["origin"] == origin and has_checkpoint(folder):
            show(f"finished earlier, and kept (to do it again, delete {folder})")
            continue
        status = run_stage(stage, origin, notes, options)
        if status != 0:
            return status
        seconds = round(load_state(folder).get("seconds", 0.0), 1)  # of training; 0 without any
        notes.write(stage.name, origin=origin, row={"seconds": seconds} | measured(stage.name, notes.folder, options))
    return 0


def run_stage(stage: Stage, origin: dict[str, str], notes: Notes, options: argparse.Namespace) -> int:
    """Begin a stage, or resume it. One that was begun from an earlier version of its origin is begun again."""
    folder = notes.folder / stage.name
    if has_checkpoint(folder):
        begun_from = notes.stages.get(stage.name, {}).get("origin")
        if begun_from is None:
            raise ValueError(f"{folder} holds a run that is not part of this pipeline: choose another --out-dir")
        if begun_from == origin:
            return run_command(stage, options)
        show("made from an earlier version of the stages before it: running it again")
    # If the new run cannot start, the earlier one is put back, and is still made from an earlier version.
    with replacing_run(folder, lambda: notes.write(stage.name, origin={})):
        notes.write(stage.name, origin=origin)
        return run_command(stage, options)


def run_command(stage: Stage, options: argparse.Namespace) -> int:
    """Give the command of a stage; to an interrupted run, the command that resumes it. LoRA is merged afterwards."""
    out = Path(options.out_dir).as_posix()
    folder = f"{out}/{stage.name}"
    if not stage.command:
        take_over(options.init_from, out)
        return 0
    own, trained = (SHORT, SHORT_TRAINED) if options.short else (OWN, TRAINED)
    settings = (own if options.init_from is None else trained).get(stage.name, "")
    script, *words = [word.format(out) for word in f"{stage.command} {settings}".split()]
    common = ["--out-dir", folder, "--kernels", options.kernels, "--seed", str(options.seed)]
    if script == "quantize":
        remove_run(folder)  # it is not resumed
    else:
        common += ["--device", options.device]
        if has_checkpoint(folder):
            script = "train" if script == "demo" else script
            words = ["--init-from", "resume"]
    status = call(script, *words, *common)
    if script == "lora" and status == 0:
        remove_run(f"{folder}/merged")  # of an earlier run
        status = call("lora", "--merge", folder, "--out-dir", f"{folder}/merged", "--kernels", options.kernels)
    return status


def call(script: str, *words: str) -> int:
    """Show a command, and do what it does. Returns its exit status."""
    line = " ".join(quoted(Path(word)) for word in words)
    show(command_line.from_here(f"python scripts/{script}.py {line}"))
    status: int = importlib.import_module(f"scripts.{script}").main(list(words))
    return status


def take_over(source: str, out: str) -> None:
    """Save a trained model as the run of the first stage, with a text to measure it on."""
    folder = Path(out, "pretrained")
    model, tokenizer = load_model(source, trainable=True)
    text = load_corpus(MEASURED_ON).text[-MEASURED_CHARACTERS:]
    remove_run(folder)
    with new_folder(folder):
        tokenizer.save(folder)
        prepare(text, tokenizer, folder / "data", validation_fraction=0.6)  # quantize.py reads both parts
        save_checkpoint(folder, model)


def write_data(folder: Path, options: argparse.Namespace) -> None:
    """Write the built-in data that the commands do not make themselves: for LoRA, the preferred replies of pairs alone;
    for a model that is trained already, a few conversations and pairs.
    """
    count = PAIRS if options.init_from is None else TRAINED_PAIRS
    pairs = preference_pairs("train", count, options.seed)
    preferred = [Example([*pair.prompt, {"role": "assistant", "content": pair.chosen}]) for pair in pairs]
    write_jsonl(folder / "preferred.jsonl", preferred)
    if options.init_from is not None:
        write_jsonl(folder / "conversations.jsonl", instruction_examples("train", count, options.seed))
        write_jsonl(folder / "pairs.jsonl", pairs)


# --- what is measured after each stage --------------------------------------------------------------------------------


def measured(name: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The table row of a stage. A reward model generates no text, so its row is its accuracy."""
    folder = out / name
    if name == "reward":
        accuracy = [row["accuracy"] for row in read_log(folder / "log.jsonl") if "val_loss" in row][-1]
        return {"note": f"prefers the better of two replies in {accuracy:.1%} of held-out pairs"}
    model, tokenizer = load_model(folder)  # of LoRA, merged
    tokens = open_tokens(out / "pretrained" / "data" / "val.bin")
    text_loss = mean_loss(model, sequential_batches(tokens[:TEXT_TOKENS], 16, model.config.block_size))
    add_chat_tokens(model, tokenizer)  # to a base model
    questions = SHORT_QUESTIONS if options.short or options.init_from is not None else QUESTIONS
    items = instruction_tasks("test", questions, options.seed)
    replies = ask(model, tokenizer, [item.question for item in items], chat_template(tokenizer))
    found = scores(items, replies)
    row: dict[str, Any] = {"text loss": text_loss, "format": found["format"], "right": found["exact_match"]}
    row |= {"MB": memory(model) / 1e6, "asked": items[0].prompt, "reply": replies[0].text}
    if name in ("pretrained", "sft"):  # the stages before preferences
        rates = quality_rates(qualities(items, sampled(model, tokenizer, items, options.seed)))
        return row | {"courteous": rates["courteous"]}
    reference, _ = load_model(out / "sft")
    _, verdict = judge(model, reference, tokenizer, items, options.seed)
    return row | {"courteous": verdict.courteous, "against": verdict.win_rate, "KL": verdict.kl}


# --- the table --------------------------------------------------------------------------------------------------------


def show_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table: a row for each stage."""
    names = ["seconds", "text loss", "format", "right", "courteous", "against", "KL", "MB"]
    show(f"{'stage':12}" + "".join(f"{name:>11}" for name in names))
    for stage, row in rows.items():
        cells = [format(row[name], _FORMATS.get(name, ".1%")) if name in row else "" for name in names]
        line = f"{stage:12}" + "".join(f"{cell:>11}" for cell in cells)
        show(f"{line.rstrip()}  {row.get('note', '')}".rstrip())


def show_samples(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what each stage's model replies to the same question."""
    written = {stage: row for stage, row in rows.items() if "reply" in row}
    show(f"\n{'asked':>12} | {shorten(next(iter(written.values()))['asked'])}")
    for stage, row in written.items():
        show(f"{stage:>12} | {shorten(row['reply'], 80)}")


# --- what has been done -----------------------------------------------------------------------------------------------


class Notes:
    """The state of the stages, stored in pipeline.json, so a later call can continue.

    stages: the "origin" of each stage that was begun, and, once it is finished, its "row" of the table. An origin holds
    the fingerprints, at the stage's start, of the stages that it depends on. If one of them is run again, the stage no
    longer counts as finished. Raises ValueError if the file is damaged, or belongs to a pipeline with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder, self.settings = folder, settings
        self.stages: dict[str, Any] = {}
        path = folder / NOTES
        if path.exists():
            notes = read_json(path)
            theirs = notes.get("settings")
            if theirs != settings:
                raise ValueError(f"{folder} is from a pipeline with {theirs}, not {settings}: choose another --out-dir")
            self.stages = notes.get("stages", {})
        elif {path.name for path in folder.iterdir()} - {folder_lock.NAME}:
            raise FileExistsError(f"{folder} holds files that do not belong to a pipeline: choose another --out-dir")
        self.save()

    def write(self, name: str, **stage: Any) -> None:
        """Store the origin of a stage that begins; or its origin and its row when it is finished."""
        self.stages[name] = stage
        self.save()

    def save(self) -> None:
        notes = {"settings": self.settings, "stages": self.stages}
        write_text(self.folder / NOTES, json.dumps(notes, indent=1) + "\n")


def fingerprint(folder: Path) -> str:
    """A value that changes whenever the checkpoint of a stage changes."""
    return hashlib.sha256(json.dumps(load_state(folder), sort_keys=True).encode("utf-8")).hexdigest()[:16]


if __name__ == "__main__":
    command_line.run(main)
