"""Scripts that the project owns: they read from top to bottom and may be changed."""
