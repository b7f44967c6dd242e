"""Tensors, modules and reports in a notebook: HTML without scripts, readable on a light and a dark page."""

from __future__ import annotations

from html import escape

import numpy as np

from .backend import Array, to_numpy

ROWS, COLUMNS = 12, 12  # of a tensor, at most
_CELL = "padding:1px 6px;text-align:right;font-family:monospace"


def tensor_html(data: Array, notes: str) -> str:
    """A tensor's numbers in a grid, the darker the larger: blue above 0, orange below.

    Of more than two dimensions the first matrix is shown, and of a large matrix its first rows and columns.
    """
    values = to_numpy(data)
    if not values.size:
        return f"<div>shape {values.shape}, {escape(notes)}</div>"
    rows = np.atleast_2d(values[(0,) * (values.ndim - 2)])[:ROWS, :COLUMNS]
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    largest = float(finite.max()) if finite.size and finite.max() else 1.0
    cells = "".join(f"<tr>{''.join(_cell(value, largest) for value in row.tolist())}</tr>" for row in rows)
    shown = f", {' x '.join(map(str, rows.shape))} of them shown" if rows.size < values.size else ""
    return f"<table>{cells}</table><div>shape {values.shape}, {escape(notes)}{shown}</div>"


def _cell(value: float, largest: float) -> str:
    strength = min(abs(value) / largest, 1.0) if np.isfinite(value) else 0.0
    color = "176,74,20" if value < 0 else "29,79,145"
    return f'<td style="{_CELL};background:rgba({color},{0.6 * strength:.2f})">{escape(f"{value:.4g}")}</td>'


def outline_html(text: str) -> str:
    """Lines that are indented by two spaces a level, as a tree whose branches fold."""
    lines = text.splitlines()
    depths = [(len(line) - len(line.lstrip())) // 2 for line in lines] + [0]
    html = []
    for line, depth, next_depth in zip(lines, depths, depths[1:], strict=False):
        shown = f'<span style="white-space:pre-wrap;font-family:monospace">{escape(line.strip())}</span>'
        is_open = " open" if depth == 0 else ""
        branch = f'<details{is_open}><summary>{shown}</summary><div style="margin-left:1.5em">'
        html.append(branch if next_depth > depth else f"<div>{shown}</div>")
        html.append("</div></details>" * (depth - next_depth))
    return "".join(html)


class NotebookReport:
    """Base of reports: a notebook shows the table that `print` shows."""

    def _repr_html_(self) -> str:
        return f'<pre style="overflow-x:auto">{escape(str(self))}</pre>'
