"""Loggers: they hear what a run says while it goes."""
