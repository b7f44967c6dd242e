"""A progress bar for whatever takes longer than a few seconds, if tqdm is installed and somebody is watching."""

from __future__ import annotations

from typing import Any


class _Silent:
    """What stands in for a tqdm bar."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, amount: float = 1) -> None:
        pass

    def set_description(self, text: str) -> None:
        pass


def progress_bar(total: int | None, description: str, unit: str = "it") -> Any:
    """A tqdm bar on standard error (`with progress_bar(...) as bar: bar.update(n)`).

    Silent without tqdm (the extra `progress`) and where standard error is no terminal. `total` None: length unknown.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return _Silent()
    return tqdm(total=total, desc=description, unit=unit, unit_scale=True, leave=False, disable=None)
