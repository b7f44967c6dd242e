"""Rollouts: what is written down about each token is what the models say about it, one reply at a time."""

import numpy as np
import pytest

from finetune.objectives.model_with_head import ModelWithHead
from finetune.objectives.ppo import update_metrics
from finetune.objectives.rollout import PolicyWithValue, roll_out
from minigrad import Tensor, manual_seed, no_grad
from tests.finetune.small import small_policy
from tests.gpt.small import log_softmax

PROMPTS = ["Say yes.", "No?", "The word, the word!"]


@pytest.fixture(scope="module")
def setting(template):
    """A policy with a value head that says something, a reference, a reward model, prompts of different lengths."""
    model = PolicyWithValue(small_policy(template, 1, "float64")).eval()
    rng = np.random.default_rng(0)
    for parameter in model.value_head.parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape)
    reference = small_policy(template, 2, "float64").eval()
    reward_model = ModelWithHead.from_language_model(small_policy(template, 3, "float64"), ["reward"]).eval()
    prompts = [template.encode([{"role": "user", "content": text}], True)[0] for text in PROMPTS]
    return template, model, reference, reward_model, prompts


@pytest.fixture(scope="module")
def rollout(setting):
    template, *models, prompts = setting
    stop = [*template.stop_tokens, *range(120)]  # so that some of the random replies end
    manual_seed(3)
    return roll_out(*models, prompts, response_length=6, stop_tokens=stop), stop


def test_replies_follow_their_prompts_and_end(setting, rollout):
    (_, _, _, _, prompts), (r, stop) = setting, rollout
    for row, reply in enumerate(r.replies()):
        n = r.starts[row]
        assert r.tokens[row, :n].tolist() == prompts[row] and r.tokens[row, n : n + len(reply)].tolist() == reply
        assert r.mask[row].sum() == len(reply) <= 6 and r.ended[row] == (reply[-1] in stop)
        assert r.ended[row] or len(reply) == 6
        assert not any(token in stop for token in reply[:-1])
    assert len({len(reply) for reply in r.replies()}) > 1  # padding plays a part in what follows


def test_logprobs_values_and_scores_are_those_of_a_reply_alone(setting, rollout):
    _, model, reference, reward_model, prompts = setting
    r, _ = rollout
    for row, reply in enumerate(r.replies()):
        ids = np.array([[*prompts[row], *reply]])
        start, n = len(prompts[row]), len(reply)
        with no_grad():
            hidden = model.policy.hidden_states(ids)[0, start - 1 : -1]  # before each token of the reply
            values = model.value_head(hidden).data[:, 0]
            score = reward_model(ids, [ids.shape[1]]).item()
        for logprobs, gpt in ((r.logprobs, model.policy), (r.reference_logprobs, reference)):
            expected = log_softmax(gpt(ids).data[0, start - 1 : -1])
            np.testing.assert_allclose(logprobs[row, :n], expected[np.arange(n), reply], rtol=1e-9)
            assert not logprobs[row, n:].any()
        np.testing.assert_allclose(r.values[row, :n], values, rtol=1e-9)
        assert not r.values[row, n:].any() and r.scores[row] == pytest.approx(score, rel=1e-9)


def test_the_policy_draws_from_its_own_distribution(setting):
    """With KV cache, padding and all, first tokens are as surprising as the model's distribution says."""
    template, _, reference, reward_model, prompts = setting
    policy = small_policy(template, 1, "float64")
    policy.transformer.ln_f.weight.data *= 6  # a distribution with a few likely tokens
    manual_seed(0)
    r = roll_out(PolicyWithValue(policy), reference, reward_model, [prompts[1], prompts[2]] * 400, 1, [])
    for row in (0, 1):
        log_p = log_softmax(policy(np.array([prompts[1 + row]])).data[0, -1])
        entropy = -(np.exp(log_p) * log_p).sum()
        noise = np.sqrt((np.exp(log_p) * (log_p + entropy) ** 2).sum() / 400)
        assert abs(-r.logprobs[row::2, 0].mean() - entropy) < 4 * noise < 0.2 * entropy


def test_a_token_is_clipped_where_its_loss_has_no_gradient():
    advantages, new = np.array([1.0, 1.0, -1.0, -1.0, 0.0]), np.log([1.5, 0.5, 1.5, 0.5, 0.5])
    metrics = update_metrics(Tensor(np.zeros((5, 3))), Tensor(new), np.zeros(5), advantages, 0.2, 0.2)
    assert metrics["policy/clipfrac_avg"] == 2  # the first and the fourth
