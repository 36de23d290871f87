"""What the program waits for, so that a user interface can show it.

Code that waits, such as for the start of a server, does not depend on a display: it names what it
waits for, and the program decides whether and how that is shown.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable, ContextManager

    Show = Callable[[str], ContextManager[None]]

_show: Show | None = None


@contextlib.contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Show within the block what is waited for.

    Args:
        show: Called with the activity, such as "starting PostgreSQL"; returns a context manager
            that shows it. It may be called from any thread.
    """
    global _show
    before, _show = _show, show
    try:
        yield
    finally:
        _show = before


@contextlib.contextmanager
def waiting(activity: str) -> Iterator[None]:
    """Wait within the block for something that may take seconds.

    Args:
        activity: What is waited for, such as "starting PostgreSQL".
    """
    with contextlib.ExitStack() as stack:
        if _show is not None:
            stack.enter_context(_show(activity))
        yield
