"""How is each stage run? A page per stage, with its loop on it: from the data to the changed weights.

    reward.py              a reward model: the smallest stage, an example for new ones
    sft.py                 instruction tuning
    classification.py      a classifier
    dpo.py                 direct preference optimization
    ppo.py                 reinforcement learning from the reward model
    grpo.py                reinforcement learning from answers that code checks
    worked_model.py        the small model that it starts from
    adaptation.py          LoRA, QLoRA or full fine-tuning
    adaptation_data.py     the data for it: a text, or conversations
    method_comparison.py   the three methods in one table
    pipeline_stages.py     the stages of the pipeline, with their settings
    pipeline.py            all stages, one after the other
    run_config.py          the settings that stages have in common

What surrounds each loop (the run's folder, resuming, evaluations, Ctrl-C) is gpt/training/run.py.
"""
