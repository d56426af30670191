"""`python -m services.inference.worker BASE_MODEL_DIRECTORY THREADS`."""

import gc
import os
import sys
from pathlib import Path


def main() -> None:
    directory, threads = Path(sys.argv[1]), int(sys.argv[2])
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's print is no answer
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

    gc.disable()  # imports make a million objects, and hardly any garbage
    import torch

    from services.inference.worker.loop import Worker
    from services.inference.worker.model import ResidentModel

    gc.enable()
    torch.set_num_threads(threads)
    # A reader of its own that nobody closes: a thread blocks in it, and closing it, or an
    # interpreter's exit that closes sys.stdin, would wait for that thread for ever.
    requests = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    with os.fdopen(answers, "wb") as pipe:
        Worker(ResidentModel(directory), pipe).serve(requests)


if __name__ == "__main__":
    main()
