"""A run of GRPO: from a model that imitates worked examples to a model that has found out by itself what is right.

    roll out    the policy writes G answers to each question               (finetune/objectives/rollout.py)
    check       code says which of them are right: that is the reward r    (finetune/built_in/chains.py)
    compare     A_i = (r_i - mean(r)) / std(r), of the answers to a question
    update      a few optimizer steps, loss = -min(ratio A, clip(ratio) A)    (finetune/objectives/grpo.py)

The policy is the model that is trained; ratio is p(token) now / p(token) when it was sampled, and clipping keeps one
update from moving too far. If all answers to a question are equally good, A is 0: they teach nothing.

PPO's value head and its reward model are gone; so is the reference model, unless `beta` asks for it. Shao et al. 2024,
algorithm 1. The names are those of TRL.

The task is arithmetic in several steps. A new small model first learns from worked examples. Half of them show
the steps (a thought), half give only the answer. Instruction tuning imitates this mixture. GRPO sees only whether
answers are right, and finds out that thinking pays: more and more of its answers have a thought (as in DeepSeek-R1,
whose thoughts also became longer: DeepSeek-AI 2025, section 2.2). The control run spends the same effort on more
training from the worked examples.
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
from ..data.datasets import ShuffledBatches, batches_of, read_examples
from ..data.questions import encode_questions
from ..evaluation.answering import right_answers, show_replies, text_of
from ..evaluation.exam import MEASURES, SAMPLES, VALIDATION_ITEMS, Exam, score_answers, show_change
from ..objectives.grpo import CLIP, METHODS, answer_weights, group_advantages, grpo_loss
from ..objectives.logprobs import selected_logprobs
from ..objectives.ppo import update_metrics
from ..objectives.rollout import Replies, TokenPositions, sample_replies
from ..objectives.sft import collate, encode_examples, sft_loss
from .cold_start import BATCH_SIZE, WORKED, learn_from_examples, load_chains, reference_model, starting_model
from .run_config import BATCH_SIZES, fine_tuning

CONTROL_STEPS = 4  # of instruction tuning, in the time that GRPO needs to roll out and make one step
COLUMNS = f"""\
       loss  do not expect it to fall: its target changes with the policy
   tokens/s  of answers, generated, checked and learned from
     reward  what the checker gives the answers, on average: what is maximized
{MEASURES}"""
SHOWN_METRICS = ("reward", "exact", "format", "thought")  # on the screen; log.jsonl has all


@dataclasses.dataclass(frozen=True)
class GRPOConfig(Checked):
    """The settings of the algorithm. Raises ValueError for a value out of range.

    An iteration is a rollout, batch_size questions with num_generations answers each, and an update in num_mini_batches
    steps. method: see finetune/objectives/grpo.py.
    """

    total_iterations: int = setting(40, "number of times to answer, check and update", ">= 1")
    batch_size: int = setting(32, "questions per iteration", BATCH_SIZES)
    num_generations: int = setting(8, "answers to each question: a group", "in [2, 1024]")
    num_mini_batches: int = setting(4, "optimizer steps per iteration", ">= 1")
    response_length: int = setting(24, "longest answer in tokens", ">= 1")
    method: str = setting("grpo", "how answers are compared and weighted", choices=METHODS)
    beta: float = setting(0.0, "KL penalty for moving away from the model at the start; 0: none", ">= 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (answers := self.batch_size * self.num_generations) < self.num_mini_batches:
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
    training: TrainingConfig = fine_tuning(learning_rate=1e-4, warmup_iters=8, eval_interval=10)


def train_grpo(run: Run, config: GRPORunConfig) -> None:
    """Train a language model on answers that code can check, or, as a control, on more of the worked examples."""
    # The questions, and the model: a new one that has learned from worked examples, or one that is trained already.
    grpo = config.grpo
    if run.is_new:
        worked, asked, held_out = load_chains(config.terms, config.seed)
        run.make_folder()  # for the new model
        model, tokenizer = starting_model(config.init_from, config.out_dir, worked, config.seed, config.sft_steps)
        run.begin(model, tokenizer)
        run.keep_data(worked=worked, train=asked, test=held_out)
    else:
        model, tokenizer = run.load()
        worked, asked, held_out = run.load_data(read_examples, ("worked", "train", "test"))
    template, block_size = ChatTemplate(tokenizer), model.config.block_size
    prompts = encode_questions(asked, template, block_size, grpo.response_length)
    items = [Chain(example.messages[0]["content"]) for example in held_out[: run.max_eval_items]]
    tests, _ = encode_examples(held_out, template, block_size)
    exam = Exam(model, tokenizer, grpo.response_length)
    source = f"{len(worked):,} worked examples" if config.control else f"{len(asked):,} questions"
    show(f"data: {source} to learn from, {len(held_out):,} questions to test on, such as {items[0].prompt}")

    # What the model can do before training: to be compared with what it can do afterwards.
    run.measure_before(lambda: {"scores": exam.scores(items), "replies": exam.replies(items)})

    def validate() -> dict[str, float]:
        loss = evaluate(model, batches_of(tests, BATCH_SIZE, collate), sft_loss)["loss"]
        return {"val_loss": loss, **exam.scores(items[:VALIDATION_ITEMS])}

    # Training: iterations of GRPO, below, or the steps of the control, which is instruction tuning (cold_start.py).
    if config.control:
        per_iteration = grpo.num_mini_batches * CONTROL_STEPS
        learn_from_examples(run, model, tokenizer, worked, grpo.total_iterations, per_iteration, validate)
    else:
        chains = [Chain(example.messages[0]["content"]) for example in asked]
        learn_from_answers(run, config, model, tokenizer, list(zip(prompts, chains)), validate)

    if not run.interrupted:
        run.after = {"scores": exam.scores(items), "replies": exam.replies(items)}
        show_replies(run.before["replies"], run.after["replies"], right_answers(held_out))
        show_change(len(items), run.before["scores"], run.after["scores"])
        shares = ("exact", f"pass@{SAMPLES}", f"majority@{SAMPLES}")
        run.report(plot_run(run.out_dir, "Learning from answers that can be checked", shares=shares))


def learn_from_answers(
    run: Run,
    config: GRPORunConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    questions: Sequence[tuple[list[int], Chain]],
    validate: Callable[[], dict[str, float]],
) -> None:
    """GRPO: in each iteration, answer questions several times each, check the answers, compare, and update.

    questions: the prompt of each question, as tokens, and the question itself, by which code checks the answers.
    """
    grpo, G, stop_tokens = config.grpo, config.grpo.num_generations, ChatTemplate(tokenizer).stop_tokens
    reference = reference_model(run, config.init_from, config.out_dir) if grpo.beta else None
    training = dataclasses.replace(config.training, max_iters=grpo.total_iterations * grpo.num_mini_batches)
    run.explain_columns(COLUMNS, shown=SHOWN_METRICS)
    run.prepare(model, training, grpo.num_mini_batches)
    loss_fn = partial(grpo_batch_loss, config=grpo)
    model.eval()  # no dropout, neither in rollouts nor in steps

    def iteration(batches: list[Any]) -> tuple[list[Step], dict[str, float]]:
        asked = [question for question in batches[0] for _ in range(G)]  # each of Q questions G times: B = Q G
        prompts, chains = zip(*asked)
        with in_precision(training.precision):  # rollouts and steps alike: the ratio begins with 1
            # Roll out: an answer to each. The answers to one question are neighbors.
            replies = sample_replies(model, prompts, grpo.response_length, stop_tokens)

            # Check: the reward of each answer is 1 if the checker accepts it, else 0.
            rewards, measured = check_answers(chains, replies, tokenizer, config.checker)  # (B)

            # Compare: A = (r - mean(r)) / std(r), over the answers to one question.
            advantages = group_advantages(rewards.reshape(-1, G), grpo.method).reshape(-1)  # (B)

            # Update: a few steps, each on some of the answers.
            parts = grpo_batches(model, reference, replies, advantages, grpo, backend.generator())
            steps = [run.step([part], loss_fn) for part in parts]
        return steps, {"reward": float(rewards.mean()), "ended": float(replies.ended.mean()), **measured}

    batches = ShuffledBatches(questions, grpo.batch_size, collate=list, seed=config.seed)
    train(run, batches, iteration, validate)


def check_answers(
    chains: Sequence[Chain], replies: Replies, tokenizer: Tokenizer, checker: str
) -> tuple[np.ndarray, dict[str, float]]:
    """The reward of each answer, (B): 1 if the checker accepts it, else 0. The exact check is reported beside it."""
    texts = [text_of(tokenizer, ids, ended) for ids, ended in zip(replies.replies(), replies.ended)]
    check = CHECKERS[checker]
    rewards = np.array([float(check(chain, text, ended)) for chain, text, ended in zip(chains, texts, replies.ended)])
    # One answer to each question here; one that did not end counts as empty.
    measured = score_answers(chains, [[text if ended else ""] for text, ended in zip(texts, replies.ended)])
    return rewards, {name: measured[name] for name in ("exact", "format", "thought")}


# --- the batches of an update -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GRPOBatch:
    """N tokens of some answers. tokens (B, T): prompts with their answers. positions: of the N tokens in them.

    logprobs: of the tokens when they were drawn. reference: of the same tokens under the reference model, if there is
    one. advantages, weights: of their answers. All are (N).
    """

    tokens: np.ndarray
    positions: TokenPositions
    logprobs: np.ndarray
    reference: np.ndarray | None
    advantages: np.ndarray
    weights: np.ndarray


def grpo_batches(
    policy: LanguageModel,
    reference: LanguageModel | None,
    replies: Replies,
    advantages: np.ndarray,
    config: GRPOConfig,
    rng: np.random.Generator,
) -> list[GRPOBatch]:
    """Deal the answers, with their advantages (B), to mini-batches.

    Simplified: without a KL penalty, an answer with advantage 0 has no gradient. So only the rest are dealt, and the
    mean is over them (the paper's is over all). If the rest are too few for num_mini_batches, all answers are dealt.
    """
    rows = np.flatnonzero(advantages) if reference is None else np.arange(len(advantages))
    if len(rows) < config.num_mini_batches:
        rows = np.arange(len(advantages))
    batches = []
    for part in np.array_split(rng.permutation(rows), config.num_mini_batches):
        tokens, mask = replies.tokens[part], replies.mask[part]
        lengths, positions = mask.sum(axis=1), TokenPositions.of(replies.starts[part], mask)
        # The formula takes a mean over answers, but the training step divides by the number of tokens N. So each weight
        # is multiplied by N and divided by the number of answers.
        N, n_answers = lengths.sum(), len(part)
        weights = answer_weights(lengths, config.method, config.response_length) * N / n_answers
        # π_old: the policy as it is before the first of the steps. All batches are made before it.
        old = token_logprobs(policy, tokens, positions)
        under_reference = None if reference is None else token_logprobs(reference, tokens, positions)
        row_of, _ = positions.tokens  # (N): the answer, a row of `tokens`, that each of the N tokens belongs to
        batches.append(GRPOBatch(tokens, positions, old, under_reference, advantages[part][row_of], weights[row_of]))
    return batches


@no_grad()
def token_logprobs(model: LanguageModel, tokens: np.ndarray, positions: TokenPositions) -> np.ndarray:
    """ln p of the N tokens at `positions`, given the tokens before them -> (N)."""
    logits = model.lm_head(positions.take(model.hidden_states(tokens)))
    return to_numpy(selected_logprobs(logits, tokens[positions.tokens]).data)


def grpo_batch_loss(model: LanguageModel, batch: GRPOBatch, config: GRPOConfig) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the weighted losses of a batch's N tokens, N, and sums of the metrics."""
    logits = model.lm_head(batch.positions.take(model.hidden_states(batch.tokens)))  # (N, V)
    logprobs = selected_logprobs(logits, batch.tokens[batch.positions.tokens])  # (N)
    loss = grpo_loss(
        logprobs, batch.logprobs, batch.advantages, batch.weights, config.method, batch.reference, config.beta
    )
    metrics = update_metrics(logits, logprobs, batch.logprobs, batch.advantages, *CLIP[config.method])
    return loss.sum(), len(logprobs), metrics
