"""Statistics of a few seeds: what an experiment shows, what it does not, and how many seeds would be needed.

Every function takes plain numbers, one per seed, as fractions, percent or any other unit. None of them knows of labs.
"""

from .bootstrap import bootstrap_interval, bootstrap_p_value
from .comparison import Comparison, compare_to_baseline
from .correction import benjamini_hochberg, holm
from .dominance import almost_stochastic_order, violation_ratio
from .equivalence import Equivalence, equivalence
from .images import ImageInterval, interval_for_new_images
from .interval import Interval, mean_interval
from .permutation import EXACT_LIMIT, permutation_p_value, smallest_p_value
from .ranks import RankComparison, compare_ranks
from .sample_size import noether_pairs, power, seeds_needed
from .superiority import MEANINGFUL, Superiority, probability_better, superiority
from .welch import Welch, welch

__all__ = [
    "EXACT_LIMIT",
    "MEANINGFUL",
    "Comparison",
    "Equivalence",
    "ImageInterval",
    "Interval",
    "RankComparison",
    "Superiority",
    "Welch",
    "almost_stochastic_order",
    "benjamini_hochberg",
    "bootstrap_interval",
    "bootstrap_p_value",
    "compare_ranks",
    "compare_to_baseline",
    "equivalence",
    "holm",
    "interval_for_new_images",
    "mean_interval",
    "noether_pairs",
    "permutation_p_value",
    "power",
    "probability_better",
    "seeds_needed",
    "smallest_p_value",
    "superiority",
    "violation_ratio",
    "welch",
]
