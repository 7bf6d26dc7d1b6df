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
# A long list scrolls, and a tick out of sight would be submitted unseen: the ticked choices, "Can't
# tell" and "Something else" stand above the others.
_LONG = """
    .pixbal-side .lsf-choices { max-height: 46vh; overflow-y: auto; }
    @extras@ { order: -2; }
    .pixbal-side .lsf-choice:has(input:checked) { order: -1; }
"""
# A search field comes after the choices and is shown above them. Label Studio loses rules with ">".
_SEARCHED = """
    .pixbal-side { display: flex; flex-direction: column; }
    .pixbal-side h4 { order: -2; }
    .pixbal-side input.ant-input { order: -1; flex: none; }
"""
# With it, "Can't tell" is the first choice; in a list that does not scroll it is shown as the last.
_LAST = """
    .pixbal-side .lsf-choice:first-child { order: 1; }
"""


def style(classes: int, undefined: bool, searched: bool) -> str:
    """CSS for a list of so many classes.

    Args:
        undefined: "Something else" is its last choice but for "Can't tell".
        searched: there is a search field, and "Can't tell" is the first choice.
    """
    limit, sizes = next(row for row in _SIZES if classes <= row[0])
    long = limit == _SIZES[-1][0]
    text = _BASE + (_LONG if long else _LAST if searched else "") + (_SEARCHED if searched else "")
    ends = ["first-child"] if searched else ["last-child"]
    if undefined:
        ends.append("last-child" if searched else "nth-last-child(2)")
    extras = ", ".join(f".pixbal-side .lsf-choice:{end}" for end in ends)
    names = ("side", "column", "line", "type", "extras")
    for name, value in zip(names, (*sizes, extras), strict=True):
        text = text.replace(f"@{name}@", str(value))
    return text.rstrip() + "\n  "
