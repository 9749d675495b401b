"""The style of the page."""

from __future__ import annotations

from ..page_style import PAGE_STYLE

STYLE = (
    PAGE_STYLE
    + """
main { max-width: 1176px; margin: 0 auto; padding: 40px 24px 64px; }
h1, h2, p, figure { margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 28px; line-height: 1.2; }
h2 { font-size: 20px; }
section { margin-top: 44px; }
.note { color: var(--muted); font-size: 14px; max-width: 84ch; margin-top: 6px; }
ul.note { padding-left: 18px; }
.panels { columns: 3 340px; column-gap: 24px; }
.panels figure { break-inside: avoid; padding-top: 16px; }
.panels.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); column-gap: 24px;
  align-items: start; }
figure { min-width: 0; }
figcaption { font-size: 13.5px; font-weight: 600; margin-bottom: 4px; }
figure .note { font-size: 13px; line-height: 1.4; margin: 0 0 6px; max-width: 440px; }
figure img { display: block; width: 100%; max-width: 440px; height: auto; background: #fff; border-radius: 4px;
  border: 1px solid var(--grid); padding: 4px; }
details { margin-top: 14px; font-size: 14px; }
summary { cursor: pointer; color: var(--muted); padding: 6px 0; width: fit-content; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 5px 12px 5px 0; text-align: left; font-weight: 400; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
thead th { color: var(--muted); }
@media (max-width: 640px) { main { padding: 22px 14px 40px; } h1 { font-size: 23px; } }
"""
)
