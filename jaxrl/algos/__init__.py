"""Update kernels, and what they are made of."""
