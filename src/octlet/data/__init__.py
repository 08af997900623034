"""Scans in: index, audit, split, phantom."""
