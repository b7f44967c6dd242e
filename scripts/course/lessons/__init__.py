"""What does the course say, and is it true? A lesson is a file that runs from top to bottom; README.md has the list.

Beside the lessons:

    cells.py             a lesson's cells: reading and running them
    concepts.py          chapters, the exercises of each lesson, the tables of concepts and mental models in README.md
    small_gpt.py         the small models that lessons train
    bugs.py              bugs with which a model learns all the same
    honest_replies.py    the task of the two lessons on alignment: honest, flattering and rude replies
"""
