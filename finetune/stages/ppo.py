"""A run of PPO: a model that answers and a reward model in, a model that answers as is rewarded out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt import Tokenizer
from gpt.console import show
from gpt.model.language_model import LanguageModel
from gpt.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from gpt.training.loading import load_model
from gpt.training.pretraining import check_unused
from gpt.training.trainer import TrainingConfig
from minigrad import manual_seed

from ..data.chat_template import ChatTemplate, without_oldest_turn
from ..data.datasets import Example, ShuffledBatches, read_examples, read_preferences
from ..data.pairs import TASKS, encode_pairs
from ..data.tasks import TaskItem, instruction_tasks
from ..evaluation.answering import Reply
from ..evaluation.judge import Judge, qualities, shares
from ..objectives.gpt_with_head import GPTWithHead
from ..objectives.rollout import PolicyWithValue
from .ppo_loop import PPOConfig, PPOTrainer
from .ppo_plot import plot_reinforcement
from .reward import check_better_than_chance, load_reward_model
from .stage import begin_run, extra_state, settings_of, show_end

STAGE = "ppo"
TRAIN_ITEMS, TEST_ITEMS = 6000, 300

COLUMNS = """\
             loss  of policy and value together; it says little, as its aim moves with the policy
         tokens/s  of replies, generated, judged and learned from
 objective/scores  what the reward model gives the replies, on average: what is maximised
     objective/kl  how far the policy has moved from the reference, in nats per reply: what that costs
            right  share of replies that are really right, which the reward model does not know
        courteous  share of them that are right and courteous: what was preferred"""


@dataclasses.dataclass(frozen=True)
class PPORunConfig:
    """A run of PPO. data: "tasks", or a file that `read_examples` reads, of which only the questions are used.

    reward_model: the folder of a run of reward modelling, with the same tokenizer.
    """

    init_from: str = "runs/sft"
    reward_model: str = "runs/reward"
    data: str = TASKS
    out_dir: str = "runs/ppo"
    seed: int = 1337
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def reinforce(config: PPORunConfig, device: str = "cpu") -> PPOTrainer:
    """Reinforce the model `config.init_from`, which is also the reference; Ctrl-C saves.

    Raises FileExistsError where `config.out_dir` is in use, ValueError for a reward model that is no better than
    chance or has another tokenizer, and what `load_model`, `read_examples` and `PPOTrainer.run` raise.
    """
    check_unused(Path(config.out_dir))
    manual_seed(config.seed)
    policy, tokenizer = load_model(config.init_from)
    reward_model = _checked_reward_model(config, tokenizer, policy.config.block_size)
    train, held_out = _questions(config)
    _encoded(train, ChatTemplate(tokenizer), policy, config)  # raises before anything is written
    show(f"starting from the weights in {config.init_from}, which are also the reference")
    begin_run(config.out_dir, tokenizer, {"train": train, "test": held_out})
    return _train(config, policy, reward_model, tokenizer, device)


def resume(out_dir: str, device: str = "cpu") -> PPOTrainer:
    """Go on with the run in `out_dir`, with its own settings and data; reference and reward model must still be there.

    Raises CheckpointError where there is none.
    """
    checkpoint = load_checkpoint(out_dir)
    config = settings_of(checkpoint.state, PPORunConfig, STAGE, out_dir)
    tokenizer = Tokenizer.load(out_dir)
    reward_model = _checked_reward_model(config, tokenizer, checkpoint.model.config.block_size)
    return _train(config, checkpoint.model, reward_model, tokenizer, device, checkpoint)


def _checked_reward_model(config: PPORunConfig, tokenizer: Tokenizer, block_size: int) -> GPTWithHead:
    folder = config.reward_model
    model, its_tokenizer = load_reward_model(folder)
    if its_tokenizer.vocab != tokenizer.vocab or its_tokenizer.special_tokens != tokenizer.special_tokens:
        raise CheckpointError(
            f"the reward model in {folder} has another tokenizer than the model to be trained, so that it cannot read "
            "its replies: train it from the same model (scripts/reward.py --init-from)"
        )
    if model.config.block_size < block_size:
        raise ValueError(
            f"the reward model in {folder} reads {model.config.block_size} tokens, and the model to be trained writes "
            f"up to {block_size}: train it from the same model (scripts/reward.py --init-from)"
        )
    pairs, _ = encode_pairs(
        read_preferences(Path(folder) / "data" / "test.jsonl"), ChatTemplate(tokenizer), model.config.block_size
    )
    show(f"reward model: {folder}; {check_better_than_chance(model, pairs, folder)}")
    return model


# --- prompts ----------------------------------------------------------------------------------------------------------


def _questions(config: PPORunConfig) -> tuple[list[Example], list[Example]]:
    """Conversations to answer in training, and others; their own answers are not learned from."""
    if config.data == TASKS:
        return (
            [item.example() for item in instruction_tasks("train", TRAIN_ITEMS, config.seed + 1)],
            [item.example() for item in instruction_tasks("test", TEST_ITEMS, config.seed)],
        )
    examples = read_examples(config.data)
    held_out = max(len(examples) // 10, 1)
    return examples[:-held_out] or examples, examples[-held_out:]


def _encoded(
    examples: Sequence[Example], template: ChatTemplate, policy: LanguageModel, config: PPORunConfig
) -> list[list[int]]:
    """Prompts as tokens that leave room for a reply; of longer ones the oldest turns are left out.

    Raises ValueError, naming the place, where a single question is too long.
    """
    room = policy.config.block_size - config.ppo.response_length
    prompts = []
    for number, example in enumerate(examples, start=1):
        messages = list(example.messages[:-1])
        while len(ids := template.encode(messages, add_generation_prompt=True)[0]) > room:
            shorter = without_oldest_turn(messages)
            if shorter is None:
                raise ValueError(
                    f"{example.place or f'question {number}'}: the question has {len(ids)} tokens, and with "
                    f"{config.ppo.response_length} of reply it must fit into {policy.config.block_size}: shorten it, "
                    "or take a smaller --response-length"
                )
            messages = shorter
        prompts.append(ids)
    return prompts


# --- training ---------------------------------------------------------------------------------------------------------


def _train(
    config: PPORunConfig,
    policy: LanguageModel,
    reward_model: GPTWithHead,
    tokenizer: Tokenizer,
    device: str,
    checkpoint: Checkpoint | None = None,
) -> PPOTrainer:
    template, data = ChatTemplate(tokenizer), Path(config.out_dir) / "data"
    train, held_out = read_examples(data / "train.jsonl"), read_examples(data / "test.jsonl")
    reference, _ = load_model(config.init_from)
    built_in = config.data == TASKS
    subjects: Sequence[Any] = instruction_tasks("train", len(train), config.seed + 1) if built_in else train
    items = instruction_tasks("test", len(held_out), config.seed) if built_in else []
    prompts = list(zip(_encoded(train, template, policy, config), subjects))
    show(f"data: {len(prompts):,} questions to answer, {len(held_out):,} to test on")
    show(f"\nWhat the columns mean:\n{COLUMNS}\n")
    judge = Judge(policy, tokenizer, config.init_from, items, [e.messages[:-1] for e in held_out], config.seed)

    def check(asked: list[TaskItem], replies: list[list[int]]) -> dict[str, float]:
        """What the reward model does not know: are the replies of a roll-out really right?"""
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
        ended = [ids[-1] in template.stop_tokens for ids in replies]
        return shares(qualities(asked, [Reply(*reply) for reply in zip(texts, ended, replies)]))

    trainer = PPOTrainer(
        PolicyWithValue(policy).to(device),
        reference.to(device),
        reward_model.to(device),
        ShuffledBatches(prompts, config.ppo.batch_size, list, config.seed),
        config.ppo,
        config.training,
        config.out_dir,
        template.stop_tokens,
        judge=check if built_in else None,
        evaluate=judge.on_the_way if built_in else None,
        extra_state=extra_state(config, STAGE),
    )
    if checkpoint is not None:
        warning = trainer.resume(checkpoint)
        show(f"resuming {config.out_dir} at step {trainer.steps_done}" + (f"; {warning}" if warning else ""))
    trainer.run()
    if not trainer.interrupted:
        judge.show_change()
    picture = (
        None
        if trainer.interrupted
        else plot_reinforcement({"": trainer.out_dir}, trainer.out_dir / "reinforcement.png")
    )
    done = f"reinforced {config.ppo.total_iterations} times, {trainer.count:,} tokens,"
    show_end(trainer, "ppo", done, picture, "to talk to it:\n  python scripts/chat.py --model")
    return trainer
