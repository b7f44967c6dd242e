"""What is a run of each stage?

    stage.py               what all runs share: folders, resuming, the end
    sft.py                 instruction tuning
    classification.py      a classifier
    reward.py              a reward model
    dpo.py                 direct preference optimization
    ppo.py                 reinforcement learning from the reward model (its loop: ppo_loop.py, picture: ppo_plot.py)
    adaptation.py          LoRA, QLoRA or full fine-tuning (its data: adaptation_data.py)
    method_comparison.py   the three methods in one table
    pipeline.py            all stages, one after the other (pipeline_stages.py)
"""
