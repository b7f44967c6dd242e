"""What happens inside the engine? Its graph, its time, its memory, and the origin of a NaN.

    print(draw(loss))                     the graph as text; draw(loss, "graph.svg") as a picture
    with profile() as report: ...         seconds, FLOPs, bytes and arithmetic intensity of each op
    with memory() as report: ...          the memory that the graph holds for backward, now and at its peak
    with detect_anomaly(): ...            stop at the first NaN or infinity and name the line that produced it
    with record() as recording: ...       every array of a training step, forward and backward

The last four are observers: `Function.apply` and the backward walk call them before and after each op (see `Observer`
in minigrad/switches.py). Outside their `with` blocks there are no observers, and an op takes its usual time.

The files, in reading order:

    graph.py          the graph behind a tensor as a list of nodes
    drawing.py        draw: that list as text
    layout.py         the positions of the boxes in a picture
    svg.py            the picture
    observers.py      what all observers share: entering and leaving, finding arrays, naming inputs
    profiler.py       profile
    flops.py          the amount of arithmetic in an op
    held_memory.py    memory
    anomaly.py        detect_anomaly
    recorder.py       record
    line_recorder.py  record_lines: every line that a script runs, and what each name held before it
"""

from .anomaly import AnomalyError, detect_anomaly
from .drawing import draw
from .held_memory import MemoryReport, memory
from .profiler import Profile, profile
from .recorder import Recording, record

__all__ = [
    "AnomalyError", "MemoryReport", "Profile", "Recording", "detect_anomaly", "draw", "memory", "profile", "record",
]  # fmt: skip
