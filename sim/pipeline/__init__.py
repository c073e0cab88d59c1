"""Pipelines: which stage a rank holds, what it runs when, what it sends and keeps in flight."""
