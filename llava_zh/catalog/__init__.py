"""Which datasets there are, and which files and images a request means."""
