"""Claims of the papers behind the units, tested offline: claim, our measurement, verdict.

    python -m benchmarks.claims.networks --lab LAB                  # trains what is measured, once
    python -m benchmarks.claims --weights FOLDER --lab LAB [--data-root DATA] [--images 2000]

`--weights` holds 8-bit MobileNets (`mobilenet_v*.npz`) and CIFAR ResNets (`resnet*.th`). The script measures every
network of `networks.py` at all seeds that are finished in the lab, and compared networks at the seeds that all of
them have. It writes `results/claims/claims.json` and `docs/claims.md`. The claims stand in `stated.py`, the rules by
which they hold in `rules.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.claims import answers as claims_answers
from benchmarks.claims.answers import jpeg_answers, jpeg_numbers, shift_answers, shift_numbers
from benchmarks.claims.filters import filters_within, niff_numbers
from benchmarks.claims.kernels import THRESHOLDS, Depthwise, numbers_of_one, numbers_of_seeds
from benchmarks.claims.networks import GROUPS, Network
from benchmarks.claims.page import write_page
from benchmarks.claims.rules import Number, together, verdict
from benchmarks.claims.stated import CLAIMS
from benchmarks.claims.weights import dense_networks, likeness, pretrained_networks
from benchmarks.common import ROOT, git_commit, write_result
from convswap.data import Data, load_data
from convswap.lab import Store, StoredTrial
from convswap.lab.build import build_model
from convswap.lab.files import write_atomic
from convswap.measure.robustness import sample_of
from convswap.models import load
from convswap.see.classes import classify_kernels
from convswap.see.kernels import layer_kernels

Numbers = dict[str, dict[str, Number]]
"""By network, by claim."""


class Lab:
    """The finished trainings of a lab."""

    def __init__(self, folder: Path, data: Data, seeds: int) -> None:
        self.folder, self.data = folder, data
        with Store(folder / "lab.sqlite", write=False) as store:
            rows = {row.id: row for row in store.rows() if row.state == "finished"}
        self.found: dict[str, dict[int, StoredTrial]] = {
            network.name: {seed: rows[id_] for seed in range(seeds) if (id_ := network.trial(data, seed).id) in rows}
            for group in GROUPS.values()
            for network in group
        }

    def seeds(self, group: str) -> list[int]:
        """The seeds that every network of a group has."""
        return sorted(set.intersection(*(set(self.found[network.name]) for network in GROUPS[group])))

    def trained(self, network: Network, seed: int) -> nn.Module:
        """The network after its training."""
        path = self.folder / "trials" / self.found[network.name][seed].id / "model.safetensors"
        own = ":" in network.model
        return load(path, constructor=network.model if own else None)

    def answers(
        self, network: Network, seed: int, images: int, ask: Callable[[nn.Module], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result of `ask` on the trained network. It is kept in the lab and reused if this very code found it.

        A stopped run therefore goes on where it was, and nothing is taken over from other code.
        """
        code = {
            "commit": git_commit(),
            "answers": hashlib.sha256(Path(claims_answers.__file__).read_bytes()).hexdigest(),
        }
        path = self.folder / "claims" / f"{self.found[network.name][seed].id}-{images}.json"
        if path.is_file() and code["commit"] is not None and "changes" not in code["commit"]:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["code"] == code:
                return dict(kept["answers"])
        found = ask(self.trained(network, seed))
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps({"code": code, "answers": found}))
        return found

    def start(self, network: Network, seed: int) -> nn.Module:
        """The network before its training."""
        return build_model(network.trial(self.data, seed), self.data)[0].eval()

    def accuracies(self, network: Network, seeds: Sequence[int]) -> list[float]:
        """Test accuracies by seed."""
        results = [self.found[network.name][seed].result for seed in seeds]
        return [result["test_accuracy"] for result in results if result is not None]

    def describe(self, group: str) -> dict[str, Any]:
        """A description of the trainings of a group."""
        seeds = self.seeds(group)
        return {
            network.name: {
                "model": network.model,
                "unit": network.unit,
                "unit_options": network.unit_options,
                "model_arguments": network.model_arguments,
                "epochs": network.epochs,
                "seeds": seeds,
                "test_accuracy": self.accuracies(network, seeds),
                "parameters": self.found[network.name][seeds[0]].result["parameters"],  # type: ignore[index]
            }
            for network in GROUPS[group]
        }


