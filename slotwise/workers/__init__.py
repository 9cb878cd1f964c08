"""Model processes: the seam they are reached through, the process main, and the parent's side of it."""
