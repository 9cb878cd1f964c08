"""How models write tool calls and thoughts: recognised by the chat template, asked for, read, and forced. Pure.

`arrange` is the entrance. What is known of each family comes from its template and its maker's description.
"""
