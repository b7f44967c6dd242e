"""The stages of the pipeline: the settings of each stage, and the stage that it starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from finetune.adapters.lora import LoRAConfig
from finetune.built_in.tasks import instruction_examples, preference_pairs
from finetune.data.datasets import Example, write_jsonl
from finetune.quantization import QuantizationConfig, fitting, quantize
from finetune.quantization.folder import save_quantized
from finetune.stages import reward as reward_stage
from finetune.stages.dpo import DPOConfig, train_dpo
from finetune.stages.lora import train_lora
from finetune.stages.lora_model import LoRARunConfig
from finetune.stages.merging import merge_run
from finetune.stages.ppo import PPOConfig, PPORunConfig, train_ppo
from finetune.stages.reward import RewardConfig, train_reward_model
from finetune.stages.sft import SFTConfig, train_sft
from gpt.corpora.corpus import load_corpus
from gpt.settings import Checked, setting
from gpt.training.batches import prepare
from gpt.training.checkpoint import save_checkpoint
from gpt.training.loading import load_model
from gpt.training.pretraining import train_language_model
from gpt.training.run import Run, start_or_resume
from gpt.training.run_folder import new_folder, remove_run
from gpt.training.training_config import TrainingConfig
from scripts.demo import demo_config

MEASURED_ON, MEASURED_CHARACTERS = "english", 40_000  # the last ones: text for a model that was trained elsewhere
MERGED = "merged"  # in the folder of the LoRA stage: the model with its adapters merged


@dataclasses.dataclass(frozen=True)
class PipelineConfig(Checked):
    """The settings of the pipeline. init_from: a trained model to start from instead of pretraining."""

    init_from: str | None = None
    out_dir: str = setting("runs/pipeline", "the folder for all stages, each in its own subfolder")
    short: bool = setting(False, "a small model and few steps, to see whether everything works")
    ppo: bool = setting(False, "also train the model against the reward model (PPO)")
    seed: int = 1337


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How much is trained: steps and learning rate per stage, sequences (or pairs) per step, and the data.

    examples: the number of conversations and pairs; None: all built-in data, as in the scripts of the stages.
    """

    sft: tuple[int, float]
    reward: tuple[int, float]
    dpo: tuple[int, float]
    lora: tuple[int, float]
    ppo_iterations: int
    batch_size: int = 32
    examples: int | None = None


