"""How good are the answers?

    answering.py         asking questions and scoring replies
    judge.py             better than the model it came from? win rate and KL
    report.py            what each stage of the pipeline changed
    training_memory.py   how much memory training takes, measured
"""
