"""Defer Ctrl-C while modules are imported, which takes seconds.

A partly imported module stays so and breaks whatever needs it later: a package written in C may swallow the interrupt
and continue without NumPy.
"""

from __future__ import annotations

import _thread
import signal
import threading
from types import FrameType

PAUSE = 0.05  # seconds until the next try


def defer_while_importing() -> None:
    """Make Ctrl-C take effect only when no import is running; do nothing if another handler is installed."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if not _is_importing(frame):
        signal.default_int_handler(number, frame)
    again = threading.Timer(PAUSE, _interrupt)
    again.daemon = True
    again.start()


def _interrupt() -> None:
    if hasattr(signal, "pthread_kill"):  # it interrupts sleeping system calls
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
