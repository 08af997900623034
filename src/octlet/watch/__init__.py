"""A folder that a scanner exports into: each new complete file predicted once, urgent ones told first."""
