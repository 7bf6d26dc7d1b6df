"""The CSS of the screens with choices, fitted to the number of classes."""

from __future__ import annotations

# Up to so many classes: width of the side, least width of a column, height of a line, type, in px.
_SIZES = (
    (14, (380, 150, 30, 15)),
    (36, (460, 132, 26, 13)),
    (200, (540, 118, 22, 12)),
)
_BASE = """
    .pixbal-row { display: flex; gap: 16px; align-items: flex-start; }
    .pixbal-crop { flex: 1 1 50%; min-width: 320px; }
    .pixbal-side { flex: 0 1 @side@px; min-width: 0; }
    .pixbal-side .lsf-choices { display: grid; gap: 0 12px; margin: 4px 0 12px;
      grid-template-columns: repeat(auto-fill, minmax(@column@px, 1fr)); }
    .pixbal-side .lsf-choice { line-height: @line@px; }
    .pixbal-side .lsf-choice__checkbox { font-size: @type@px; overflow-wrap: anywhere; }
    .pixbal-swatch { display: inline-block; width: 12px; height: 12px; margin-right: 6px;
      border: 1px solid currentColor; }
"""
# A long list scrolls, and a tick out of sight would be submitted unseen: the ticked choices and the
# last @extras@, "Something else" and "Can't tell", stand above the others.
_LONG = """
    .pixbal-side .lsf-choices { max-height: 46vh; overflow-y: auto; }
    .pixbal-side .lsf-choice:nth-last-child(-n+@extras@) { order: -2; }
    .pixbal-side .lsf-choice:has(input:checked) { order: -1; }
"""


def style(classes: int, extras: int) -> str:
    """CSS for a list of so many classes and `extras` further choices at its end."""
    limit, sizes = next(row for row in _SIZES if classes <= row[0])
    text = _BASE + (_LONG if limit == _SIZES[-1][0] else "")
    names = ("side", "column", "line", "type", "extras")
    for name, value in zip(names, (*sizes, extras), strict=True):
        text = text.replace(f"@{name}@", str(value))
    return text.rstrip() + "\n  "
