"""The fingerprint of a run: which differences refuse a checkpoint, when, and in which words."""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdar_pl.errors import UserError
from sdar_pl.objectives import SDAR
from sdar_pl.runtime.checkpoint_files import RUN_FINGERPRINT
from sdar_pl.runtime.optimizer_settings import adopt_settings, optimizer_settings
from sdar_pl.runtime.run_fingerprint import arguments_of, attributes_of, fingerprint_of_run, refuse_mismatch

ADAMW = partial(torch.optim.AdamW, lr=1e-3)
COSINE = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10)


def run(**changes: Any) -> dict[str, Any]:
    parts = {"model": "base", "weights": "1234", "lora": {"r": 4}, "objective": SDAR(), "optimizer": ADAMW} | changes
    settings = attributes_of({"model.objective": parts["objective"]})
    settings |= optimizer_settings(parts["optimizer"], parts.get("scheduler"))
    settings |= {name.replace("__", "."): value for name, value in changes.items() if "__" in name}
    return fingerprint_of_run({"name": parts["model"]}, parts["weights"], parts["lora"], settings)


def refusal(training: bool = True, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        refuse_mismatch({RUN_FINGERPRINT: run()}, run(**changes), training)
    return str(error.value)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "5678"}, "model.policy.model: the checkpoint has 'base', the config another model under"),
        ({"weights": "5678", "model": "b"}, "model.policy.model: the checkpoint has 'base', the config 'b', whose"),
        ({"lora": {"r": 8}}, "model.policy.lora: the checkpoint has {'r': 4}, the config {'r': 8}; make them the same"),
        ({"lora": None}, "model.policy.lora: the checkpoint has {'r': 4}, the config None"),
    ],
)  # fmt: skip
def test_another_model_is_always_refused(changes: dict[str, Any], words: str, training: bool) -> None:
    assert refusal(training, **changes).startswith(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": SDAR(coefficient=0.5)}, "model.objective.distillation.coefficient: the checkpoint has 0.01, "
         "the config 0.5; make them the same, or start without ckpt_path"),
        ({"optimizer": torch.optim.SGD}, "model.optimizer: the checkpoint has AdamW, the config SGD"),
        ({"optimizer": partial(ADAMW, betas=(0.8, 0.999))},
         "model.optimizer.betas: the checkpoint has (0.9, 0.999), the config (0.8, 0.999)"),
        ({"optimizer": partial(ADAMW, amsgrad=True)}, "model.optimizer.amsgrad: the checkpoint has False"),
        ({"scheduler": COSINE}, "model.scheduler: the checkpoint has None, the config CosineAnnealingLR"),
        ({"data__group_size": 4}, "data.group_size: the checkpoint has None, the config 4"),
    ],
)  # fmt: skip
def test_settings_count_for_training_alone(changes: dict[str, Any], words: str) -> None:
    refuse_mismatch({RUN_FINGERPRINT: run()}, run(**changes), training=False)
    assert refusal(**changes).startswith(words)


def test_the_same_weights_under_another_name_are_the_same_model() -> None:
    assert refuse_mismatch({RUN_FINGERPRINT: run()}, run(model="a copy"), training=True) == {}


@pytest.mark.parametrize("content", [{}, {RUN_FINGERPRINT: {"model": {"name": "older"}}}])
def test_a_file_without_a_fingerprint_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="it is not a checkpoint of this version of sdar_pl"):
        refuse_mismatch(content, run(), training=False)


def test_what_changes_speed_alone_does_not_count() -> None:
    assert run() == run(optimizer=partial(ADAMW, foreach=False))


def test_private_attributes_do_not_count() -> None:
    class Part:
        def __init__(self) -> None:
            self.value, self._state = 0.5, [1]

    assert attributes_of({"part": Part()}) == {"part": "Part", "part.value": 0.5}


def test_an_environment_counts_by_its_arguments() -> None:
    class Rules:
        def __init__(self, strict: bool) -> None:
            self.strict = strict

    class House:
        def __init__(self, size: str, rules: Rules, path: str, seed: int = 0) -> None:
            self.size, self.rules, self.path, self.games = size, rules, path, [object()]

    found = arguments_of(House("small", Rules(True), "/data"), "house", ("path",))
    assert found == {"house": "House", "house.size": "small", "house.rules": "Rules", "house.rules.strict": True}


# ---------------------------------------------------------------------- settings that a resumed run adopts


def restored(optimizers: list[Any], scheduler: Any) -> Any:
    """What a Trainer holds after it has restored a checkpoint."""
    return SimpleNamespace(optimizers=optimizers, lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)])


def test_another_learning_rate_is_named_and_used() -> None:
    """A cosine from 1e-3 over 10 steps, resumed after 5 from half the rate over 20: as if it had always been so."""

    def trained(optimizer: Any, scheduler: Any, steps: int) -> None:
        for _ in range(steps):
            optimizer.step()
            scheduler.step()

    first = ADAMW([torch.nn.Parameter(torch.ones(2))])
    schedule = COSINE(first)
    trained(first, schedule, 5)
    slower = {"optimizer": partial(ADAMW, lr=5e-4, weight_decay=0.1), "scheduler": COSINE}
    old, new = run(scheduler=COSINE), run(**slower)
    adopted = refuse_mismatch({RUN_FINGERPRINT: old}, new, training=True)
    assert adopted == {"model.optimizer.lr": 5e-4, "model.optimizer.weight_decay": 0.1}

    resumed = slower["optimizer"]([torch.nn.Parameter(torch.ones(2))])
    follow = COSINE(resumed)
    resumed.load_state_dict(first.state_dict())
    follow.load_state_dict(schedule.state_dict())
    assert resumed.param_groups[0]["lr"] == first.param_groups[0]["lr"], "torch restores the old settings"
    with pytest.warns(UserWarning, match=re.escape("model.optimizer.lr: 0.001 in the checkpoint, 0.0005 from here on")):
        adopt_settings(adopted, old["settings"], restored([resumed], follow))
    for _ in range(5):
        assert resumed.param_groups[0]["lr"] == pytest.approx(first.param_groups[0]["lr"] / 2)
        trained(first, schedule, 1)
        trained(resumed, follow, 1)
    assert resumed.param_groups[0]["weight_decay"] == 0.1


def test_a_longer_schedule_is_adopted() -> None:
    longer = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20)
    old, new = run(scheduler=COSINE), run(scheduler=longer)
    adopted = refuse_mismatch({RUN_FINGERPRINT: old}, new, training=True)
    assert adopted == {"model.scheduler.T_max": 20}
    schedule = longer(ADAMW([torch.nn.Parameter(torch.ones(2))]))
    schedule.load_state_dict(COSINE(ADAMW([torch.nn.Parameter(torch.ones(2))])).state_dict())
    with pytest.warns(UserWarning, match=r"model\.scheduler\.T_max: 10 in the checkpoint, 20 from here on"):
        adopt_settings(adopted, old["settings"], restored([], schedule))
    assert schedule.T_max == 20
