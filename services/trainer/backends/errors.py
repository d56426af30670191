"""What can end a run of a tool, besides faults of the job and its data: those are the engine's."""


class ToolMissing(Exception):
    """The tool is not on this host; another node may have it."""


class ToolFailed(Exception):
    """The tool ended without a result, or with another than the job asked for."""


class ToolOutOfMemory(Exception):
    """The tool ended because a memory was full."""


class ToolDiverged(Exception):
    """A loss or a gradient is no longer a finite number."""
