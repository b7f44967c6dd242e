"""A run of GRPO: from a model that imitates worked examples to a model that has found out by itself what is right.

The task is arithmetic in several steps (finetune/data/chains.py). A new small model first learns from a few worked
examples, whose writers think in half of the cases and otherwise answer at once. Instruction tuning imitates this
mixture. GRPO sees only whether answers are right, and finds out that thinking pays: the model's thoughts grow, and then
their steps become more often right (DeepSeek-AI 2025, "DeepSeek-R1", section 2.2: the same with a large model).

The control run spends the same effort on more training from the worked examples.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt import GPT, GPTConfig, Tokenizer
from gpt.console import progress_bar, show
from gpt.training.checkpoint import check_like, save_checkpoint
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.pretraining import claim
from gpt.training.trainer import Trainer, TrainingConfig

from ..data.chains import CHECKERS, Chain, chains, split_thought, worked_examples
from ..data.chat_template import ChatTemplate, add_chat_tokens
from ..data.datasets import Example, ShuffledBatches, batches_of, read_examples
from ..evaluation.answering import ask, chat_template, show_replies
from ..objectives.rollout import check_room
from ..objectives.sft import collate, encode_examples, sft_loss
from .grpo_loop import GRPOConfig, GRPOTrainer
from .stage import Data, Stage

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


@dataclasses.dataclass(frozen=True)
class GRPORunConfig:
    """The settings of a GRPO run. init_from: "worked", or a model with the chat tokens that answers such questions.

    terms: of each question. sft_steps: how long the new model learns from worked examples. checker: what is rewarded,
    one of CHECKERS. control: keep learning from worked examples instead. Raises ValueError for another checker.
    """

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


class VerifiedRewards(Stage):
    """Train a language model on answers that code can check. GRPO has its own loop: see grpo_loop.py."""

    name = "grpo"
    config_class = GRPORunConfig
    columns = f"""\
       loss  it says little, as its aim moves with the policy
   tokens/s  of answers, generated, checked and learned from
     reward  what the checker gives the answers, on average: what is maximized
{MEASURES}"""
    title = "Learning from answers that can be checked"
    shares = ("exact", f"pass@{SAMPLES}", f"majority@{SAMPLES}")
    read = staticmethod(read_examples)
    config: GRPORunConfig

    def prepare(self) -> Data:
        config = self.config
        data = {
            "worked": worked_examples(chains("train", WORKED_EXAMPLES, config.terms, config.seed + 1), THINKING),
            "train": [item.example() for item in chains("train", TRAIN_ITEMS, config.terms, config.seed + 2)],
            "test": [item.example() for item in chains("test", TEST_ITEMS, config.terms, config.seed)],
        }
        if config.init_from == WORKED:
            self.model, self.tokenizer = worked_model(data["worked"], config.out_dir, config.seed, config.sft_steps)
            claim(config.out_dir)
            self.tokenizer.save(self.start)
            save_checkpoint(self.start, self.model)
        else:
            self.model, self.tokenizer = load_model(config.init_from)
        return data

    @property
    def start(self) -> str:
        """The folder of the model that GRPO starts from."""
        return f"{self.config.out_dir}/{WORKED}" if self.config.init_from == WORKED else self.config.init_from

    def encode(self, data: Data) -> None:
        config, block_size = self.config, self.model.config.block_size
        self.template = ChatTemplate(self.tokenizer)
        self.items = [Chain(example.messages[0]["content"]) for example in data["test"]]
        self.tests, _ = encode_examples(data["test"], self.template, block_size)
        self.prompt = chat_template(self.tokenizer)
        check_room([self.prompt(item.question) for item in self.items], config.grpo.response_length, block_size)
        if config.control:
            self.columns = f"       loss  of the worked examples' answers\n{MEASURES}"
            conversations, _ = encode_examples(data["worked"], self.template, block_size)
            self.batches = ShuffledBatches(conversations, SFT_BATCH, collate, config.seed)
        else:
            questions = [Chain(example.messages[0]["content"]) for example in data["train"]]
            prompts = [(self.prompt(item.question), item) for item in questions]
            self.batches = ShuffledBatches(prompts, config.grpo.batch_size, list, config.seed)
        self.sizes = {name: len(items) for name, items in data.items()}

    def introduce(self) -> None:
        n = self.sizes
        learned = f"{n['worked']:,} worked examples" if self.config.control else f"{n['train']:,} questions"
        show(f"data: {learned} to learn from, {n['test']:,} questions to test on, such as {self.items[0].prompt}")

    def measure(self) -> dict[str, Any]:
        return {"before": self._measure(self.items), "replies": self._replies()}

    def check_measured(self, found: Mapping[str, Any]) -> None:
        check_like(found.get("before"), score_answers(self.items[:1], [[""] * SAMPLES]), "the state's before")
        check_like(found.get("replies"), dict.fromkeys((item.prompt for item in self.items[:SHOWN]), ""), "the replies")

    def _measure(self, items: Sequence[Chain]) -> dict[str, float]:
        questions = [item.question for item in items for _ in range(SAMPLES)]
        texts = self._ask(questions, temperature=1.0)
        return score_answers(items, [texts[i : i + SAMPLES] for i in range(0, len(texts), SAMPLES)])

    def _replies(self) -> dict[str, str]:
        items = self.items[:SHOWN]
        return dict(zip((item.prompt for item in items), self._ask([item.question for item in items], temperature=0.0)))

    def _ask(self, questions: Sequence[Any], temperature: float) -> list[str]:
        length = self.config.grpo.response_length
        replies = ask(self.model, self.tokenizer, questions, self.prompt, length, 50 * SAMPLES, temperature=temperature)
        return [reply.text if reply.ended else "" for reply in replies]  # a reply that was cut off counts as wrong

    def trainer(self, extra_state: dict[str, Any]) -> Trainer:
        config = self.config
        options: dict[str, Any] = {"evaluate": self.validate, "extra_state": extra_state}
        if config.control:
            per_iteration = config.grpo.num_mini_batches * CONTROL_STEPS
            training = dataclasses.replace(
                config.training,
                max_iters=config.grpo.total_iterations * per_iteration,
                eval_interval=config.training.eval_interval * per_iteration,
                log_interval=per_iteration,
            )
            return Trainer(self.model, self.batches, training, config.out_dir, sft_loss, **options)
        reference = load_model(self.start)[0].to(self.device).eval() if config.grpo.beta else None
        return GRPOTrainer(
            self.model,
            reference,
            self.batches,
            self._check,
            config.grpo,
            config.training,
            config.out_dir,
            self.template.stop_tokens,
            **options,
        )

    def _check(self, items: Sequence[Any], replies: list[list[int]]) -> tuple[np.ndarray, dict[str, float]]:
        """The reward of each answer: 1 if the checker accepts it, else 0. The exact check is reported beside it."""
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
        ended = [ids[-1] in self.template.stop_tokens for ids in replies]
        checker = CHECKERS[self.config.checker]
        rewards = np.array([float(checker(*answer)) for answer in zip(items, texts, ended)])
        measured = score_answers(items, [[text if end else ""] for text, end in zip(texts, ended)])
        return rewards, {name: measured[name] for name in ("exact", "format", "thought")}

    def validate(self) -> dict[str, float]:
        loss = evaluate(self.model, batches_of(self.tests, SFT_BATCH, collate), sft_loss)["loss"]
        return {"val_loss": loss, **self._measure(self.items[:VALIDATION_ITEMS])}

    def report(self, trainer: Trainer) -> None:
        before, after = trainer.extra_state["before"], self._measure(self.items)
        trainer.extra_state["after"] = after
        trainer.save()
        right = {item.prompt: item.example().messages[-1]["content"] for item in self.items}
        show_replies(trainer.extra_state["replies"], self._replies(), right)
        show(f"{len(self.items)} held-out questions, {SAMPLES} answers each{'before':>16}{'after':>10}")
        for name, value in after.items():
            form = ".2f" if name == "thought" else ".1%"
            show(f"{name:>38}{before[name]:>16{form}}{value:>10{form}}")

    def done(self, trainer: Trainer) -> str:
        return f"trained {trainer.steps_done} steps, {trainer.count:,} tokens of answers,"


def worked_model(
    examples: Sequence[Example], out_dir: str, seed: int, steps: int
) -> tuple[GPT, Tokenizer]:
    """A new small model that has learned from worked examples, in half a minute, and its tokenizer."""
    # The vocabulary: 256 bytes, and 17 merges for the words that every conversation has. Each digit is a token.
    tokenizer = Tokenizer.train(["user assistant think </ " * 2], 256 + 17, special_tokens=())
    model = GPT(GPTConfig(vocab_size=len(tokenizer), **SHAPE))
    add_chat_tokens(model, tokenizer)
    conversations, _ = encode_examples(examples, ChatTemplate(tokenizer), model.config.block_size)
    settings = TrainingConfig(max_iters=steps, learning_rate=3e-3, warmup_iters=steps // 10)
    batches = ShuffledBatches(conversations, SFT_BATCH, collate, seed)
    trainer = Trainer(model, batches, settings, out_dir, sft_loss)
    model.train()
    with progress_bar(steps, "learning from worked examples", "step") as bar:
        for _ in range(steps):
            step = trainer.step()
            bar.update(1)
    show(
        f"a new model of {model.num_parameters():,} parameters has learned from {len(examples):,} worked examples: "
        f"loss {step.loss:.3f}, {trainer.seconds:.0f} s"
    )
    return model, tokenizer


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
