"""What steps take on this machine: measured in a process of its own, and kept."""
