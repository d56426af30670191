"""Other training programs in the engine's place.

Each is started in an interpreter of its own and told, by files, to train what the job file says;
what it does is told onwards as the engine's events, and what it makes becomes the engine's
artifacts. Whoever reads the events need not know which of them trained.
"""
