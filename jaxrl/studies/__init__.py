"""Whole studies from files, their tables and figures."""
