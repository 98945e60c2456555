"""Bad input ends in one line that names the file or key, with exit status 2 and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from sdar_pl.cli import main
from sdar_pl.runtime.processes import RUN_FOLDER

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
NO_CONTEXT = str(ROOT / "configs" / "contexts" / "none.yaml")


@pytest.fixture(autouse=True)
def _own_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["sdar_pl"])
    monkeypatch.chdir(tmp_path)


def complain(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line, expect a complaint → its text."""
    os.environ.pop(RUN_FOLDER, None)
    status = main(["fit", *arguments])
    said = capfd.readouterr().err.strip().splitlines()
    assert status == 2, said
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in "\n".join(said)
    return errors[0]


def test_unknown_key(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data:\n  group_sise: 8\n")
    said = complain(capfd, "--config", QUICKSTART, "--config", str(file))
    assert "group_sise" in said
    assert "mine.yaml" in said


def test_unknown_class(capfd: pytest.CaptureFixture[str]) -> None:
    said = complain(capfd, "--config", QUICKSTART, "--model.objective", "sdar_pl.objectives.SADR")
    assert "model.objective" in said
    assert "SADR" in said


def test_wrong_type(capfd: pytest.CaptureFixture[str]) -> None:
    said = complain(capfd, "--config", QUICKSTART, "--data.group_size", "many")
    assert "data.group_size" in said


def test_missing_config(capfd: pytest.CaptureFixture[str]) -> None:
    said = complain(capfd, "--config", "nowhere.yaml")
    assert "nowhere.yaml" in said


def test_broken_yaml(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("data: {group_size: [\n")
    assert "broken.yaml" in complain(capfd, "--config", str(file))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.policy.model", "./no-model"], ["model.policy.model", "./no-model"]),
        (["--data.group_size", "1"], ["data.group_size: 1", "≥ 2"]),
        (["--model.objective.init_args.beta", "-1"], ["beta", "-1"]),
        (["--data.validation_split", "vaildation"], ["vaildation", "validation"]),
        (["--data.context.init_args.library", "cooking"], ["cooking", "household"]),
        (["--data.prompter.max_prompt_tokens", "5"], ["max_prompt_tokens", "nothing is truncated"]),
        (["--data.tasks_per_iteration", "0"], ["data.tasks_per_iteration"]),
        (["--data.sampling.temperature", "0"], ["data.sampling.temperature"]),
        (["--data.sampling.top_p", "3"], ["top_p"]),
        (["--model.policy.lora.target_modules", "[nothing]"], ["target_modules", "q_proj"]),
        (["--trainer.accelerator", "gpu"], ["trainer", "gpu"]),
        (["--ckpt_path", "no.ckpt"], ["ckpt_path", "no.ckpt"]),
        (["--ckpt_path", "last"], ["ckpt_path", "no earlier run"]),
    ],
)
def test_bad_values(
    capfd: pytest.CaptureFixture[str], models: dict[str, Path], arguments: list[str], words: list[str]
) -> None:
    if arguments[1] == "gpu" and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a GPU")
    base = ["--config", QUICKSTART, "--model.policy.model", str(models["qwen2"])]
    said = complain(capfd, *base, *arguments)
    assert all(word in said for word in words), said


def test_warnings_are_one_line() -> None:
    code = "import warnings; from sdar_pl.runtime.messages import quieten; quieten(); warnings.warn('mind the gap')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == "warning: mind the gap\n"


def test_the_file_is_named_that_sets_the_key(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {policy: {model: ./no-model}}\n")
    assert "mine.yaml" in complain(capfd, "--config", QUICKSTART, "--config", str(file))
    said = complain(capfd, "--config", QUICKSTART, "--config", str(file), "--model.policy.model", "./no-other")
    assert "./no-other" in said
    assert "yaml" not in said


def test_skill_without_front_matter(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "plain.md").write_text("Just do it.\n")
    said = complain(capfd, "--config", QUICKSTART, "--data.context.init_args.folder", str(tmp_path / "skills"))
    assert "plain.md" in said


def test_output_folder_that_cannot_be_written(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = complain(capfd, "--config", QUICKSTART, "--trainer.default_root_dir", str(tmp_path / "file"))
    assert "default_root_dir" in said


def test_teacher_without_context(capfd: pytest.CaptureFixture[str], models: dict[str, Path]) -> None:
    said = complain(
        capfd,
        *["--config", QUICKSTART, "--model.policy.model", str(models["qwen2"])],
        *["--model.teacher", "Current", "--data.context", "sdar_pl.skills.providers.NoContext"],
    )
    assert "data.context" in said


def test_a_student_is_promised_no_context_that_is_not_there(
    capfd: pytest.CaptureFixture[str], models: dict[str, Path]
) -> None:
    said = complain(
        capfd,
        *["--config", QUICKSTART, "--model.policy.model", str(models["qwen2"])],
        *["--model.objective", "sdar_pl.objectives.GRPO", "--data.context", "sdar_pl.skills.providers.NoContext"],
        *["--data.evaluate_with_context", "true"],
    )
    assert "data.evaluate_with_context: there is no context" in said


CENTRED = "{class_path: sdar_pl.objectives.CentredGapGate}"


@pytest.mark.parametrize(
    ("objective", "arguments", "words"),
    [
        ("gspo", ["--model.objective.init_args.aggregation", "token-mean"], ["GSPOLoss", "set it to seq-mean"]),
        *(
            (name, ["--config", NO_CONTEXT, "--model.teacher", "Current"], ["set data.context"])
            for name in ("sdar_reverse_kl", "rlsd", "opid")
        ),
        ("sdar_js", ["--model.objective.init_args.distillation.init_args.gate", CENTRED], ["set gate to GapGate"]),
        ("sdar_js", ["--model.objective.init_args.distillation.init_args.estimator.init_args.k", "0"], ["≥ 1"]),
        ("sdar_js", ["--model.objective.init_args.distillation.init_args.estimator.init_args.kind", "kl"], ["kind"]),
        ("rlsd", ["--model.objective.init_args.shaper.init_args.mix", "2"], ["mix: 2", "≥ 0 and ≤ 1"]),
        ("cispo", ["--model.objective.init_args.policy_loss.init_args.clip_low", "7"], ["clip_low: 7"]),
        ("gigpo", [], ["data.prompter.history", "windowed"]),
    ],
)
def test_parts_that_do_not_go_together(
    capfd: pytest.CaptureFixture[str], models: dict[str, Path], objective: str, arguments: list[str], words: list[str]
) -> None:
    """Refused at the start, before anything is played."""
    config = str(ROOT / "configs" / "objectives" / f"{objective}.yaml")
    base = ["--config", QUICKSTART, "--model.policy.model", str(models["qwen2"]), "--config", config]
    said = complain(capfd, *base, *arguments)
    assert all(word in said for word in words), said


def test_version_is_quick_and_needs_no_torch() -> None:
    code = "import sys; from sdar_pl.cli import main; main(['--version']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
