"""A run of GRPO: from a model that imitates worked examples to a model that has found out by itself what is right.

    roll out    the policy writes G answers to each question               (finetune/objectives/rollout.py)
    check       code says which of them are right: that is the reward r    (finetune/data/chains.py)
    compare     A_i = (r_i - mean(r)) / std(r), of the answers to a question
    update      a few optimizer steps, loss = -min(ratio A, clip(ratio) A)    (finetune/objectives/grpo.py)

The policy is the model that is trained; ratio is p(token) now / p(token) when it was sampled, and clipping keeps one
update from moving too far. If all answers to a question are equally good, A is 0: they teach nothing.

PPO's value head and its reward model are gone; so is the reference model, unless `beta` asks for it. Shao et al. 2024,
algorithm 1. The names are those of TRL.

The task is arithmetic in several steps. A new small model first learns from worked examples. Half of them show
the steps (a thought), half give only the answer. Instruction tuning imitates this mixture. GRPO sees only whether
answers are right, and finds out that thinking pays: more and more of its answers have a thought. (The thoughts of
DeepSeek-R1 also became longer: DeepSeek-AI 2025, section 2.2. These have one digit for each term from the start.) The
control run spends the same effort on more training from the worked examples.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpt import LanguageModel, Tokenizer
from gpt.console import show
from gpt.settings import Checked, nested, setting
from gpt.training.checkpoint import save_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import in_precision, training_step
from minigrad import Tensor, backend, no_grad
from minigrad.backend import to_numpy

from ..data.chains import CHECKERS, Chain, chains, worked_examples
from ..data.chat_template import ChatTemplate
from ..data.datasets import Example, ShuffledBatches, batches_of, read_examples
from ..evaluation.answering import text_of
from ..evaluation.exam import MEASURES, SAMPLES, SHOWN, VALIDATION_ITEMS, Exam, score_answers, show_change
from ..objectives.grpo import CLIP, METHODS, answer_weights, group_advantages, grpo_loss
from ..objectives.logprobs import selected_logprobs
from ..objectives.ppo import update_metrics
from ..objectives.rollout import Places, Replies, check_room, sample_replies
from ..objectives.sft import collate, encode_examples, sft_loss
from .run_config import check_batch_memory, fine_tuning
from .worked_model import BATCH_SIZE, SHAPE, worked_model

WORKED = "worked"  # init_from: first train a new small model on worked examples
WORKED_EXAMPLES, TRAIN_ITEMS, TEST_ITEMS = 1000, 5000, 200
THINKING = 0.5  # share of the worked examples with a thought
CONTROL_STEPS = 4  # of instruction tuning, in the time that GRPO needs to roll out and make one step
COLUMNS = f"""\
       loss  do not expect it to fall: its target changes with the policy
   tokens/s  of answers, generated, checked and learned from
     reward  what the checker gives the answers, on average: what is maximized
{MEASURES}"""
CONTROL_COLUMNS = f"       loss  of the worked examples' answers\n{MEASURES}"
SHOWN_METRICS = ("reward", "exact", "format", "thought")  # on the screen; log.jsonl has all


@dataclasses.dataclass(frozen=True)
class GRPOConfig(Checked):
    """The settings of the algorithm. Raises ValueError for a value out of range.

    An iteration is a rollout, batch_size questions with num_generations answers each, and an update in num_mini_batches
    steps. method: see finetune/objectives/grpo.py.
    """

    total_iterations: int = setting(40, "number of times to answer, check and update", ">= 1")
    batch_size: int = setting(32, "questions per iteration", ">= 1")
    num_generations: int = setting(8, "answers to each question: a group", ">= 2")
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
    terms: int = setting(5, "terms of a question: the difficulty", ">= 1")
    sft_steps: int = setting(800, "steps in which the new model learns from worked examples", ">= 1")
    checker: str = setting("exact", "what is rewarded; lenient invites reward hacking", choices=tuple(CHECKERS))
    control: bool = setting(False, "instead of GRPO, keep learning from the worked examples")
    grpo: GRPOConfig = nested(GRPOConfig)
    training: TrainingConfig = fine_tuning(learning_rate=1e-4, warmup_iters=8, eval_interval=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms > (most := SHAPE["block_size"] // 2):  # a term has two tokens
            raise ValueError(f"a question of {self.terms:,} terms is too long to answer: take {most} or fewer")


def _learn_from_answers(
    run: Run,
    config: GRPORunConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    train: Sequence[Example],
    validate: Callable[[], dict[str, float]],
) -> None:
    """The loop of GRPO: answer each question several times, check, compare, update, and again."""
    grpo, G, template = config.grpo, config.grpo.num_generations, ChatTemplate(tokenizer)
    reference = _reference(run, config, model) if grpo.beta else None
    items = [Chain(example.messages[0]["content"]) for example in train]
    data = [(template.encode(item.question, add_generation_prompt=True)[0], item) for item in items]
    stream = ShuffledBatches(data, grpo.batch_size, list, config.seed)
    training = dataclasses.replace(config.training, max_iters=grpo.total_iterations * grpo.num_mini_batches)
    optimizer, schedule = run.prepare(model, training)
    loss_fn = partial(grpo_batch_loss, config=grpo)
    model.eval()  # without dropout throughout
    with run, in_precision(training.precision):  # rollouts and steps alike: the ratio begins with 1
        # An iteration. `run.batches` gives as many batches as a step accumulates, which is one: some questions, each
        # with its prompt as tokens.
        for (questions,) in run.batches(stream, validate, grpo.num_mini_batches):
            # Roll out: G answers to each of Q questions, B = Q G in all. The answers to one question are neighbors.
            prompts, asked = zip(*[question for question in questions for _ in range(G)])
            replies = sample_replies(model, prompts, grpo.response_length, template.stop_tokens)

            # Check: the reward of each answer is 1 if the checker accepts it, else 0.
            rewards, measured = check_answers(asked, replies, tokenizer, config.checker)  # (B)

            # Compare: each answer with the others of its group.
            advantages = group_advantages(rewards.reshape(-1, G), grpo.method).reshape(-1)  # (B)

            # Update: a few steps, each on some of the answers.
            steps = []
            for batch in grpo_batches(model, reference, replies, advantages, grpo, backend.generator()):
                step = training_step(model, [batch], loss_fn, optimizer, schedule, training.grad_clip, run.gradients)
                steps.append(step)
            run.record(*steps, reward=float(rewards.mean()), ended=float(replies.ended.mean()), **measured)


def check_answers(
    asked: Sequence[Chain], answers: Replies, tokenizer: Tokenizer, checker: str
) -> tuple[np.ndarray, dict[str, float]]:
    """The reward of each answer, (B): 1 if the checker accepts it, else 0. The exact check is reported beside it."""
    texts = [text_of(tokenizer, *answer) for answer in zip(answers.replies(), answers.ended)]
    rewards = np.array([float(CHECKERS[checker](*answer)) for answer in zip(asked, texts, answers.ended)])
    measured = score_answers(asked, [[text if ended else ""] for text, ended in zip(texts, answers.ended)])
    return rewards, {name: measured[name] for name in ("exact", "format", "thought")}


# --- the batches of an update -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GRPOBatch:
    """N tokens of some answers. tokens (B, T): prompts with their answers. places: of the N tokens in them.

    logprobs: of the tokens when they were drawn. reference: of the same tokens under the reference model, if there is
    one. advantages, weights: of their answers. All are (N).
    """

    tokens: np.ndarray
    places: Places
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

    Simplified: without a KL penalty, an answer with advantage 0 has no gradient. So it is left out, and the mean is
    over the others (the paper's is over all). If there are fewer than num_mini_batches others, all are used.
    """
    rows = np.flatnonzero(advantages) if reference is None else np.arange(len(advantages))
    if len(rows) < config.num_mini_batches:
        rows = np.arange(len(advantages))
    batches = []
    for part in np.array_split(rng.permutation(rows), config.num_mini_batches):
        tokens, mask = replies.tokens[part], replies.mask[part]
        lengths, places = mask.sum(axis=1), Places.of(replies.starts[part], mask)
        # The formula takes a mean over answers, but the training step divides by the number of tokens N. So each weight
        # is multiplied by N and divided by the number of answers.
        weights = answer_weights(lengths, config.method, config.response_length) * lengths.sum() / len(part)
        # π_old: all batches are made before the first step changes the policy.
        old = token_logprobs(policy, tokens, places)
        under_reference = None if reference is None else token_logprobs(reference, tokens, places)
        answer_of = places.here[0]  # (N): the answer that each token belongs to
        batches.append(GRPOBatch(tokens, places, old, under_reference, advantages[part][answer_of], weights[answer_of]))
    return batches


