"""The stages of the pipeline: what is trained with which settings, and what each stage starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from gpt.files import write_text
from gpt.training import pretraining
from gpt.training.batches import prepare
from gpt.training.checkpoint import remove_checkpoint, save_checkpoint
from gpt.training.corpora import load_corpus
from gpt.training.loading import load_model
from gpt.training.pretraining import demo_config, pretrain
from gpt.training.trainer import Trainer, TrainingConfig

from ..data import pairs
from ..data.datasets import Example, write_jsonl
from ..data.tasks import instruction_tasks, preference_pairs
from ..quantization import QuantizationConfig, quantize
from ..quantization.folder import save_quantized
from . import adaptation
from . import dpo as dpo_stage
from . import ppo as ppo_stage
from . import reward as reward_stage
from . import sft as sft_stage
from .adaptation import AdaptationConfig, adapt, merge_run
from .dpo import DPOConfig, prefer
from .ppo import PPORunConfig, reinforce
from .ppo_loop import PPOConfig
from .reward import RewardConfig, learn_rewards
from .sft import SFTConfig

MEASURED_ON, MEASURED_CHARACTERS = "english", 40_000  # the last ones: text for a model that was trained elsewhere
MERGED = "merged"  # in the folder of the LoRA stage: the model with its adapters merged


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """The pipeline's settings.

    init_from: a trained model to start from (`gpt.training.loading.load_model`), in the place of pretraining. short: a
    small model and few steps, to see whether all works. ppo: reinforce, too.
    """

    init_from: str | None = None
    out_dir: str = "runs/pipeline"
    short: bool = False
    ppo: bool = False
    seed: int = 1337


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much a pipeline learns from: steps and rate per stage, sequences (or pairs) per step, and the data.

    examples: conversations and pairs of a smaller set; None: the built-in data as the stages' scripts take them.
    """

    sft: tuple[int, float]
    reward: tuple[int, float]
    dpo: tuple[int, float]
    lora: tuple[int, float]
    ppo_iterations: int
    batch_size: int = 32
    examples: int | None = None


