"""Octlet: retinal OCT B-scans to a small, verified model.

Decision support for research. Not a medical device.
"""

__version__ = "0.1.0"
