"""What is a run of each stage?

    stage.py               the skeleton of a run, which every stage fills in: start, resume, and what happens in between
    reward.py              a reward model: the smallest stage, an example for new ones
    sft.py                 instruction tuning
    classification.py      a classifier
    dpo.py                 direct preference optimization
    ppo.py                 reinforcement learning from the reward model
    ppo_loop.py            its loop: roll out, score, advantage, update
    adaptation.py          LoRA, QLoRA or full fine-tuning
    adaptation_data.py     on a text or on conversations
    method_comparison.py   the three methods in one table
    pipeline_stages.py     the parts of the whole road, with their settings
    pipeline.py            all of them, one after the other
"""
