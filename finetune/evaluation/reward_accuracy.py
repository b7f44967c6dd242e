"""How often does a reward model give the chosen reply the higher score? Is that better than chance, and fit for PPO?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt import Tokenizer
from gpt.console import show
from gpt.training.checkpoint import CheckpointError, load_checkpoint
from gpt.training.evaluation import evaluate

from ..built_in.tasks import DIFFERENCES
from ..data.chat_template import ChatTemplate
from ..data.datasets import batches_of, read_preferences
from ..data.pairs import Pair, encode_pairs, pair_batch
from ..objectives.model_with_head import HEAD_FORMAT, ModelWithHead
from ..objectives.reward import LABELS, chance_of, reward_batch_loss

SIGNIFICANCE = 0.01  # how often a coin may do as well as a reward model that counts as better


def accuracy(model: ModelWithHead, pairs: Sequence[Pair]) -> float:
    """How often the chosen reply of a pair has the higher score."""
    return evaluate(model, batches_of(pairs, 32, pair_batch), reward_batch_loss)["accuracy"]


def show_accuracies(model: ModelWithHead, pairs: Sequence[Pair]) -> None:
    """Show the accuracy by what the two replies differ in. Built-in pair i differs in DIFFERENCES[i % 3]."""
    kinds = {name: pairs[i :: len(DIFFERENCES)] for i, name in enumerate(DIFFERENCES)}
    accuracies = [f"{name}: {accuracy(model, some):.0%}" for name, some in kinds.items()]
    show(f"of those that differ in {', '.join(accuracies)}")


def compare_with_chance(model: ModelWithHead, pairs: Sequence[Pair], folder: str) -> tuple[bool, str]:
    """Whether the model is better than a coin on held-out pairs, and a sentence that says so.

    It is better if a coin would get as many pairs right in less than 1 % of cases (one-sided binomial test).
    """
    right = round(accuracy(model, pairs) * len(pairs))
    chance = chance_of(right, len(pairs))
    sentence = f"it gets {right} of {len(pairs)} held-out pairs right; a coin would in {chance:.1g} of cases"
    if chance < SIGNIFICANCE:
        return True, sentence
    advice = "train it longer, or on more pairs"
    return False, f"the reward model in {folder} is no better than chance: {sentence}; {advice}"


def checked_reward_model(folder: str, tokenizer: Tokenizer, block_size: int) -> ModelWithHead:
    """The reward model of a run. Raises if it cannot read the policy's replies, or is not better than chance."""
    model: ModelWithHead = load_checkpoint(folder, with_optimizer=False, format=HEAD_FORMAT).model
    if model.labels != LABELS:
        raise CheckpointError(f"{folder} holds a classifier of {', '.join(model.labels)[:60]}, not a reward model")
    other = Tokenizer.load(folder)
    if other.vocab != tokenizer.vocab or other.special_tokens != tokenizer.special_tokens:
        raise CheckpointError(f"the reward model in {folder} has another tokenizer: train it from the same model")
    if model.config.block_size < block_size:
        sizes = f"{model.config.block_size} tokens, and the model to be trained writes up to {block_size}"
        raise ValueError(f"the reward model in {folder} reads {sizes}: train it from the same model")
    test = read_preferences(Path(folder) / "data" / "test.jsonl")
    pairs, _ = encode_pairs(test, ChatTemplate(tokenizer), model.config.block_size)
    is_better, sentence = compare_with_chance(model, pairs, folder)
    if not is_better:
        raise ValueError(sentence)
    show(f"reward model: {folder}; {sentence}")
    return model
