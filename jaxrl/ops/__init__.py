"""Formulas: returns, losses, distributions."""
