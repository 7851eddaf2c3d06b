"""A small decoder, and tasks whose answers can be checked: what `experiments/rloo.py` learns with and from."""
