"""The model against reality: fit to a user's own logs, validate, diagnose."""
