"""The usage ledger: who used how much of which model, by day. Knows neither scheduler nor HTTP."""
