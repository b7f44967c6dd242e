"""Counts what costs time on a GPU: waiting for the device, and copies of arrays to it and back."""

synchronisations = 0  # the host waited until everything it had asked for was computed
to_host = 0  # arrays copied from the device
to_device = 0  # arrays, lists and numbers copied to the device


def reset():
    """Start counting from 0."""
    global synchronisations, to_host, to_device
    synchronisations = to_host = to_device = 0


def synchronise(copies=0):
    """The host waits; `copies` arrays come with it."""
    global synchronisations, to_host
    synchronisations += 1
    to_host += copies


def upload():
    """Something goes to the device, which does not make the host wait."""
    global to_device
    to_device += 1
