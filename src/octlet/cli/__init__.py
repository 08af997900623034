"""The command line: thin verbs, imported only when called."""
