"""How models write tool calls and thoughts. STAND-IN: replaced at the merge."""
