"""Refuse a run that this machine has not enough memory for, before any work is done."""

from __future__ import annotations

import os


def check_memory(needed: float, what: str) -> None:
    """Raise ValueError for a run that needs more bytes than this machine has, before any work is done."""
    there = 1 << 42  # more than machines have, where the system does not say
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sizes = f"{needed / 1e9:,.0f} GB of memory, and this machine has {there / 1e9:,.0f} GB"
        raise ValueError(f"{what} needs at least {sizes}: make it smaller")
