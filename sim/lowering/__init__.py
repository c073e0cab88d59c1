"""A plan becomes a program: its ops priced, put on lanes, shared out to ranks."""
