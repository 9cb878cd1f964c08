"""The HTTP edge. Starlette lives only here."""
