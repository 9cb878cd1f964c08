"""Bytes and cells: the lowest layer, which knows neither requests nor HTTP."""
