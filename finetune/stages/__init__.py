"""How is each stage run? A page per stage, read from top to bottom: load, data, test, training, report.

    reward.py              a reward model: the simplest stage, an example for new ones
    sft.py                 instruction tuning
    classification.py      a classifier
    dpo.py                 direct preference optimization
    ppo.py                 reinforcement learning from the reward model
    grpo.py                reinforcement learning from answers that code checks
    cold_start.py          the small model that it starts from, and its control run
    lora.py                LoRA, QLoRA or full fine-tuning
    lora_model.py          the model for it: what is trained, and what a checkpoint holds
    lora_data.py           the data for it: a text, or conversations
    merging.py             a run of adapters as a plain model

They all train in one loop, gpt/training/training_loop.py.
"""
