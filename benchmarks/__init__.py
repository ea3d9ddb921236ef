"""One file a question. ``python -m benchmarks`` asks them all and prints the answers as one table."""
