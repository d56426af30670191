"""The trainer's control plane: the queue of tuning jobs, their leases and their histories."""
