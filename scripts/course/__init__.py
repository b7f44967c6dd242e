"""What does one learn with?

Four folders:

    lessons/      the course as scripts that run from top to bottom (README.md)
    exercises/    one file each; what is taught by writing it oneself (README.md)
    checker/      how an answer is judged, and what is wrong with it (README.md)
    steps/        small scripts to step through, line by line, in a debugger or in a page

What lessons draw with:

    pictures.py       `Lesson`, which every lesson begins with; bars, heat maps, the loop of generation
    widget_data.py    the numbers behind the widgets, drawings to play with in a page

What both lessons and exercises read:

    progress.py       what a learner has passed
"""
