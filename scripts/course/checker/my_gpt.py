"""The page about the GPT that a learner has built: which parts are theirs, how it learned, what it writes.

Parts that are the learner's are filled, so the page can be read in black and white.
"""

import numpy as np

from scripts.shared.web_page import escaped, page

from .checks import Exercise

GROUPS = ("Tokenizer", "Embedding", "Norms", "Attention", "MLP", "Loss", "Optimizer", "Writing", "Engine",
          "Fine-tuning", "Quantization")  # fmt: skip


def html(
    exercises: list[Exercise], passed: list[str], used: list[str], theirs: list[float], mine: list[float], text: str
) -> str:
    """The page. exercises: those of the whole course; used: the names of those that ran in this training."""
    groups: dict[str, str] = dict.fromkeys(GROUPS, "")
    for exercise in exercises:
        classes = "part" + " mine" * (exercise.name in passed) + " used" * (exercise.name in used)
        tip = escaped(f"{exercise.title} ({exercise.effort})")
        box = f'<span class="{classes}" title="{tip}">{escaped(exercise.name)}</span>'
        groups[exercise.group] = groups.get(exercise.group, "") + box
    rows = [f'<div class="row"><b>{escaped(group)}</b>{boxes}</div>' for group, boxes in groups.items() if boxes]
    body = f"""<p class="kind">minigrad: the exercises</p>
<h1>My GPT: {sum(each.name in passed for each in exercises)} of {len(exercises)} parts are mine</h1>
<p class="legend"><span class="part mine">I wrote it, and it passed</span> <span class="part">still the library's</span>
<span class="part used">ran in the training below</span></p>
{"".join(rows)}<h2>How it learned</h2>
<p>Loss in nats per token, over {len(mine)} steps: the library's parts as a wide gray line, mine as a thin blue one on
top. Last step: {mine[-1]:.3f} with my parts, {theirs[-1]:.3f} with the library's.</p>
<figure>{curve(theirs, mine)}</figure><h2>What it writes</h2>
<pre class="output">{escaped(text)}</pre>"""
    return page("My GPT", body, "report")


def curve(theirs: list[float], mine: list[float]) -> str:
    """Both losses by step as SVG, the learner's drawn over the library's."""
    left, right, top, bottom = 50, 700, 10, 250
    low, high = min(theirs + mine), max(theirs + mine)
    xs = np.linspace(left, right, len(mine))

    def y(loss: float) -> float:
        return top + (high - loss) / ((high - low) or 1.0) * (bottom - top)

    lines = ""
    styles = 'stroke="var(--line)" stroke-width="6"', 'stroke="var(--accent)" stroke-width="2"'
    for losses, style in zip((theirs, mine), styles):
        points = " ".join(f"{x:.1f},{y(loss):.1f}" for x, loss in zip(xs, losses, strict=True))
        lines += f'<polyline fill="none" {style} points="{points}"/>'
    labels = "".join(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
                     for tick in np.linspace(low, high, 5))  # fmt: skip
    return f"""<svg viewBox="0 0 720 290" width="100%" font-size="13" fill="currentColor"
 role="img" aria-label="loss by step">
<path d="M{left},{top} V{bottom} H{right}" fill="none" stroke="currentColor"/>{labels}{lines}
<text x="{left}" y="{bottom + 20}">step 1</text><text x="{right}" y="{bottom + 20}" text-anchor="end">{len(mine)}</text>
</svg>"""
