"""Looking at what the engine does: its graph, its time, its memory, and where a NaN came from.

    print(draw(loss))                     the graph as text; draw(loss, "graph.svg") as a picture
    with profile() as report: ...         seconds, FLOPs, bytes and arithmetic intensity of each op
    with memory() as report: ...          what the graph holds for backward, now and at its peak
    with detect_anomaly(): ...            stop at the first NaN or infinity, and name the line that made it

The last three are observers: objects that `Function.apply` and the backward walk call before and after each op (see
`Observer` in minigrad/switches.py). Outside of their `with` blocks there are none, and an op takes its usual time.

The files, in reading order:

    graph.py        the graph behind a tensor as a list of nodes
    drawing.py      draw: that list as text
    layout.py       where the boxes of a picture stand
    svg.py          the picture
    observers.py    what all observers need: entering and leaving, finding arrays, naming inputs
    profiler.py     profile
    flops.py        how much arithmetic an op does
    held_memory.py  memory
    anomaly.py      detect_anomaly
"""

from .anomaly import AnomalyError, detect_anomaly
from .drawing import draw
from .held_memory import MemoryReport, memory
from .profiler import Profile, profile

__all__ = ["AnomalyError", "MemoryReport", "Profile", "detect_anomaly", "draw", "memory", "profile"]
