"""How fast is it, and how much memory does it take, beside others? What the numbers say is in README.md.

The files, in reading order:

    rows.py          what is timed, and against what
    comparison.py    what is measured and printed of a row
    turns.py         processes that take turns, and what runs in one of them
    ours.py          the jobs on our side; pytorch.py and llama_cpp.py have the same on the other side
    tokenizing.py    a row of its own: learning a vocabulary, and encoding
    race.py          another: who reaches nanoGPT's loss first; each run is a process of its own
    picture.py       all of it in one picture
    gpu/             the same questions on a GPU, for verify_gpu.py
"""
