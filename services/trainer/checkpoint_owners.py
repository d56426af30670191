"""Whose the blobs of checkpoints are: what nodes store under an owner, control removes by it.

Each checkpoint is an owner of its own, so that one can go without a look at the others, and no two
attempts ever write to the same.
"""


def owner_of_all(job_uid: str) -> str:
    """Owns whatever the attempts of a job have stored."""
    return f"tuning-jobs/{job_uid}"


def uid_of_all(owner: str) -> str | None:
    """The job whose attempts have stored all that `owner` owns; None: it owns one checkpoint."""
    uid = owner.removeprefix(owner_of_all(""))
    return None if "/" in uid else uid


def owner_of_one(job_uid: str, attempt: int, step: int) -> str:
    return f"{owner_of_all(job_uid)}/{attempt}-{step}"
