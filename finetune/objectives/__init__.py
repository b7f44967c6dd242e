"""What is minimized? One idea per file.

    gpt_with_head.py    a model whose head scores classes, or rewards
    classification.py   cross-entropy over classes
    sft.py              cross-entropy over the assistant's tokens
    logprobs.py         log-probabilities of replies
    kl.py               the distance between two models
    reward.py           Bradley-Terry: the reward model
    dpo.py              direct preference optimization
    ppo.py              proximal policy optimization, its formulas
    rollout.py          replies with everything that PPO needs to know about them
"""
