"""Ways to run a network on this machine, all behind one callable: (image, seed logits) -> seed logits.

`eager` is torch as it is and the reference for the others. `compiled` lets torch fuse what lies between convolutions.
`cuda_graph` records the network's kernels once per batch size and replays them, on a CUDA device.
`openvino` runs the network with OpenVINO, if it is installed (`pip install nissl[openvino]`), also in 8-bit integers
(`nissl.flood_fill.quantisation`). Answers differ in the last digits, so a flooding is repeated bit by bit only by the
same backend and precision.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Network = Callable[[Tensor, Tensor], Tensor]

BACKENDS = ("eager", "compiled", "cuda_graph", "openvino")
WARM_UPS = 3  # calls before a recording, in which libraries choose their kernels
PRECISIONS = ("float32", "bfloat16", "int8")

log = logging.getLogger(__name__)


@contextmanager
def running(network: nn.Module, backend: str, precision: str, fov_zyx: Sequence[int]) -> Iterator[Network]:
    """The network as a callable, for the duration of a flooding.

    Args:
        network: in eval mode, on its device.
        backend: one of BACKENDS.
        precision: "float32" or "bfloat16", of convolutions; what is returned is float32 (a seed added to an answer).
            "int8" needs patches to be calibrated on, see `nissl.flood_fill.quantisation`.
        fov_zyx: the one shape of its inputs, behind batch and channel.
    """
    if backend == "openvino":
        yield openvino_network(network, precision, fov_zyx)
        return
    device = next(network.parameters()).device
    called: Network = network
    if backend == "compiled":
        called = torch.compile(network, dynamic=False)
    elif backend == "cuda_graph":
        called = recorded(network, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield called


def recorded(network: nn.Module, device: torch.device) -> Network:
    """The network replayed from a CUDA graph, one for each batch size; an answer is the caller's own."""
    if device.type != "cuda":
        raise ValueError(f"backend=cuda_graph needs a network on a CUDA device, came {device}; take backend=eager")
    graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}

    def call(image: Tensor, seed: Tensor) -> Tensor:
        if len(image) not in graphs:
            own_image, own_seed = image.clone(), seed.clone()
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    network(own_image, own_seed)
            torch.cuda.current_stream(device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                answer = network(own_image, own_seed)
            graphs[len(image)] = graph, own_image, own_seed, answer
        graph, own_image, own_seed, answer = graphs[len(image)]
        own_image.copy_(image)
        own_seed.copy_(seed)
        graph.replay()
        return answer.clone()

    return call


def openvino_network(network: nn.Module, precision: str, fov_zyx: Sequence[int]) -> Network:
    """`network` compiled by OpenVINO for this processor; as many threads as torch would use."""
    if importlib.util.find_spec("openvino") is None:
        raise ValueError("backend=openvino needs OpenVINO: pip install nissl[openvino], or take backend=eager")
    return compiled_model(openvino_model(network, fov_zyx), precision)


def compiled_model(model: Any, precision: str) -> Network:
    """An OpenVINO graph as a callable; int8 layers stay what they are, the others run in `precision`."""
    import openvino

    hints: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)

    def call(image: Tensor, seed: Tensor) -> Tensor:
        inputs = [np.ascontiguousarray(image.numpy()), np.ascontiguousarray(seed.numpy())]
        # The output belongs to the request and is overwritten by the next call.
        return torch.from_numpy(np.array(compiled(inputs)[0]))

    return call


def openvino_model(network: nn.Module, fov_zyx: Sequence[int]) -> Any:
    """`network` as an OpenVINO graph of float32 weights, for any batch of fields of view."""
    import openvino

    shape = [2, 1, *fov_zyx]  # traced with two examples: a lone one would take torch's own fast path
    example = (torch.zeros(shape), torch.zeros(shape))
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, which OpenVINO chose and no user can mend
        model = openvino.convert_model(network.cpu(), example_input=example)
    model.reshape({each: openvino.PartialShape([-1, *shape[1:]]) for each in model.inputs})
    return model
