"""PPO: a model that answers learns to answer so that a reward model gives higher scores.

The idea: the stages before this one learn from given replies. Here, the policy, the model that is trained, writes the
replies itself, and those that turn out better than expected become more likely. After a few steps its replies are out
of date, so it writes new ones:

    roll out    the policy answers a batch of prompts                             (finetune/objectives/rollout.py)
    reward      what the reward model gives, minus a price for moving away from the reference model
    advantage   A: how much better a token turned out than expected               (finetune/objectives/ppo.py)
    update      a few optimizer steps on these replies, policy loss = -min(ratio A, clip(ratio) A)

The reference is the model before training. What was expected is computed by a value head, a small layer on top of the
policy that learns to predict the rewards still to come. ratio is p(token) now / p(token) when it was sampled, and
clipping keeps one update from moving too far.

Simplified: dropout is off throughout, and all replies are drawn at temperature 1. Ziegler et al. 2019; Stiennon et al.
2020; Ouyang et al. 2022, section 3.5. The names are those of TRL.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from gpt.console import show
from gpt.settings import Checked, nested, setting
from gpt.training.loading import load_model
from gpt.training.plots import plot_runs
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_loop import train
from gpt.training.training_step import Step, in_precision
from minigrad import Tensor, backend

from ..built_in.tasks import TASKS, TaskItem, instruction_examples
from ..data.chat_template import ChatTemplate
from ..data.datasets import Example, ShuffledBatches, hold_out, read_examples, show_data
from ..data.questions import encode_questions
from ..evaluation.answering import replies_of
from ..evaluation.judge import Judge, qualities, quality_rates
from ..evaluation.reward_accuracy import checked_reward_model
from ..objectives.logprobs import selected_logprobs
from ..objectives.ppo import gae, ppo_loss, token_rewards, update_metrics, whiten
from ..objectives.rollout import PolicyWithValue, Rollout, TokenPositions, roll_out, rollout_metrics

TRAIN_ITEMS, TEST_ITEMS = 6000, 300
SHOWN_METRICS = ("objective/scores", "objective/kl", "right", "courteous")  # metrics on the screen; log.jsonl has all


@dataclasses.dataclass(frozen=True)
class PPOConfig(Checked):
    """The settings of the algorithm (finetune/objectives/ppo.py). Raises ValueError for a value out of range.

    An iteration is a rollout and an update. By default its 64 replies are dealt to 2 mini-batches of 32, twice, which
    makes 4 optimizer steps.
    """

    total_iterations: int = setting(16, "number of times to generate, score and update", ">= 1")
    batch_size: int = setting(64, "questions per iteration", "in [1, 65536]")
    num_ppo_epochs: int = setting(2, "number of passes over the replies of an iteration", ">= 1")
    num_mini_batches: int = setting(2, "optimizer steps per pass", ">= 1")
    response_length: int = setting(24, "longest reply in tokens", ">= 1")
    kl_coef: float = setting(0.5, "KL penalty per nat of distance from the reference; 0: none", ">= 0")
    missing_eos_penalty: float = setting(1.0, "reward subtracted from a reply that does not end", ">= 0")
    gamma: float = setting(1.0, "discount factor of rewards", "in [0, 1]")
    lam: float = setting(0.95, "lambda of GAE: 0 relies on the value head, 1 on the rewards", "in [0, 1]")
    cliprange: float = setting(0.2, "clipping range of the probability ratio", "> 0")
    cliprange_value: float = setting(0.2, "clipping range of the value head", "> 0")
    vf_coef: float = setting(0.1, "weight of the value loss", ">= 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < self.num_mini_batches:
            raise ValueError(f"{self.batch_size} replies cannot be dealt to {self.num_mini_batches} mini-batches")


@dataclasses.dataclass(frozen=True)
class PPORunConfig(Checked):
    """The settings of a PPO run. The reward model must have the same tokenizer as the policy."""

    stage = "ppo"

    init_from: str = "runs/sft"
    reward_model: str = setting("runs/reward", "the run of a reward model", metavar="FOLDER")
    data: str = setting(TASKS, "tasks (built-in questions), or a file of conversations, whose questions are used")
    out_dir: str = "runs/ppo"
    seed: int = 1337
    ppo: PPOConfig = nested(PPOConfig)
    training: TrainingConfig = nested(
        TrainingConfig, learning_rate=1e-4, warmup_iters=8, weight_decay=0.0, eval_interval=8
    )


COLUMNS = """\
             loss  of policy and value together; do not expect it to fall: its target changes with the policy
         tokens/s  of replies, generated, judged and learned from
 objective/scores  what the reward model gives the replies, on average: what is maximized
     objective/kl  how far the policy has moved from the reference: ln π - ln ρ of a reply, on average; penalized
            right  share of replies that are right, which the reward model does not know (up to 100 at an evaluation)
        courteous  share of replies that are right and courteous, as in the preferred replies"""
# The picture. Where the score rises and the true quality falls, the policy has found out what the reward model
# overlooks: reward hacking, or Goodhart's law (Gao et al. 2023, "Scaling laws for reward model overoptimization").
PANELS = {
    "objective/scores": "learned reward\n(reward model's score)",
    "courteous": "true quality\n(share right and courteous)",
    "objective/kl": "KL from the reference\n(nats per reply)",
}
TITLE = "Reinforcement from a reward model"


def train_ppo(run: Run, config: PPORunConfig) -> None:
    """Tune an instruction-tuned language model on the scores of a reward model."""
    # Load questions and the policy. A resumed run finds both in its folder.
    ppo = config.ppo
    if run.is_new:
        examples, test_examples = load_questions(config.data, config.seed)
        policy, tokenizer = load_model(config.init_from, trainable=True)
        show(f"starting from the weights in {config.init_from}, which are also the reference")
    else:
        policy, tokenizer = run.load()
        examples, test_examples = run.load_data(read_examples)
    # Two more models, which never change: the reference and the reward model. They are not copied into the
    # run's folder, so a resumed run checks that they are still the same.
    reference = load_model(config.init_from)[0].to(run.device).eval()
    block_size = reference.config.block_size
    reward_model = checked_reward_model(config.reward_model, tokenizer, block_size).to(run.device).eval()
    if run.is_new:  # saved only now, because a model that cannot be loaded must not leave a folder
        run.begin(policy, tokenizer)
        run.keep_data(train=examples, test=test_examples)
    run.check_unchanged("reward_model", reward_model, config.reward_model)
    run.check_unchanged("reference", reference, config.init_from)
    model = PolicyWithValue(policy).eval()  # without dropout throughout
    run.parts["value_head"] = model.value_head  # saved beside the policy, which is a whole model without it
    test_examples = test_examples[: run.state.max_eval_items]  # a short run tests on fewer (gpt/training/run_state.py)

    # The data: prompts as tokens, in shuffled batches. Beside each is an item, which knows the right answer if the
    # question is built-in. Items only serve to measure whether higher scores mean better replies.
    template = ChatTemplate(tokenizer)
    all_prompts = encode_questions(examples, template, block_size, ppo.response_length)
    all_items = [TaskItem.of(example) for example in examples]
    batches = ShuffledBatches(list(zip(all_prompts, all_items)), ppo.batch_size, collate=list, seed=config.seed)
    show_data("questions", examples, test_examples)
    run.explain_columns(COLUMNS, shown=SHOWN_METRICS)

    # The loss of a step, see below; and the test: the policy's replies to held-out questions.
    loss_fn = partial(ppo_batch_loss, config=ppo)
    judge = Judge(policy, tokenizer, config, [example.question for example in test_examples])

    def iteration(drawn: list[Any]) -> tuple[list[Step], dict[str, float]]:
        """Roll out, reward, advantage, update: returns the optimizer steps, and what was measured."""
        prompts, items = zip(*drawn[0])  # of the one batch that was drawn; B of each
        # Rollouts and steps have the same precision, so both compute the same p, and the ratio begins with 1.
        with in_precision(config.training.precision):
            # Roll out: the policy answers the prompts. For each token, the policy and the reference give ln p, and the
            # value head a value; for each reply, the reward model gives a score.
            rollout = roll_out(model, reference, reward_model, prompts, ppo.response_length, template.stop_tokens)

            # Reward: at each token a price for moving away from the reference, at the last one also the reply's score,
            # which is lower if the reply has not ended.
            scores = np.where(rollout.ended, rollout.scores, rollout.scores - ppo.missing_eos_penalty)  # (B)
            kl = rollout.logprobs - rollout.reference_logprobs  # (B, L): ln π - ln ρ of each token
            rewards = token_rewards(scores, kl, rollout.mask, ppo.kl_coef)  # (B, L)

            # Advantage: how much better did each token turn out than the value head expected? The returns are what it
            # should have expected: they are its targets.
            advantages, returns = gae(rewards, rollout.values, rollout.mask, ppo.gamma, ppo.lam)  # (B, L) each
            advantages = whiten(advantages, rollout.mask)  # mean 0, variance 1

            # Update: a few optimizer steps, each on the tokens of some of the replies.
            steps = []
            for batch in ppo_batches(rollout, advantages, returns, ppo, backend.generator()):
                steps.append(run.step([batch], loss_fn))
        metrics = rollout_metrics(rollout)  # scores and KL
        if config.data == TASKS:
            metrics |= quality_rates(qualities(items, replies_of(tokenizer, rollout)))
        return steps, metrics

    # Training: iterations, each of a rollout and some optimizer steps. max_iters counts the steps.
    n_steps = ppo.num_ppo_epochs * ppo.num_mini_batches  # in an iteration
    training = dataclasses.replace(config.training, max_iters=ppo.total_iterations * n_steps)
    run.prepare(model, training, n_steps)  # the optimizer, and the schedule of its learning rate
    train(run, batches, iteration, judge.validate)  # the loop: gpt/training/training_loop.py

    # The report: replies to the same questions before training and after it.
    if not run.interrupted:
        judge.show_change()
        picture = plot_runs({"": run.out_dir}, PANELS, TITLE, run.out_dir / "reinforcement.png")
        run.report(picture)


# --- the batches of an update -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PPOBatch:
    """N tokens of some replies, and what was known when they were sampled.

    tokens (B, T): prompts with their replies; T counts both, and the L of a rollout only the reply. positions: where
    the N reply tokens stand in them. The other arrays have a number for each of these tokens, (N).
    """

    tokens: np.ndarray
    positions: TokenPositions
    old_logprobs: np.ndarray
    advantages: np.ndarray
    old_values: np.ndarray
    returns: np.ndarray


def ppo_batches(
    rollout: Rollout, advantages: np.ndarray, returns: np.ndarray, config: PPOConfig, rng: np.random.Generator
) -> list[PPOBatch]:
    """Deal the replies of a rollout to mini-batches, once in each epoch. advantages, returns: of their tokens, (B, L).

    With 4 replies, 2 epochs and 2 mini-batches, the batches may have replies 2 and 0, 3 and 1; 1 and 0, 3 and 2.
    """
    batches = []
    for _ in range(config.num_ppo_epochs):
        for rows in np.array_split(rng.permutation(len(advantages)), config.num_mini_batches):
            # rows: the numbers of some replies. x[rows][mask] takes the N tokens of these replies: (B, L) -> (N).
            mask = rollout.mask[rows]
            batch = PPOBatch(
                rollout.tokens[rows],
                TokenPositions.of(rollout.starts[rows], mask),
                old_logprobs=rollout.logprobs[rows][mask],
                advantages=advantages[rows][mask],
                old_values=rollout.values[rows][mask],
                returns=returns[rows][mask],
            )
            batches.append(batch)
    return batches


def ppo_batch_loss(model: PolicyWithValue, batch: PPOBatch, config: PPOConfig) -> tuple[Tensor, int, dict[str, Any]]:
    """For the training loop: the sum of the losses of a batch's N tokens; N; and sums of the metrics."""
    # What policy and value head say about these tokens now; the batch knows what they said during the rollout.
    logits, values = model(batch.tokens, batch.positions)  # (N, V), (N)
    logprobs = selected_logprobs(logits, batch.positions.pick(batch.tokens))  # (N)
    clip = config.cliprange
    loss, policy, value = ppo_loss(
        logprobs,
        values,
        batch.old_logprobs,
        batch.old_values,
        batch.advantages,
        batch.returns,
        clip,
        config.cliprange_value,
        config.vf_coef,
    )
    metrics = {
        **update_metrics(logits, logprobs, batch.old_logprobs, batch.advantages, clip, clip),
        "loss/policy_avg": policy.data.sum(),
        "loss/value_avg": value.data.sum(),
    }
    return loss.sum(), len(logprobs), metrics


def load_questions(data: str, seed: int) -> tuple[list[Example], list[Example]]:
    """Conversations to answer, for training and for tests. Answers that they contain are not used."""
    if data == TASKS:
        # seed + 1: the policy learned from the questions of `seed` in instruction tuning
        return instruction_examples("train", TRAIN_ITEMS, seed + 1), instruction_examples("test", TEST_ITEMS, seed)
    return hold_out(read_examples(data), data, "conversation")
