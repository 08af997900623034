"""Learning rate as a function of the step alone, so that a resumed run has nothing to restore."""

import math

START, END = 25.0, 1e4


def one_cycle(step: int, total: int, peak: float, warmup: float) -> float:
    """Return the learning rate of step `step` (0 to total - 1) of a one-cycle policy.

    Cosine from peak / START up to peak over the first `warmup` share, then cosine down to
    peak / START / END. Smith & Topin 2018, arXiv:1708.07120, in the form of torch's OneCycleLR.
    """
    first = peak / START
    turn = warmup * total - 1
    if step <= turn:
        return _cosine(first, peak, step / turn if turn else 1.0)
    return _cosine(peak, first / END, (step - turn) / (total - 1 - turn))


def _cosine(a: float, b: float, share: float) -> float:
    return b + (a - b) / 2 * (1 + math.cos(math.pi * share))
