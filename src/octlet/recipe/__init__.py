"""A typed TOML recipe that strings the stages, from scans to report."""
