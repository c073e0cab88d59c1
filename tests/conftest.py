"""Settings of the whole suite."""

import os

from hypothesis import settings

# CI judges a commit: the same commit gets the same examples. At a desk, new ones are looked for.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
