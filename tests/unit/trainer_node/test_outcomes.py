from services.trainer.node.engine import EngineExit
from services.trainer.node.lease import Cause, Failure
from services.trainer.node.outcomes import MESSAGE_LIMIT, unexplained, with_last_lines


def test_a_killed_engine_is_told_with_its_signal_step_and_a_hint() -> None:
    failure = unexplained(EngineExit(-9, ()), 12)
    assert failure.cause is Cause.ENGINE_KILLED
    assert "SIGKILL at step 12; the kernel does that when memory runs out" in failure.message


def test_an_engine_that_the_kernel_killed_for_want_of_memory_ran_out_of_it() -> None:
    failure = unexplained(EngineExit(-9, (), memory_kills=1), 12)
    assert failure == Failure(Cause.OUT_OF_MEMORY, "the kernel killed it at step 12")
    assert unexplained(EngineExit(-11, (), memory_kills=1), 12).cause is Cause.ENGINE_KILLED


def test_a_status_that_nobody_explained_is_an_error() -> None:
    failure = unexplained(EngineExit(3, ()), 0)
    assert failure == Failure(Cause.ENGINE_ERROR, "it left with status 3 at step 0")


def test_the_last_lines_stand_behind_the_cause() -> None:
    failure = with_last_lines(Failure(Cause.ENGINE_ERROR, "it fell"), EngineExit(3, ("a", "b")))
    assert failure.message == "it fell\nlast lines of the engine:\na\nb"


def test_many_last_lines_never_push_out_the_cause_and_the_very_last() -> None:
    lines = tuple("x" * 5000 for _ in range(19))
    failure = with_last_lines(
        Failure(Cause.ENGINE_ERROR, "it fell"), EngineExit(3, (*lines, "end"))
    )
    assert len(failure.message) == MESSAGE_LIMIT
    assert failure.message.startswith("it fell\n")
    assert failure.message.endswith("\nend")
