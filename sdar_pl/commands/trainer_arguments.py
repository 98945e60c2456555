"""Trainer arguments that an iteration decides itself or that a run cannot honour, refused by name.

docs/lightning.md lists what works and what is refused; tests/runs/test_lightning_features.py runs that table. What
Lightning itself refuses becomes one line with the argument's name (``refusal_of_lightning``).
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer

from sdar_pl.checks import at_least
from sdar_pl.errors import UserError


def _is(*values: Any) -> Callable[[Any], bool]:
    """Whether a value is one of ``values``, types included: 1 batch is not 1.0 of all batches."""
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def _whole_or_none(value: Any) -> bool:
    """Whether a limit takes every batch of a panel, which is one, or none of them."""
    return value is None or isinstance(value, int) or value in (0.0, 1.0)


ONE_BATCH = "a panel is one batch; set data.panel_tasks for a smaller panel"
#: argument → (test of an accepted value, what to do instead)
ARGUMENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "accumulate_grad_batches": (
        _is(1),
        "an iteration sets it to its micro-batches of an optimizer step; use data.micro_batch_tokens and "
        "data.steps_per_iteration",
    ),
    "reload_dataloaders_every_n_epochs": (_is(1), "every iteration trains on rollouts of its own; leave it at 1"),
    "use_distributed_sampler": (
        _is(False),
        "every rank trains on its own rollouts, of which a sampler would drop some; leave it false",
    ),
    "inference_mode": (
        _is(False),
        "tensors that a panel leaves behind could not be trained on; leave it false, no panel takes gradients",
    ),
    "limit_train_batches": (
        _is(None, 1.0),
        "an iteration is trained on whole; set data.tasks_per_iteration for a smaller one",
    ),
    "limit_val_batches": (_whole_or_none, ONE_BATCH),
    "limit_test_batches": (_whole_or_none, ONE_BATCH),
    "limit_predict_batches": (_whole_or_none, ONE_BATCH),
    "overfit_batches": (
        _is(0, 0.0),
        "every iteration rolls out anew; name a data.train_split of few tasks to train on these alone",
    ),
    "barebones": (
        _is(False),
        "a run keeps metrics, checkpoints and a panel; set trainer.logger, trainer.enable_checkpointing and "
        "trainer.enable_progress_bar to false, and trainer.limit_val_batches to 0",
    ),
    "precision": (
        lambda value: not str(value).startswith("transformer-engine"),
        "its layers know neither adapters nor sharding; use bf16-mixed or bf16-true",
    ),
}
#: name of a callback → what to do instead
CALLBACKS = {
    "GradientAccumulationScheduler": ARGUMENTS["accumulate_grad_batches"][1],
    "StochasticWeightAveraging": "its average is made after the last checkpoint, which lacks it; leave it out",
    "WeightAveraging": "its checkpoints hold a second model; use model.teacher sdar_pl.teachers.MovingAverage",
    "EMAWeightAveraging": "its checkpoints hold a second model; use model.teacher sdar_pl.teachers.MovingAverage",
    "BatchSizeFinder": "rollouts have no batch size; set data.micro_batch_tokens by 'python -m sdar_pl plan'",
    "LearningRateFinder": "the loss of one rollout does not measure a learning rate; compare runs by their success",
    "ModelPruning": "it prunes what the adapters stand on; leave it out",
    "Timer": "it ends a run within an iteration; use trainer.max_time, which is read after every iteration",
    "BackboneFinetuning": "model.policy.lora decides what is trained; leave it out",
}
#: name of a plugin → what to do instead
PLUGINS = {
    "BitsandbytesPrecision": "it quantises the adapters, too; use model.policy.quantization",
    "TransformerEnginePrecision": ARGUMENTS["precision"][1],
    "FSDPPrecision": "it belongs to FSDP's first version; use trainer.strategy fsdp2 and trainer.precision",
    "DeepSpeedPrecision": "DeepSpeed is not supported; use trainer.strategy fsdp2 and trainer.precision",
    "AsyncCheckpointIO": "a checkpoint must be whole before training goes on; leave it out",
    "TorchCheckpointIO": "it may leave half a checkpoint behind; leave it out",
    "XLACheckpointIO": "it may leave half a checkpoint behind; leave it out",
}
#: pattern of a strategy's name or class → what to do instead
STRATEGIES = {
    r"ddp_(spawn|fork|notebook)": "ranks are started by the command line; use ddp",
    r"fsdp(?!2)|FSDPStrategy|(?i:deepspeed)": "a rollout gathers sharded weights by way of FSDP2 alone; use fsdp2",
    r"ModelParallelStrategy": "its checkpoints are sharded; use fsdp2",
    r"(?i:.*xla)": "rollouts run on CPUs and GPUs; use auto, ddp or fsdp2",
}


def refuse_trainer_arguments(trainer: Any, steps_per_iteration: int) -> None:
    """Raises ``UserError`` for the first argument of a parsed ``trainer`` that a run cannot honour."""
    if (trainer.max_steps or -1) > 0 and trainer.max_steps % steps_per_iteration:
        raise UserError(
            f"trainer.max_steps: {trainer.max_steps}; an iteration makes {steps_per_iteration} optimizer steps and is "
            "trained on whole; use a multiple"
        )
    for name, (accepts, instead) in ARGUMENTS.items():
        value = trainer.get(name)
        if not accepts(value):
            raise UserError(f"trainer.{name}: {str(value).lower()}; {instead}")
    kinds = ["cuda", "mps"] if trainer.get("accelerator") == "gpu" else [str(trainer.get("accelerator"))]
    known = [AcceleratorRegistry[kind]["accelerator"] for kind in kinds if kind in AcceleratorRegistry]
    if known and not any(kind.is_available() for kind in known):
        raise UserError(f"trainer.accelerator: {trainer.accelerator}; this machine has none; use auto")
    for key, table in ("callbacks", CALLBACKS), ("plugins", PLUGINS):
        for name in _names(trainer.get(key)):
            if name in table:
                raise UserError(f"trainer.{key}: {name}; {table[name]}")
    strategy = trainer.get("strategy")
    if hasattr(strategy, "get") and strategy.get("init_args.start_method") not in (None, "popen"):
        raise UserError("trainer.strategy: start_method; ranks are started by the command line; leave it out")
    for name in _names(strategy):
        for pattern, instead in STRATEGIES.items():
            if re.match(pattern, name):
                raise UserError(f"trainer.strategy: {name}; {instead}")
        if name in ("fsdp2", "FSDP2Strategy") and str(trainer.get("precision")) in ("16-mixed", "16"):
            raise UserError("trainer.precision: 16-mixed; fsdp2 has no loss scale; use bf16-mixed or bf16-true")


def timer_between_iterations(duration: Any) -> Timer:
    """The timer of ``trainer.max_time``, where Lightning's own would end the run within an iteration.

    Raises ``UserError`` for what is no duration.
    """
    try:
        timer = Timer(duration, interval="epoch")
    except (MisconfigurationException, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"trainer.max_time: {duration!r}; must be DD:HH:MM:SS or hold keys of timedelta, such as {{hours: 8}}"
        ) from error
    at_least("trainer.max_time", timer.time_remaining(), 0)
    return timer


def _names(value: Any) -> list[str]:
    """Names of the classes or registered objects that an argument holds."""
    entries = value if isinstance(value, list) else [value]
    paths = [entry.get("class_path") if hasattr(entry, "get") else entry for entry in entries if entry is not None]
    return [path.rsplit(".", 1)[-1] for path in paths if isinstance(path, str)]


def refusal_of_lightning(error: BaseException) -> str | None:
    """What Lightning says of an argument, with its full key in front; None for an error that it does not raise itself.

    An error counts if a ``raise`` statement in one of Lightning's own modules made it.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or not str(place.tb_frame.f_globals.get("__name__")).startswith("lightning."):
        return None
    if not linecache.getline(place.tb_frame.f_code.co_filename, place.tb_lineno).strip().startswith("raise"):
        return None
    message = " ".join(str(error).split())
    known = [name for name in inspect.signature(L.Trainer.__init__).parameters if name != "self"]
    found = re.search(rf"\b({'|'.join(known)})\b", message)
    return f"trainer.{found[1]}: {message}" if found else f"trainer: {message}"
