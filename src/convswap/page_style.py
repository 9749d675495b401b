"""The style that all pages of convswap share: the report of a lab, and the page of `see`."""

from __future__ import annotations

PAGE_STYLE = """:root {
  --paper: #fdfdfe;
  --ink: #1a1c20;
  --muted: #5c6169;
  --grid: #e2e4e8;
  --raised: #f3f4f6;
  --link: #0b5fa5;
  --bad: #b3261e;
  color-scheme: light dark;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #131417;
    --ink: #eceef1;
    --muted: #a0a5ad;
    --grid: #2d3036;
    --raised: #1d1f23;
    --link: #7cbcf3;
    --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0;
  background: var(--paper);
  color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
"""
"""Colours for light and dark, type and background, as the first rules of a style sheet."""
