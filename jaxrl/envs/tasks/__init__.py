"""The built-in tasks for the device: each is two pure functions, its spaces and its time limit."""