@no_grad()
def token_logprobs(model: LanguageModel, tokens: np.ndarray, places: Places) -> np.ndarray:
    """ln p of the N tokens at `places`, given the tokens before them -> (N)."""
    logits = model.lm_head(places.take(model.hidden_states(tokens)))
    return to_numpy(selected_logprobs(logits, tokens[places.here]).data)


def grpo_batch_loss(model: LanguageModel, batch: GRPOBatch, config: GRPOConfig) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the weighted losses of a batch's N tokens, N, and sums of the metrics."""
    logits = model.lm_head(batch.places.take(model.hidden_states(batch.tokens)))  # (N, V)
    logprobs = selected_logprobs(logits, batch.tokens[batch.places.here])  # (N)
    known = (batch.advantages, batch.weights, config.method, batch.reference, config.beta)
    loss = grpo_loss(logprobs, batch.logprobs, *known)
    metrics = update_metrics(logits, logprobs, batch.logprobs, batch.advantages, *CLIP[config.method])
    return loss.sum(), len(logprobs), metrics


# --- around the loop --------------------------------------------------------------------------------------------------


def train_grpo(run: Run, config: GRPORunConfig) -> None:
    """Train a language model on answers that code can check, or, as a control, on more of the worked examples."""
    # The data, and the model: a new one that has learned from the worked examples, or one that is trained already.
    worked, train, held_out = run.data(lambda: _load_data(config), read_examples, ("worked", "train", "test"))
    model, tokenizer = run.model_from(lambda: _starting_model(run, config, worked))
    check_batch_memory(model, config.grpo.batch_size * config.grpo.num_generations, config.training)
    items = [Chain(example.messages[0]["content"]) for example in held_out[: run.most_tested]]
    tests, _ = encode_examples(held_out, ChatTemplate(tokenizer), model.config.block_size)
    exam = Exam(model, tokenizer, config.grpo.response_length)
    check_room([exam.prompt(item.question) for item in items], config.grpo.response_length, model.config.block_size)
    learned = f"{len(worked):,} worked examples" if config.control else f"{len(train):,} questions"
    show(f"data: {learned} to learn from, {len(held_out):,} questions to test on, such as {items[0].prompt}")
    run.explain_columns(CONTROL_COLUMNS if config.control else COLUMNS, shown=None if config.control else SHOWN_METRICS)
    # What the model can do before training: to be compared with what it can do afterwards.
    before = run.keep("before", lambda: exam.scores(items), like=score_answers(items[:1], [[""] * SAMPLES]))
    replies = run.keep("replies", lambda: exam.replies(items), like={item.prompt: "" for item in items[:SHOWN]})

    def validate() -> dict[str, float]:
        loss = evaluate(model, batches_of(tests, BATCH_SIZE, collate), sft_loss)["loss"]
        return {"val_loss": loss, **exam.scores(items[:VALIDATION_ITEMS])}

    if config.control:
        _learn_from_examples(run, config, model, tokenizer, worked, validate)
    else:
        _learn_from_answers(run, config, model, tokenizer, train, validate)

    if not run.interrupted:
        run.extra["after"] = exam.scores(items)
        run.save()
        show_change(items, before, run.extra["after"], replies, exam.replies(items))
        shares = ("exact", f"pass@{SAMPLES}", f"majority@{SAMPLES}")
        picture = plot_run(run.out_dir, {}, title="Learning from answers that can be checked", shares=shares)
        run.finish(f"trained {run.steps_done} steps, {run.count:,} tokens of answers,", picture)


