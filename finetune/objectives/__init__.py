"""What is minimized? One idea per file.

sft.py              instruction tuning: cross-entropy over the assistant's tokens
model_with_head.py  a model whose head scores classes, or gives rewards
classification.py   cross-entropy over classes
logprobs.py         log-probabilities of replies, entropy, KL divergence
reward.py           the reward model: Bradley-Terry on pairs
dpo.py              direct preference optimization
ppo.py              proximal policy optimization: its formulas
grpo.py             group relative policy optimization: answers to one question, compared with each other
distillation.py     a student learns the predictions of its teacher
rollout.py          replies, with everything that PPO needs to know about each token
"""
