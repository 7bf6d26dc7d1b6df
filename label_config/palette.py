"""Colours of classes that were given none, as distinct as 200 can be.

Made once with glasbey 0.4.0 (MIT; greedy choice of the colour farthest from all before it, in
CAM02-UCS), so that any number of them from the start is nearly as distinct as so many can be:

    glasbey.extend_palette(
        ["#ffffff", "#1f1f1f"], palette_size=202, lightness_bounds=(30, 80),
        chroma_bounds=(10, 100), optimize_palette=False,
    )[2:]

The two it starts from are the light and the dark background of Label Studio, so that every colour
differs from both. Closest pair in CIEDE2000: 22.8 of the first 10, 10.3 of 40, 7.9 of 100, 5.3 of
200 (held by tests/test_colors.py).
"""

from __future__ import annotations

PALETTE = (
    "#f31c20", "#009e00", "#aa51ff", "#08aac6", "#f7ae00", "#826d61", "#ff92ca", "#1cf7aa",
    "#aa0079", "#005dd2", "#babaff", "#aab69a", "#007161", "#b2e700", "#9a3d00", "#968200",
    "#f300e7", "#db8665", "#695586", "#8ee7f3", "#a686ae", "#00b286", "#6192ff", "#ff0086",
    "#496920", "#ffc6a2", "#697d8e", "#b65565", "#9608ba", "#750cff", "#8eb649", "#df82ff",
    "#dfc6db", "#718e65", "#d7db82", "#b20028", "#96aaba", "#795910", "#00d710", "#be6900",
    "#b255a6", "#0c698a", "#ff6500", "#71c2ff", "#aee3c6", "#be9e55", "#7d4d65", "#ff6d82",
    "#be9ea2", "#7d75be", "#00d2c2", "#008a4d", "#a68eff", "#f7b2ff", "#1086c6", "#556551",
    "#4d928a", "#c6d7ef", "#ca799a", "#96e37d", "#ffa2a2", "#6165ff", "#ca5535", "#c600ef",
    "#cac218", "#2dce75", "#8e5145", "#ca1061", "#f35db6", "#ffa259", "#82b6aa", "#9e7945",
    "#d7d7be", "#9a927d", "#9a6d82", "#d7209e", "#658a28", "#51659a", "#7992be", "#df8a08",
    "#c6a6d2", "#925db2", "#61616d", "#00fb65", "#10ceeb", "#55a659", "#9a3555", "#007d00",
    "#8e3d86", "#ae796d", "#008a9e", "#e3455d", "#757539", "#b2c6c6", "#00a6f3", "#ceae8e",
    "#c62400", "#8ac692", "#d279c6", "#b275d7", "#aea20c", "#827192", "#b600b2", "#8e8e9a",
    "#793dba", "#ff65f3", "#697d75", "#ebbe6d", "#456569", "#a29ed2", "#69efd2", "#96a265",
    "#f75d49", "#8eaaff", "#00b2aa", "#5951ba", "#829a8e", "#ffb6d2", "#9e5d28", "#92c6db",
    "#baba61", "#aa4135", "#caa2ff", "#5db600", "#0079fb", "#dfcaff", "#8255e7", "#d2558a",
    "#df4dff", "#fbce08", "#d26d6d", "#ae457d", "#316d45", "#b6b6d2", "#e3b6b6", "#a200f3",
    "#6d9aa6", "#4dd7a6", "#d79aba", "#71593d", "#8ace24", "#7d9e00", "#71aace", "#5979c6",
    "#4d3dff", "#8ed2ca", "#75aa82", "#d7043d", "#9a6900", "#827df7", "#db8e92", "#b6d29e",
    "#b68218", "#6df700", "#498265", "#8e5d8a", "#9e868e", "#ba6d45", "#696500", "#ba9271",
    "#ef92e7", "#ff824d", "#e74900", "#a6c6f3", "#796571", "#557d45", "#ff00be", "#df752d",
    "#aa9eb2", "#eba282", "#65bac2", "#00757d", "#00ba49", "#badb59", "#499a71", "#7d4596",
    "#00ebeb", "#186dae", "#ce9e18", "#a641ba", "#8ae3a6", "#d755be", "#86825d", "#558aaa",
    "#b271a2", "#cac28e", "#616135", "#9e8e45", "#b65104", "#8a86ae", "#755555", "#755dae",
    "#9a75e3", "#ca8a49", "#f379a6", "#4d6982", "#fb8679", "#b692d7", "#ff084d", "#ff8614",
)  # fmt: skip
