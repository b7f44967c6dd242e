"""How does all of it run in a browser's tab? Two modules write pages; each other one answers what a page's script asks.

The files, in reading order:

    source.py        the library's files as pages, in reading order, whose names are links
    lesson.py        a lesson runs, and becomes a page whose cells can be run
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
