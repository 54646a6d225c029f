"""Simulated int8 against onnxruntime's own, and the rounding itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nas.core.errors import InvalidInput
from nas.export import open_session, quantise_int8, run_session, to_float16, to_onnx
from nas.quantisation import (
    in_float16,
    layers_in_order,
    quantised,
    quantised_activation,
    quantised_weight,
    rounded,
    selected_layers,
)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()


def images(count: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_simulated_quantisation_answers_as_the_runtime_does() -> None:
    """The simulation is closer to the runtime's int8 model than either is to float32."""
    module, x = network(), images()
    float32 = module(x).detach().numpy()
    simulated = quantised(module, [x]).forward(x).detach().numpy()
    model = quantise_int8(to_onnx(module, (3, 8, 8)), x.numpy())
    [runtime] = run_session(open_session(model), x.numpy())
    from_float32 = np.abs(runtime - float32).mean()
    assert 0 < np.abs(runtime - simulated).mean() < 0.5 * from_float32
    errors = np.stack([(runtime - float32).ravel(), (simulated - float32).ravel()])
    assert np.corrcoef(errors)[0, 1] > 0.5
    assert (runtime.argmax(axis=1) == simulated.argmax(axis=1)).mean() > 0.9


def test_weights_are_rounded_per_output_channel_and_stay_themselves_on_the_grid() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.25], [0.001, 0.0, -0.001]])
    rounded = quantised_weight(weight)
    assert torch.allclose(rounded, weight, atol=0.5 / 64)
    assert torch.allclose(rounded[1], weight[1], atol=0.5 * 0.001 / 64)  # a scale of its own
    assert torch.allclose(quantised_weight(rounded), rounded, atol=1e-2)
    assert quantised_weight(torch.zeros(2, 3)).abs().max() == 0


def test_activations_are_clipped_to_the_range_of_the_calibration_images() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    rounded = quantised_activation(x, 0.0, 1.0)
    assert rounded.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0], abs=0.5 / 255 + 1e-6)


def test_a_batch_norm_after_a_convolution_changes_no_rounding() -> None:
    """A scale per output channel moves into the weights without changing what is rounded."""
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([0.25, 2.0, 4.0, 16.0]).view(4, 1, 1, 1)
    assert torch.allclose(quantised_weight(weight * scale), quantised_weight(weight) * scale, atol=1e-4)


def test_the_module_itself_stays_as_it_is() -> None:
    module, x = network(), images(8)
    before = module(x).detach()
    quantised(module, [x])
    assert torch.equal(module(x).detach(), before)


def test_a_module_without_layers_cannot_be_quantised() -> None:
    with pytest.raises(InvalidInput, match="expected convolutions or dense layers"):
        quantised(nn.ReLU(), [images(2)])


def test_training_with_the_rounding_computes_as_the_quantised_network_does() -> None:
    module, x = network(), images(16)
    layers = layers_in_order(module, x)
    with rounded(selected_layers(layers, None)):
        assert torch.allclose(module(x), quantised(module, [x])(x), atol=1e-5)
    with rounded(selected_layers(layers, (False, False, True, False))):
        assert torch.allclose(module(x), quantised(module, [x], (False, False, True, False))(x), atol=1e-5)


def test_gradients_pass_the_rounding_and_the_module_is_itself_afterwards() -> None:
    module, x = network(), images(16)
    names, before = [*module.state_dict()], module(x).detach()
    module(x).square().sum().backward()
    exact = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    with rounded(selected_layers(layers_in_order(module, x), None)):
        module(x).square().sum().backward()
    learned = [p.grad for p in module.parameters() if p.grad is not None]
    assert len(learned) == len(exact)
    for a, b in zip(learned, exact, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.9
    assert torch.equal(module(x).detach(), before)
    assert [*module.state_dict()] == names


def test_float16_is_simulated_as_its_model_answers() -> None:
    module, x = network(), images(64)
    simulated = in_float16(module)(x).detach().numpy()
    [runtime] = run_session(open_session(to_float16(to_onnx(module, (3, 8, 8)))), x.numpy())
    float32 = module(x).detach().numpy()
    assert 0 < np.abs(simulated - float32).max() < 1e-2 * np.abs(float32).max()
    assert np.abs(runtime - float32).max() < 1e-2 * np.abs(float32).max()
    with torch.no_grad():
        module[0].weight.fill_(1e5)
    assert not torch.isfinite(in_float16(module)(x)).all()  # numbers that float16 does not have
