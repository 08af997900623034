"""Honest numbers from predictions: metrics with intervals, paired tests, figures, report."""
