"""Models by their three kinds of names, and what is said when a name is wrong."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from convswap.errors import StoreError, UsageError
from convswap.models import create_model

OWN = """
from torch import nn

def net(num_classes, in_channels=3, width=4):
    features = nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return features.append(nn.Linear(width, num_classes))

def takes_in_chans(num_classes, in_chans):
    return net(num_classes, in_chans)

def takes_everything(**arguments):
    return net(**arguments)

def takes_nothing():
    return net(10)

def makes_text(num_classes):
    return "not a model"

number = 3

class Nested:
    make = staticmethod(net)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module `own_models` in the current folder."""
    (tmp_path / "own_models.py").write_text(OWN)
    (tmp_path / "broken_models.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_models", "broken_models"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["resnet18", "timm:mobilenetv3_small_050", "cifar_resnet8", "timm:cifar_resnet8_b"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_timm(name, in_channels):
    model = create_model(name, num_classes=5, in_channels=in_channels)
    assert model.training
    assert model.eval()(torch.randn(1, in_channels, 64, 64)).shape == (1, 5)
    expected = {"model": name, "arguments": {"num_classes": 5, "in_channels": in_channels}}
    assert json.loads(json.dumps(model._convswap_constructor)) == expected


def test_arguments_reach_the_model_and_its_constructor():
    model = create_model("cifar_resnet8", num_classes=5, drop_rate=0.5)
    assert model.drop.p == 0.5
    assert model._convswap_constructor["arguments"]["drop_rate"] == 0.5
    model = create_model("resnet18", num_classes=5, norm_layer=nn.BatchNorm2d)  # not JSON: no constructor to save
    assert not hasattr(model, "_convswap_constructor")


@pytest.mark.parametrize(("name", "in_channels", "size"), [("resnet18", 4, 32), ("squeezenet1_1", 3, 64)])
def test_torchvision(name, in_channels, size):
    model = create_model(f"torchvision:{name}", num_classes=5, in_channels=in_channels)
    assert model.eval()(torch.randn(1, in_channels, size, size)).shape == (1, 5)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 96)])
def test_torchvision_without_auxiliary_heads(name, size):
    with torch.device("meta"):
        model = create_model(f"torchvision:{name}", num_classes=5)
        output = model.train()(torch.empty(2, 3, size, size))
    assert isinstance(output, torch.Tensor)
    assert output.shape == (2, 5)


def fake_weights(monkeypatch, name):
    """Let torchvision 'download' random weights of a model of 1000 classes."""
    import torchvision

    weights = torchvision.models.get_model_weights(name)
    arguments = {"init_weights": False, "aux_logits": True} if name != "squeezenet1_1" else {}
    state = torchvision.models.get_model(name, weights=None, **arguments).state_dict()
    monkeypatch.setattr(weights, "get_state_dict", lambda self, *_, **__: state)
    return state


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("squeezenet1_1", "features.0.weight"),
        ("googlenet", "conv1.conv.weight"),
        ("inception_v3", "Conv2d_1a_3x3.conv.weight"),
    ],
)
def test_torchvision_pretrained_gets_a_fresh_classifier(monkeypatch, name, first):
    state = fake_weights(monkeypatch, name)
    model = create_model(f"torchvision:{name}", num_classes=5, pretrained=True)
    assert torch.equal(model.state_dict()[first], state[first])
    assert model.eval()(torch.randn(1, 3, 80, 80)).shape == (1, 5)
    constructor = model._convswap_constructor
    again = create_model(constructor["model"], **constructor["arguments"])
    again.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 80, 80)
    torch.testing.assert_close(again.eval()(image), model(image))


@pytest.mark.parametrize("function", ["net", "takes_in_chans", "takes_everything", "Nested.make"])
def test_own_function(own, function):
    model = create_model(f"own_models:{function}", num_classes=5, in_channels=2)
    assert model(torch.randn(1, 2, 8, 8)).shape == (1, 5)


def test_own_function_without_arguments_and_with_more(own):
    assert create_model("own_models:takes_nothing", num_classes=10)(torch.randn(1, 3, 8, 8)).shape == (1, 10)
    model = create_model("own_models:net", num_classes=5, width=6)
    assert model._convswap_constructor["arguments"] == {"num_classes": 5, "in_channels": 3, "width": 6}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet81", {}, "unknown model 'resnet81'; did you mean 'resnet18'"),
        ("cifar_resnet21", {}, "'cifar_resnet20'"),
        ("resnet18.no_such_tag", {}, "unknown model 'resnet18.no_such_tag'"),
        ("torchvision:resnet81", {}, "unknown torchvision model 'resnet81'; did you mean 'resnet18'"),
        ("torchvision:resnet18", {"pretrained": True, "in_channels": 1}, "in_channels=1"),
        ("torchvision:googlenet", {"aux_logits": True}, "aux_logits=True is not allowed"),
        ("hf-hub:some/thing", {}, "unknown kind of model"),
        (":net", {}, "unknown kind of model"),
        ("own_models:nett", {}, "unknown function in module 'own_models' 'nett'; did you mean 'net'"),
        ("own_models:number", {}, "is a int, not a function"),
        ("own_models:makes_text", {}, "expected an nn.Module, got str"),
        ("own_models:net", {"pretrained": True}, "has no argument 'pretrained'"),
        ("own_models:net", {"depth": 3}, "has no argument 'depth'"),
        ("no_such_module_here:net", {}, "cannot import 'no_such_module_here': No module named"),
        ("broken_models:net", {}, "it fails with No module named 'no_such_package_at_all'"),
        ("cifar_resnet8", {"depth": 3}, "model 'cifar_resnet8' has no argument 'depth' .got 3."),
        ("cifar_resnet8", {"in_chans": 3}, "model 'cifar_resnet8'"),
        ("cifar_resnet8", {"pretrained": True}, "no weights are published"),
        ("cifar_resnet8", {"pretrained": True, "weights": "x"}, "exclude each other"),
        ("cifar_resnet8", {"num_classes": 0}, "num_classes=0"),
        ("cifar_resnet8", {"in_channels": "3"}, "in_channels='3'"),
    ],
)
def test_bad_input(own, name, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        create_model(name, **{"num_classes": 5, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "cifar_resnet20"])
def test_no_network(monkeypatch, tmp_path, name):
    import urllib.error
    import urllib.request

    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(StoreError, match=r"cannot be downloaded .*Name or service not known.*weights=PATH"):
        create_model(name, num_classes=10, pretrained=True)


def test_importing_the_rooms_is_cheap():
    code = (
        "import sys, convswap.models, convswap.data;"
        "print([m for m in ('timm', 'torchvision', 'sklearn', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
