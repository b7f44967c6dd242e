"""The whole road in one run: tokenizer, pretraining, instruction tuning, reward model, preferences; and what each did.

Each stage starts from what the one before has left in its folder, and leaves its own. Nothing here is new: a stage is a
call of a function that its own script calls, too. What is added is that a stage that is finished is kept, that one that
was interrupted goes on, that all are measured with the same questions and the same text, and a table of that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt import GPT, Tokenizer, pretraining
from gpt.checkpoint import has_checkpoint, load_state, remove_checkpoint
from gpt.files import parse_json, read_text, write_text
from gpt.loading import load_model
from gpt.pretraining import demo_config, pretrain
from gpt.run_log import show
from gpt.training import Trainer, TrainingConfig

from . import adaptation, dpo_run, instruct, ppo_run, reward_run
from .adaptation import AdaptationConfig, adapt, merge_run
from .datasets import Example, write_jsonl
from .dpo_run import DPOConfig, prefer
from .instruct import SFTConfig
from .pairs import TRAIN_PAIRS
from .ppo_run import PPORunConfig, reinforce
from .ppo_training import PPOConfig
from .quantization import QuantizationConfig, quantize
from .quantization.folder import is_quantized, load_quantized, save_quantized
from .reward_run import RewardConfig, learn_rewards
from .stage_report import COLUMNS, measure, show_samples, show_table
from .tasks import preference_pairs

NOTES = "pipeline.json"  # in the pipeline's folder: what each finished stage was made from, and its row of the table
QUESTIONS, SHORT_QUESTIONS = 300, 40  # asked after each stage
MERGED = "merged"  # in the folder of the LoRA stage: the model with its adapters merged


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """The pipeline's settings. short: a small model and few steps, to see whether all works. ppo: reinforce, too."""

    out_dir: str = "runs/pipeline"
    short: bool = False
    ppo: bool = False
    seed: int = 1337


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its name, which is also its folder's; what it is made from; what it teaches, for the reader.

    start(), resume(): run it, from the beginning or from its checkpoint; False if Ctrl-C stopped it.
    """

    name: str
    needs: tuple[str, ...]
    teaches: str
    start: Callable[[], bool]
    resume: Callable[[], bool]


def run_pipeline(config: PipelineConfig, device: str = "cpu") -> bool:
    """Run all stages that are not finished yet, and print the table; False if Ctrl-C stopped one of them.

    Raises ValueError where the folder is of a pipeline with other settings, and what the stages raise.
    """
    started = time.perf_counter()
    notes = Notes(Path(config.out_dir), {"short": config.short, "seed": config.seed})
    for number, stage in enumerate(stages := stages_of(config, device), start=1):
        show(f"\n=== {number}/{len(stages)} {stage.name}: {stage.teaches}")
        origin = notes.origin_of(stage.needs)
        if notes.is_finished(stage.name, origin):
            show(f"finished earlier, and kept (to do it again, delete {notes.folder / stage.name})")
            continue
        if not _run_stage(stage, notes, origin):
            show("\nthe pipeline stopped here; call it again and it goes on")
            return False
        notes.finish(
            stage.name,
            origin,
            {"seconds": seconds_of(notes.folder / stage.name)} | _measured(stage.name, notes, config),
        )
    show(f"\n=== what each stage changed ({time.perf_counter() - started:.0f} s for this call)\n\n{COLUMNS}\n")
    rows = notes.rows([stage.name for stage in stages])
    show_table(rows)
    show_samples(rows)
    return True


def _run_stage(stage: Stage, notes: Notes, origin: dict[str, str]) -> bool:
    folder = notes.folder / stage.name
    if has_checkpoint(folder):
        if notes.begun_from(stage.name) == origin:
            return stage.resume()
        show("made from an earlier version of the stages before it: done again")
        remove_checkpoint(folder)
    notes.begin(stage.name, origin)
    return stage.start()


def _measured(name: str, notes: Notes, config: PipelineConfig) -> dict[str, Any]:
    """A stage's row of the table; a reward model writes nothing, and its row is its accuracy."""
    folder = notes.folder / name
    if name == "reward":
        return {"note": reward_note(folder)}
    reference = None if name in ("pretrained", "sft") else load_model(notes.folder / "sft")[0]
    model, tokenizer = load_stage(folder)
    tokens = pretraining.open_tokens(notes.folder / "pretrained" / "data" / "val.bin")
    return measure(
        model, tokenizer, reference, tokens, config.seed, questions=SHORT_QUESTIONS if config.short else QUESTIONS
    )


