"""Every service on this machine: what `anneal up` runs, usable from Python as `Platform`."""
