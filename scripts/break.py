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
from gpt.training.batches import Batch, RandomBatches
from gpt.training.training_step import language_model_loss
from minigrad import GradcheckError, Tensor, gradcheck, nn, no_grad, optim, use_kernels
from minigrad.functional.activation import Gelu
from minigrad.functional.indexing import Embedding
from scripts.course.lessons.small_gpt import english, new_gpt, smooth, train, write
from scripts.course.pictures import picture, use_one_core
from scripts.shared.verification import Comparison, trace

EXAMPLES = """examples:
  python scripts/break.py no_mask     one bug: loss curves in runs/break/no_mask.svg, samples, and the check
  python scripts/break.py all         all bugs, and a table
"""
STEPS = 350
SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 16}
attention = F.scaled_dot_product_attention

# --- the bugs ---------------------------------------------------------------------------------------------------------


def unmasked(q: Tensor, k: Tensor, v: Tensor, mask: Any, dropout_p: float, causal: bool, **more: Any) -> Tensor:
    return attention(q, k, v, mask, dropout_p, **more)


def unscaled(q: Tensor, k: Tensor, v: Tensor, mask: Any, dropout_p: float, causal: bool, **more: Any) -> Tensor:
    return attention(q, k, v, mask, dropout_p, causal, scale=1.0, **more)


def without_residual(self: Block, x: Tensor, layer: int = 0, cache: Any = None, mask: Any = None) -> Tensor:
    return self.mlp(self.ln_2(self.attn(self.ln_1(x), layer, cache, mask)))


class OverwritingEmbedding(Embedding):
    """Backward with = instead of +=: only the last occurrence of a token counts."""

    @staticmethod
    def backward(ctx, dout):
        dweight = np.zeros(ctx.shape, dout.dtype)
        dweight[ctx.ids.reshape(-1)] = dout.reshape(ctx.ids.size, ctx.shape[1])
        return None, dweight


class FlippedGelu(Gelu):
    """Backward with the wrong sign: the MLP's first layer ascends the loss."""

    @staticmethod
    def backward(ctx, dout):
        (dx,) = Gelu.backward(ctx, dout)
        return (-dx,)


def drop_positions(model: GPT) -> None:
    (table,) = model.transformer.wpe.parameters()
    table.data[...] = 0
    table.requires_grad_(False)


def untie(model: GPT) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.data.copy())


class Unshifted(RandomBatches):
    """Targets that are the inputs."""

    def __next__(self) -> Batch:
        inputs, _ = super().__next__()
        return inputs, inputs


@dataclasses.dataclass(frozen=True)
class Bug:
    """A mistake and the check that finds it.

    title: what is wrong. check: returns a sentence about the bug, or "" if it finds nothing. change: applied to a new
    model. patch: active while the model trains, generates and is checked. batches: the class that makes batches.
    shape: of the model, where SHAPE would hide the bug. loss_fn: what is trained. beside: the same without the mistake;
    None: HEALTHY in this shape.
    """

    title: str
    check: Callable[[Bug], str]
    change: Callable[[GPT], None] = lambda model: None
    patch: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    batches: Any = RandomBatches
    shape: tuple[tuple[str, int], ...] = tuple(SHAPE.items())
    loss_fn: Any = language_model_loss
    beside: Bug | None = None

    def model(self) -> GPT:
        model = new_gpt(len(english()[0]), **dict(self.shape))
        self.change(model)
        return model


