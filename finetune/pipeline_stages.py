"""The stages of the pipeline: what is trained with which settings, and what each stage starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from gpt import pretraining
from gpt.checkpoint import remove_checkpoint
from gpt.files import write_text
from gpt.loading import load_model
from gpt.pretraining import demo_config, pretrain
from gpt.training import Trainer, TrainingConfig

from . import adaptation, dpo_run, instruct, pairs, ppo_run, reward_run
from .adaptation import AdaptationConfig, adapt, merge_run
from .datasets import Example, write_jsonl
from .dpo_run import DPOConfig, prefer
from .instruct import SFTConfig
from .ppo_run import PPORunConfig, reinforce
from .ppo_training import PPOConfig
from .quantization import QuantizationConfig, quantize
from .quantization.folder import save_quantized
from .reward_run import RewardConfig, learn_rewards
from .tasks import preference_pairs

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


def stages_of(config: PipelineConfig, device: str) -> list[Stage]:
    """The stages, with the settings that the scripts have as defaults; with `short` a twentieth of the steps."""

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
    sft = SFTConfig(folder("pretrained"), out_dir=folder("sft"), seed=seed, training=training(800, 1e-3, 50))
    reward = RewardConfig(folder("sft"), out_dir=folder("reward"), seed=seed, training=training(100, 5e-4, 20))
    dpo = DPOConfig(folder("sft"), out_dir=folder("dpo"), seed=seed, training=training(60, 1e-4, 10))
    ppo = PPORunConfig(
        folder("sft"),
        folder("reward"),
        out_dir=folder("ppo"),
        seed=seed,
        ppo=PPOConfig(total_iterations=2 if config.short else 16),
        training=TrainingConfig(learning_rate=1e-4, warmup_iters=8, weight_decay=0.0, eval_interval=8),
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
    preferences = preference_pairs("train", pairs.TRAIN_PAIRS, config.seed)
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
