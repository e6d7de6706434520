"""What a run leaves on disk: the folder protocol, honest JSON, metrics, checkpoints, the environment."""
