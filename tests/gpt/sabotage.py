"""scripts/train.py in which process 1 meets with an accident: python tests/gpt/sabotage.py WHAT:STEP[,...] [options].

WHAT, before the step is taken:

    nan     its loss is not finite
    raise   an exception of ours
    ctrl-c  Ctrl-C reaches it, and no other
    twice   Ctrl-C reaches it twice, which ends it at once
    drift   its weights become others (only seen where they are compared, at the start of a run: step 0)
"""

import signal
import sys

from gpt.training import run
from gpt.training.run import Run
from scripts import train
from scripts.shared import command_line

prepare, training_step = Run.prepare, run.training_step
plans = {}  # step -> what happens before it
runs = []


def sabotaged_prepare(self, model, *arguments):
    runs.append(self)
    if self.team.rank == 1 and plans.get(0) == "drift":
        next(model.parameters()).data[0] += 1
    prepare(self, model, *arguments)


def sabotaged_step(model, batches, loss_fn, *arguments, **options):
    what = plans.get(runs[-1].state.step + 1) if runs[-1].team.rank == 1 else None
    if what == "raise":
        raise ValueError("the data are not to my taste")
    for _ in range({"ctrl-c": 1, "twice": 2}.get(what, 0)):
        signal.raise_signal(signal.SIGINT)

    def not_finite(model, batch):
        loss, n, metrics = loss_fn(model, batch)
        return loss * float("nan"), n, metrics

    return training_step(model, batches, not_finite if what == "nan" else loss_fn, *arguments, **options)


if __name__ == "__main__":
    for plan in sys.argv.pop(1).split(","):
        name, _, at = plan.partition(":")
        plans[int(at)] = name
    Run.prepare, run.training_step = sabotaged_prepare, sabotaged_step
    command_line.run(train.main)
