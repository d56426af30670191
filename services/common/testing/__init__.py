"""Real servers, a network that turns bad, failpoints and a settable clock for tests."""