def load_stage(folder: Path) -> tuple[GPT, Tokenizer]:
    """The model that a stage has left."""
    if is_quantized(folder):
        return load_quantized(folder)
    return load_model(folder / MERGED if (folder / MERGED).exists() else folder)


def seconds_of(folder: Path) -> float:
    """How long a stage trained; 0 for one that did not."""
    return round(load_state(folder).get("seconds", 0.0), 1)


def reward_note(folder: Path) -> str:
    """How good a finished reward model is, from its log."""
    rows = [json.loads(line) for line in read_text(folder / "log.jsonl").splitlines()]
    accuracy = [row["accuracy"] for row in rows if "val_loss" in row][-1]
    return f"prefers the better of two replies in {accuracy:.1%} of held-out pairs"


# --- what has been done -----------------------------------------------------------------------------------------------


class Notes:
    """What is known of the stages: kept in pipeline.json, so that a later call goes on.

    A stage's origin is what the stages it needs held when it began, as fingerprints. If one of them is done again, the
    stage is no longer finished. Raises ValueError for notes of a pipeline with other settings, or damaged ones.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder, self.settings = folder, settings
        self.stages: dict[str, Any] = {}
        path = folder / NOTES
        if path.exists():
            notes = parse_json(read_text(path), str(path))
            if notes.get("settings") != settings:
                raise ValueError(
                    f"{folder} is of a pipeline with {notes.get('settings')}, not {settings}: choose another --out-dir"
                )
            self.stages = notes["stages"]

    def origin_of(self, needs: tuple[str, ...]) -> dict[str, str]:
        """The fingerprints of stages."""
        return {name: fingerprint(self.folder / name) for name in needs}

    def begun_from(self, name: str) -> Any:
        """The origin of a stage that was begun."""
        return self.stages.get(name, {}).get("origin")

    def is_finished(self, name: str, origin: dict[str, str]) -> bool:
        """Whether a stage was finished, from this origin, and is still there."""
        stage = self.stages.get(name, {})
        return "row" in stage and stage["origin"] == origin and has_checkpoint(self.folder / name)

    def begin(self, name: str, origin: dict[str, str]) -> None:
        """Note where a stage starts from."""
        self.stages[name] = {"origin": origin}
        self._save()

    def finish(self, name: str, origin: dict[str, str], row: dict[str, Any]) -> None:
        """Note that a stage is finished, and its row of the table."""
        self.stages[name] = {"origin": origin, "row": row}
        self._save()

    def rows(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """The rows of the table."""
        return {name: self.stages[name]["row"] for name in names}

    def _save(self) -> None:
        notes = {"settings": self.settings, "stages": self.stages}
        write_text(self.folder / NOTES, json.dumps(notes, indent=1) + "\n")


def fingerprint(folder: Path) -> str:
    """Changes when a stage's checkpoint does."""
    return hashlib.sha256(json.dumps(load_state(folder), sort_keys=True).encode("utf-8")).hexdigest()[:16]


# --- the stages -------------------------------------------------------------------------------------------------------


