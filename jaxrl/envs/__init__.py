"""Environments: one adapter over every way of stepping them. No JAX here."""
