"""A page about one eye that a person can hand on: one HTML file, one sheet of paper."""
