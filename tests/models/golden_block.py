"""A block against tensors of the authors' code: inference, training, and all gradients of a weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def check_block(block: nn.Module, reference: Mapping[str, Any]) -> None:
    """Load the reference's state strictly into a float64 block, and compare everything to 1e-9."""
    block.load_state_dict(reference["state_dict"], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(block.eval()(reference["input"]), reference["output"], rtol=1e-9, atol=1e-9)
    image = reference["input"].clone().requires_grad_()
    output = block.train()(image)
    (output * reference["loss_weight"]).sum().backward()
    torch.testing.assert_close(output, reference["output_train"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(image.grad, reference["grad_input_train"], rtol=1e-9, atol=1e-9)
    grads = {name: parameter.grad for name, parameter in block.named_parameters()}
    torch.testing.assert_close(grads, reference["grad_params_train"], rtol=1e-9, atol=1e-9)
