"""The policy: one causal language model, LoRA adapters on it, and three views of the same weights.

- *student*: adapters on, with gradient;
- *teacher*: no gradient, reading privileged context, with the weights that teachers.py chooses;
- *reference*: adapters off.

Log-probs are computed at response positions only, in chunks (modeling/logprobs.py): neither the prompt's logits nor a
whole batch of logits ever exists. Left out: sampling (engines/), prompts (prompts.py), sharding (runtime/strategy.py).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sdar_pl.batch import Batch
from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.modeling import prefix_tree
from sdar_pl.modeling.adapters import LoRA, adapt
from sdar_pl.modeling.fingerprint import fingerprint
from sdar_pl.modeling.logprobs import LogProbs, token_logprobs
from sdar_pl.modeling.quantization import prepare_quantized, quantization_config
from sdar_pl.modeling.sharding import gathered, shard
from sdar_pl.modeling.sources import (
    ASSETS,
    ModelSource,
    brief,
    gguf_option,
    load_tokenizer,
    packaged_models,
    refuse_scaled_logits,
)

__all__ = ["ASSETS", "LoRA", "ModelSource", "Policy", "packaged_models"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """A causal language model with adapters, its tokenizer and its log-probs.

    Args:
        model: a folder, a hub name ("Qwen/Qwen2.5-3B-Instruct") or a packaged model ("tiny-household").
        lora: adapters; null trains every weight (then there is no reference view).
        dtype: dtype of the base weights (a true ``trainer.precision`` takes its place); adapters are float32.
        quantization: null, "nf4" or "int8" for the frozen base.
        gradient_checkpointing: trade time for memory in the decoder layers.
        attention: the transformers attention implementation; "prefix_tree" is sdpa that reads a prefix of several
            rows once, where the model can (modeling/prefix_tree.py).
        folded_lora: compute LoRA on a plain base as one product in scoring and update (modeling/folded_lora.py).
        lean_layers: compute adapters in the base's dtype, and norms, in fewer kernels (modeling/lean_layers.py).
        gguf_file: read the weights from this GGUF file in the model folder.
        random_weights: build from the configuration, without weights.
        logits_chunk: number of tokens whose logits exist at one time, at least 1.
    """

    def __init__(
        self,
        model: str = "tiny-household",
        lora: LoRA | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        quantization: Literal["nf4", "int8"] | None = None,
        gradient_checkpointing: bool = False,
        attention: Literal["sdpa", "prefix_tree", "eager", "flash_attention_2"] = "sdpa",
        folded_lora: bool = False,
        lean_layers: bool = False,
        gguf_file: str | None = None,
        random_weights: bool = False,
        logits_chunk: int = 512,
    ) -> None:
        super().__init__()
        if quantization and lora is None:
            raise UserError("model.policy.quantization: a quantised base cannot be trained; add model.policy.lora")
        at_least("model.policy.logits_chunk", logits_chunk, 1)
        self.source = ModelSource(model, gguf_file, random_weights)
        self.lora, self.folded_lora, self.lean_layers, self.quantization = lora, folded_lora, lean_layers, quantization
        self.base_dtype, self.attention = DTYPES[dtype], attention
        self.gradient_checkpointing, self.logits_chunk = gradient_checkpointing, logits_chunk
        path = self.source.located()
        try:
            self.tokenizer: Any = load_tokenizer(path, gguf_file)
        except Exception as error:  # every reader of files has errors of its own
            raise UserError(f"model.policy.model: {model!r} has no readable tokenizer ({brief(error)})") from error
        if not self.tokenizer.encode("a", add_special_tokens=False):
            raise UserError(f"model.policy.model: the tokenizer of {model!r} knows no text; is tokenizer.json missing?")
        if not self.tokenizer.chat_template:
            raise UserError(f"model.policy.model: {model!r} has no chat template; use an instruct model")
        self.net: Any = None
        self.fingerprint = ""  # of the base weights; set by ``build``
        self.shares_prefixes = False  # whether rows are read as a prefix tree; set by ``build``

    # ------------------------------------------------------------------ building

    def build(self) -> None:
        """Load the weights and put the adapters on. Idempotent (Lightning may call ``configure_model`` twice)."""
        if self.net is not None:
            return
        net = self._load()
        refuse_scaled_logits(net.config)
        net.config.use_cache = False
        self.shares_prefixes = self.attention == prefix_tree.NAME and prefix_tree.enable(net)
        self.fingerprint = fingerprint(net, self.source)
        if self.lora is not None:
            net = adapt(net, self.lora, self.folded_lora)
        elif self.base_dtype == torch.bfloat16:
            warnings.warn("training all weights in bfloat16 loses small updates; prefer LoRA or float32", stacklevel=2)
        if self.lean_layers:
            from sdar_pl.modeling.lean_layers import make_lean  # here: it imports peft, and with it bitsandbytes

            make_lean(net)
        if self.gradient_checkpointing:
            net.gradient_checkpointing_enable({"use_reentrant": False})
            net.enable_input_require_grads()
        self.net = net
        self.train()

    def load_in(self, dtype: torch.dtype) -> None:
        """Let ``build`` load the base weights in ``dtype``.

        Raises ``UserError`` if they are loaded in another already, or for float64 with a quantised base.
        """
        if self.quantization and dtype == torch.float64:
            raise UserError(
                f"trainer.precision: 64-true; a base quantised to {self.quantization} computes in float32 at most; "
                "use 32-true or set model.policy.quantization to null"
            )
        if self.net is not None and self.base_dtype != dtype:
            raise UserError(
                f"trainer.precision: the policy is loaded in {self.base_dtype} already, not in {dtype}; "
                "use one precision for all trainers of a policy"
            )
        self.base_dtype = dtype

    def _load(self) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        path, gguf = self.source.located(), gguf_option(self.source.gguf_file)
        attention = "sdpa" if self.attention == prefix_tree.NAME else self.attention
        options: dict[str, Any] = {"dtype": self.base_dtype, "attn_implementation": attention}
        if self.quantization:
            options["quantization_config"] = quantization_config(self.quantization, self.base_dtype)
        missing: set[str] = set()
        try:
            if self.source.random_weights:
                net = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=options["dtype"])
                options |= {"config": net.config, "state_dict": net.state_dict()}
                net = type(net).from_pretrained(None, **options)
            else:
                net, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **gguf, **options)
                missing = loading["missing_keys"]
        except Exception as error:  # every reader of files has errors of its own
            raise UserError(f"model.policy.model: cannot load {self.source.name!r}: {brief(error)}") from error
        if missing:
            raise UserError(
                f"model.policy.model: the weights of {self.source.name!r} lack {len(missing)} of the model's tensors "
                f"({sorted(missing)[0]}, for one); they are not this model's"
            )
        rows = net.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > rows:
            raise UserError(
                f"model.policy.model: the tokenizer of {self.source.name!r} has {len(self.tokenizer)} tokens, "
                f"the model {rows}; they do not belong together"
            )
        if self.quantization:
            prepare_quantized(net)
        return net

    def shard(self, mesh: Any) -> None:
        """Shard over the ranks of ``mesh`` (FSDP2)."""
        shard(self.causal_lm, mesh)

    # ------------------------------------------------------------------ views

    @property
    def causal_lm(self) -> Any:
        """The Hugging Face model itself, adapters injected, without the peft wrapper."""
        return self.net.get_base_model() if self.lora is not None else self.net

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.net.parameters()).device
        return device

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of what is trained: with LoRA, the adapters."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a response: the tokenizer's and the generation configuration's."""
        configured = getattr(self.causal_lm.generation_config, "eos_token_id", None)
        ends = configured if isinstance(configured, list) else [configured]
        return frozenset(token for token in [*ends, self.tokenizer.eos_token_id] if token is not None)

    def check_length(self, tokens: int) -> None:
        """Raises ``UserError`` for a sequence beyond the model's training length, where its output degrades."""
        limit = getattr(self.causal_lm.config, "max_position_embeddings", None)
        if limit and tokens > limit:
            raise UserError(
                f"data.prompter: a sequence of {tokens} tokens, the next response included, is longer than the {limit} "
                "that this model reads; lower max_prompt_tokens, max_teacher_tokens or sampling.max_new_tokens"
            )

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """The reference view: adapters off inside the block."""
        if self.lora is None:
            raise UserError(
                "model.objective.reference_coefficient: the reference view needs adapters (model.policy.lora) to "
                "switch off; add them or set the coefficient to 0"
            )
        with self.net.disable_adapter():
            yield

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, eval mode without gradient; the mode is restored after (Lightning trains around rollouts)."""
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the policy is ``evaluating`` and whole on every rank. Collective under FSDP2."""
        with self.evaluating(), gathered(self.causal_lm):
            yield

    # ------------------------------------------------------------------ log-probs

    def hidden(self, **inputs: Any) -> tuple[Tensor, Any]:
        """Last hidden states [B, L, D] and the KV cache, by way of the Hugging Face model's own ``forward``.

        The output layer stands aside for the call, so that no logits are made, while the hooks that FSDP2 has put on
        the root model still run.
        """
        model = self.causal_lm
        head = model.get_output_embeddings()
        head.forward = lambda states: states
        try:
            output = model(**inputs)
        finally:
            del head.forward
        return output.logits, output.past_key_values

    def logprobs(
        self,
        batch: Batch,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        top: Tensor | int | None = None,
    ) -> LogProbs:
        """Log-probs of the batch's response tokens [B, R], float32, 0 where masked.

        ``temperature`` is that of the rollout: the distribution that was sampled from. ``entropy`` asks for [B, R],
        ``top`` for [B, R, k + 1]: of the tokens [B, R, k] that it names, or of the ``top`` likeliest (LogProbs.top).
        """
        self.check_length(batch.tokens.shape[1])
        states, places = self._states(batch)
        keep = batch.mask.bool()
        # The logits that predict token p stand at position p − 1.
        found = token_logprobs(
            states[places.gather(1, (batch.positions - 1).clamp(min=0))[keep]],
            self.causal_lm.get_output_embeddings(),
            batch.tokens.gather(1, batch.positions)[keep],
            temperature=temperature,
            entropy=entropy,
            top=top[keep] if isinstance(top, Tensor) else top,
            chunk=self.logits_chunk,
        )

        def padded(part: Tensor | None) -> Tensor | None:
            if part is None:
                return None
            blank = part.new_zeros(*keep.shape, *part.shape[1:])
            return blank.masked_scatter(keep.reshape(*keep.shape, *[1] * (part.dim() - 1)), part)

        values, *more = (padded(part) for part in found)
        assert values is not None
        return LogProbs(values, *more)

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Last hidden states [N, D] of all distinct (prefix, token), and where each token of the batch is: [B, L]."""
        if not self.shares_prefixes:
            hidden, _ = self.hidden(input_ids=batch.tokens, attention_mask=batch.attention, use_cache=False)
            return hidden.flatten(0, 1), torch.arange(batch.tokens.numel(), device=hidden.device).view_as(batch.tokens)
        rows = [row[:n] for row, n in zip(batch.tokens.tolist(), batch.attention.sum(1).tolist(), strict=True)]
        tree = prefix_tree.PrefixTree.of(rows)
        hidden, _ = self.hidden(**tree.inputs(batch.tokens.device), use_cache=False)
        return hidden[0], tree.positions(batch.tokens)
