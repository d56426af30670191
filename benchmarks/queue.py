"""The queue: `python -m benchmarks.queue claims` and `python -m benchmarks.queue day`."""

import sys

from benchmarks import queue_claims, queue_day

_MEASUREMENTS = {"claims": queue_claims.main, "day": queue_day.main}


def main() -> None:
    """Takes which of them; without any, both."""
    for name in sys.argv[1:] or _MEASUREMENTS:
        _MEASUREMENTS[name]()


if __name__ == "__main__":
    main()
