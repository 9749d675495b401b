"""A lab's findings for the reader: the self-contained `report.html` and the table on the terminal."""

from .page import write_report
from .terminal import in_words, robustness_table, terminal_table

__all__ = ["in_words", "robustness_table", "terminal_table", "write_report"]
