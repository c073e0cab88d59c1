"""What a user sets, and nothing says or moves: keys of every file, options of every verb."""
