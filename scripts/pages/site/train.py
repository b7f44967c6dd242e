"""What the page that trains (train.js) asks of Python: to begin a run, to go on with it, and to pack its model."""

import base64
import io
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from gpt import GPT, GPTConfig, Tokenizer
from gpt.corpora.stories import stories
from gpt.training.batches import EpochBatches, encode_parts
from gpt.training.evaluation import baseline_losses, held_out_loss
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import language_model_loss, training_step
from minigrad import manual_seed, use_kernels

VOCAB_SIZE, BATCH_SIZE, BLOCK_SIZE = 512, 8, 64
LONGEST = 1_000_000  # characters of a text
HELD_OUT = 4096  # tokens of the last tenth of a text that are evaluated
EVALUATE_EVERY, SAMPLE_EVERY = 25, 100  # steps
# Layers, heads, width; and the seconds of 100 steps, as measured in Pyodide on one core of a server.
SIZES = {"small": (1, 2, 32, 5), "medium": (2, 4, 64, 15), "large": (4, 4, 96, 50)}


def shape(size: str, vocab_size: int = VOCAB_SIZE) -> GPTConfig:
    """The model of a size."""
    n_layer, n_head, n_embd, _ = SIZES[size]
    return GPTConfig(vocab_size=vocab_size, block_size=BLOCK_SIZE, n_layer=n_layer, n_head=n_head, n_embd=n_embd)


def start() -> dict[str, Any]:
    """What the page begins with: our stories as a text, and the sizes."""
    sizes = [{"name": name, "parameters": shape(name).num_parameters(), "seconds": SIZES[name][-1]} for name in SIZES]
    return {"text": stories(characters=100_000), "sizes": sizes}


class Training:
    """A run: a new model, which learns a text in as many calls of `go` as somebody likes."""

    def __init__(self, text: str, size: str):
        if len(text) > LONGEST:
            raise ValueError(f"The text has {len(text):,} characters; give at most {LONGEST:,}.")
        text = text.ljust(10)  # a part for training and one to hold out, neither empty
        use_kernels("fast")
        manual_seed(0)
        self.tokenizer = Tokenizer.train([text], VOCAB_SIZE)
        parts = encode_parts(text, self.tokenizer)
        self.tokens, self.held_out = parts["train"], parts["val"][:HELD_OUT]
        if len(self.tokens) < BATCH_SIZE * BLOCK_SIZE or len(self.held_out) < 2:
            raise ValueError(
                f"The text is too short to learn from: it has {len(self.tokens):,} tokens, and a single step reads "
                f"{BATCH_SIZE * BLOCK_SIZE}. About 3,000 characters are enough to try it, and 100,000 are better."
            )
        self.model = GPT(shape(size, len(self.tokenizer)))
        # The rate stays as it is after the warm-up: the page sets it.
        config = TrainingConfig(max_iters=1_000_000, warmup_iters=20, min_lr_ratio=1.0)
        self.optimizer, self.schedule = prepare_training(self.model, config)
        self.batches = EpochBatches(self.tokens, BATCH_SIZE, BLOCK_SIZE)
        first = text.strip()[:100]
        self.prompt = first[:20].rpartition(" ")[0] or first[:20]
        self.beginning = self.tokenizer.decode(self.tokenizer.encode(first)[:32]).rstrip("\ufffd ")
        self.steps = 0

    def go(self, seconds: float, lr: float) -> dict[str, Any]:
        """Train for about this time. Returns the loss of each step; [step, loss] of held-out text, [step, sample]."""
        self.schedule.peaks = [lr] * len(self.schedule.peaks)
        losses = []
        held_out = []
        samples = []
        spent = 0.0
        while spent < seconds:
            if self.steps % EVALUATE_EVERY == 0:
                loss = held_out_loss(self.model, self.held_out, BATCH_SIZE, BLOCK_SIZE)["val_loss"]
                held_out.append([self.steps, loss])
            if self.steps % SAMPLE_EVERY == 0 or self.steps in (25, 50):
                samples.append([self.steps, self.write()])
            self.model.train()
            start = time.perf_counter()
            batches = [next(self.batches)]
            step = training_step(self.model, batches, language_model_loss, self.optimizer, self.schedule, max_norm=1.0)
            if step.skipped:
                raise FloatingPointError("The loss is no longer a finite number: start over with a lower rate.")
            spent += time.perf_counter() - start
            self.steps += 1
            losses.append(step.loss)
        return {"losses": losses, "held_out": held_out, "samples": samples, "seconds": spent / len(losses)}

    def write(self) -> str:
        """How the model goes on with the first words of the text."""
        ids = self.tokenizer.encode(self.prompt)
        return self.tokenizer.decode(ids + self.model.generate([ids], 50, temperature=0.8, seed=0)[0])


runs: dict[int, Training] = {}  # one: the last that began


def begin(run: int, text: str, size: str) -> dict[str, Any]:
    """Begin a run, in the place of the one before."""
    made = Training(text, size)
    runs.clear()
    runs[run] = made
    baselines = baseline_losses(made.tokens, made.held_out, len(made.tokenizer))
    counts = {"vocabulary": len(made.tokenizer), "tokens": len(made.tokens), "held": len(made.held_out)}
    words = {"prompt": made.prompt, "beginning": made.beginning}
    return {"parameters": made.model.config.num_parameters(), **counts, **words, "baselines": baselines}


def go(run: int, seconds: float, lr: float) -> dict[str, Any]:
    """Go on with a run: see `Training.go`."""
    return runs[run].go(seconds, lr)


def pack(run: int) -> dict[str, Any]:
    """The model and its tokenizer, as a zip of a folder that `load_model` and transformers read."""
    with tempfile.TemporaryDirectory() as folder:
        runs[run].model.save_pretrained(folder, runs[run].tokenizer)
        return {"base64": base64.b64encode(zipped(folder)).decode("ascii")}


def zipped(folder: str) -> bytes:
    """The files of a folder as a zip."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(Path(folder).iterdir()):
            archive.write(path, path.name)
    return data.getvalue()
