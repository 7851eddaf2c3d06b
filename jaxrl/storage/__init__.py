"""Files: atomic, verified, never unpickled."""
