"""Real servers and a settable clock for the tests of any service."""
