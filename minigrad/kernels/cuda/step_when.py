"""An optimizer step that the GPU takes or skips. Only the GPU knows which, and the host does not wait for it."""

from __future__ import annotations

from ... import switches
from ...backend import Array, module_of
from ...optim import Move, Optimizer


def step_when(optimizer: Optimizer, when: Array) -> None:
    """`optimizer.step()` if `when`, a 0-d boolean array on the GPU, is True; otherwise nothing changes."""
    moves = optimizer.moves()
    update_all = switches.kernel_for(type(optimizer), [grad for _, grad, _, _ in moves], update_each_when)
    update_all(optimizer, moves, when)
    for p, *_ in moves:
        p.version += 1


def update_each_when(optimizer: Optimizer, moves: list[Move], when: Array) -> None:
    """Update one parameter after the other, and undo the update if `when` is False."""
    xp = module_of(when)
    for p, grad, state, group in moves:
        # The count of steps becomes an array, because only the GPU knows how many were skipped.
        state.update({name: xp.asarray(value) for name, value in state.items()})
        before, state_before = p.data.copy(), {name: value.copy() for name, value in state.items()}
        optimizer.update(p, grad, state, group)
        p.data[...] = xp.where(when, p.data, before)
        for name, value in state.items():  # each starts at 0
            state[name] = xp.where(when, value, state_before.get(name, 0))