def _learn_from_examples(
    run: Run,
    config: GRPORunConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    worked: Sequence[Example],
    validate: Callable[[], dict[str, float]],
) -> None:
    """The loop of the control: instruction tuning on the worked examples, in about the time that GRPO would need."""
    per_iteration = config.grpo.num_mini_batches * CONTROL_STEPS
    training = dataclasses.replace(
        config.training,
        max_iters=config.grpo.total_iterations * per_iteration,
        eval_interval=config.training.eval_interval * per_iteration,
        log_interval=per_iteration,
    )
    optimizer, schedule = run.prepare(model, training)
    conversations, _ = encode_examples(worked, ChatTemplate(tokenizer), model.config.block_size)
    stream = ShuffledBatches(conversations, BATCH_SIZE, collate, config.seed)
    model.train()
    with run:
        for batches in run.batches(stream, validate):
            run.record(training_step(model, batches, sft_loss, optimizer, schedule, training.grad_clip, run.gradients))


def _load_data(config: GRPORunConfig) -> list[list[Example]]:
    """Worked examples, questions to learn from, and questions to test on."""
    worked = worked_examples(chains("train", WORKED_EXAMPLES, config.terms, config.seed + 1), THINKING)
    train = chains("train", TRAIN_ITEMS, config.terms, config.seed + 2)
    test = chains("test", TEST_ITEMS, config.terms, config.seed)
    return [worked, *([item.example() for item in items] for items in (train, test))]


def _start(config: GRPORunConfig) -> str:
    """The folder of the model that GRPO starts from."""
    return f"{config.out_dir}/{WORKED}" if config.init_from == WORKED else config.init_from


def _starting_model(run: Run, config: GRPORunConfig, worked: Sequence[Example]) -> tuple[LanguageModel, Tokenizer]:
    if config.init_from != WORKED:
        return load_model(config.init_from, trainable=True)
    model, tokenizer = worked_model(worked, config.seed, config.sft_steps)
    # It is kept as it is before the first step: other runs can start from it, and a KL penalty needs it.
    run.write_at_start += [lambda: tokenizer.save(_start(config)), lambda: save_checkpoint(_start(config), model)]
    return model, tokenizer


def _reference(run: Run, config: GRPORunConfig, model: LanguageModel) -> LanguageModel:
    """The model at the start of training, which stays as it is. Raises CheckpointError if it has changed since."""
    start = copy.deepcopy(model) if run.is_new else load_model(_start(config))[0].to(run.device)
    run.check_unchanged("reference", start, _start(config))
    return start.eval()
