"""warmup_cosine: the learning rate of each step, as a fraction of its peak.

    ratio = (step + 1) / (warmup + 1)                                     where step < warmup: a line up
    ratio = min_ratio + (1 - min_ratio) (1 + cos(π * progress)) / 2       in between: half a cosine down
    ratio = min_ratio                                                     where step >= total
    progress = (step - warmup) / (total - warmup)

Shapes: numbers; steps are counted from 0.
Example: warmup = 3, total = 7, min_ratio = 0.1, steps 0, 1, 2, 3, 5, 7  ->  0.25, 0.5, 0.75, 1.0, 0.55, 0.1
"""


import hypothesis.strategies as st

from scripts.course.checker.checks import Case, Exercise, FunctionCheck, Patch, beginning

STUB = beginning(__doc__, "import math") + '''
def ratio(step, warmup, total, min_ratio):
    # TODO
    raise NotImplementedError("the schedule")
'''

BLANKS = '''
if step < warmup:
    return (step + 1) / (warmup + 1)
if step >= total:
    return min_ratio
progress = (step - warmup) / (total - warmup)  # from 0 at the end of the warm-up to 1
cosine = (1 + math.cos(math.pi * progress)) / 2  # half a wave in radians, from 1 to 0
return min_ratio + (1 - min_ratio) * cosine  # from 1 to min_ratio
'''

SLIPS = [
    ("(step + 1) / (warmup + 1)", "step / warmup",
     "the first step has learning rate 0 and moves nothing: (step + 1) / (warmup + 1)"),
]  # fmt: skip


@st.composite
def cases(draw):
    warmup = draw(st.integers(0, 5))
    total = warmup + draw(st.integers(1, 8))
    return Case(draw(st.integers(0, total + 2)), warmup, total, draw(st.sampled_from([0.0, 0.1, 0.5])))


def at_steps(ratio, steps):
    return [float(ratio(*step)) for step in steps]


def as_method(ratio):
    return lambda schedule, step: ratio(step, schedule.warmup_steps, schedule.total_steps, schedule.min_ratio)


STEPS = [(step, 3, 9, 0.1) for step in range(11)]

EXERCISE = Exercise(
    STUB, BLANKS, SLIPS,
    title="the learning rate over a training run",
    group="Optimizer", effort="15 min, medium",
    hints=(
        "Three cases. Where the line ends and the cosine begins, both give 1.",
        "progress runs from 0 at the end of the warm-up to 1 at `total`; the cosine from 1 to -1.",
        "min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))",
    ),
    checks=[FunctionCheck("ratio", cases().map(lambda case: Case([case.arguments])), Case(STEPS), call=at_steps)],
    place=Patch("ratio", "minigrad.optim.WarmupCosine.ratio", adapt=as_method),
    answer=("minigrad.optim.WarmupCosine.ratio",),
)
