"""The nonlocal block against loops over pixels, the golden tensors, the dense form, and what must stay finite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import convswap
from convswap.units import FusedPIDE, PIDEBlock
from convswap.units.pide.kernels import KERNELS, fractional_constant, make_operator, riesz_constant

DOUBLE = {"dtype": torch.float64}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"normalization": "rows"},
    {"kernel": "laplacian_row", "bias": True},
    {"kernel": "gaussian", "scale": 0.3},
    {"kernel": "gaussian", "bias": True, "subsample": 1},
    {"kernel": "fractional", "bias": True, "s": 0.25},
    {"kernel": "fractional", "normalization": "rows"},
    {"kernel": "inverse_fractional", "s": 0.7, "iterations": 3},
    {"kernel": "inverse_fractional", "normalization": "rows", "subsample": 3},
    {"kernel": "log", "scale": 1},
    {"kernel": "log", "normalization": "rows"},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def randomised(block: PIDEBlock) -> PIDEBlock:
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return block.eval()


def pooled_by_loop(x: Tensor, p: int) -> list[Tensor]:
    """The (C,) maxima of every p x p window that fits into (C, H, W); windows as large as the map if p is larger."""
    (height, width) = x.shape[1:]
    ph, pw = min(p, height), min(p, width)
    corners = [(r, c) for r in range(0, height - ph + 1, ph) for c in range(0, width - pw + 1, pw)]
    return [torch.stack([x[k, r : r + ph, c : c + pw].max() for k in range(len(x))]) for r, c in corners]


def weight_of_pair(kernel: str, a: Tensor, b: Tensor, s: float, scale: float) -> float:
    """w_ij, lambda included, as in the note."""
    dot, r = float(a @ b), math.dist(a.tolist(), b.tolist())
    if kernel == "gaussian":
        return math.exp(scale * dot)
    if kernel == "fractional":
        return scale * 4**s * math.gamma(1 + s) / (math.pi * abs(math.gamma(-s))) / r ** (2 + 2 * s)
    if kernel == "inverse_fractional":
        return scale * math.gamma(1 - s) / (4**s * math.pi * math.gamma(s)) / r ** (2 - 2 * s)
    if kernel == "log":
        return scale * (-2 * math.log(r) - 0.5772156649) / (4 * math.pi)
    return scale * dot


def integrate_by_loop(block: PIDEBlock, theta: Tensor, phi: Tensor, u: Tensor) -> Tensor:
    """L(u) of one image, pixel by pixel: (E, H, W), (E, H, W), (C, H, W) -> (C, H, W)."""
    embedded, field = pooled_by_loop(phi, block.subsample), pooled_by_loop(u, block.subsample)
    result = torch.zeros_like(u)
    for r in range(u.shape[1]):
        for c in range(u.shape[2]):
            w = [weight_of_pair(block.kernel, theta[:, r, c], b, block.s, block.scale) for b in embedded]
            rows = block.rows or block.kernel in ("gaussian", "laplacian_row")
            w = [value / (sum(w) if rows else len(w)) for value in w]
            flow = torch.zeros_like(u[:, r, c])
            for value, other in zip(w, field, strict=True):
                if block.kernel in ("inverse_fractional", "log"):
                    flow += value * other
                else:
                    flow += value * (other - u[:, r, c]) * (-1 if block.kernel == "fractional" else 1)
            result[:, r, c] = flow
    return result


def naive(block: PIDEBlock, x: Tensor) -> Tensor:
    outputs = []
    for image in x:
        theta, phi = (
            torch.einsum("ec,chw->ehw", conv.weight[:, :, 0, 0], image)
            + (0 if conv.bias is None else conv.bias[:, None, None])
            for conv in (block.theta, block.phi)
        )
        u = image
        for conv, norm, _ in block.stages:
            z = torch.einsum("oc,chw->ohw", conv.weight[:, :, 0, 0], integrate_by_loop(block, theta, phi, u))
            z = z if conv.bias is None else z + conv.bias[:, None, None]
            z = (z - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-3).sqrt()
            u = image + block.step * (z * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
        outputs.append(u)
    return torch.stack(outputs)


@each_option
@pytest.mark.parametrize("size", [(4, 5), (5, 2), (1, 1), (1, 3)], ids=str)
@torch.no_grad()
def test_forward_and_fuse_are_the_formula(options: dict[str, Any], size: tuple[int, int]) -> None:
    """Sizes that p does not divide, that are smaller than p, and a single pixel among them."""
    torch.manual_seed(0)
    block = randomised(PIDEBlock(6, 6, step=0.4, **options, **DOUBLE))
    x = torch.randn(2, 6, *size, **DOUBLE)
    expected = naive(block, x)
    fused = block.fuse()
    assert isinstance(fused, FusedPIDE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    for module in (block, fused):
        torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-9)
        channels_last = module(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(channels_last, expected, rtol=1e-9, atol=1e-9)


GOLDEN = {
    "case_nl_diff_dot1_nosub": {"kernel": "laplacian", "subsample": 1},
    "case_nl_diff_dot2": {"kernel": "laplacian_row"},
    "case_nl_pseudo_typ2_s0.25_norm1": {"kernel": "fractional", "s": 0.25},
    "case_nl_pseudo_typ2_s0.5_norm1": {"kernel": "fractional"},
    "case_nl_pseudo_typ3_s0.25_norm1": {"kernel": "inverse_fractional", "s": 0.25},
    "case_nl_pseudo_typ3_s0.5_norm1": {"kernel": "inverse_fractional"},
}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's names in ours."""
    ours = {}
    for key, value in state.items():
        path, _, leaf = key.rpartition(".")
        path = path.replace("conv_theta", "theta").replace("conv_phi", "phi")
        if path.startswith(("W_layers.", "bn_layers.")):
            kind, stage = path.split(".")
            path = f"stages.{stage}.{'01'[kind == 'bn_layers']}"
        ours[f"{path}.{NORM.get(leaf, leaf.replace('kernel', 'weight'))}"] = value.double()
    return ours


