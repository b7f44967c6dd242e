"""Rollouts: the policy answers prompts, and everything that PPO needs to know about each token is recorded.

Four models are involved:

    policy            draws the tokens of the replies; ln π(token)
    value head        V: the expected return (score minus KL penalties), estimated before each token
    reference model   the model that training started from; ln ρ(token), for the KL penalty
    reward model      the score of the whole reply

Simplified: policy and value head share one transformer, as in Ziegler et al. 2019. Stiennon et al. 2020 give the value
function a transformer of its own, which doubles the cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gpt.model.language_model import LanguageModel
from minigrad import Tensor, nn, no_grad
from minigrad.backend import module_of, to_numpy

from ..data.datasets import pad_right
from .logprobs import selected_logprobs
from .model_with_head import ModelWithHead


class PolicyWithValue(nn.Module):
    """A language model and a value head, which maps a hidden state to the return that is expected from there on.

    The value head starts with zeros, so all values are 0 at first.
    """

    def __init__(self, policy: LanguageModel):
        self.policy = policy
        with nn.init.skipped():
            like = policy.lm_head.weight
            self.value_head = nn.Linear(policy.config.n_embd, 1).to(like.dtype, device=like.device)
        for parameter in self.value_head.parameters():
            nn.init.constant_(parameter, 0.0)

    def forward(self, tokens: np.ndarray, positions: TokenPositions) -> tuple[Tensor, Tensor]:
        """tokens (B, T), the positions of N of them -> logits (N, V) and values (N), from before each token."""
        hidden = positions.take(self.policy.hidden_states(tokens))  # (N, C)
        return self.policy.lm_head(hidden), self.value_head(hidden).reshape(-1)


@dataclasses.dataclass(frozen=True)
class TokenPositions:
    """Where N reply tokens stand in an array (B, T): their rows (N) and columns (N).

    Each of them is predicted one column earlier.
    """

    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, starts: np.ndarray, mask: np.ndarray) -> TokenPositions:
        """The positions of replies that begin at the columns `starts` (B), with tokens where `mask` (B, L) is True.

        >>> positions = TokenPositions.of(starts=np.array([3, 2]), mask=np.array([[True, False], [True, True]]))
        >>> positions.rows.tolist(), positions.columns.tolist()
        ([0, 1, 1], [3, 2, 3])
        """
        rows, steps = np.nonzero(mask)
        return cls(rows, starts[rows] + steps)

    def pick(self, tokens: np.ndarray) -> np.ndarray:
        """The N tokens themselves: (B, T) -> (N)."""
        return tokens[self.rows, self.columns]

    def take(self, hidden: Tensor) -> Tensor:
        """The hidden states that the N tokens were predicted from: (B, T, C) -> (N, C)."""
        xp = module_of(hidden.data)
        return hidden[xp.asarray(self.rows), xp.asarray(self.columns - 1)]


def predictions(model: LanguageModel, tokens: np.ndarray, positions: TokenPositions) -> tuple[Tensor, Tensor]:
    """The logits (N, V) that N tokens of (B, T) were predicted with, and ln p of these tokens (N)."""
    logits = model.lm_head(positions.take(model.hidden_states(tokens)))
    return logits, selected_logprobs(logits, positions.pick(tokens))


@dataclasses.dataclass(frozen=True)
class Replies:
    """B replies to B prompts. L is the length of the longest reply, T that of the longest prompt with its reply.

    tokens (B, T): prompts and replies, padded on the right. starts (B): the columns where the replies begin. mask
    (B, L): True where a reply has a token. ended (B): whether the reply ends with a stop token.
    """

    tokens: np.ndarray
    starts: np.ndarray
    mask: np.ndarray
    ended: np.ndarray

    def replies(self) -> list[list[int]]:
        """The tokens of each reply, a list for each."""
        ends = self.starts + self.mask.sum(axis=1)
        return [self.tokens[row, start:end].tolist() for row, (start, end) in enumerate(zip(self.starts, ends))]


@dataclasses.dataclass(frozen=True)
class Rollout(Replies):
    """Replies, and what PPO's models say about them.

    logprobs, reference_logprobs (B, L): ln p of the tokens under policy and reference. values (B, L): the value head's,
    before each token. All three are 0 outside the mask. scores (B): the reward model's.
    """

    logprobs: np.ndarray
    reference_logprobs: np.ndarray
    values: np.ndarray
    scores: np.ndarray


def prompts_with_replies(
    prompts: Sequence[list[int]], replies: Sequence[list[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """tokens (B, T), padded on the right, with lengths (B); where the replies begin, (B); and their mask (B, L)."""
    tokens, lengths = pad_right([[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)], 0)
    starts = np.array([len(prompt) for prompt in prompts])
    reply_lengths = lengths - starts  # (B)
    mask = np.arange(reply_lengths.max()) < reply_lengths[:, None]  # (B, L)
    return tokens, lengths, starts, mask


def sample_replies(
    policy: LanguageModel, prompts: Sequence[list[int]], response_length: int, stop_tokens: Sequence[int]
) -> Replies:
    """Let the policy answer the prompts, all at once, token by token with the KV cache.

    Replies are drawn at temperature 1, which means from the policy's own distribution, with the random numbers of
    `manual_seed`. A prompt and its reply must fit into the context.
    """
    replies = policy.generate(list(prompts), response_length, stop_tokens=stop_tokens)
    tokens, _, starts, mask = prompts_with_replies(prompts, replies)
    return Replies(tokens, starts, mask, np.array([reply[-1] in stop_tokens for reply in replies]))


@no_grad()
def roll_out(
    model: PolicyWithValue,
    reference: LanguageModel,
    reward_model: ModelWithHead,
    prompts: Sequence[list[int]],
    response_length: int,
    stop_tokens: Sequence[int],
) -> Rollout:
    """Let the policy answer the prompts (`sample_replies`), and evaluate each token of the replies."""
    replies = sample_replies(model.policy, prompts, response_length, stop_tokens)
    tokens, mask = replies.tokens, replies.mask
    # Read the whole replies once more: all models evaluate all tokens at once.
    positions = TokenPositions.of(replies.starts, mask)
    logits, values = model(tokens, positions)  # (N, V), (N)
    _, reference_logprobs = predictions(reference, tokens, positions)  # (N)
    scores = reward_model(tokens, replies.starts + mask.sum(axis=1))  # (B, 1)

    def on_grid(numbers: Tensor) -> np.ndarray:
        """The numbers of the N tokens at their places, and 0 elsewhere: (N) -> (B, L)."""
        grid = np.zeros(mask.shape)
        grid[mask] = to_numpy(numbers.data)
        return grid

    return Rollout(
        **vars(replies),
        logprobs=on_grid(selected_logprobs(logits, positions.pick(tokens))),
        reference_logprobs=on_grid(reference_logprobs),
        values=on_grid(values),
        scores=to_numpy(scores.data)[:, 0].astype(np.float64),
    )


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The means over the replies, which are logged: the score; the KL divergence from the reference in nats (the
    estimate k1 of `estimated_kl`, which may be negative); an estimate of the policy's entropy; how many ended.
    """
    kl = (rollout.logprobs - rollout.reference_logprobs).sum(axis=1)
    return {
        "objective/scores": float(rollout.scores.mean()),
        "objective/kl": float(kl.mean()),
        "objective/entropy": float(-rollout.logprobs.sum(axis=1).mean()),
        "objective/ended": float(rollout.ended.mean()),
    }
