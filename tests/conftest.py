"""Settings of the whole suite."""

import os
import signal

from hypothesis import settings

# CI judges a commit: the same commit gets the same examples. At a desk, new ones are looked for.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# The day that tests are as of (2026-11-29): prices in them do not age.
os.environ["SOURCE_DATE_EPOCH"] = "1795910400"

# A shell starts what it puts in the background, and nohup what it runs, with Ctrl-C ignored, and so
# would the processes be that our tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
