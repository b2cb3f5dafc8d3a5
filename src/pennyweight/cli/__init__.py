"""The command line. Each command has a file; what it needs is imported when it runs, so that --help needs no torch."""
