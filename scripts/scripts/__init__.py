"""The package `scripts`, for `python scripts/train.py`: Python then searches scripts/ before all other places.

It stands for the folder above, so a script finds its neighbors where minigrad is not installed too, and one of them
says what to do (scripts/shared).
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parent.parent)]