@pytest.mark.parametrize("case", GOLDEN)
@torch.no_grad()
def test_golden(golden, case: str) -> None:
    """The references were computed in float32; in dot2 the sums of the rows are small."""
    reference = golden("pide")[case]
    channels = reference["config"]["channels"]
    block = PIDEBlock(channels, channels, bias=True, **GOLDEN[case], **DOUBLE)
    missing, unexpected = block.load_state_dict(renamed(reference["state_dict"]), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    tolerance = 1e-5 if case == "case_nl_diff_dot2" else 1e-6
    for module in (block.eval(), block.fuse()):
        y = module(reference["input"].double())
        torch.testing.assert_close(y, reference["output"].double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_factorised_is_the_dense_form_in_value_and_gradient(rows: bool, channels_last: bool) -> None:
    torch.manual_seed(2)
    shapes = [(3, 4, 30), (3, 4, 7), (3, 8, 30), (3, 8, 7)]
    tensors = [torch.randn(shape, **DOUBLE).requires_grad_() for shape in shapes]
    theta, phi, u, pooled = tensors
    factor = torch.randn(3, 8, 30, **DOUBLE)
    results = []
    for dense in (False, True):
        operator = make_operator("laplacian", theta, phi, s=0.5, scale=0.1, rows=rows, dense=dense)
        assert (operator.right is None) == dense
        y = operator(u, pooled, channels_last)
        results.append([y, *torch.autograd.grad((y * factor).sum(), tensors)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


def test_the_dot_product_never_forms_the_matrix() -> None:
    """Largest intermediate and products at two sizes: linear in the pixels, where the other kernels are quadratic."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    def measured(kernel: str, side: int) -> tuple[int, int]:
        block = PIDEBlock(4, 4, kernel=kernel, device="meta").eval()
        x = torch.empty(1, 4, side, side, device="meta")
        with Largest() as seen, FlopCounterMode(display=False) as counter, torch.no_grad():
            block(x)
        return seen.elements, counter.get_total_flops()

    (small, few), (large, many) = measured("laplacian", 32), measured("laplacian", 64)
    assert (large, small) == (4 * 64**2, 4 * 32**2)
    assert many < 4.01 * few
    (small, few), (large, many) = measured("fractional", 32), measured("fractional", 64)
    assert large == 16 * small == 64**2 * 32**2
    assert many > 12 * few


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_everything_is_finite_where_embeddings_coincide(kernel: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = PIDEBlock(6, 6, kernel=kernel, subsample=1, dtype=dtype)
    with torch.no_grad():
        block.phi.weight.copy_(block.theta.weight)
    for x in (torch.randn(2, 6, 5, 4, dtype=dtype), torch.zeros(2, 6, 5, 4, dtype=dtype)):
        x.requires_grad_()
        output = block(x)
        output.square().sum().backward()
        assert torch.isfinite(output).all()
        assert torch.isfinite(x.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in block.parameters())
        block.zero_grad()


def test_rows_that_cancel_stay_finite() -> None:
    """theta orthogonal to the sum of phi, exactly: the official code divides by 0 here."""
    theta = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]], requires_grad=True)
    phi = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]], requires_grad=True)
    for dense in (False, True):
        operator = make_operator("laplacian_row", theta, phi, s=0.5, scale=1.0, rows=True, dense=dense)
        y = operator(torch.randn(1, 3, 2), torch.randn(1, 3, 2))
        assert torch.isfinite(y).all()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(y.sum(), [theta, phi]))


def test_laplacian_row_is_a_unit_in_full_precision() -> None:
    """What the contract tests check of the other kernels; in low precision its cancelling sums have no right digit."""
    torch.manual_seed(0)
    block = PIDEBlock(4, 4, kernel="laplacian_row", **DOUBLE)
    names = [name for name, _ in block.named_parameters()]
    values = [(p.detach() + 0.1).requires_grad_() for p in block.parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(2, 4, 4, 3, **DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
    program = torch.export.export(block.eval(), (x.detach(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    more = torch.randn(5, 4, 4, 3, **DOUBLE)
    torch.testing.assert_close(program.module()(more), block(more))


def test_constants_of_half_order() -> None:
    assert math.isclose(fractional_constant(0.5), 1 / (2 * math.pi))
    assert math.isclose(riesz_constant(0.5), 1 / (2 * math.pi))


def test_a_constant_field_does_not_diffuse() -> None:
    """The difference operators send constants to 0, whatever the kernel: L is a Laplacian."""
    for kernel in ("laplacian", "laplacian_row", "gaussian", "fractional"):
        theta, phi = torch.randn(2, 3, 12, **DOUBLE), torch.randn(2, 3, 5, **DOUBLE)
        operator = make_operator(kernel, theta, phi, s=0.3, scale=0.1, rows=kernel in ("laplacian_row", "gaussian"))
        constant = torch.randn(2, 4, 1, **DOUBLE)
        y = operator(constant.expand(2, 4, 12), constant.expand(2, 4, 5))
        torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_parameters_are_those_of_the_note(kernel: str) -> None:
    assert sum(p.numel() for p in PIDEBlock(32, 32, kernel=kernel, bias=True).parameters()) == 3 * 32**2 + 7 * 32


def test_stands_at_the_third_block_of_each_stage() -> None:
    plan = convswap.plan_swap(convswap.create_model("cifar_resnet32", num_classes=10), "pide")
    assert [row.path for row in plan.replacements] == ["layer1.2", "layer2.2", "layer3.2"]
    plan = convswap.plan_swap(convswap.create_model("regnetx_002", num_classes=10), "pide")
    assert [row.path for row in plan.replacements] == ["s3.b3", "s4.b3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"out_channels": 8}, "4->8"),
        ({"stride": 2}, "stride 1, not 2"),
        ({"kernel": "cauchy"}, "kernel='cauchy'.*'laplacian'"),
        ({"s": 1}, "s=1 is not allowed; give a number between 0 and 1"),
        ({"scale": -1}, "scale=-1"),
        ({"step": True}, "step=True"),
        ({"subsample": 0}, "subsample=0 is not allowed; give a whole number of at least 1"),
        ({"iterations": 1.5}, "iterations=1.5"),
        ({"normalization": "columns"}, "normalization='columns'"),
        ({"kernel": "gaussian", "normalization": "pixels"}, "normalization='pixels'.*kernel='gaussian'"),
        ({"bias": "no"}, "bias='no'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PIDEBlock(**({"in_channels": 4, "out_channels": 4} | arguments))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("mean", [1e-9, -1e-9, 1e-5, -1e-5])
def test_a_tiny_mean_of_a_row_keeps_its_sign(mean: float, dense: bool) -> None:
    """The mean is kept 1e-6 from 0, on the side where it is: beyond that it divides as it is."""
    theta = torch.ones(1, 1, 1, **DOUBLE)
    phi = torch.tensor([[[1.0 + 2 * mean, -1.0]]], **DOUBLE)
    operator = make_operator("laplacian_row", theta, phi, s=0.5, scale=1.0, rows=True, dense=dense)
    u, pooled = torch.tensor([[[2.0]]], **DOUBLE), torch.tensor([[[3.0, 5.0]]], **DOUBLE)
    divisor = math.copysign(max(abs(mean), 1e-6), mean)
    wanted = ((1 + 2 * mean) * 3 - 5) / 2 / divisor - mean / divisor * 2
    assert float(operator(u, pooled)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("kernel", ["fractional", "inverse_fractional", "log"])
def test_embeddings_count_as_a_hundredth_apart_at_least(kernel: str) -> None:
    def entry(distance: float) -> float:
        theta, phi = torch.zeros(1, 1, 1, **DOUBLE), torch.full((1, 1, 1), distance, **DOUBLE)
        operator = make_operator(kernel, theta, phi, s=0.5, scale=1.0, rows=False)
        return float(operator(torch.zeros(1, 1, 1, **DOUBLE), torch.ones(1, 1, 1, **DOUBLE)))

    assert entry(0.0) == entry(0.004) == pytest.approx(entry(0.01), rel=1e-9)
    assert entry(0.012) != pytest.approx(entry(0.01), rel=1e-2)
