"""Does surgery keep the function of real networks? Every timm family and every torchvision classifier.

For each model, with random weights and random batch-norm statistics, the script reports in float64 the largest relative
difference of the output after `swap` to circle, after `swap` to ic, and after `fuse` of the plain and of the circle
model. It also reports how many batch norms were folded, and how many an independent scan of the exported graph calls
foldable.

    python -m benchmarks.studies.sweep_models [NAME ...]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

import convswap
from benchmarks.common import write_result

TIMM = """
resnet18 resnetv2_50 regnety_002 efficientnet_b0 mobilenetv3_small_100 convnext_atto densenet121 vgg11_bn
repvgg_a0 nf_resnet50 res2net50_26w_4s skresnet18 dla34 cspresnet50 dpn68 hrnet_w18_small inception_v3
legacy_xception ghostnet_100 repghostnet_050 rexnet_100 selecsls42b legacy_seresnet18 tresnet_m ese_vovnet19b_dw
mobilevit_xxs edgenext_xx_small fasternet_t0 starnet_s1 repvit_m0_9 inception_next_atto fastvit_t8 hgnetv2_b0
tiny_vit_5m_224 levit_128s coat_tiny coatnet_nano_rw_224 mambaout_femto convformer_s18 focalnet_tiny_srf
efficientformer_l1 shvit_s1 rdnet_tiny tf_mixnet_s tf_efficientnet_cc_b0_4e tf_efficientnet_b0
""".split()  # noqa: SIM905 - a list of one name a line would hide the program
TORCHVISION = """
alexnet vgg11 vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 squeezenet1_0 squeezenet1_1 densenet121
googlenet inception_v3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 shufflenet_v2_x0_5
regnet_y_400mf efficientnet_b0 convnext_tiny
""".split()  # noqa: SIM905 - a list of one name a line would hide the program
# From 9x9 on a circle starts by least squares, not exactly, so those few kernels stay (edgenext, mixnet).
WHERE = {"circle": "spatial & !first & !9x9 & !11x11", "ic": "spatial & !first"}
FAMILIES = TIMM + [f"torchvision:{name}" for name in TORCHVISION]


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random batch-norm statistics and affine parameters, some gammas negative, so that a wrong fold shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            mean, variance = module.running_mean, module.running_var
            mean.copy_(torch.randn(mean.shape, generator=generator, dtype=mean.dtype) * 0.1)
            variance.copy_(torch.rand(variance.shape, generator=generator, dtype=variance.dtype) + 0.5)
            if module.weight is not None:
                gamma = torch.rand(mean.shape, generator=generator, dtype=mean.dtype) + 0.5
                gamma[::7] *= -1
                module.weight.data.copy_(gamma)
                module.bias.data.copy_(torch.randn(mean.shape, generator=generator, dtype=mean.dtype) * 0.1)
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-3:  # a layer scale or a zero start would hide everything before it
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.5)
    return model


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model in float64 eval mode, and a small input that it accepts."""
    torch.manual_seed(0)
    with torch.no_grad():
        model = randomized(convswap.create_model(name, num_classes=10).double().eval())
    generator = torch.Generator().manual_seed(1)
    for size in (64, 96, 224, 299):
        x = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
        try:
            with torch.no_grad():
                model(x)
        except (RuntimeError, AssertionError, ValueError, IndexError):
            continue  # too small for this network, or a fixed size is demanded
        return model, x
    raise RuntimeError(f"{name} accepts none of the sizes tried")


def difference(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Largest relative difference of the outputs."""
    with torch.no_grad():
        a, b = model(x), other(x)
    return ((a - b).abs().max() / a.abs().max()).item()


def foldable_edges(model: nn.Module, x: Tensor) -> int:
    """Batch norms whose input is a convolution read by nothing else, all parameters used once: an independent count."""
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=False)
    batch_norm, count = torch.ops.aten.batch_norm.default, 0
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target is batch_norm:
            conv = node.args[0]
            is_conv = conv.op == "call_function" and conv.target.name().startswith("aten::conv2d")
            used_once = is_conv and all(
                len([u for u in n.users if "assert" not in str(u.target)]) == 1
                for n in (conv, conv.args[1], node.args[3])
            )
            count += used_once and conv.args[1].op == "placeholder"
    return count


def norms(model: nn.Module) -> int:
    """How many 2-d batch-norm modules the model has."""
    return sum(isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm) for m in model.modules())


def examine(name: str) -> dict[str, Any]:
    """All figures of one model. A refused step gives its reason instead."""
    start = time.perf_counter()
    model, x = build(name)
    row: dict[str, Any] = {"model": name, "input": x.shape[-1], "norms": norms(model)}
    swapped = None
    for unit, where in WHERE.items():
        try:
            plan = convswap.plan_swap(model, unit, where=where, example_input=x)
        except convswap.SurgeryError as error:
            row[unit] = {"refused": str(error)}
            continue
        changed = plan.apply()
        row[unit] = {
            "replaced": len(plan.replacements),
            "skipped": len(plan.skipped),
            "start": sorted({r.start for r in plan.replacements}),
            "difference": difference(model, changed, x),
        }
        swapped = swapped or changed
    edges = foldable_edges(model, x)
    for key, source in (("fuse", model), ("fuse_circle", swapped)):
        if source is None:
            continue
        plan = convswap.plan_fuse(source, x)
        fused = plan.apply()
        row[key] = {
            "difference": difference(source, fused, x),
            "blocks": plan.count("block"),
            "folded": plan.count("fold"),
            "merged": plan.count("merge"),
            "norms_left": norms(fused),
            "edges_left": foldable_edges(fused, x),
            "skipped": list(plan.skipped)[:3],
        }
    row["edges"] = edges
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def main() -> None:
    """Examine the named models, or all, and write the table."""
    names = sys.argv[1:] or FAMILIES
    rows = []
    for name in names:
        try:
            row = examine(name)
        except Exception as error:
            row = {"model": name, "error": f"{type(error).__name__}: {error}"[:300]}
        rows.append(row)
        print(row, flush=True)
    if not sys.argv[1:]:
        write_result("studies/sweep_models", {"rows": rows})


if __name__ == "__main__":
    main()
