"""All heads of a model: how they attend, and how well their weights are found from their maps."""
