"""Train a small GPT with a classic bug beside a healthy one: see the loss, a text sample, and the check that finds it.

These bugs do not crash: the model trains, and learns something.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from start import command_line

import numpy as np

import minigrad.functional as F
from finetune.data.chat_template import ChatTemplate, Message, add_chat_tokens
from finetune.objectives.grpo import group_advantages, grpo_loss
from finetune.objectives.logprobs import selected_logprobs
from gpt import GPT, Tokenizer
from gpt.console import printable
from gpt.files import make_folder
from gpt.interpretability.heads import recorded_attention
from gpt.model.gpt2 import Block
from gpt.model.moe import mixtures, use_experts, with_balance
from gpt.training.batches import RandomBatches
from gpt.training.training_step import language_model_loss
from minigrad import GradcheckError, gradcheck, no_grad, optim, use_kernels
from scripts.course.lessons import bugs
from scripts.course.lessons.small_gpt import english, new_gpt, smooth, train, write
from scripts.course.pictures import picture, use_one_core
from scripts.shared.verification import Comparison, trace

EXAMPLES = """examples:
  python scripts/break.py no_mask     one bug: loss curves in runs/break/no_mask.svg, samples, and the check
  python scripts/break.py all         all bugs, and a table
"""
STEPS = 350


@dataclasses.dataclass(frozen=True)
class Bug:
    """A mistake (most are in bugs.py) and the check that finds it.

    title: what is wrong. check: returns a sentence about the bug, or "" if it finds nothing. change: applied to a new
    model. patch: active while the model trains, generates and is checked. batches: the class that makes batches.
    loss_fn: what is trained. n_head, n_embd: of the model. beside: the same without the mistake; None: HEALTHY.
    """

    title: str
    check: Callable[[Bug], str]
    change: Callable[[GPT], None] = lambda model: None
    patch: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    batches: Any = RandomBatches
    loss_fn: Any = language_model_loss
    n_head: int = 4
    n_embd: int = 64
    beside: Bug | None = None

    def model(self) -> GPT:
        model = new_gpt(n_head=self.n_head, n_embd=self.n_embd, block_size=16)
        self.change(model)
        return model


HEALTHY = Bug("healthy", lambda bug: "")
ONE_HEAD = dataclasses.replace(HEALTHY, n_head=1, n_embd=128)
EXPERTS = dataclasses.replace(HEALTHY, change=use_experts, loss_fn=with_balance(language_model_loss))


# --- the checks: those of the project's tests, run on the broken model  -----------------------------------------------


def no_token_sees_a_later_one(bug: Bug) -> str:
    """tests/gpt/test_model.py: changing the last token must not change earlier predictions."""
    ids = np.arange(1, 9)[None]
    changed = ids.copy()
    changed[0, -1] = 100
    model = bug.model()
    with bug.patch(), no_grad():
        moved = np.abs(model(ids).data - model(changed).data)[0, :-1].max()
    return f"changing the last token moves earlier predictions by {moved:.4f}" if moved > 0 else ""


def same_as_reference(bug: Bug) -> str:
    """scripts/shared/verification.py: compare every activation with that of a correct model with the same weights."""
    model = HEALTHY.model()
    ids = np.arange(1, 17)[None]
    rng = np.random.default_rng(0)
    for p in model.parameters():  # large enough for every mistake to show
        p.data[...] = 0.3 * rng.standard_normal(p.shape)
    reference = trace(model, ids[:, :-1], ids[:, 1:])
    bug.change(model)
    with bug.patch():
        broken = trace(model, ids[:, :-1], ids[:, 1:])
    return Comparison(broken, reference, model.config, tolerance=1e-3).problem() or ""


def counted_as_expected(bug: Bug) -> str:
    """tests/gpt/test_model.py: compare the number of parameters with the closed formula."""
    model = bug.model()
    built, expected = model.num_parameters(), model.config.num_parameters()
    return f"{built:,} parameters, but the formula gives {expected:,}" if built != expected else ""


def gradients_are_right(bug: Bug) -> str:
    """minigrad/gradcheck/check.py: compare backward with finite differences; the result is a diagnosis."""
    x = np.random.default_rng(0).standard_normal((5, 3))
    try:
        with bug.patch():
            gradcheck(lambda weight: F.embedding(np.array([1, 3, 1]), weight), x)
            gradcheck(lambda x: F.gelu(x, "tanh"), x)
    except GradcheckError as error:
        return next(line for line in str(error).splitlines() if line.startswith("diagnosis"))
    return ""


def targets_are_the_next_tokens(bug: Bug) -> str:
    """tests/gpt/test_data.py: target t is input t + 1."""
    inputs, targets = next(bug.batches(english()[1], 4, 16))
    if (inputs[:, 1:] == targets[:, :-1]).all():
        return ""
    return "targets[:, :-1] are not inputs[:, 1:]" + (": they are the inputs" if (inputs == targets).all() else "")


def every_expert_is_used(bug: Bug) -> str:
    """tests/gpt/test_moe.py: count the choices that fall on each expert, after a few steps of training."""
    model = bug.model()
    train(model, english()[1], 60, learning_rate=1.5e-3, loss_fn=bug.loss_fn)
    counts = np.sort(mixtures(model)[0].counts)
    share = counts[-2:].sum() / counts.sum()
    return f"two of {len(counts)} experts get {share:.0%} of the choices" if share > 0.9 else ""


# fmt: off
BUGS = {
    "no_mask": Bug("attention sees later tokens", no_token_sees_a_later_one,
                   patch=lambda: mock.patch.object(F, "scaled_dot_product_attention", bugs.unmasked)),
    "no_scale": Bug("attention scores are not divided by sqrt(D)", same_as_reference,
                    patch=lambda: mock.patch.object(F, "scaled_dot_product_attention", bugs.unscaled),
                    n_head=1, n_embd=128, beside=ONE_HEAD),  # D = 128: with 16, scores stay small
    "no_residual": Bug("sub-layers replace x instead of adding to it", same_as_reference,
                       patch=lambda: mock.patch.object(Block, "forward", bugs.without_residual)),
    # Its loss may even be lower than the healthy model's. Lesson 4.2.6 shows why.
    "no_positions": Bug("there are no position embeddings (a causal model can count tokens by its mask)",
                        same_as_reference, change=bugs.drop_positions),
    "no_tying": Bug("the head is not tied to the embedding", counted_as_expected, change=bugs.untie),
    "overwrite": Bug("= instead of += in the backward of the embedding", gradients_are_right,
                     patch=lambda: use_kernels({"embedding": bugs.OverwritingEmbedding})),
    "flipped_sign": Bug("the backward of GELU has the wrong sign", gradients_are_right,
                        patch=lambda: use_kernels({"gelu": bugs.FlippedGelu})),
    "unshifted": Bug("targets are the inputs, not the next tokens", targets_are_the_next_tokens,
                     batches=bugs.Unshifted),
    "collapsed_router": Bug("the balancing loss of a mixture of experts has the wrong sign", every_expert_is_used,
                            change=use_experts, loss_fn=with_balance(language_model_loss, -0.01), beside=EXPERTS),
}
# fmt: on
TITLES = {name: bug.title for name, bug in BUGS.items()} | {
    "wrong_template": "asked in a template that it was not trained on",
    "mixed_groups": "GRPO compares answers to different questions: np.tile instead of np.repeat",
}

# --- running them -----------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """Final losses and texts of the broken and the healthy model; what the check found, and where the check is.

    entropies: of the attention of both, where they are two models of the same shape.
    """

    loss: float
    healthy_loss: float
    text: str
    healthy_text: str
    found: str
    check: str
    entropies: tuple[float, float] | None = None


def attention_entropy(model: GPT) -> float:
    """The mean entropy of the attention weights, in nats: how widely attention looks. 0: at one token only."""
    with no_grad(), recorded_attention() as layers:
        model(english()[2][:160].reshape(-1, 16))
    return float(np.mean([-(weights * np.log(weights + 1e-30)).sum(axis=-1).mean() for weights in layers]))


def learn(bug: Bug) -> tuple[np.ndarray, str, float]:
    """Train with a bug: the smoothed loss of each step, what the model then writes, and its attention's entropy."""
    tokenizer, tokens, _ = english()
    model = bug.model()
    with bug.patch():
        losses = train(model, tokens, STEPS, learning_rate=1.5e-3, batches=bug.batches, loss_fn=bug.loss_fn)
        return smooth(losses), write(model, tokenizer, "The value", 24), attention_entropy(model)


