"""API keys: secrets, where they are kept, and what each may. Nothing here knows HTTP."""
