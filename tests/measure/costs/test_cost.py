import pytest
import torch
from torch import nn

from convswap.errors import UsageError
from convswap.measure.costs.model import count_macs, count_parameters


class ReadsAValue(nn.Module):
    """Looks at a number in its forward, which a tensor without memory does not have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) * (2.0 if x.sum().item() >= 0 else 1.0)


class Attends(nn.Module):
    def forward(self, x_NLC):
        return nn.functional.scaled_dot_product_attention(x_NLC, x_NLC, x_NLC)


@pytest.mark.parametrize("kernel", [1, 3, (1, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_macs_of_a_convolution_follow_the_formula(kernel, stride, groups):
    conv = nn.Conv2d(6, 12, kernel, stride=stride, padding=1, groups=groups)
    x = torch.randn(2, 6, 9, 7)
    height, width = conv(x).shape[-2:]
    taps = conv.weight[0].numel()  # in/groups * kH * kW
    assert count_macs(conv, x) == 12 * taps * height * width


def test_resnet18_at_224():
    import torchvision

    model = torchvision.models.resnet18()
    assert count_macs(model, torch.zeros(1, 3, 224, 224)) == 1_814_073_344
    assert count_parameters(model) == 11_689_512


def test_cifar_resnet20():
    from convswap import models

    model = models.create_model("cifar_resnet20", num_classes=10)
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == 40_551_040


def test_attention_counts_as_two_products():
    x = torch.randn(1, 2, 10, 8)
    assert count_macs(Attends(), x) == 2 * (2 * 10 * 10 * 8)


def test_only_the_first_example_counts():
    conv = nn.Conv2d(3, 4, 3)
    assert count_macs(conv, torch.zeros(5, 3, 8, 8)) == count_macs(conv, torch.zeros(1, 3, 8, 8))


def test_a_model_the_meta_device_cannot_run_is_run_for_real():
    assert count_macs(ReadsAValue(), torch.ones(1, 3, 4, 4)) == 3 * 4 * 16


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    model[1].eval()  # a frozen normalisation inside a training model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, torch.randn(1, 3, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_large_network_needs_no_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4096, 3, padding=1), *(nn.Conv2d(4096, 4096, 3) for _ in range(20)))
    expected = 9 * 3 * 4096 * 64**2 + sum(9 * 4096**2 * (62 - 2 * i) ** 2 for i in range(20))
    assert count_macs(model, torch.zeros(1, 3, 64, 64)) == expected


def test_shared_parameters_count_once():
    conv = nn.Conv2d(4, 4, 1)
    assert count_parameters(nn.Sequential(conv, conv)) == 20


def test_a_wrong_input_raises_the_models_own_error():
    with pytest.raises(RuntimeError, match="channels"):
        count_macs(nn.Conv2d(3, 4, 3), torch.zeros(1, 5, 8, 8))


def test_an_empty_batch_is_refused():
    with pytest.raises(UsageError, match=r"\(0, 3, 8, 8\)"):
        count_macs(nn.Conv2d(3, 4, 3), torch.zeros(0, 3, 8, 8))
