"""Which settings serve most people within limits: predicted for many, measured for few."""
