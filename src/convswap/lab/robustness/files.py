"""Robustness of a lab's trained networks, measured after the trainings, in one file per trial and profile."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StoreError, check_choice
from ...measure.robustness.variants import PROFILES
from ..files import read_object
from ..progress import GridProgress, says_how_to_go_on
from ..run import trial_data
from ..runner import TRIALS, load_trained
from ..store import StoredTrial

if TYPE_CHECKING:
    from ...data import Data
    from ...measure.robustness import Robustness

NONE = "none"
CHOICES = (NONE, *PROFILES)


class RobustnessFiles:
    """The results in the folders of a lab's trials.

    The profile and the trial's data determine seed, images and perturbations. One file therefore represents them all,
    and all trials on the same data see the same perturbed images.

    Args:
        lab_dir: the lab's folder.
    """

    def __init__(self, lab_dir: str | Path) -> None:
        self.lab = Path(lab_dir)

    def path(self, id: str, profile: str) -> Path:
        """The path of a trial's result."""
        return self.lab / TRIALS / id / f"robustness-{profile}.json"

    def profiles(self, id: str) -> list[str]:
        """The profiles that were measured of a trial."""
        return [profile for profile in PROFILES if self.path(id, profile).exists()]

    def read(self, id: str, profile: str) -> Robustness:
        """A trial's result, with its predictions.

        Raises:
            StoreError: the file is damaged.
        """
        from ...measure.robustness import Robustness

        path, fix = self.path(id, profile), "delete it: robustness is then measured again"
        saved = read_object(path, fix)
        try:
            found = Robustness.from_dict(saved)
        except (StoreError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise StoreError(f"{path} is damaged ({error}); {fix}") from error
        if found.profile != profile:
            raise StoreError(f"{path} is damaged (it holds the profile {found.profile!r}); {fix}")
        return found


def measure_robustness(
    lab_dir: str | Path,
    trials: Iterable[StoredTrial],
    data: Data,
    profile: str,
    *,
    device: str = "auto",
    progress: bool = True,
) -> None:
    """Measure every finished trial's network on the data it was trained for, and keep the results in its folder.

    Existing results are not measured again. Ctrl-C loses at most the network that is being measured.

    Args:
        lab_dir: the lab's folder.
        trials: its rows. Unfinished trials are left out.
        data: the trials' data. Each trial normalises the data in its own way.
        profile: `"quick"` or `"full"`, see `convswap.measure.robustness.robustness`.
        device: where the networks run.
        progress: one line per trial on stderr, and a bar for the running one on a terminal.

    Raises:
        UsageError: there is no such profile.
        StoreError: a trial's network cannot be read, or its result cannot be written.
        DataError: the data are not those of the trials.
    """
    from ...measure.robustness import robustness

    check_choice("robustness", profile, PROFILES)
    files = RobustnessFiles(lab_dir)
    finished = [stored for stored in trials if stored.state == "finished"]
    todo = [stored for stored in finished if profile not in files.profiles(stored.id)]
    report = GridProgress([s.trial for s in finished], [s.trial for s in todo], progress)
    if todo and len(todo) < len(finished):
        report.say(f"robustness of {len(finished) - len(todo)} of {len(finished)} trials is already measured")
    with says_how_to_go_on(files.lab, "measuring robustness"):
        for stored in todo:
            begun = time.perf_counter()
            own = trial_data(stored.trial, data)
            robustness(load_trained(files.lab, stored), own, profile, device=device, progress=progress).save(
                files.path(stored.id, profile)
            )
            seconds = time.perf_counter() - begun
            report.known(stored.trial, seconds)
            report.done(stored.trial, f"robustness measured in {seconds:.0f} s")
