"""The documentation, and the scripts that measure, run and build it."""