def stages_of(config: PipelineConfig, device: str) -> list[Stage]:
    """The stages, with the settings that the scripts have as defaults; with `short` a tenth of the steps."""

    def folder(name: str) -> str:
        return (Path(config.out_dir) / name).as_posix()

    def by(run: Callable[[], Trainer]) -> Callable[[], bool]:
        return lambda: not run().interrupted

    def training(steps: int, learning_rate: float, warmup: int) -> TrainingConfig:
        steps = steps // 20 if config.short else steps
        return TrainingConfig(
            max_iters=steps,
            learning_rate=learning_rate,
            warmup_iters=min(warmup, steps // 5),
            weight_decay=0.0,
            eval_interval=steps // 2,
            log_interval=max(steps // 20, 1),
        )

    base = demo_config(config.short, folder("pretrained"), config.seed, made_by="pipeline")
    seed = config.seed
    sft = SFTConfig(folder("pretrained"), out_dir=folder("sft"), seed=seed, training=training(600, 1e-3, 30))
    reward = RewardConfig(folder("sft"), out_dir=folder("reward"), seed=seed, training=training(200, 5e-4, 20))
    dpo = DPOConfig(folder("sft"), out_dir=folder("dpo"), seed=seed, training=training(200, 1e-4, 20))
    ppo = PPORunConfig(
        folder("sft"),
        folder("reward"),
        out_dir=folder("ppo"),
        seed=seed,
        ppo=PPOConfig(total_iterations=2 if config.short else 40),
        training=TrainingConfig(learning_rate=1e-4, warmup_iters=8, weight_decay=0.0, eval_interval=20),
    )
    preferred = (Path(config.out_dir) / "preferred.jsonl").as_posix()
    lora = AdaptationConfig(
        folder("sft"), preferred, folder("lora"), batch_size=32, seed=seed, training=training(100, 2e-3, 10)
    )
    stages = [
        Stage(
            "pretrained",
            (),
            "a tokenizer, and then the next token, from plain text",
            by(lambda: pretrain(base, device)),
            by(lambda: pretraining.resume(folder("pretrained"), device)),
        ),
        Stage(
            "sft",
            ("pretrained",),
            "to answer questions, from conversations",
            by(lambda: instruct.instruct(sft, device)),
            by(lambda: instruct.resume(folder("sft"), device)),
        ),
        Stage(
            "reward",
            ("sft",),
            "which of two replies is better, from pairs: the reward model",
            by(lambda: learn_rewards(reward, device)),
            by(lambda: reward_run.resume(folder("reward"), device)),
        ),
        Stage(
            "dpo",
            ("sft",),
            "to reply as is preferred, from the same pairs",
            by(lambda: prefer(dpo, device)),
            by(lambda: dpo_run.resume(folder("dpo"), device)),
        ),
        Stage(
            "ppo",
            ("sft", "reward"),
            "to reply as the reward model likes, from its own replies",
            by(lambda: reinforce(ppo, device)),
            by(lambda: ppo_run.resume(folder("ppo"), device)),
        ),
        Stage(
            "lora",
            ("sft",),
            "the preferred replies alone, with adapters of low rank beside frozen weights; then merged",
            lambda: _adapt(lora, lambda: adapt(lora, device)),
            lambda: _adapt(lora, lambda: adaptation.resume(folder("lora"), device)),
        ),
        Stage(
            "quantized",
            ("dpo",),
            "nothing: the model after DPO, with 4 bits per weight",
            lambda: _quantize(folder("dpo"), folder("quantized")),
            lambda: _quantize(folder("dpo"), folder("quantized")),
        ),
    ]
    return [stage for stage in stages if config.ppo or stage.name != "ppo"]


def _adapt(config: AdaptationConfig, run: Callable[[], Trainer]) -> bool:
    """LoRA on the replies that were preferred, without those that were not; and a folder with the merged model."""
    out_dir = Path(config.out_dir)
    preferences = preference_pairs("train", TRAIN_PAIRS, config.seed)
    examples = [Example([*p.prompt, {"role": "assistant", "content": p.chosen}]) for p in preferences]
    write_jsonl(config.data, examples)
    if run().interrupted:
        return False
    _claim(out_dir / MERGED)
    merge_run(out_dir, out_dir / MERGED)
    return True


def _quantize(source: str, out_dir: str) -> bool:
    """Round a model's weights to 4 bits (NF4)."""
    model, tokenizer = load_model(source)
    config = QuantizationConfig("nf4")
    quantize(model, config)
    _claim(Path(out_dir))
    save_quantized(out_dir, model, config, tokenizer)
    return True


def _claim(folder: Path) -> None:
    """Make room for what a stage writes in one go; the folder is one of the pipeline's."""
    remove_checkpoint(folder)
    write_text(folder / "log.jsonl", "")
