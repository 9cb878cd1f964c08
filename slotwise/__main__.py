"""`python -m slotwise`."""

from slotwise.cli import main

main()
