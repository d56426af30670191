"""Errors for people: one readable block."""

from collections.abc import Iterator, Sequence

from anneal.errors import AnnealError, LineFault, Unavailable, UploadRejected, Violation

MAX_FAULTS_SHOWN = 100


def describe(error: AnnealError) -> str:
    """Returns the block: what happened, every violation or fault, and what to try."""
    return "\n".join(_lines(error))


def _lines(error: AnnealError) -> Iterator[str]:
    if isinstance(error, UploadRejected):
        yield (
            f"error: nothing was stored: {_count(error.fault_count, 'fault')} "
            f"in {_count(error.line_count, 'line')} (UPLOAD_REJECTED)"
        )
        yield from _fault_table(error.faults[:MAX_FAULTS_SHOWN])
        if error.fault_count > len(error.faults):
            yield f"  … and {error.fault_count - len(error.faults)} more"
        return
    yield f"error: {error.message}" + (f" ({error.reason})" if error.reason else "")
    if not _says_it_all(error):
        yield from (f"  {_violation(violation)}" for violation in error.violations)
    if isinstance(error, Unavailable) and error.reason == "UNREACHABLE":
        yield "  Is `anneal up` running? `anneal doctor` tells what is missing."
    if error.code in {"INTERNAL", "UNKNOWN"} and error.request_id:
        yield f"  The service's log has the cause under request id {error.request_id}."


def _says_it_all(error: AnnealError) -> bool:
    """Whether the message is the one violation, word for word."""
    return [f"{one.field}: {one.description}" for one in error.violations] == [error.message]


def _violation(violation: Violation) -> str:
    reason = f" ({violation.reason})" if violation.reason else ""
    return f"{violation.field}: {violation.description}{reason}"


def _fault_table(faults: Sequence[LineFault]) -> Iterator[str]:
    rows = [("line", "code", "pointer", "message")]
    rows += [(str(f.line), f.code, f.pointer or "-", f.message) for f in faults]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for line, code, pointer, message in rows:
        start = f"{line:>{widths[0]}}  {code:<{widths[1]}}  {pointer:<{widths[2]}}"
        yield f"  {start}  {message}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
