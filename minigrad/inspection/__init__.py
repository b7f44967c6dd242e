"""Looking at what the engine does: its graph, its time, its memory, and where a NaN came from.

    print(draw(loss))                     the graph as text; draw(loss, "graph.svg") as a picture
    with profile() as report: ...         seconds, FLOPs, bytes and arithmetic intensity, per op
    with memory() as report: ...          what the graph holds for backward, now and at its peak
    with detect_anomaly(): ...            stop at the first NaN or infinity, and name the line that made it

The last three are Observers (see minigrad/switches.py): `Function.apply` and the backward walk tell them before and
after each op. Outside of their `with` blocks nobody listens, and an op costs what it always costs.
"""

from .anomaly import AnomalyError, detect_anomaly
from .drawing import draw
from .held_memory import MemoryReport, memory
from .profiler import Profile, profile

__all__ = ["AnomalyError", "MemoryReport", "Profile", "detect_anomaly", "draw", "memory", "profile"]
