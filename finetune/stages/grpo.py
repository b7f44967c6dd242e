"""GRPO: where code can check an answer, a model can find out by itself how to get it right.

The idea: the model answers the same question several times. Answers that are better than the others become more likely,
with all that was written on the way to them. That needs neither worked examples nor a reward model:

    roll out    the policy, the model that is trained, writes G answers to each question    (objectives/rollout.py)
    check       code says which of them are right: the reward r is 1 or 0                   (built_in/chains.py)
    compare     A_i = (r_i - mean(r)) / std(r), among the answers to one question           (objectives/grpo.py)
    update      a few optimizer steps, loss = -min(ratio A, clip(ratio) A)

If one of four answers is right, it has A = 1.5, and the others have -0.5. If all are right, or all are wrong, A is 0:
they teach nothing. ratio is p(token) now / p(token) when it was sampled, and clipping keeps one update from moving too
far.

The task is arithmetic in several steps. The policy first learns from worked examples (cold_start.py), of which half
show the steps, as a thought, and half only the answer. It imitates this mixture. GRPO sees only whether answers are
right, and finds out that thinking pays: more and more answers have a thought. (In DeepSeek-R1 thoughts also became
longer: DeepSeek-AI 2025, section 2.2.)

Shao et al. 2024, algorithm 1. The names are those of TRL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpt import LanguageModel, Tokenizer
from gpt.console import show
from gpt.settings import Checked, nested, setting
from gpt.training.evaluation import evaluate
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_loop import train
from gpt.training.training_step import Step, in_precision
from minigrad import Tensor, backend, no_grad
from minigrad.backend import to_numpy

from ..built_in.chains import CHECKERS, Chain
from ..data.chat_template import ChatTemplate
from ..data.datasets import Example, ShuffledBatches, batches_of, read_examples
from ..data.questions import encode_questions
from ..evaluation.answering import replies_of, right_answers, show_replies
from ..evaluation.pass_at_k import MEASURES, SAMPLES, PassAtK, score_answers, show_change
from ..objectives.grpo import CLIP, METHODS, answer_weights, group_advantages, grpo_loss
from ..objectives.ppo import update_metrics
from ..objectives.rollout import Replies, TokenPositions, predictions, sample_replies
from ..objectives.sft import collate, encode_examples, sft_loss
from .cold_start import BATCH_SIZE, WORKED, learn_from_examples, load_chains, reference_model, starting_model

COLUMNS = f"""\
       loss  do not expect it to fall: its target changes with the policy
   tokens/s  of answers, generated, checked and learned from
     reward  what the checker gives the answers, on average: what is maximized
{MEASURES}"""
SHOWN_METRICS = ("reward", "exact", "format", "thought")  # metrics on the screen; log.jsonl has all


@dataclasses.dataclass(frozen=True)
class GRPOConfig(Checked):
    """The settings of the algorithm. Raises ValueError for a value out of range.

    An iteration is a rollout and an update. By default, 32 questions have 8 answers each, and these 256 answers are
    dealt to 4 mini-batches, for a step each. method: see finetune/objectives/grpo.py.
    """

    total_iterations: int = setting(40, "number of times to answer, check and update", ">= 1")
    batch_size: int = setting(32, "questions per iteration", "in [1, 65536]")
    num_generations: int = setting(8, "answers to each question: a group", "in [2, 1024]")
    num_mini_batches: int = setting(4, "optimizer steps per iteration", ">= 1")
    response_length: int = setting(24, "longest answer in tokens", ">= 1")
    method: str = setting("grpo", "how answers are compared and weighted", choices=METHODS)
    beta: float = setting(0.0, "KL penalty for moving away from the model at the start; 0: none", ">= 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        answers = self.batch_size * self.num_generations
        if answers < self.num_mini_batches:
            raise ValueError(f"{answers} answers cannot be dealt to {self.num_mini_batches} mini-batches")


@dataclasses.dataclass(frozen=True)
class GRPORunConfig(Checked):
    """The settings of a GRPO run. init_from: "worked", or a model with the chat tokens that answers such questions."""

    stage = "grpo"

    init_from: str = WORKED
    out_dir: str = "runs/grpo"
    seed: int = 1337
    terms: int = setting(5, "terms of a question: the difficulty", "in [2, 32]")
    sft_steps: int = setting(800, "steps in which the new model learns from worked examples", ">= 1")
    checker: str = setting("exact", "what is rewarded; lenient invites reward hacking", choices=tuple(CHECKERS))
    control: bool = setting(False, "instead of GRPO, keep learning from the worked examples")
    grpo: GRPOConfig = nested(GRPOConfig)
    training: TrainingConfig = nested(
        TrainingConfig, learning_rate=1e-4, warmup_iters=8, weight_decay=0.0, eval_interval=10
    )


def train_grpo(run: Run, config: GRPORunConfig) -> None:
    """Train a language model on answers that code can check, and ask it held-out questions before and after."""
    # Load questions and the model. A resumed run finds both in its folder. worked: the examples that a new model has
    # learned from.
    if run.is_new:
        worked, examples, test_examples = load_chains(config.terms, config.seed)
        model, tokenizer = starting_model(run, worked)
        run.begin(model, tokenizer)
        run.keep_data(worked=worked, train=examples, test=test_examples)
    else:
        model, tokenizer = run.load()
        worked, examples, test_examples = run.load_data(read_examples, ("worked", "train", "test"))
    test_examples = test_examples[: run.state.max_eval_items]  # a short run tests on fewer (gpt/training/run_state.py)

    # The test: several answers to each held-out question, before training and after it; and the loss of right answers.
    questions = [Chain.of(example) for example in test_examples]
    pass_at_k = PassAtK(model, tokenizer, config.grpo.response_length, questions)
    conversations, _ = encode_examples(test_examples, ChatTemplate(tokenizer), model.config.block_size)
    show(f"{len(questions):,} questions to test on, such as {questions[0].prompt}")

    # validate: the scores on some questions, for the log. measure: those on all of them, and replies to show.
    def validate() -> dict[str, float]:
        loss = evaluate(model, batches_of(conversations, BATCH_SIZE, collate), sft_loss)["loss"]
        return {"val_loss": loss, **pass_at_k.validate()}

    run.measure_before(pass_at_k.measure)

    # Training, below; or for comparison, with config.control, more of the worked examples (cold_start.py).
    if config.control:
        learn_from_examples(run, model, tokenizer, worked, validate)
    else:
        learn_from_answers(run, model, tokenizer, examples, validate)

    # The report: the same questions again.
    if not run.interrupted:
        run.after = pass_at_k.measure()
        show_replies(run.before["replies"], run.after["replies"], right_answers(test_examples))
        show_change(len(questions), run.before["scores"], run.after["scores"])
        shares = ("exact", f"pass@{SAMPLES}", f"majority@{SAMPLES}")
        run.report(plot_run(run.out_dir, "Learning from answers that can be checked", shares=shares))


def learn_from_answers(
    run: Run,
    policy: LanguageModel,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    validate: Callable[[], dict[str, float]],
) -> None:
    """GRPO: let the policy answer the questions of `examples`, and make its better answers more likely."""
    # The data: prompts as tokens, in shuffled batches. Beside each is its question, by which code checks the answers.
    config = run.config
    grpo = config.grpo
    G = grpo.num_generations
    template = ChatTemplate(tokenizer)
    all_prompts = encode_questions(examples, template, policy.config.block_size, grpo.response_length)
    all_questions = [Chain.of(example) for example in examples]
    batches = ShuffledBatches(list(zip(all_questions, all_prompts)), grpo.batch_size, collate=list, seed=config.seed)
    show(f"data: {len(examples):,} questions to learn from")
    run.explain_columns(COLUMNS, shown=SHOWN_METRICS)

    # The loss of a step, see below. The reference is the policy before training; only a KL penalty needs it.
    loss_fn = partial(grpo_batch_loss, config=grpo)
    reference = reference_model(run) if grpo.beta else None

    def iteration(drawn: list[Any]) -> tuple[list[Step], dict[str, float]]:
        """Roll out, check, compare, update: returns the optimizer steps, and what was measured."""
        # An iteration draws one batch of Q questions with their prompts. Each is taken G times: B = Q G.
        (batch,) = drawn
        repeated = [pair for pair in batch for _ in range(G)]
        questions, prompts = zip(*repeated)  # (B) each
        # Rollouts and steps have the same precision, so both compute the same p, and the ratio begins with 1.
        with in_precision(config.training.precision):
            # Roll out: an answer to each prompt. The answers to one question are neighbors.
            answers = sample_replies(policy, prompts, grpo.response_length, template.stop_tokens)

            # Check: the reward of each answer is 1 if the checker accepts it, else 0.
            rewards, measured = check_answers(questions, answers, tokenizer, config.checker)  # (B)

            # Compare: A = (r - mean(r)) / std(r), over the answers to one question.
            advantages = group_advantages(rewards.reshape(-1, G), grpo.method).reshape(-1)  # (B) -> (Q, G) -> (B)

            # Update: a few optimizer steps, each on the tokens of some of the answers.
            steps = []
            for dealt in grpo_batches(policy, reference, answers, advantages, grpo, backend.generator()):
                steps.append(run.step([dealt], loss_fn))
        return steps, {"reward": float(rewards.mean()), "ended": float(answers.ended.mean()), **measured}

    # Iterations, each of a rollout and some optimizer steps. max_iters counts the steps.
    training = dataclasses.replace(config.training, max_iters=grpo.total_iterations * grpo.num_mini_batches)
    run.prepare(policy, training, grpo.num_mini_batches)  # the optimizer, and the schedule of its learning rate
    policy.eval()  # no dropout, neither in rollouts nor in steps
    train(run, batches, iteration, validate)  # the loop: gpt/training/training_loop.py


def check_answers(
    questions: Sequence[Chain], answers: Replies, tokenizer: Tokenizer, checker: str
) -> tuple[np.ndarray, dict[str, float]]:
    """The reward of each answer, (B): 1 if the checker accepts it, else 0. The exact check is reported beside it."""
    check = CHECKERS[checker]
    written = replies_of(tokenizer, answers)
    rewards = [float(check(question, answer.text, answer.ended)) for question, answer in zip(questions, written)]
    # One answer to each question here; one that did not end counts as empty.
    measured = score_answers(questions, [[answer.text if answer.ended else ""] for answer in written])
    return np.array(rewards), {name: measured[name] for name in ("exact", "format", "thought")}


# --- the batches of an update -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GRPOBatch:
    """N tokens of some answers, and what was known when they were sampled.

    tokens (B, T): prompts with their answers. positions: where the N answer tokens stand in them. The other arrays have
    a number for each of these tokens, (N): ln p when it was drawn, ln p under the reference model, if there is one, and
    the advantage and the weight of the answer that it belongs to.
    """

    tokens: np.ndarray
    positions: TokenPositions
    old_logprobs: np.ndarray
    reference_logprobs: np.ndarray | None
    advantages: np.ndarray
    weights: np.ndarray


def grpo_batches(
    policy: LanguageModel,
    reference: LanguageModel | None,
    answers: Replies,
    advantages: np.ndarray,
    config: GRPOConfig,
    rng: np.random.Generator,
) -> list[GRPOBatch]:
    """Deal the answers, with their advantages (B), to mini-batches.

    Simplified: without a KL penalty, an answer with advantage 0 has no gradient, and is left out. The mean is over the
    others, not over all as in the paper. If the others are fewer than num_mini_batches, all answers are dealt.
    """
    dealt = np.flatnonzero(advantages)  # the numbers of the answers that are learned from
    if reference is not None or len(dealt) < config.num_mini_batches:
        dealt = np.arange(len(advantages))
    batches = []
    for rows in np.array_split(rng.permutation(dealt), config.num_mini_batches):
        tokens, mask = answers.tokens[rows], answers.mask[rows]
        positions = TokenPositions.of(answers.starts[rows], mask)
        answer_of = positions.rows  # (N): the answer, a row of `tokens`, that each of the N tokens belongs to
        weights = answer_weights(mask.sum(axis=1), config.method, config.response_length)  # (answers)
        # The training step computes Σ weight loss / tokens. We want Σ weight loss / answers, so the weights are
        # multiplied by tokens / answers.
        weights = weights * len(answer_of) / len(rows)
        batch = GRPOBatch(
            tokens,
            positions,
            # π_old is the policy before the first step. So all batches are made before it: this is not a generator.
            old_logprobs=token_logprobs(policy, tokens, positions),
            reference_logprobs=None if reference is None else token_logprobs(reference, tokens, positions),
            advantages=advantages[rows][answer_of],
            weights=weights[answer_of],
        )
        batches.append(batch)
    return batches


@no_grad()
def token_logprobs(model: LanguageModel, tokens: np.ndarray, positions: TokenPositions) -> np.ndarray:
    """ln p of the N tokens at `positions`, given the tokens before them -> (N)."""
    _, logprobs = predictions(model, tokens, positions)
    return to_numpy(logprobs.data)


def grpo_batch_loss(model: LanguageModel, batch: GRPOBatch, config: GRPOConfig) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the weighted losses of a batch's N tokens; N; and sums of the metrics."""
    # What the policy says about these tokens now; the batch knows what it said during the rollout.
    logits, logprobs = predictions(model, batch.tokens, batch.positions)  # (N, V), (N)
    old, advantages = batch.old_logprobs, batch.advantages
    loss = grpo_loss(logprobs, old, advantages, batch.weights, config.method, batch.reference_logprobs, config.beta)
    metrics = update_metrics(logits, logprobs, old, advantages, *CLIP[config.method])
    return loss.sum(), len(logprobs), metrics
