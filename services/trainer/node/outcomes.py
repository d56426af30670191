"""What the end of an engine means, in words."""

from services.common.faults import Fault
from services.trainer.node.engine import EngineExit
from services.trainer.node.lease import Cause, Failure

MESSAGE_LIMIT = 8192
"""Characters that the service takes."""

_INTRODUCTION = "\nlast lines of the engine:\n"


def unexplained(end: EngineExit, step: int) -> Failure:
    """An end that the engine did not explain. The service says before it what the cause means."""
    if end.signal_name is None:
        return Failure(Cause.ENGINE_ERROR, f"it left with status {end.status} at step {step}")
    if end.signal_name == "SIGKILL" and end.memory_kills:
        return Failure(Cause.OUT_OF_MEMORY, f"the kernel killed it at step {step}")
    hint = "; the kernel does that when memory runs out" if end.signal_name == "SIGKILL" else ""
    return Failure(Cause.ENGINE_KILLED, f"{end.signal_name} at step {step}{hint}")


def with_last_lines(failure: Failure, end: EngineExit) -> Failure:
    """The failure, with as much of the engine's last words as there is room for."""
    message = failure.message[: MESSAGE_LIMIT // 2]
    if end.last_lines:
        room = MESSAGE_LIMIT - len(message) - len(_INTRODUCTION)
        message += _INTRODUCTION + "\n".join(end.last_lines)[-room:]
    return Failure(failure.cause, message)


def words(error: Exception) -> str:
    return error.message if isinstance(error, Fault) else str(error)