OWN = Amount(sft=(800, 1e-3), reward=(100, 5e-4), dpo=(60, 1e-4), lora=(100, 2e-3), ppo_iterations=16)
# A model that is trained already knows most of it, and one that is large needs its time: fewer and smaller steps.
TRAINED = Amount(
    sft=(120, 1e-4), reward=(60, 1e-4), dpo=(40, 2e-5), lora=(60, 1e-3), ppo_iterations=4, batch_size=8, examples=800
)


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
    amount = OWN if config.init_from is None else TRAINED

    def folder(name: str) -> str:
        return (Path(config.out_dir) / name).as_posix()

    def by(run: Callable[[], Trainer]) -> Callable[[], bool]:
        return lambda: not run().interrupted

    def data(name: str) -> str:
        return "tasks" if amount.examples is None else (Path(config.out_dir) / f"{name}.jsonl").as_posix()

    def training(steps: int, learning_rate: float, warmup: int) -> TrainingConfig:
        steps = max(steps // 20, 2) if config.short else steps
        return TrainingConfig(
            max_iters=steps,
            learning_rate=learning_rate,
            warmup_iters=min(warmup, steps // 5),
            weight_decay=0.0,
            eval_interval=steps // 2,
            log_interval=max(steps // 20, 1),
        )

    seed, size = config.seed, amount.batch_size
    sft = SFTConfig(
        folder("pretrained"), data("conversations"), folder("sft"), size, seed, training=training(*amount.sft, 50)
    )
    reward = RewardConfig(
        folder("sft"), data("pairs"), folder("reward"), size, seed, training=training(*amount.reward, 20)
    )
    dpo = DPOConfig(
        folder("sft"), data("pairs"), folder("dpo"), batch_size=size, seed=seed, training=training(*amount.dpo, 10)
    )
    ppo = PPORunConfig(
        folder("sft"),
        folder("reward"),
        data("conversations"),
        folder("ppo"),
        seed=seed,
        ppo=PPOConfig(total_iterations=2 if config.short else amount.ppo_iterations),
        training=TrainingConfig(learning_rate=1e-4, warmup_iters=8, weight_decay=0.0, eval_interval=8),
    )
    preferred = (Path(config.out_dir) / "preferred.jsonl").as_posix()
    lora = AdaptationConfig(
        folder("sft"), preferred, folder("lora"), batch_size=size, seed=seed, training=training(*amount.lora, 10)
    )
    stages = [
        _base_stage(config, amount, folder("pretrained"), device),
        Stage(
            "sft",
            ("pretrained",),
            "to answer questions, from conversations",
            by(lambda: sft_stage.instruct(sft, device)),
            by(lambda: sft_stage.resume(folder("sft"), device)),
        ),
        Stage(
            "reward",
            ("sft",),
            "which of two replies is better, from pairs: the reward model",
            by(lambda: learn_rewards(reward, device)),
            by(lambda: reward_stage.resume(folder("reward"), device)),
        ),
        Stage(
            "dpo",
            ("sft",),
            "to reply as is preferred, from the same pairs",
            by(lambda: prefer(dpo, device)),
            by(lambda: dpo_stage.resume(folder("dpo"), device)),
        ),
        Stage(
            "ppo",
            ("sft", "reward"),
            "to reply as the reward model likes, from its own replies",
            by(lambda: reinforce(ppo, device)),
            by(lambda: ppo_stage.resume(folder("ppo"), device)),
        ),
        Stage(
            "lora",
            ("sft",),
            "the preferred replies alone, with adapters of low rank beside frozen weights; then merged",
            lambda: _adapt(lora, amount, lambda: adapt(lora, device)),
            lambda: _adapt(lora, amount, lambda: adaptation.resume(folder("lora"), device)),
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


def _base_stage(config: PipelineConfig, amount: Amount, folder: str, device: str) -> Stage:
    """Where the road begins: pretraining, or a model that somebody has trained."""
    if config.init_from is not None:
        source = config.init_from
        teaches = f"nothing: {source}, as it is"
        return Stage(
            "pretrained",
            (),
            teaches,
            lambda: _take_over(source, folder, amount, config.seed),
            lambda: _take_over(source, folder, amount, config.seed),
        )
    base = demo_config(config.short, folder, config.seed, made_by="pipeline")
    return Stage(
        "pretrained",
        (),
        "a tokenizer, and then the next token, from plain text",
        lambda: not pretrain(base, device).interrupted,
        lambda: not pretraining.resume(folder, device).interrupted,
    )


def _take_over(source: str, folder: str, amount: Amount, seed: int) -> bool:
    """A trained model as the first stage's run, with text to measure it on; and the data for the other stages."""
    model, tokenizer = load_model(source)
    tokenizer.save(folder)
    text = load_corpus(MEASURED_ON).text[-MEASURED_CHARACTERS:]
    prepare(text, tokenizer, Path(folder) / "data", validation_fraction=0.9)
    out_dir = Path(folder).parent
    if amount.examples is not None:
        examples = [item.example() for item in instruction_tasks("train", amount.examples, seed)]
        write_jsonl(out_dir / "conversations.jsonl", examples)
        write_jsonl(out_dir / "pairs.jsonl", preference_pairs("train", amount.examples, seed))
    _claim(Path(folder))
    save_checkpoint(folder, model, state={"seconds": 0.0})
    return True


def _adapt(config: AdaptationConfig, amount: Amount, run: Callable[[], Trainer]) -> bool:
    """LoRA on the replies that were preferred, without those that were not; and a folder with the merged model."""
    out_dir = Path(config.out_dir)
    preferences = preference_pairs("train", amount.examples or pairs.TRAIN_PAIRS, config.seed)
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
