"""The supervisor on a GPU host: claims jobs, runs an engine for each, and reports on it."""
