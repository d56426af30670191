"""What a job would hold in memory at most, found without holding it.

The network is built of tensors that have a shape and no contents, and takes its steps by the
engine's own code; what is alive is counted (`shadow`), and the order of its allocations is gone
through with the allocator itself (`heap`). What the process holds besides is measured in the
process that simulates, which does everything else a run does (`rehearsal`).

A process that has simulated is of no use for a run: models and caches are left without contents.
"""
