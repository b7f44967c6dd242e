"""How is it used? The commands, a file each (README.md lists them in groups), and four rooms.

Beside them:

    start.py        what every command imports first
    shared/         what commands share
    course/         what one learns with: lessons, exercises, their checker, scripts to step through
    pages/          what one looks at in a browser, also the course; the site is all of it in a tab
    benchmarks/     side by side with others, on the CPU and on a GPU
"""

import sys
from pathlib import Path

# A command that is imported, as scripts.train, finds start.py here; one that is started looks in its own folder anyway.
sys.path.append(str(Path(__file__).resolve().parent))
