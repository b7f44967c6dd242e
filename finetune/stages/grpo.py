"""A run of GRPO: from a model that imitates worked examples to a model that has found out by itself what is right.

    roll out    the policy writes G answers to each question               (finetune/objectives/rollout.py)
    check       code says which of them are right: that is the reward      (finetune/data/chains.py)
    compare     each answer with the others to its question                (finetune/objectives/grpo.py)
    update      a few optimizer steps on them, with the clipped loss

PPO's value head and its reward model are gone; so is the reference model, unless `beta` asks for it. Shao et al. 2024,
algorithm 1. The names are those of TRL.

The task is arithmetic in several steps. A new small model first learns from a few worked examples, whose writers think
in half of the cases and otherwise answer at once. Instruction tuning imitates this mixture. GRPO sees only whether
answers are right, and finds out that thinking pays: the model's thoughts grow, and then their steps become more often
right (DeepSeek-AI 2025, "DeepSeek-R1", section 2.2: the same with a large model). The control run spends the same
effort on more training from the worked examples.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig, LanguageModel, Tokenizer
from gpt.console import progress_bar, show
from gpt.training.checkpoint import save_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_step, training_steps
from minigrad import Tensor, backend, no_grad
from minigrad.backend import to_numpy

from ..data.chains import CHECKERS, Chain, chains, split_thought, worked_examples
from ..data.chat_template import ChatTemplate, add_chat_tokens
from ..data.datasets import Example, ShuffledBatches, batches_of, read_examples
from ..evaluation.answering import ask, chat_template, show_replies
from ..objectives.grpo import CLIP, answer_weights, check_method, group_advantages, grpo_loss
from ..objectives.logprobs import selected_logprobs
from ..objectives.ppo import update_metrics
from ..objectives.rollout import Places, Replies, check_room, sample_replies
from ..objectives.sft import collate, encode_examples, sft_loss
from .run_config import check_batch_memory

WORKED = "worked"  # the name of the small model that learns from worked examples, where others are a folder
WORKED_EXAMPLES, TRAIN_ITEMS, TEST_ITEMS = 1000, 5000, 200
VALIDATION_ITEMS = 50  # of the test items, at each evaluation, as the legend of the columns says
SAMPLES = 8  # answers to each question
THINKING = 0.5  # share of the worked examples with a thought
SHAPE: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 64}
SFT_BATCH = 32
CONTROL_STEPS = 4  # of instruction tuning, in the time that GRPO needs to roll out and make one step
SHOWN = 4  # replies that are shown
MEASURES = f"""\
      exact  share of answers that have the format and are right (validation: of {SAMPLES} answers to each of \
{VALIDATION_ITEMS} held-out questions)
     format  share of answers with a thought, perhaps an empty one, and then one digit
    thought  mean length of the thoughts, in characters
     thinks  share of answers whose thought is not empty
     pass@{SAMPLES}  share of questions with at least one right answer among {SAMPLES}
 majority@{SAMPLES}  share of questions whose most frequent answer is right"""
COLUMNS = f"""\
       loss  it says little, as its aim moves with the policy
   tokens/s  of answers, generated, checked and learned from
     reward  what the checker gives the answers, on average: what is maximized
{MEASURES}"""
CONTROL_COLUMNS = f"       loss  of the worked examples' answers\n{MEASURES}"
SHOWN_METRICS = ("reward", "exact", "format", "thought")  # on the screen; log.jsonl has all



@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """How to reinforce.

    total_iterations: the number of rollouts, each followed by an update in num_mini_batches steps. batch_size:
    questions per iteration, with num_generations answers each. response_length: the longest answer in tokens. method:
    one of `METHODS` in finetune/objectives/grpo.py. beta: strength of the KL penalty. Raises ValueError for values out
    of range.
    """

    total_iterations: int = 40
    batch_size: int = 32
    num_generations: int = 8
    num_mini_batches: int = 4
    response_length: int = 24
    method: str = "grpo"
    beta: float = 0.0

    def __post_init__(self) -> None:
        check_method(self.method)
        for name in ("total_iterations", "batch_size", "num_generations", "num_mini_batches", "response_length"):
            smallest = 2 if name == "num_generations" else 1
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be >= {smallest}, got {getattr(self, name)}")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta must be a number >= 0, got {self.beta}")
        if (answers := self.batch_size * self.num_generations) < self.num_mini_batches:
            raise ValueError(f"{answers} answers cannot be dealt to {self.num_mini_batches} mini-batches")


@dataclasses.dataclass(frozen=True)
class GRPORunConfig:
    """The settings of a GRPO run. init_from: "worked", or a model with the chat tokens that answers such questions.

    terms: of each question. sft_steps: how long the new model learns from worked examples. checker: what is rewarded,
    one of CHECKERS. control: keep learning from worked examples instead. Raises ValueError for another checker.
    """

    stage = "grpo"

    init_from: str = WORKED
    out_dir: str = "runs/grpo"
    seed: int = 1337
    terms: int = 5
    sft_steps: int = 800
    checker: str = "exact"
    control: bool = False
    grpo: GRPOConfig = dataclasses.field(default_factory=GRPOConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.checker not in CHECKERS:
            raise ValueError(f"there is no checker {self.checker!r}: choose from {', '.join(CHECKERS)}")


def train_grpo(run: Run, config: GRPORunConfig) -> None:
    """Train a language model on answers that code can check, or, as a control, on more of the worked examples."""
    worked, train, held_out = run.data(lambda: _load_data(config), read_examples, ("worked", "train", "test"))
    model, tokenizer = run.model_from(lambda: _starting_model(run, config, worked))
    check_batch_memory(model, config.grpo.batch_size * config.grpo.num_generations, config.training)
    items = [Chain(example.messages[0]["content"]) for example in held_out]
    tests, _ = encode_examples(held_out, ChatTemplate(tokenizer), model.config.block_size)
    exam = Exam(model, tokenizer, config.grpo.response_length)
    check_room([exam.prompt(item.question) for item in items], config.grpo.response_length, model.config.block_size)
    learned = f"{len(worked):,} worked examples" if config.control else f"{len(train):,} questions"
    show(f"data: {learned} to learn from, {len(held_out):,} questions to test on, such as {items[0].prompt}")
    run.explain_columns(CONTROL_COLUMNS if config.control else COLUMNS, shown=None if config.control else SHOWN_METRICS)
    form = score_answers(items[:1], [[""] * SAMPLES])
    before = run.keep("before", lambda: exam.scores(items), like=form)
    replies = run.keep("replies", lambda: exam.replies(items), like={item.prompt: "" for item in items[:SHOWN]})

    def validate() -> dict[str, float]:
        loss = evaluate(model, batches_of(tests, SFT_BATCH, collate), sft_loss)["loss"]
        return {"val_loss": loss, **exam.scores(items[:VALIDATION_ITEMS])}

    if config.control:
        _learn_from_examples(run, config, model, tokenizer, worked, validate)
    else:
        _learn_from_answers(run, config, model, tokenizer, train, validate)

    if not run.interrupted:
        run.extra["after"] = exam.scores(items)
        run.save()
        _show_change(items, before, run.extra["after"], replies, exam.replies(items))
        shares = ("exact", f"pass@{SAMPLES}", f"majority@{SAMPLES}")
        picture = plot_run(run.out_dir, {}, title="Learning from answers that can be checked", shares=shares)
        run.finish(f"trained {run.steps_done} steps, {run.count:,} tokens of answers,", picture)


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
    questions = [Chain(example.messages[0]["content"]) for example in train]
    prompts = [template.encode(question.question, add_generation_prompt=True)[0] for question in questions]
    stream = ShuffledBatches(list(zip(prompts, questions)), grpo.batch_size, list, config.seed)
    training = dataclasses.replace(config.training, max_iters=grpo.total_iterations * grpo.num_mini_batches)
    optimizer, schedule = run.prepare(model, training)
    loss_fn = partial(grpo_batch_loss, config=grpo)
    model.eval()  # without dropout throughout
    with run:
        for (drawn,) in run.batches(stream, validate, grpo.num_mini_batches):
            # Roll out: G answers to each question, one after the other.
            asked, about = zip(*[question for question in drawn for _ in range(G)])
            replies = sample_replies(model, asked, grpo.response_length, template.stop_tokens)

            # Check: the reward of each answer is 1 if the checker accepts it, else 0.
            rewards, measured = check_answers(about, replies, tokenizer, template.stop_tokens, config.checker)  # (B)

            # Compare: each answer with the others of its group.
            advantages = group_advantages(rewards.reshape(-1, G), grpo.method).reshape(-1)  # (B)

            # Update: a few steps, each on some of the answers.
            steps = []
            for batch in grpo_batches(model, reference, replies, advantages, grpo, backend.generator()):
                step = training_step(model, [batch], loss_fn, optimizer, schedule, training.grad_clip, run.gradients)
                steps.append(step)
            run.record(*steps, reward=float(rewards.mean()), ended=float(replies.ended.mean()), **measured)


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
    stream = ShuffledBatches(conversations, SFT_BATCH, collate, config.seed)
    model.train()
    with run:
        for batches in run.batches(stream, validate):
            run.record(training_step(model, batches, sft_loss, optimizer, schedule, training.grad_clip, run.gradients))


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

    Without a KL penalty, answers with advantage 0 are left out of the batch and its mean, if enough others remain.
    """
    rows = np.flatnonzero(advantages) if reference is None else np.arange(len(advantages))
    if len(rows) < config.num_mini_batches:
        rows = np.arange(len(advantages))
    batches = []
    for part in np.array_split(rng.permutation(rows), config.num_mini_batches):
        tokens, mask = replies.tokens[part], replies.mask[part]
        lengths, places = mask.sum(axis=1), Places.of(replies.starts[part], mask)
        # The training loop divides by the number of tokens N, the formula by the number of answers.
        weights = answer_weights(lengths, config.method, config.response_length) * lengths.sum() / len(part)
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


