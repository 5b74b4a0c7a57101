"""A training as a job of a machine: processes, stops, state on disk, checkpoints, publishing, and the `status` verb."""
