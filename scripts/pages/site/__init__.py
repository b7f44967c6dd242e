"""How does all of it run in a browser's tab? Each module answers a page: what its script asks of Python.

The files, in reading order:

    in_browser.py    how a page calls Python
    cells.py         the cells of a lesson
    exercise.py      the checker, and the capstone
    train.py         a GPT that learns from the visitor's text
    explore.py       looking into a model
    smollm2.py       a chat model, packed for the site and read in the browser
    chat.py          a conversation with it
    step.py          one training step, op by op
    debugger.py      a script again, after a line was changed
"""
