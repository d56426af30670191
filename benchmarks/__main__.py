"""`make bench`: the figures of docs/performance.md, one after the other."""

from benchmarks import first_step, get_job, upload, watch

if __name__ == "__main__":
    watch.main()
    upload.main()
    get_job.main()
    first_step.main()
