"""How is each stage run?

    stage.py               the skeleton of a run, which every stage fills in: start, resume, and the steps in between
    reward.py              a reward model: the smallest stage, an example for new ones
    sft.py                 instruction tuning
    classification.py      a classifier
    dpo.py                 direct preference optimization
    ppo.py                 reinforcement learning from the reward model
    ppo_loop.py            the loop of PPO: roll out, score, advantage, update
    grpo.py                reinforcement learning from answers that code checks
    grpo_loop.py           the loop of GRPO: answer several times, check, compare, update
    rollout_loop.py        what both loops share
    adaptation.py          LoRA, QLoRA or full fine-tuning
    adaptation_data.py     the data for it: a text, or conversations
    method_comparison.py   the three methods in one table
    pipeline_stages.py     the stages of the pipeline, with their settings
    pipeline.py            all stages, one after the other
"""
