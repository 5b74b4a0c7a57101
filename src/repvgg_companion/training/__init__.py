"""Training by recipe: settings, schedule, input to gradients, checkpoints, and the `train` verb."""
