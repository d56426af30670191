"""Our engine beside the usual trainers, on one workload: `make bench-training`.

Every measurement is a process of its own. All of them, ours too, report a line of JSON after each
optimizer step, and the clock is read by the one who starts them: one instrument for everybody. The
sides take turns, A B C and then C B A, so that a machine that slows down slows down all of them.
"""