def grpo_batch_loss(
    model: LanguageModel, batch: GRPOBatch, config: GRPOConfig
) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the weighted losses of a batch's N tokens, N, and sums of the metrics."""
    logits = model.lm_head(batch.places.take(model.hidden_states(batch.tokens)))  # (N, V)
    logprobs = selected_logprobs(logits, batch.tokens[batch.places.here])  # (N)
    known = (batch.advantages, batch.weights, config.method, batch.reference, config.beta)
    loss = grpo_loss(logprobs, batch.logprobs, *known)
    metrics = update_metrics(logits, logprobs, batch.logprobs, batch.advantages, *CLIP[config.method])
    return loss.sum(), len(logprobs), metrics


# --- the data, the model to start from, and its examination -----------------------------------------------------------


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
        return load_model(config.init_from)
    model, tokenizer = worked_model(worked, config.seed, config.sft_steps)
    # It is kept as it is before the first step: other runs can start from it, and a KL penalty needs it.
    run.write_first(lambda: tokenizer.save(_start(config)))
    run.write_first(lambda: save_checkpoint(_start(config), model))
    return model, tokenizer


def _reference(run: Run, config: GRPORunConfig, model: LanguageModel) -> LanguageModel:
    """The model at the start of training, which stays as it is."""
    start = copy.deepcopy(model) if run.is_new else load_model(_start(config))[0].to(run.device)
    return start.eval()


