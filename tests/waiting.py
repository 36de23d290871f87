"""Waiting for a condition, without an assumption about the speed of the machine."""

import time

LIMIT = 3600  # seconds after which a test that hangs fails


def wait_until(condition, poll=0.02):
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + LIMIT
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "waited for an hour"
        time.sleep(poll)