OWN = Recipe(sft=(800, 1e-3), reward=(100, 5e-4), dpo=(60, 1e-4), lora=(100, 2e-3), ppo_iterations=16)
# A model that is trained already knows most of it, and one that is large needs its time: fewer and smaller steps.
TRAINED = Recipe(
    sft=(120, 1e-4), reward=(60, 1e-4), dpo=(40, 2e-5), lora=(60, 1e-3), ppo_iterations=4, batch_size=8, examples=800
)
# To see whether everything works. A small model that was pretrained for 100 steps answers its first questions rightly
# after 150 to 200 steps of tuning.
SHORT = Recipe(sft=(300, 3e-3), reward=(40, 1e-3), dpo=(10, 1e-4), lora=(10, 2e-3), ppo_iterations=2)
SHORT_TRAINED = dataclasses.replace(
    TRAINED, sft=(6, 1e-4), reward=(3, 1e-4), dpo=(2, 2e-5), lora=(3, 1e-3), ppo_iterations=2
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: its name and folder, the stages that it depends on, and what it teaches, as a text for the reader.

    run(): run the stage, from its checkpoint if there is one. Returns False if Ctrl-C was pressed.
    """

    name: str
    needs: tuple[str, ...]
    teaches: str
    run: Callable[[], bool]


def stages_of(config: PipelineConfig, device: str) -> list[Stage]:
    """The stages, with the settings that the scripts have as defaults, or with those for a short trial."""
    own, trained = (SHORT, SHORT_TRAINED) if config.short else (OWN, TRAINED)
    recipe = own if config.init_from is None else trained

    def folder(name: str) -> str:
        return (Path(config.out_dir) / name).as_posix()

    def by(train: Callable[[Run, Any], None], settings: Any) -> Callable[[], bool]:
        return lambda: not start_or_resume(train, settings, device).asked_to_stop

    def data(name: str) -> str:
        return "tasks" if recipe.examples is None else folder(f"{name}.jsonl")

    def training(steps: int, learning_rate: float, warmup: int) -> TrainingConfig:
        return TrainingConfig(
            max_iters=steps,
            learning_rate=learning_rate,
            warmup_iters=min(warmup, steps // 5),
            weight_decay=0.0,
            eval_interval=steps // 2,
            log_interval=max(steps // 20, 1),
        )

    seed = config.seed
    size = recipe.batch_size
    tuned = folder("sft")
    talks, pairs_of_replies, preferred = data("conversations"), data("pairs"), folder("preferred.jsonl")
    sft = SFTConfig(folder("pretrained"), talks, tuned, size, seed, training(*recipe.sft, 50))
    reward = RewardConfig(tuned, pairs_of_replies, folder("reward"), size, seed, training(*recipe.reward, 20))
    dpo = DPOConfig(tuned, pairs_of_replies, folder("dpo"), size, seed, training(*recipe.dpo, 10))
    algorithm = PPOConfig(total_iterations=recipe.ppo_iterations)
    ppo = PPORunConfig(tuned, folder("reward"), talks, folder("ppo"), seed, algorithm)
    adapters, of_lora = LoRAConfig(), training(*recipe.lora, 10)
    lora = LoRARunConfig(tuned, preferred, folder("lora"), size, seed, of_lora, lora=adapters)
    if config.init_from is None:
        base = demo_config(config.short, folder("pretrained"), seed, "pipeline", "english")
        teaches = "a tokenizer, and then the next token, from plain text"
        first = Stage("pretrained", (), teaches, by(train_language_model, base))
    else:
        take_over = partial(_take_over, config.init_from, folder("pretrained"), recipe, seed)
        first = Stage("pretrained", (), f"nothing: {config.init_from}, as it is", take_over)
    scored = "which of two replies is better, from pairs: the reward model"
    adapted = "the preferred replies alone, with low-rank adapters on frozen weights, then merged"
    rounded = "nothing: the model after DPO, with 4 bits per weight"
    stages = [
        first,
        Stage("sft", ("pretrained",), "to answer questions, from conversations", by(train_sft, sft)),
        Stage("reward", ("sft",), scored, by(train_reward_model, reward)),
        Stage("dpo", ("sft",), "to give the preferred reply, from the same pairs", by(train_dpo, dpo)),
        Stage("ppo", ("sft", "reward"), "to reply as the reward model likes, from its own replies", by(train_ppo, ppo)),
        Stage("lora", ("sft",), adapted, partial(_adapt, lora, recipe, by(train_lora, lora))),
        Stage("quantized", ("dpo",), rounded, partial(_quantize, folder("dpo"), folder("quantized"))),
    ]
    return [stage for stage in stages if config.ppo or stage.name != "ppo"]


def _take_over(source: str, folder: str, recipe: Recipe, seed: int) -> bool:
    """Save a trained model as the run of the first stage, with a text to measure it on and data for other stages."""
    model, tokenizer = load_model(source, trainable=True)
    out_dir = Path(folder).parent
    if recipe.examples is not None:
        write_jsonl(out_dir / "conversations.jsonl", instruction_examples("train", recipe.examples, seed))
        write_jsonl(out_dir / "pairs.jsonl", preference_pairs("train", recipe.examples, seed))
    text = load_corpus(MEASURED_ON).text[-MEASURED_CHARACTERS:]
    remove_run(folder)
    with new_folder(folder):
        tokenizer.save(folder)
        prepare(text, tokenizer, Path(folder) / "data", validation_fraction=0.9)
        save_checkpoint(folder, model)
    return True


def _adapt(config: LoRARunConfig, recipe: Recipe, train: Callable[[], bool]) -> bool:
    """Train LoRA on the preferred replies only, and save a folder with the merged model."""
    out_dir = Path(config.out_dir)
    preferences = preference_pairs("train", recipe.examples or reward_stage.TRAIN_PAIRS, config.seed)
    write_jsonl(config.data, [Example([*p.prompt, {"role": "assistant", "content": p.chosen}]) for p in preferences])
    if not train():
        return False
    remove_run(out_dir / MERGED)
    merge_run(out_dir, out_dir / MERGED)
    return True


def _quantize(source: str, out_dir: str) -> bool:
    """Quantize the weights of a model to 4 bits (NF4)."""
    model, tokenizer = load_model(source)
    config = fitting(QuantizationConfig("nf4"), model)
    quantize(model, config)
    remove_run(out_dir)
    save_quantized(out_dir, model, config, tokenizer)
    return True
