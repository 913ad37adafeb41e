"""Ctrl-C while modules are imported, which takes seconds: it waits for the end of that.

What is imported in part stays so, and breaks whatever needs it later: a package written in C may swallow the interrupt
and go on without NumPy.
"""

from __future__ import annotations

import _thread
import signal
import threading
from types import FrameType

PAUSE = 0.05  # seconds until it is looked again


def defer_while_importing() -> None:
    """From now on Ctrl-C takes effect when no import is going on; nothing changes where something else handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if not _is_importing(frame):
        signal.default_int_handler(number, frame)
    again = threading.Timer(PAUSE, _interrupt)
    again.daemon = True
    again.start()


def _interrupt() -> None:
    if hasattr(signal, "pthread_kill"):  # it wakes what sleeps
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