def worked_model(examples: Sequence[Example], seed: int, steps: int) -> tuple[GPT, Tokenizer]:
    """A new small model that has learned from worked examples, in half a minute, and its tokenizer."""
    # The vocabulary: 256 bytes, and 17 merges for the words that every conversation has. Each digit is a token.
    tokenizer = Tokenizer.train(["user assistant think </ " * 2], 256 + 17, special_tokens=())
    model = GPT(GPTConfig(vocab_size=len(tokenizer), **SHAPE))
    add_chat_tokens(model, tokenizer)
    conversations, _ = encode_examples(examples, ChatTemplate(tokenizer), model.config.block_size)
    config = TrainingConfig(max_iters=steps, learning_rate=3e-3, warmup_iters=steps // 10)
    stream = ShuffledBatches(conversations, SFT_BATCH, collate, seed)
    started = time.perf_counter()
    with progress_bar(steps, "learning from worked examples", "step") as bar:
        for step in training_steps(model, stream, sft_loss, config):
            bar.update(1)
            loss = step.loss
    show(
        f"a new model of {model.num_parameters():,} parameters has learned from {len(examples):,} worked examples: "
        f"loss {loss:.3f}, {time.perf_counter() - started:.0f} s"
    )
    return model, tokenizer


def check_answers(
    asked: Sequence[Chain], answers: Replies, tokenizer: Tokenizer, stop_tokens: Sequence[int], checker: str
) -> tuple[np.ndarray, dict[str, float]]:
    """The reward of each answer, (B): 1 if the checker accepts it, else 0. The exact check is reported beside it."""
    replies = answers.replies()
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
    ended = [ids[-1] in stop_tokens for ids in replies]
    rewards = np.array([float(CHECKERS[checker](*answer)) for answer in zip(asked, texts, ended)])
    measured = score_answers(asked, [[text if end else ""] for text, end in zip(texts, ended)])
    return rewards, {name: measured[name] for name in ("exact", "format", "thought")}


class Exam:
    """Asks a model questions, and scores its answers. An answer that is cut off counts as wrong."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, response_length: int):
        self.model, self.tokenizer, self.response_length = model, tokenizer, response_length
        self.prompt = chat_template(tokenizer)

    def scores(self, items: Sequence[Chain]) -> dict[str, float]:
        """`score_answers` for SAMPLES answers to each question, at temperature 1."""
        texts = self._ask([item.question for item in items for _ in range(SAMPLES)], temperature=1.0)
        return score_answers(items, [texts[i : i + SAMPLES] for i in range(0, len(texts), SAMPLES)])

    def replies(self, items: Sequence[Chain]) -> dict[str, str]:
        """The most likely answers to the first questions."""
        shown = items[:SHOWN]
        return dict(zip((item.prompt for item in shown), self._ask([item.question for item in shown], temperature=0.0)))

    def _ask(self, questions: Sequence[Any], temperature: float) -> list[str]:
        length, at_once = self.response_length, 50 * SAMPLES
        replies = ask(self.model, self.tokenizer, questions, self.prompt, length, at_once, temperature=temperature)
        return [reply.text if reply.ended else "" for reply in replies]


def _show_change(
    items: Sequence[Chain],
    before: dict[str, float],
    after: dict[str, float],
    replies_before: dict[str, str],
    replies_after: dict[str, str],
) -> None:
    right = {item.prompt: item.example().messages[-1]["content"] for item in items}
    show_replies(replies_before, replies_after, right)
    show(f"{len(items)} held-out questions, {SAMPLES} answers each{'before':>16}{'after':>10}")
    for name, value in after.items():
        form = ".2f" if name == "thought" else ".1%"
        show(f"{name:>38}{before[name]:>16{form}}{value:>10{form}}")


def score_answers(items: Sequence[Chain], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores of k answers to each question.

    exact, format: shares of all answers (pass@1 is exact). pass@k: share of questions with a right answer (Chen et al.
    2021). majority@k: share whose most frequent answer, with or without the format, is right (Wang et al. 2022,
    "Self-consistency"); the first one counts where several are as frequent. thought: mean length in characters. thinks:
    share of answers whose thought is not empty.
    """
    k = len(answers[0])
    right = np.array([[item.is_correct(text) for text in texts] for item, texts in zip(items, answers, strict=True)])
    formatted = [item.has_format(text) for item, texts in zip(items, answers) for text in texts]
    most = [Counter(split_thought(text)[1] for text in texts).most_common(1)[0][0] for texts in answers]
    thoughts = [len(split_thought(text)[0] or "") for texts in answers for text in texts]
    scores = {"exact": right.mean(), "format": np.mean(formatted)}
    if k > 1:
        scores |= {
            f"pass@{k}": right.any(axis=1).mean(),
            f"majority@{k}": np.mean([item.answer == vote for item, vote in zip(items, most)]),
        }
    scores |= {"thought": np.mean(thoughts), "thinks": np.mean(np.array(thoughts) > 0)}
    return {name: float(value) for name, value in scores.items()}
