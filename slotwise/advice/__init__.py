"""What a server's own counters say of its settings."""
