"""A run of PPO: from a model that answers and a reward model to a model whose answers get higher rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.console import show
from gpt.training.checkpoint import CheckpointError
from gpt.training.loading import load_model
from gpt.training.trainer import Trainer, TrainingConfig

from ..data.chat_template import ChatTemplate, without_oldest_turn
from ..data.datasets import Example, ShuffledBatches, read_examples, read_preferences
from ..data.pairs import encode_pairs
from ..data.tasks import TASKS, TaskItem, instruction_tasks
from ..evaluation.answering import Reply
from ..evaluation.judge import Judge, qualities, shares
from ..evaluation.reward_hacking import plot_reinforcement
from ..objectives.gpt_with_head import GPTWithHead
from ..objectives.rollout import PolicyWithValue
from .ppo_loop import PPOConfig, PPOTrainer
from .reward import check_better_than_chance, load_reward_model
from .stage import Data, Stage

TRAIN_ITEMS, TEST_ITEMS = 6000, 300


@dataclasses.dataclass(frozen=True)
class PPORunConfig:
    """The settings of a PPO run. data: "tasks", or a file for `read_examples`, of which only the questions are used.

    reward_model: the folder of a reward modeling run with the same tokenizer.
    """

    init_from: str = "runs/sft"
    reward_model: str = "runs/reward"
    data: str = TASKS
    out_dir: str = "runs/ppo"
    seed: int = 1337
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


class Reinforcement(Stage):
    """Train a language model that has the chat tokens by PPO on a reward model. The untrained model is the reference.

    PPO has its own loop: see ppo_loop.py. To continue a run, its reference and its reward model must still be there.
    """

    name = "ppo"
    config_class = PPORunConfig
    columns = """\
             loss  of policy and value together; it says little, as its aim moves with the policy
         tokens/s  of replies, generated, judged and learned from
 objective/scores  what the reward model gives the replies, on average: what is maximized
     objective/kl  how far the policy has moved from the reference, in nats per reply: what that costs
            right  share of replies that are really right, which the reward model does not know (100 at an evaluation)
        courteous  share of them that are right and courteous: what was preferred"""
    read = staticmethod(read_examples)
    config: PPORunConfig

    def prepare(self) -> Data:
        self.model, self.tokenizer = load_model(self.config.init_from)
        show(f"starting from the weights in {self.config.init_from}, which are also the reference")
        train, held_out = load_questions(self.config.data, self.config.seed)
        return {"train": train, "test": held_out}

    def encode(self, data: Data) -> None:
        config, block_size = self.config, self.model.config.block_size
        self.reward_model = checked_reward_model(config.reward_model, self.tokenizer, block_size)
        self.template, train, held_out = ChatTemplate(self.tokenizer), data["train"], data["test"]
        self.built_in = config.data == TASKS
        self.items = instruction_tasks("test", len(held_out), config.seed) if self.built_in else []
        subjects = instruction_tasks("train", len(train), config.seed + 1) if self.built_in else train
        prompts = encode_questions(train, self.template, block_size, config.ppo.response_length)
        self.batches = ShuffledBatches(list(zip(prompts, subjects)), config.ppo.batch_size, list, config.seed)
        questions = [example.messages[:-1] for example in held_out]
        self.judge = Judge(self.model, self.tokenizer, config.init_from, self.items, questions, config.seed)
        self.sizes = f"{len(train):,} questions to answer, {len(held_out):,} to test on"

    def introduce(self) -> None:
        show(f"data: {self.sizes}")

    def trainer(self, extra_state: dict[str, Any]) -> PPOTrainer:
        config = self.config
        reference, _ = load_model(config.init_from)
        return PPOTrainer(
            PolicyWithValue(self.model).to(self.device),
            reference.to(self.device),
            self.reward_model.to(self.device),
            self.batches,
            config.ppo,
            config.training,
            config.out_dir,
            self.template.stop_tokens,
            judge=self._check if self.built_in else None,
            evaluate=self.judge.on_the_way if self.built_in else None,
            extra_state=extra_state,
        )

    def _check(self, asked: list[TaskItem], replies: list[list[int]]) -> dict[str, float]:
        """What the reward model does not know: whether the replies of a rollout are really right."""
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
        ended = [ids[-1] in self.template.stop_tokens for ids in replies]
        return shares(qualities(asked, [Reply(*reply) for reply in zip(texts, ended, replies)]))

    def report(self, trainer: Trainer) -> None:
        self.judge.show_change()

    def done(self, trainer: Trainer) -> str:
        return f"reinforced in {self.config.ppo.total_iterations} iterations, {trainer.count:,} tokens,"

    def plot(self, trainer: Trainer) -> Path | None:
        return plot_reinforcement({"": trainer.out_dir}, trainer.out_dir / "reinforcement.png")


def checked_reward_model(folder: str, tokenizer: Tokenizer, block_size: int) -> GPTWithHead:
    """The reward model of a run. Raises if it cannot read the policy's replies, or is not better than chance."""
    model, its_tokenizer = load_reward_model(folder)
    if its_tokenizer.vocab != tokenizer.vocab or its_tokenizer.special_tokens != tokenizer.special_tokens:
        raise CheckpointError(
            f"the reward model in {folder} has another tokenizer than the model to be trained, so it cannot read its "
            "replies: train it from the same model"
        )
    if model.config.block_size < block_size:
        raise ValueError(
            f"the reward model in {folder} reads {model.config.block_size} tokens, and the model to be trained writes "
            f"up to {block_size}: train it from the same model"
        )
    test = read_preferences(Path(folder) / "data" / "test.jsonl")
    pairs, _ = encode_pairs(test, ChatTemplate(tokenizer), model.config.block_size)
    show(f"reward model: {folder}; {check_better_than_chance(model, pairs, folder)}")
    return model


def load_questions(data: str, seed: int) -> tuple[list[Example], list[Example]]:
    """Conversations to answer, for training and for tests. Answers that they contain are not used."""
    if data == TASKS:
        return (
            [item.example() for item in instruction_tasks("train", TRAIN_ITEMS, seed + 1)],
            [item.example() for item in instruction_tasks("test", TEST_ITEMS, seed)],
        )
    examples = read_examples(data)
    held_out = max(len(examples) // 10, 1)
    return examples[:-held_out] or examples, examples[-held_out:]


def encode_questions(
    examples: Sequence[Example], template: ChatTemplate, block_size: int, response_length: int
) -> list[list[int]]:
    """Prompts as tokens that leave room for a reply. Longer prompts lose their oldest turns.

    Raises ValueError, naming the place, if a single question is too long.
    """
    room = block_size - response_length
    prompts = []
    for number, example in enumerate(examples, start=1):
        messages = list(example.messages[:-1])
        while len(ids := template.encode(messages, add_generation_prompt=True)[0]) > room:
            shorter = without_oldest_turn(messages)
            if shorter is None:
                raise ValueError(
                    f"{example.place or f'question {number}'}: the question has {len(ids)} tokens, and with "
                    f"{response_length} of reply it must fit into {block_size}: shorten it, "
                    "or take a smaller --response-length"
                )
            messages = shorter
        prompts.append(ids)
    return prompts
