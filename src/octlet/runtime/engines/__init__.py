"""One module per inference engine."""
