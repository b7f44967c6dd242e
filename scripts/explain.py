"""One training step as one page: every op, forward and back, with its code, its numbers, and what they depend on."""

import itertools
import time
from pathlib import Path
from typing import Any

from start import command_line

import numpy as np

from finetune.data.datasets import IGNORE
from finetune.data.pairs import EncodedReply, Pair, pair_batch
from finetune.objectives.dpo import dpo_batch_loss, with_reference
from finetune.objectives.logprobs import selected_logprobs
from finetune.objectives.ppo import ppo_loss
from finetune.objectives.rollout import PolicyWithValue, TokenPositions
from finetune.objectives.sft import sft_loss
from gpt import GPT, GPTConfig
from gpt.files import write_text
from gpt.training.loading import load_model
from minigrad import manual_seed, no_grad, optim
from minigrad.inspection import Recording, record
from scripts.pages.explain_data import LIMITS, explain_data
from scripts.shared.web_page import page_of_data

EXAMPLES = """examples:
  python scripts/explain.py                                    the step of scripts/step.py: runs/explain/step.html
  python scripts/explain.py --model runs/demo --text "Once upon a time"
  python scripts/explain.py --model runs/sft --stage sft --text "What is 1 + 1?| 2"          prompt|reply
  python scripts/explain.py --stage dpo --model runs/sft --text "What is 1 + 1?| 2| a fish"  prompt|better|worse
A recording keeps at most 256 MB of arrays. The page says which arrays it summarizes because they are large.
"""
TEXTS = {"pretraining": "some text", "sft": "prompt|reply", "dpo": "prompt|better|worse", "ppo": "prompt|reply"}
# What scripts/step.py's model reads.
TINY = {"pretraining": "3 1 4 1", "sft": "3|1 4", "dpo": "3|1 4|2 5", "ppo": "3|1 4"}


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add = parser.add_argument
    add("--model", help=f"{command_line.SOURCES}; without one, the model of scripts/step.py")
    add("--text", default=None, help="what the model learns from; sft, dpo and ppo take parts separated by |")
    add("--stage", choices=list(TEXTS), default="pretraining", help="the stage whose loss the step reduces")
    add("--learning-rate", type=float, default=0.1, help="of AdamW")
    add("--out-dir", default="runs/explain", help="folder for the page")
    arguments = parser.parse_args(argv)
    if (arguments.model is None) != (arguments.text is None):
        parser.error("--model and --text go together")
    stage, lr = arguments.stage, arguments.learning_rate
    began = time.perf_counter()
    model, parts, vocabulary = prepared(arguments.model, arguments.text or TINY[stage], stage)
    recording, ids = take_step(model, stage, parts, lr)
    seconds = time.perf_counter() - began
    data = explain_data(recording, title_of(stage, arguments.model), ids, vocabulary)
    path = Path(arguments.out_dir) / f"{'step' if stage == 'pretraining' else stage}.html"
    write_text(path, page_of_data("explain.html explain.js", data["title"], data))
    print(f"{len(recording.calls)} ops, {recording.bytes / 1e6:.1f} MB of arrays, recorded in {seconds:.1f} s")
    print(f"page: {path.as_posix()} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def tiny_gpt(**sizes: int) -> GPT:
    """The model of scripts/step.py, with the same weights, or one of other sizes."""
    manual_seed(0)
    own = {"vocab_size": 8, "n_embd": 4, "block_size": 3, "n_layer": 1, "n_head": 2}
    return GPT(GPTConfig.from_dict({**own, **sizes}))


def prepared(source: str | None, text: str, stage: str, **sizes: int) -> tuple[Any, list[list[int]], list[str]]:
    """A model, the tokens of each part of a text, and the texts of all tokens.

    source: of a trained model; without one, it is a tiny GPT of these sizes, which reads token ids. Raises ValueError
    for a text that does not fit.
    """
    parts = split_text(text, stage)
    if source:
        model, tokenizer = load_model(source, trainable=True)
        vocabulary = [tokenizer.decode([i]) for i in range(len(tokenizer))]
        return model, [tokenizer.encode(part) for part in parts], vocabulary
    tiny = tiny_gpt(**sizes)
    vocabulary = [str(i) for i in range(tiny.config.vocab_size)]
    words = [part.replace(",", " ").split() for part in parts]
    for word in itertools.chain(*words):
        if word not in vocabulary:
            raise ValueError(f"{word!r} is not a token: the vocabulary has the ids 0 to {len(vocabulary) - 1}")
    return tiny, [[int(word) for word in part] for part in words], vocabulary


def title_of(stage: str, model: str | None) -> str:
    return f"One step of {'pretraining' if stage == 'pretraining' else stage.upper()}: {model or 'a tiny GPT'}"


def split_text(text: str, stage: str) -> list[str]:
    """The parts of --text. Raises ValueError for another number of them than the stage needs."""
    parts = [text] if stage == "pretraining" else text.split("|")
    if len(parts) != len(TEXTS[stage].split("|")) or not all(parts):
        raise ValueError(f"--stage {stage} needs --text '{TEXTS[stage]}', got {text!r}")
    return parts


def take_step(model: Any, stage: str, parts: list[list[int]], lr: float) -> tuple[Recording, list[int]]:
    """Record one step of AdamW with clipping; returns the recording and the tokens that were read."""
    prompt, reply, *worse = [*parts, []] if stage == "pretraining" else parts  # a text alone has no reply
    ids = [*prompt, *reply]
    longest = max(len(ids), len(prompt) + max(map(len, worse), default=0))
    most = model.config.block_size + (stage != "ppo")  # the last token is not read where it is only a target
    if len(ids) < 2 or longest > most:
        raise ValueError(f"the text must have 2 to {most} tokens; it has {len(ids) if len(ids) < 2 else longest}")
    trained = model
    loss: Any
    if stage == "dpo":
        pair = Pair(*(EncodedReply([*prompt, *r], [False] * len(prompt) + [True] * len(r)) for r in (reply, worse[0])))
        batch = pair_batch(with_reference(model, [pair]))
    if stage == "ppo":
        trained = PolicyWithValue(model)
        positions = TokenPositions.of(np.array([len(prompt)]), np.ones((1, len(reply)), bool))
        tokens, drawn = np.array([ids]), np.array(reply)
        with no_grad():  # the policy that drew the reply is the model before the step
            old = selected_logprobs(trained(tokens, positions)[0], drawn).data
        advantages = np.linspace(-1, 1, len(reply))  # as if each token was better than the one before it
    optimizer = optim.AdamW(trained.parameters(), lr=lr)
    with record(largest=LIMITS[0]) as recording:  # larger arrays are only summarized on a page
        if stage == "pretraining":
            loss = model.loss(np.array([ids[:-1]]), np.array([ids[1:]]))
        elif stage == "sft":
            targets = np.array([[IGNORE] * (len(prompt) - 1) + reply])
            total, count, _ = sft_loss(model, (np.array([ids[:-1]]), targets))
            loss = total / count
        elif stage == "dpo":
            total, count, _ = dpo_batch_loss(model, batch)
            loss = total / count
        else:
            logits, values = trained(tokens, positions)
            new, before = selected_logprobs(logits, drawn), np.zeros(len(reply))
            losses, _, _ = ppo_loss(new, values, old, before, advantages, advantages)
            loss = losses.mean()
        loss.backward()
    recording.update(optimizer, trained, max_norm=1.0)
    return recording, ids


if __name__ == "__main__":
    command_line.run(main)
