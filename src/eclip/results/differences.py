"""How two runs differ, in words, when one cannot continue the other."""

from __future__ import annotations

import json
from typing import Any

MOST_TOLD = 4
"""How many differences between two runs are listed; of the others, only the number is."""
_NONE = object()


def told(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The differences between nested dicts in one line, such as "data.every was 1, now 2"."""
    found = _unlike(before, now)
    more = f"; and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
    return "; ".join(found[:MOST_TOLD]) + more


def _unlike(before: dict[str, Any], now: dict[str, Any], within: str = "") -> list[str]:
    found = []
    for key in {**before, **now}:
        old, new = before.get(key, _NONE), now.get(key, _NONE)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _unlike(old, new, f"{within}{key}.")
        elif old != new:
            found.append(f"{within}{key} was {_short(old)}, now {_short(new)}")
    return found


def _short(value: Any) -> str:
    shown = "absent" if value is _NONE else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
