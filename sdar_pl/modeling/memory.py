"""Memory of tensors, measured without allocating it: the real code runs on tensors that have a shape but no data.

Left out: the overhead of a device's allocator and libraries (CUDA's context, fragmentation), and the work space of
single operators.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdar_pl.modeling.logprobs import token_logprobs
from sdar_pl.modeling.prefix_tree import NAME, PrefixTree

#: NF4: bytes of the tables that each layer carries (16 and 256 float32 values, one offset)
NF4_TABLES = 4 * (16 + 256 + 1)


@dataclass(frozen=True)
class Memory:
    """Bytes of one item on a rank.

    Args:
        size: bytes.
        note: how the size is computed, for the table.
        in_turn: items ``in_turn`` of one phase are never allocated together; the largest of them counts.
    """

    size: int
    note: str = ""
    in_turn: bool = False


def height(parts: Mapping[str, Memory]) -> int:
    """Bytes at the height of a phase."""
    together = sum(part.size for part in parts.values() if not part.in_turn)
    return together + max((part.size for part in parts.values() if part.in_turn), default=0)


class AllocationMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live tensors allocated inside the block: ``now``, and ``peak`` so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._watch(leaf.untyped_storage(), old)
        return made

    def _watch(self, storage: Any, old: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in old:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class Int8StandIn(nn.Linear):
    """Stand-in for bitsandbytes' int8 layer, which keeps its input until backward, even with checkpointing."""

    def forward(self, x: Tensor) -> Tensor:
        return _Keeping.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call, no-any-return]


class _Keeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.kept, ctx.weight = x, weight  # not by save_for_backward: checkpointing does not see them
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad @ ctx.weight, None, None


def causal_lm(net: Any) -> Any:
    """The Hugging Face model itself, without the peft wrapper."""
    return net.get_base_model() if hasattr(net, "get_base_model") else net


def decoder_layers(net: Any) -> list[nn.Module]:
    """The decoder layers of a model with or without the peft wrapper."""
    return list(causal_lm(net).get_decoder().layers)


def shorten(net: Any, layers: int) -> Any:
    """A copy of a model that ends after its first ``layers`` decoder layers."""
    decoder = causal_lm(net).get_decoder()
    every = decoder.layers
    decoder.layers = every[:layers]
    try:
        short = copy.deepcopy(net)
    finally:
        decoder.layers = every
    causal_lm(short).config.num_hidden_layers = layers
    return short


@contextlib.contextmanager
def without_data(net: nn.Module) -> Iterator[None]:
    """Inside, the parameters of a model on the meta device look like the CPU's but hold nothing. Those that are trained
    have a gradient already, as in every micro-batch but the first of an optimizer step."""
    memory: dict[int, Tensor] = {}

    def hollow(tensor: Tensor) -> Tensor:
        if id(tensor) not in memory:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, tensor.requires_grad)
                empty.grad = torch.empty_like(empty) if tensor.requires_grad else None
            memory[id(tensor)] = empty
        return memory[id(tensor)]

    with FakeTensorMode():
        for part in net.modules():
            for tensors in (part._parameters, part._buffers):
                tensors |= {name: hollow(value) for name, value in tensors.items() if value is not None}
        yield


@dataclass
class Update:
    """Bytes of one forward and backward of a micro-batch, beyond weights, gradients and optimizer."""

    saved: int  # by the decoder's forward for its backward
    layer: int  # on top of that, at the height of the decoder's own forward and backward
    logits: int  # on top of ``saved``, at the height of the log-probs

    @property
    def peak(self) -> int:
        return self.saved + max(self.layer, self.logits)


