"""What can be learned without data of your own? Everything here is made by a program, and code can check the answers.

tasks.py             instructions with one right answer, and preference pairs (wordings: task_templates.py)
chains.py            arithmetic in several steps, for learning from verification
labelled_texts.py    texts with labels: Python's documentation, and the questions of tasks.py
"""
