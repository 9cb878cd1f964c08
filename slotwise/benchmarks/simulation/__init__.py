"""The real scheduler and batcher in virtual time: hours of load in seconds, on machines that are not there."""
