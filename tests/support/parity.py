"""Whether an exported model computes what its torch network computes."""

from __future__ import annotations

from torch import nn

from nas.export import TOLERANCE, Images, Parity, frozen_copy, open_session, run_session, torch_outputs


def check_parity(onnx_bytes: bytes, module: nn.Module, x_NCHW: Images, tolerance: float = TOLERANCE) -> float:
    """The largest absolute difference between the outputs of both.

    Raises ExportMismatch if it exceeds ``tolerance`` times the largest output, or if anything is not finite.
    """
    parity = Parity(tolerance)
    parity.add(
        torch_outputs(frozen_copy(module), x_NCHW),
        run_session(open_session(onnx_bytes), x_NCHW),
    )
    return parity.largest_difference()
