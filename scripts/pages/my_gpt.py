"""One page about the GPT that a learner has built: which blocks are theirs, how it learned, what it writes.

Plain HTML with the curve as SVG: no library, and it opens everywhere. Parts that are the learner's are dark, so that
the page can be read in black and white.
"""

from __future__ import annotations

import html as escaping
from typing import Any

GROUPS = ("Tokenizer", "Embedding", "Norms", "Attention", "MLP", "Loss", "Optimizer", "Writing", "Engine",
          "Fine-tuning", "Quantization")  # fmt: skip
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #111; }
.row { display: flex; flex-wrap: wrap; align-items: center; gap: .4em; }
.row { border: 1px solid #999; padding: .5em; margin: .3em 0; }
.row b { width: 8em; }
.part { border: 1px solid #555; padding: .1em .6em; border-radius: .3em; color: #555; }
.mine { background: #1d3b6f; color: #fff; }
.used { outline: 3px solid #111; outline-offset: 1px; }
pre { white-space: pre-wrap; background: #f3f3f3; padding: 1em; }
"""


def html(
    exercises: list[tuple[str, Any]],
    passed: list[str],
    used: list[str],
    theirs: list[float],
    mine: list[float],
    text: str,
) -> str:
    """The page as text. exercises: (name, Exercise) of the whole course; used: those that ran in this training."""
    names = [name for name, _ in exercises]
    done = [name for name in names if name in passed]
    groups = [*GROUPS, *dict.fromkeys(e.group for _, e in exercises if e.group not in GROUPS)]
    rows = []
    for group in groups:
        parts = [(name, e) for name, e in exercises if e.group == group]
        boxes = [_box(name, f"{e.title} ({e.effort})", name in passed, name in used) for name, e in parts]
        if boxes:
            rows.append(f'<div class="row"><b>{escaping.escape(group)}</b>{"".join(boxes)}</div>')
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>My GPT</title><style>{STYLE}</style>
<h1>My GPT: {len(done)} of {len(names)} parts are mine</h1>
<p>Dark: I wrote it, and it passed. With a thick frame: it ran in the training below. Light: still the library's.</p>
{"".join(rows)}
<h2>How it learned</h2>
<p>Loss in nats per token, over {len(mine)} steps. Last step: {mine[-1]:.3f} with my parts, {theirs[-1]:.3f} with the
library's.</p>
{curve(theirs, mine)}
<h2>What it writes</h2>
<pre>{escaping.escape(text)}</pre>
</html>
"""


def _box(name: str, title: str, mine: bool, used: bool) -> str:
    classes = " ".join(["part", *(["mine"] if mine else []), *(["used"] if used else [])])
    return f'<span class="{classes}" title="{escaping.escape(title)}">{escaping.escape(name)}</span>'


def curve(theirs: list[float], mine: list[float], width: int = 720, height: int = 300) -> str:
    """Both losses as SVG: the library's a wide gray line, the learner's a thin black one on it."""
    left, bottom, top = 55, 45, 10
    low, high = min(theirs + mine), max(theirs + mine)
    span = (high - low) or 1.0

    def place(step: int, loss: float) -> str:
        x = left + step * (width - left - 10) / max(len(mine) - 1, 1)
        return f"{x:.1f},{top + (high - loss) / span * (height - top - bottom):.1f}"

    lines = []
    for losses, style in ((theirs, 'stroke="#aaa" stroke-width="6"'), (mine, 'stroke="#000" stroke-width="1.5"')):
        points = " ".join(place(step, loss) for step, loss in enumerate(losses))
        lines.append(f'<polyline fill="none" {style} points="{points}"/>')
    ticks = [low + span * i / 4 for i in range(5)]
    labels = [
        f'<text x="{left - 8}" y="{float(place(0, tick).split(",")[1]) + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
        for tick in ticks
    ]
    axis = height - bottom
    return f"""<svg viewBox="0 0 {width} {height}" width="100%" font-size="13" role="img" aria-label="loss by step">
<line x1="{left}" y1="{axis}" x2="{width - 10}" y2="{axis}" stroke="#000"/>
<line x1="{left}" y1="{top}" x2="{left}" y2="{axis}" stroke="#000"/>
{"".join(labels)}
<text x="{left}" y="{axis + 17}">1</text><text x="{width - 10}" y="{axis + 17}" text-anchor="end">{len(mine)}</text>
<text x="{width / 2}" y="{axis + 35}" text-anchor="middle">step</text>
<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">loss (nats per token)</text>
{"".join(lines)}
<line x1="{width - 230}" y1="22" x2="{width - 200}" y2="22" stroke="#aaa" stroke-width="6"/>
<text x="{width - 192}" y="26">the library's parts</text>
<line x1="{width - 230}" y1="42" x2="{width - 200}" y2="42" stroke="#000" stroke-width="1.5"/>
<text x="{width - 192}" y="46">my parts</text>
</svg>"""