def update_bytes(
    net: Any,
    rows: int,
    length: int,
    responses: int,
    *,
    chunk: int,
    checkpointing: bool,
    precision: Callable[[], Any],
    top_k: int = 0,
) -> Update:
    """An update of ``rows`` × ``length`` tokens, ``responses`` of them sampled, of a model on the meta device.

    ``top_k`` is the number of the teacher's tokens whose log-probs are computed at each sampled token. Decoder layers
    are alike: the function measures models of two and of three layers and extrapolates.
    """

    def measure(layers: int) -> Update:
        model = shorten(net, layers)
        with without_data(model), AllocationMeter() as meter, precision():
            model.train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.enable_input_require_grads()
            decoder, head = causal_lm(model).get_decoder(), causal_lm(model).get_output_embeddings()
            if decoder.config._attn_implementation == NAME:
                inputs = PrefixTree.of([[row] * length for row in range(rows)]).inputs(torch.device("cpu"))
            else:
                tokens = torch.zeros(rows, length, dtype=torch.long)
                inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            hidden = decoder(**inputs, use_cache=False).last_hidden_state
            saved, highest, meter.peak = meter.now, meter.peak, meter.now
            states = hidden.detach().flatten(0, 1).requires_grad_()
            targets = torch.zeros(responses, dtype=torch.long)
            picked = states.index_select(0, targets)
            named = torch.zeros(responses, min(top_k, head.out_features), dtype=torch.long) if top_k else None
            found = token_logprobs(picked, head, targets, entropy=True, top=named, chunk=chunk)
            (found.values.sum() + (0.0 if found.top is None else found.top.sum())).backward()  # type: ignore[no-untyped-call]
            logits = meter.peak - saved
            del found, picked, named, targets
            meter.peak = highest
            hidden.backward(states.grad.view_as(hidden))
            return Update(saved, meter.peak - saved, logits)

    two, three = measure(2), measure(3)
    more = len(decoder_layers(net)) - 2
    return Update(
        two.saved + more * (three.saved - two.saved), two.layer + more * (three.layer - two.layer), three.logits
    )


def prefill_bytes(net: Any, rows: int, length: int, *, precision: Callable[[], Any]) -> tuple[int, int]:
    """A gradient-free forward over prompts: (peak bytes beyond weights and cache, the cache's bytes a token)."""
    model = shorten(net, 2)
    with without_data(model), torch.no_grad(), AllocationMeter() as meter, precision():
        tokens = torch.zeros(rows, length, dtype=torch.long)
        attention = torch.ones_like(tokens)
        output = causal_lm(model.eval()).get_decoder()(input_ids=tokens, attention_mask=attention, use_cache=True)
        # transformers 5.16 and 5.17 also list the layers that are left out, without keys.
        layers = [layer for layer in output.past_key_values.layers if layer.keys is not None]
        cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        return meter.peak - cache, cache * len(decoder_layers(net)) // (2 * rows * length)


# ---------------------------------------------------------------------- what stands still


def quantised(net: Any) -> list[nn.Linear]:
    """The layers of a base model that bitsandbytes quantises: all linear layers except the output layer."""
    head = net.get_output_embeddings()
    return [part for part in net.modules() if isinstance(part, nn.Linear) and part is not head]


def weight_bytes(net: Any, quantization: str | None) -> tuple[int, int]:
    """Bytes of a base model: (weights, statistics of their quantisation)."""
    weights = statistics = 0
    packed = {id(part.weight) for part in quantised(net) if quantization}
    for parameter in net.parameters():
        numbers = parameter.numel()
        if id(parameter) not in packed:
            weights += parameter.nbytes
        elif quantization == "int8":
            weights, statistics = weights + numbers, statistics + 4 * len(parameter)
        else:
            blocks = ceil(numbers / 64)  # a byte each, and a float32 for 256 of them
            weights, statistics = weights + ceil(numbers / 2), statistics + blocks + 4 * ceil(blocks / 256) + NF4_TABLES
    return weights, statistics


def optimizer_bytes(make: Callable[[list[nn.Parameter]], Any], parameters: list[nn.Parameter]) -> int:
    """Bytes of an optimizer's state, measured by one step on a stand-in for each shape, at most 65,536 numbers."""
    total, known = 0.0, dict[tuple[torch.Size, torch.dtype], float]()
    for parameter in parameters:
        key = (parameter.shape, parameter.dtype)
        if key not in known:
            small = parameter.numel() <= 65536
            shape = parameter.shape if small else torch.Size([256, 256] if parameter.dim() > 1 else [65536])
            stand_in = nn.Parameter(torch.zeros(shape, dtype=parameter.dtype))
            stand_in.grad = torch.zeros_like(stand_in)
            optimizer = make([stand_in])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # bitsandbytes: "paged optimizers are not supported on CPU"
                optimizer.step()
            state = tree_leaves(dict(optimizer.state[stand_in]))
            known[key] = sum(leaf.nbytes for leaf in state if isinstance(leaf, Tensor)) / stand_in.numel()
        total += known[key] * parameter.numel()
    return int(total)
