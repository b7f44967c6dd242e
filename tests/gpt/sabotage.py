"""scripts/train.py in which process 1 meets with an accident: python tests/gpt/sabotage.py WHAT:STEP[,...] [options].

WHAT, before the step is taken:

    nan     its loss is not finite
    raise   an exception of ours
    bug     any other exception
    kill    the system kills it
    ctrl-c  Ctrl-C reaches it, and no other
    drift   its weights become others (only seen where they are compared, at the start of a run: step 0)
"""

import os
import signal
import sys

from gpt.training.trainer import Trainer
from scripts import train
from scripts.shared import command_line

step, run = Trainer.step, Trainer.run
plans = {}  # step -> what happens before it


def sabotaged_run(self):
    if self.team.rank == 1 and plans.get(0) == "drift":
        self.parameters[0].data[0] += 1
    run(self)


def sabotaged_step(self):
    what = plans.get(self.steps_done + 1) if self.team.rank == 1 else None
    if what == "raise":
        raise ValueError("the data are not to my taste")
    if what == "bug":
        raise AssertionError("this cannot happen")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "ctrl-c":
        signal.raise_signal(signal.SIGINT)
    if what != "nan":
        return step(self)
    loss_fn = self.loss_fn

    def not_finite(model, batch):
        loss, n, metrics = loss_fn(model, batch)
        return loss * float("nan"), n, metrics

    self.loss_fn = not_finite
    result = step(self)
    self.loss_fn = loss_fn
    return result


if __name__ == "__main__":
    for plan in sys.argv.pop(1).split(","):
        name, _, at = plan.partition(":")
        plans[int(at)] = name
    Trainer.run, Trainer.step = sabotaged_run, sabotaged_step
    command_line.run(train.main)
