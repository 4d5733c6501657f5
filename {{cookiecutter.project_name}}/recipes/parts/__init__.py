"""What the recipes are made of: the command line, data, checkpoints, the parts of a training step."""
