"""The process that trains: `python -m services.trainer.engine job.json`.

It reads one job file, writes events as JSON lines on its standard output, checkpoints and
artifacts under the job's `work_dir`, and exits with a code of `process.ExitCode`.
"""
