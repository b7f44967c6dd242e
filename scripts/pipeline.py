"""The whole pipeline: tokenizer, pretraining, instruction tuning, reward model, DPO, LoRA, 4 bits, and a final table.

About four minutes on two cores. Finished stages are kept: after Ctrl-C, the same command resumes. With --init-from,
the pipeline starts from a model that is already trained and skips pretraining.
"""
# Each stage starts from the folder of an earlier stage and writes its own. A stage is one call of the function that its
# own script also calls; shared/pipeline_stages.py has the stages with their settings. The pipeline adds that finished
# stages are kept, that an interrupted stage continues, and that all are measured with the same questions and text.

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from start import command_line

from finetune.built_in.tasks import instruction_tasks
from finetune.data.chat_template import add_chat_tokens
from finetune.evaluation.answering import ask, chat_template, scores, shorten
from finetune.evaluation.judge import judge, qualities, quality_rates, sampled
from finetune.quantization import memory
from gpt.console import show
from gpt.files import parse_json, read_text, write_text
from gpt.training import folder_lock
from gpt.training.batches import open_tokens, sequential_batches
from gpt.training.checkpoint import has_checkpoint, load_state
from gpt.training.evaluation import mean_loss
from gpt.training.loading import load_model
from gpt.training.log import read_log
from gpt.training.run_folder import replacing_run
from gpt.weights import hub
from scripts.shared.pipeline_stages import MERGED, PipelineConfig, Stage, stages_of

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
EXAMPLES = """examples:
  python scripts/pipeline.py
  python scripts/pipeline.py --ppo            also PPO against the reward model; finished stages are kept
  python scripts/pipeline.py --init-from smollm2 --out-dir runs/smollm2       a real model (tens of minutes, gigabytes)
  python scripts/pipeline.py --short --out-dir runs/short      a small model and few steps, to see whether all works
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    text = f"start from this model instead of pretraining one: {command_line.SOURCES}"
    parser.add_argument("--init-from", default=None, metavar="MODEL", help=text)
    command_line.add_settings(parser, PipelineConfig)
    command_line.add_shared(parser, "kernels", "device", "seed")
    arguments = parser.parse_args(argv)
    device = command_line.set_up(arguments)
    return 0 if run_pipeline(command_line.build(PipelineConfig, vars(arguments)), device) else 130


def run_pipeline(config: PipelineConfig, device: str = "cpu") -> bool:
    """Run all stages that are not finished, and print the table. Returns False if Ctrl-C stopped one of them.

    Raises ValueError if the folder holds a pipeline with other settings, and what the stages raise.
    """
    started = time.perf_counter()
    settings: dict[str, Any] = {"short": config.short, "seed": config.seed}
    if config.init_from is not None:
        hub.find(config.init_from)  # raises before the folder is marked as that of a mistyped name
        settings["init_from"] = config.init_from
    with folder_lock.locked(config.out_dir):
        rows = _run_stages(config, Notes(Path(config.out_dir), settings), device)
    if rows is None:
        show("\nthe pipeline stopped here; run it again to continue")
        return False
    show(f"\n=== what each stage changed ({time.perf_counter() - started:.0f} s for this call)\n\n{COLUMNS}\n")
    show_table(rows)
    show_samples(rows)
    return True


def _run_stages(config: PipelineConfig, notes: Notes, device: str) -> dict[str, dict[str, Any]] | None:
    """Run the stages. Returns the rows of the table, or None if Ctrl-C stopped one of them."""
    for number, stage in enumerate(stages := stages_of(config, device), start=1):
        show(f"\n=== {number}/{len(stages)} {stage.name}: {stage.teaches}")
        origin = {name: fingerprint(notes.folder / name) for name in stage.needs}
        if notes.is_finished(stage.name, origin):
            show(f"finished earlier, and kept (to do it again, delete {notes.folder / stage.name})")
            continue
        if not _run_stage(stage, notes, origin):
            return None
        seconds = round(load_state(notes.folder / stage.name).get("seconds", 0.0), 1)  # of training; 0 without any
        notes.write(stage.name, origin=origin, row={"seconds": seconds} | _measured(stage.name, notes, config))
    return {stage.name: notes.stages[stage.name]["row"] for stage in stages}


def _run_stage(stage: Stage, notes: Notes, origin: dict[str, str]) -> bool:
    folder = notes.folder / stage.name
    if has_checkpoint(folder):
        begun_from = notes.stages.get(stage.name, {}).get("origin")
        if begun_from is None:
            raise ValueError(f"{folder} holds a run that is not part of this pipeline: choose another --out-dir")
        if begun_from == origin:
            return stage.run()
        show("made from an earlier version of the stages before it: running it again")
    # If the new run cannot start, the earlier one is put back, and is still made from an earlier version.
    with replacing_run(folder, lambda: notes.write(stage.name, origin={})):
        notes.write(stage.name, origin=origin)
        return stage.run()


def _measured(name: str, notes: Notes, config: PipelineConfig) -> dict[str, Any]:
    """The table row of a stage. A reward model generates no text, so its row is its accuracy."""
    folder = notes.folder / name
    if name == "reward":
        accuracy = [row["accuracy"] for row in read_log(folder / "log.jsonl") if "val_loss" in row][-1]
        return {"note": f"prefers the better of two replies in {accuracy:.1%} of held-out pairs"}
    model, tokenizer = load_model(folder / MERGED if (folder / MERGED).exists() else folder)
    tokens = open_tokens(notes.folder / "pretrained" / "data" / "val.bin")
    text_loss = mean_loss(model, sequential_batches(tokens[:TEXT_TOKENS], 16, model.config.block_size))
    add_chat_tokens(model, tokenizer)  # to a base model
    questions = SHORT_QUESTIONS if config.short or config.init_from is not None else QUESTIONS
    items = instruction_tasks("test", questions, config.seed)
    replies = ask(model, tokenizer, [item.question for item in items], chat_template(tokenizer))
    found = scores(items, replies)
    row: dict[str, Any] = {"text loss": text_loss, "format": found["format"], "right": found["exact_match"]}
    row |= {"MB": memory(model) / 1e6, "asked": items[0].prompt, "reply": replies[0].text}
    if name in ("pretrained", "sft"):  # the stages before preferences
        rates = quality_rates(qualities(items, sampled(model, tokenizer, items, config.seed)))
        return row | {"courteous": rates["courteous"]}
    reference, _ = load_model(notes.folder / "sft")
    _, verdict = judge(model, reference, tokenizer, items, config.seed)
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
            notes = parse_json(read_text(path), str(path))
            if (theirs := notes.get("settings")) != settings:
                raise ValueError(f"{folder} is from a pipeline with {theirs}, not {settings}: choose another --out-dir")
            self.stages = notes.get("stages", {})
        elif folder.exists() and {path.name for path in folder.iterdir()} - {folder_lock.NAME}:
            raise FileExistsError(f"{folder} holds files that do not belong to a pipeline: choose another --out-dir")

    def is_finished(self, name: str, origin: dict[str, str]) -> bool:
        """Whether a stage was finished, from this origin, and is still there."""
        stage = self.stages.get(name, {})
        return "row" in stage and stage.get("origin") == origin and has_checkpoint(self.folder / name)

    def write(self, name: str, **stage: Any) -> None:
        """Store the origin of a stage that begins; or its origin and its row when it is finished."""
        self.stages[name] = stage
        write_text(self.folder / NOTES, json.dumps({"settings": self.settings, "stages": self.stages}, indent=1) + "\n")


def fingerprint(folder: Path) -> str:
    """A value that changes whenever the checkpoint of a stage changes."""
    return hashlib.sha256(json.dumps(load_state(folder), sort_keys=True).encode("utf-8")).hexdigest()[:16]


if __name__ == "__main__":
    command_line.run(main)
