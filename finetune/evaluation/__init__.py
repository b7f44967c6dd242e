"""How good are the answers?

answering.py         ask questions and score the replies
pass_at_k.py         questions whose answers code can check: how many are right, of one answer and of several
multiple_choice.py   exams in which the most probable of several choices is the answer
exam_questions.py    one that a program makes
judge.py             is the model better than the one it started from? Win rate and KL divergence
reward_accuracy.py   how often does a reward model score the chosen reply higher?
confusion.py         which classes does a classifier take for which?
"""