HEALTHY = Bug("healthy", lambda bug: "")
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
    ids, rng = np.array([1, 3, 1]), np.random.default_rng(0)
    try:
        with bug.patch():
            gradcheck(lambda weight: F.embedding(ids, weight), [rng.standard_normal((5, 3))])
            gradcheck(lambda x: F.gelu(x, "tanh"), [rng.standard_normal((2, 3))])
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
                   patch=lambda: mock.patch.object(F, "scaled_dot_product_attention", unmasked)),
    "no_scale": Bug("attention scores are not divided by sqrt(D)", same_as_reference,
                    patch=lambda: mock.patch.object(F, "scaled_dot_product_attention", unscaled),
                    shape=tuple({**SHAPE, "n_head": 1, "n_embd": 128}.items())),  # D = 128: with 16, scores stay small
    "no_residual": Bug("sub-layers replace x instead of adding to it", same_as_reference,
                       patch=lambda: mock.patch.object(Block, "forward", without_residual)),
    # Its loss may even be lower than the healthy model's. Lesson 4.2.6 shows why.
    "no_positions": Bug("there are no position embeddings (a causal model can count tokens by its mask)",
                        same_as_reference, change=drop_positions),
    "no_tying": Bug("the head is not tied to the embedding", counted_as_expected, change=untie),
    "overwrite": Bug("= instead of += in the backward of the embedding", gradients_are_right,
                     patch=lambda: use_kernels({"embedding": OverwritingEmbedding})),
    "flipped_sign": Bug("the backward of GELU has the wrong sign", gradients_are_right,
                        patch=lambda: use_kernels({"gelu": FlippedGelu})),
    "unshifted": Bug("targets are the inputs, not the next tokens", targets_are_the_next_tokens, batches=Unshifted),
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
    healthy_curve, healthy_text, healthy_entropy = healthy(bug.beside or dataclasses.replace(HEALTHY, shape=bug.shape))
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
    base, tokens, _ = english()
    tokenizer = Tokenizer(base.vocab, base.merges)
    model = new_gpt(len(tokenizer), n_layer=2, n_embd=64, block_size=32)
    add_chat_tokens(model, tokenizer)
    template = ChatTemplate(tokenizer)
    questions = {f"What color is {thing}?": answer for thing, answer in FACTS.items()}
    encoded = [template.encode(conversation(question, answer))[0] for question, answer in questions.items()]
    ids = np.concatenate([encoded[i] for i in np.random.default_rng(0).integers(len(encoded), size=1500)])
    curve = smooth(train(model, ids, STEPS))

    def answers(prompts: list[list[int]]) -> list[str]:
        new = [model.generate([ids], 6, temperature=0, stop_tokens=template.stop_tokens)[0] for ids in prompts]
        return [printable(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in new]

    right = [template.encode(conversation(question), add_generation_prompt=True)[0] for question in questions]
    wrong = [tokenizer.encode(f"### Instruction: {question}\n### Response:") for question in questions]
    asked = {"ChatML, as trained": answers(right), "another template": answers(wrong)}
    shares = [float(np.mean(np.equal(given, list(questions.values())))) for given in asked.values()]
    with picture(out_dir, "wrong_template", f"wrong_template: {TITLES['wrong_template']}") as axes:
        axes.bar(list(asked), shares, color="0.8", edgecolor="black")
        axes.set(ylabel="share of right answers", ylim=(0, 1.05))
    starts_alike = encoded[0][: len(wrong[0])] == wrong[0]
    found = "" if starts_alike else "the prompt does not start like the training data"
    healthy_text, text = (" / ".join(given) for given in asked.values())
    return Result(curve[-1], curve[-1], text, healthy_text, found, "tests/finetune/test_chat.py")


QUESTIONS, ANSWERS, ROUNDS = 8, 8, 80


def learn_answers(arrange: Callable[[np.ndarray, int], np.ndarray]) -> tuple[GPT, list[float], np.ndarray]:
    """GRPO on one-token questions, half of them hard (one right answer in 32), half easy (24): the model, the share of
    wrong answers to the hard ones in each round, and the questions as they were arranged in groups.
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
    return model, wrong, asked.reshape(QUESTIONS, ANSWERS)


def run_mixed_groups(out_dir: Path) -> Result:
    """The loss is the share of wrong answers; what the models write are their answers to the four hard questions."""
    runs = {name: learn_answers(arrange) for name, arrange in (("healthy", np.repeat), ("mixed_groups", np.tile))}
    healthy_curve, curve = (smooth(wrong) for _, wrong, _ in runs.values())
    labels = {"xlabel": "round", "ylabel": "wrong answers to hard questions (share), smoothed"}
    draw(out_dir, "mixed_groups", healthy_curve, curve, **labels, ylim=(0, 1.05))
    best = {name: run[0](np.arange(QUESTIONS // 2)[:, None])[:, -1].data.argmax(axis=-1) for name, run in runs.items()}
    healthy_text, text = (" ".join(map(str, ids)) for ids in best.values())
    most = max(len(set(group)) for group in runs["mixed_groups"][2].tolist())
    found = f"a group holds answers to {most} different questions" if most > 1 else ""
    return Result(curve[-1], healthy_curve[-1], text, healthy_text, found, "tests/finetune/test_grpo_training.py")


RUNNERS = {"wrong_template": run_wrong_template, "mixed_groups": run_mixed_groups}


def conversation(question: str, answer: str = "") -> list[Message]:
    asked: list[Message] = [{"role": "user", "content": question}]
    return [*asked, {"role": "assistant", "content": answer}] if answer else asked


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
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
