"""From a text to a model that writes: corpus -> tokenizer -> token files -> GPT -> training -> samples and a picture."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from minigrad import backend

from .checkpoint import has_checkpoint, load_checkpoint
from .config import GPTConfig
from .corpora import Corpus, load_corpus
from .data import RandomBatches, Tokens, open_tokens, prepare, sequential_batches
from .evaluation import baseline_losses, mean_loss
from .model import GPT
from .plots import plot_run
from .run_log import COLUMNS, show
from .tokenizer import Tokenizer
from .training import Trainer, TrainingConfig

EVAL_TOKENS = 16_384  # of the validation text, always the same ones


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """A pretraining run.

    data: a corpus name or a text file (`gpt.corpora.load_corpus`). vocab_size: of the tokenizer that is trained on it, or 50257 for GPT-2's
    own. model: the GPT's shape but for vocab_size. batch_size: sequences per batch. sample_tokens: length of the samples on the way.
    """

    data: str = "english"
    out_dir: str = "runs/train"
    vocab_size: int = 1024
    batch_size: int = 16
    seed: int = 1337
    sample_prompt: str = "The"
    sample_tokens: int = 80
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PretrainingConfig:
        return cls(**{**values, "training": TrainingConfig(**values["training"])})


def pretrain(config: PretrainingConfig, device: str = "cpu", init_from: str = "scratch") -> Trainer:
    """Train from "scratch", "resume" the run in `config.out_dir`, or start with the weights of another run's folder.

    Ctrl-C saves; the returned trainer's `interrupted` says so. Raises FileExistsError where "scratch" would overwrite a run.
    """
    out_dir = Path(config.out_dir)
    checkpoint = None
    if init_from == "resume":
        checkpoint = load_checkpoint(out_dir)
        saved = PretrainingConfig.from_dict(checkpoint.state["run"])
        config = dataclasses.replace(saved, out_dir=config.out_dir)
    elif has_checkpoint(out_dir):
        raise FileExistsError(
            f"{out_dir} holds a run already: go on with --init-from resume, choose another --out-dir, or delete the folder"
        )
    elif init_from != "scratch":
        checkpoint = load_checkpoint(init_from)

    tokenizer, train, validation, corpus = _data(config, out_dir, init_from)
    if checkpoint is not None:
        model = checkpoint.model
    else:
        model = GPT(GPTConfig(**{**config.model, "vocab_size": len(tokenizer)}))
    block_size = model.config.block_size
    model.to(device)
    baselines = baseline_losses(train, validation[:EVAL_TOKENS], len(tokenizer))
    _introduce(model, corpus, train, validation, baselines, config)

    trainer = Trainer(
        model,
        RandomBatches(train, config.batch_size, block_size, config.seed, len(tokenizer)),
        config.training,
        out_dir,
        evaluate=lambda: mean_loss(
            model, sequential_batches(validation[:EVAL_TOKENS], config.batch_size, block_size, len(tokenizer))
        ),
        on_sample=lambda step: show_sample(model, tokenizer, config.sample_prompt, config.sample_tokens, config.seed),
        extra_state={"run": dataclasses.asdict(config), "corpus_sha256": corpus.sha256, "baselines": baselines},
    )
    if init_from == "resume" and checkpoint is not None:
        if checkpoint.optimizer_state is None:
            raise ValueError(f"{out_dir} holds weights only, no optimiser state: it cannot be resumed; use --init-from {out_dir}")
        warning = trainer.load_state(checkpoint.optimizer_state, checkpoint.state)
        show(f"resuming {out_dir} at step {trainer.steps_done}" + (f"; note: {warning}" if warning else ""))
    trainer.run()
    _finish(trainer, tokenizer, baselines, config)
    return trainer


def _data(config: PretrainingConfig, out_dir: Path, init_from: str) -> tuple[Tokenizer, Tokens, Tokens, Corpus]:
    """The run's tokenizer and token files: made in its folder at first, read from there afterwards."""
    corpus = load_corpus(config.data)
    folder = out_dir / "data"
    if init_from == "resume":
        return Tokenizer.load(out_dir), open_tokens(folder / "train.bin"), open_tokens(folder / "val.bin"), corpus
    show(str(corpus))
    started = time.perf_counter()
    if init_from != "scratch":
        tokenizer = Tokenizer.load(init_from)
    elif config.vocab_size == 50257:
        tokenizer = Tokenizer.gpt2()
    else:
        tokenizer = Tokenizer.train([corpus.text], config.vocab_size)
    train, validation = prepare(corpus.text, tokenizer, folder)
    tokenizer.save(out_dir)
    ratio = len(corpus.text) / (len(train) + len(validation))
    show(f"tokenizer: {len(tokenizer):,} tokens, {ratio:.1f} characters each ({time.perf_counter() - started:.1f} s)")
    return tokenizer, train, validation, corpus


def _introduce(
    model: GPT, corpus: Corpus, train: Tokens, validation: Tokens, baselines: dict[str, float], config: PretrainingConfig
) -> None:
    c = model.config
    show(
        f"model: {model.num_parameters():,} parameters ({c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, "
        f"context of {c.block_size} tokens)"
    )
    show(f"data: {len(train):,} tokens to learn from, {len(validation):,} to test on; {backend.blas_threads()} threads")
    show("\nColumns:\n" + COLUMNS)
    marks = {"uniform": "knowing nothing (ln V)", "unigram": "knowing how frequent each token is", "bigram": "knowing one token before"}
    show("\nLosses to beat: " + ", ".join(f"{loss:.2f} {marks[name]}" for name, loss in baselines.items()) + "\n")


def show_sample(model: GPT, tokenizer: Tokenizer, prompt: str, tokens: int, seed: int) -> None:
    """Let the model write, as it is now."""
    ids = tokenizer.encode(prompt)
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    new = model.generate([ids], tokens, temperature=0.8, top_p=0.95, seed=seed, stop_tokens=end)[0]
    text = tokenizer.decode(ids + new, skip_special_tokens=True)
    show("\n    " + text.strip().replace("\n", "\n    ") + "\n")


def _finish(trainer: Trainer, tokenizer: Tokenizer, baselines: dict[str, float], config: PretrainingConfig) -> None:
    out_dir = trainer.out_dir
    if trainer.interrupted:
        show(f"interrupted and saved at step {trainer.steps_done}; go on with: --init-from resume --out-dir {out_dir}")
        return
    picture = plot_run(out_dir, {("knowing nothing" if name == "uniform" else name): loss for name, loss in baselines.items()})
    show(f"\ntrained {trainer.steps_done} steps, {trainer.tokens_seen:,} tokens, in {trainer.seconds:.0f} s; saved in {out_dir}")
    show(f"picture: {picture}" if picture else "no picture: matplotlib is not installed (pip install matplotlib)")
    show(f'let it write: python scripts/generate.py --model {out_dir} --prompt "{config.sample_prompt}"')