def kernel_claims(weights: Path, lab: Lab) -> tuple[Numbers, dict[str, Any]]:
    """The claims on depthwise layers, for the pretrained networks and for ours, at each threshold of the classes."""
    given = pretrained_networks(weights)
    (network,) = GROUPS["depthwise"]
    seeds = lab.seeds("depthwise")
    pairs = [
        [layer_kernels(model, torch.zeros(1, 3, 32, 32)) for model in (lab.trained(network, s), lab.start(network, s))]
        for s in seeds
    ]
    tables = {name: Depthwise.of(layers).table() for name, layers in given.items()}
    if pairs:
        tables |= {
            network.name: Depthwise.of(pairs[0][0]).table(),
            f"{network.name}, before training": Depthwise.of(pairs[0][1]).table(),
        }
    by_threshold = {}
    for threshold in THRESHOLDS:
        numbers = {name: numbers_of_one(Depthwise.of(layers, threshold)) for name, layers in given.items()}
        if pairs:
            after, before = ([Depthwise.of(pair[i], threshold) for pair in pairs] for i in (0, 1))
            numbers[network.name] = numbers_of_seeds(after, before)
        by_threshold[threshold] = numbers
    noise = classify_kernels(torch.randn(20_000, 3, 3, generator=torch.Generator().manual_seed(0)))
    details = {"layers": tables, "dense_3x3": dense_networks(weights), "random_kernels": noise.shares}
    details["likeness"] = likeness(given)
    details["other_thresholds"] = {
        str(threshold): {
            name: {
                claim.key: verdict(found[claim.key], claim.direction, claim.bound)
                for claim in CLAIMS
                if claim.key in found
            }
            for name, found in by_threshold[threshold].items()
        }
        for threshold in THRESHOLDS[1:]
    }
    return by_threshold[THRESHOLDS[0]], details


def filter_claims(lab: Lab) -> tuple[Numbers, dict[str, Any]]:
    """The claims on frequency filters."""
    (network,) = GROUPS["niff"]
    seeds = lab.seeds("niff")
    after, before = ([filters_within(make(network, seed)) for seed in seeds] for make in (lab.trained, lab.start))
    return {network.name: niff_numbers(after, before)}, {"trained": after, "start": before}


def answer_claims(
    lab: Lab,
    group: str,
    images: int,
    ask: Callable[[nn.Module], dict[str, Any]],
    judge: Callable[[Any], dict[str, Number]],
) -> tuple[Numbers, dict[str, Any]]:
    """Claims on the networks' answers: every network of a group, at the seeds that all have."""
    answers: dict[str, list[dict[str, Any]]] = {network.name: [] for network in GROUPS[group]}
    for seed in lab.seeds(group):
        for network in GROUPS[group]:
            answers[network.name].append(lab.answers(network, seed, images, ask))
            print(f"{group}: {network.name}, seed {seed}, answered", flush=True)
    return {" and ".join(answers): judge(answers)}, answers


def judged(numbers: Numbers) -> list[dict[str, Any]]:
    """Each claim with its number and verdict for every network that has one, and the verdict of all together."""
    rows = []
    for claim in CLAIMS:
        found = {name: values[claim.key] for name, values in numbers.items() if claim.key in values}
        if not found:
            continue
        each = {name: verdict(number, claim.direction, claim.bound) for name, number in found.items()}
        networks = {name: number.as_dict() | {"verdict": each[name]} for name, number in found.items()}
        rows.append(
            {
                "claim": claim.key,
                "words": claim.words,
                "source": claim.source,
                "measured": claim.measured,
                "statement": f"{claim.direction} {claim.bound}",
                "networks": networks,
                "verdict": together(list(each.values())),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--lab", type=Path, required=True)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--images", type=int, default=2000, help="test images under JPEG and shifts")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds to look for")
    options = parser.parse_args()
    data: Any = load_data("cifar10", root=options.data_root, download=False)
    lab, sample = Lab(options.lab, data, options.seeds), sample_of(data, options.images)
    parts: dict[str, Callable[[], tuple[Numbers, dict[str, Any]]]] = {
        "depthwise": lambda: kernel_claims(options.weights, lab),
        "niff": lambda: filter_claims(lab),
        "jpeg": lambda: answer_claims(
            lab,
            "jpeg",
            len(sample),
            lambda model: jpeg_answers(model, sample),
            lambda found: jpeg_numbers(found["minimum blocks"], found["pyramid blocks"]),
        ),
        "shifts": lambda: answer_claims(
            lab, "shifts", len(sample), lambda model: shift_answers(model, sample), shift_numbers
        ),
    }
    numbers: Numbers = {}
    result: dict[str, Any] = {"images": options.images, "networks": {}, "details": {}}
    for group, measure in parts.items():
        if not lab.seeds(group) and group != "depthwise":
            print(f"{group}: nothing trained, left out", flush=True)
            continue
        found, result["details"][group] = measure()
        numbers |= found
        if lab.seeds(group):
            result["networks"] |= lab.describe(group)
    result["claims"] = judged(numbers)
    for row in result["claims"]:
        print(f"{row['verdict']:13} {row['words']}: {row['measured']}", flush=True)
    path = write_result("claims/claims", result)
    write_page(path, ROOT / "docs" / "claims.md")


if __name__ == "__main__":
    main()
