"""The fingerprint of a run: which differences refuse a checkpoint, and when."""

from __future__ import annotations

from typing import Any

import pytest

from sdar_pl.errors import UserError
from sdar_pl.objectives import SDAR
from sdar_pl.runtime.checkpoint_files import RUN_FINGERPRINT, fingerprint_of_run, flattened, refuse_mismatch


def run(**changes: Any) -> dict[str, Any]:
    parts = {"model": "base", "weights": "1234", "lora": {"r": 4}, "objective": SDAR(), **changes}
    method = {"objective": parts["objective"], "teacher_refresh": "iteration"}
    return fingerprint_of_run({"name": parts["model"]}, parts["weights"], parts["lora"], method)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("changes", "words"),
    [({"weights": "5678"}, "base model 'base'"), ({"lora": {"r": 8}}, "lora"), ({"lora": None}, "lora")],
)
def test_another_model_is_always_refused(changes: dict[str, Any], words: str, training: bool) -> None:
    with pytest.raises(UserError, match=f"ckpt_path: made with .*{words}"):
        refuse_mismatch({RUN_FINGERPRINT: run()}, run(**changes), training)


def test_a_method_counts_for_training_alone() -> None:
    other = run(objective=SDAR(coefficient=0.5))
    refuse_mismatch({RUN_FINGERPRINT: run()}, other, training=False)
    with pytest.raises(UserError, match=r"objective\.distillation\.coefficient: 0\.01, here 0\.5"):
        refuse_mismatch({RUN_FINGERPRINT: run()}, other, training=True)


def test_the_same_weights_under_another_name_are_the_same_model() -> None:
    refuse_mismatch({RUN_FINGERPRINT: run()}, run(model="a copy"), training=True)


def test_a_file_without_a_fingerprint_is_refused() -> None:
    with pytest.raises(UserError, match="it is not a checkpoint of sdar_pl"):
        refuse_mismatch({}, run(), training=False)


def test_private_attributes_do_not_count() -> None:
    class Part:
        def __init__(self) -> None:
            self.value, self._state = 0.5, [1]

    assert flattened(Part(), "part") == {"part": "Part", "part.value": "0.5"}
