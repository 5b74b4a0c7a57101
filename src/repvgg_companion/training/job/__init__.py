"""A training as a job on a machine: GPUs, processes, stops, the state folder, checkpoints, and the verb `status`."""
