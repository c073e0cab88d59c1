"""Bytes on a GPU and its host, moment by moment, and what would make a job fit."""