healthy = functools.cache(learn)  # several bugs have the same model beside them


def run_bug(name: str, out_dir: Path) -> Result:
    bug = BUGS[name]
    curve, text, entropy = learn(bug)
    healthy_curve, healthy_text, healthy_entropy = healthy(bug.beside or HEALTHY)
    draw(out_dir, name, healthy_curve, curve, xlabel="step", ylabel="loss (nats per token), smoothed", ylim=(0, None))
    where = (bug.check.__doc__ or "").partition(":")[0]
    return Result(curve[-1], healthy_curve[-1], text, healthy_text, bug.check(bug), where, (entropy, healthy_entropy))


def draw(out_dir: Path, name: str, healthy_curve: np.ndarray, curve: np.ndarray, **labels: Any) -> None:
    with picture(out_dir, name, f"{name}: {TITLES[name]}") as axes:
        axes.plot(healthy_curve, "-", color="black", label="healthy")
        axes.plot(curve, "--", color="black", label=name)
        axes.set(**labels)


FACTS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "gold": "yellow", "sky": "blue"}


def run_wrong_template(out_dir: Path) -> Result:
    """Train six answers in ChatML, then ask the questions in ChatML and in another model's template."""
    base, *_ = english()
    tokenizer = Tokenizer(base.vocab, base.merges)
    model = new_gpt()
    add_chat_tokens(model, tokenizer)
    template = ChatTemplate(tokenizer)
    chats: list[list[Message]] = [
        [{"role": "user", "content": f"What color is {thing}?"}, {"role": "assistant", "content": color}]
        for thing, color in FACTS.items()
    ]
    encoded = [template.encode(chat)[0] for chat in chats]
    ids = np.concatenate([encoded[i] for i in np.random.default_rng(0).integers(len(encoded), size=1500)])
    curve = smooth(train(model, ids, STEPS))

    def answers(prompts: list[list[int]]) -> list[str]:
        new = [model.generate([ids], 6, temperature=0, stop_tokens=template.stop_tokens)[0] for ids in prompts]
        return [printable(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in new]

    right = [template.encode([question], add_generation_prompt=True)[0] for question, _ in chats]
    wrong = [tokenizer.encode(f"### Instruction: {question['content']}\n### Response:") for question, _ in chats]
    asked = {"ChatML, as trained": answers(right), "another template": answers(wrong)}
    shares = [float(np.mean(np.equal(given, list(FACTS.values())))) for given in asked.values()]
    with picture(out_dir, "wrong_template", f"wrong_template: {TITLES['wrong_template']}") as axes:
        axes.bar(list(asked), shares, color="0.8", edgecolor="black")
        axes.set(ylabel="share of right answers", ylim=(0, 1.05))
    starts_alike = encoded[0][: len(wrong[0])] == wrong[0]
    found = "" if starts_alike else "the prompt does not start like the training data"
    healthy_text, text = (" / ".join(given) for given in asked.values())
    return Result(curve[-1], curve[-1], text, healthy_text, found, "tests/finetune/test_chat.py")


QUESTIONS, ANSWERS, ROUNDS = 8, 8, 80


def learn_answers(arrange: Callable[[np.ndarray, int], np.ndarray]) -> tuple[np.ndarray, str, int]:
    """GRPO on one-token questions, half of them hard (one right answer in 32), half easy (24).

    Returns the share of wrong answers to the hard ones in each round, smoothed; the model's answers to them at the end;
    and to how many questions the answers in a group belong.
    """
    model = new_gpt(32, n_layer=1, n_embd=32, block_size=4)
    rng = np.random.default_rng(0)
    wrong = []
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    asked = arrange(np.arange(QUESTIONS), ANSWERS)  # (Q G)
    right = np.where(asked < QUESTIONS // 2, 1, 24)  # how many answers to each are right
    for _ in range(ROUNDS):
        logits = model(asked[:, None])[:, -1]
        sums = np.cumsum(F.softmax(logits.detach(), -1).data, axis=-1)
        drawn = np.minimum((sums < rng.random((len(asked), 1))).sum(axis=1), 31)
        rewards = ((drawn - asked) % 32 < right).astype(float)
        advantages = group_advantages(rewards.reshape(QUESTIONS, ANSWERS)).reshape(-1)
        logprobs = selected_logprobs(logits, drawn)
        model.zero_grad()
        grpo_loss(logprobs, logprobs.data, advantages, np.ones(len(asked))).mean().backward()
        optimizer.step()
        wrong.append(1 - rewards[right == 1].mean())
    best = model(np.arange(QUESTIONS // 2)[:, None])[:, -1].data.argmax(axis=-1)
    return smooth(wrong), " ".join(map(str, best)), len(set(asked[:ANSWERS]))


def run_mixed_groups(out_dir: Path) -> Result:
    """The loss is the share of wrong answers; what the models write are their answers to the four hard questions."""
    healthy_curve, healthy_text, _ = learn_answers(np.repeat)
    curve, text, questions = learn_answers(np.tile)
    labels = {"xlabel": "round", "ylabel": "wrong answers to hard questions (share), smoothed"}
    draw(out_dir, "mixed_groups", healthy_curve, curve, **labels, ylim=(0, 1.05))
    found = f"a group holds answers to {questions} different questions" if questions > 1 else ""
    return Result(curve[-1], healthy_curve[-1], text, healthy_text, found, "tests/finetune/test_grpo_training.py")


RUNNERS = {"wrong_template": run_wrong_template, "mixed_groups": run_mixed_groups}


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    parser.add_argument("name", nargs="?", choices=[*TITLES, "all"], metavar="NAME|all", help=", ".join(TITLES))
    parser.add_argument("--out-dir", default="runs/break", help="folder for the pictures")
    arguments = parser.parse_args(argv)
    if arguments.name is None:
        parser.error(f"name a bug: {', '.join(TITLES)}, or all")
    use_one_core()
    out_dir = Path(arguments.out_dir)
    make_folder(out_dir)
    results = {}
    for name in TITLES if arguments.name == "all" else [arguments.name]:
        results[name] = result = RUNNERS[name](out_dir) if name in RUNNERS else run_bug(name, out_dir)
        print(f"\n{name}: {TITLES[name]}")
        print(f"  loss      {result.loss:.2f}, healthy {result.healthy_loss:.2f}")
        if result.entropies is not None:
            print("  attention entropy {:.2f} nats, healthy {:.2f}".format(*result.entropies))
        print(f"  writes    {result.text}\n  healthy   {result.healthy_text}")
        print(f"  found by  {result.check}: {result.found or 'NOT FOUND'}", flush=True)
    if arguments.name == "all":
        print(f"\n{'bug':16}{'loss':>6}{'healthy':>9}  found by")
        for name, result in results.items():
            by = result.check if result.found else "NOTHING"
            print(f"{name:16}{result.loss:6.2f}{result.healthy_loss:9.2f}  {by}")
        print("the loss alone reveals few of them: some bugs lower it, and others hardly change it in so few steps")
    return 0 if all(result.found for result in results.values()) else 1


if __name__ == "__main__":
    command_line.run(main)
