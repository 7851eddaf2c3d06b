"""The record of a step, and what holds it."""
