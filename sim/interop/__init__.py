"""Other people's files, read and written."""
