"""What does the course say, and is it true? A lesson is a file that runs from top to bottom; README.md has the list.

Beside the lessons:

    cells.py             a lesson's cells: reading and running them
    concepts.py          chapters, the exercises of each lesson, the tables of concepts and mental models in README.md
    small_gpt.py         the small models that lessons train
    widget_data.py       the numbers behind the widgets, drawings to play with
    pictures.py          `Lesson`, which every lesson begins with; bars, heat maps, the loop of generation
    honest_replies.py    the task of the two lessons on alignment: honest, flattering and rude replies
"""
