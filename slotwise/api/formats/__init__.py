"""Stand-in: the package of this name takes its place at the merge."""
