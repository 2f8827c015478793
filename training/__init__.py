"""A run: its steps, its checkpoints, its folder."""
