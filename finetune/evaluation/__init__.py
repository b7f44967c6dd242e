"""How good are the answers?

    answering.py         asking questions and scoring replies
    judge.py             better than the model it came from? win rate and KL
    confusion.py         which classes are taken for which? The predictions of a classifier, counted
    reward_hacking.py    the picture of a PPO run: learned reward, true quality, distance from the reference
    report.py            what each stage of the pipeline changed
    training_memory.py   how much memory training takes, measured
"""
