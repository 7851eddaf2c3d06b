"""A run: its settings, its state, its checkpoints; and several runs at once."""
