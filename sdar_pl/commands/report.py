"""``python -m sdar_pl report``: runs as one HTML page, with learning curves and an episode viewer.

    python -m sdar_pl report runs/quickstart
    python -m sdar_pl report runs/compare --out compare.html

A folder of ``compare`` stands for all runs in it. The page needs no network and no other file. It shows the texts of
tokens if the run's tokenizer is on this machine, and numbers otherwise; nothing is downloaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdar_pl.checks import at_least
from sdar_pl.errors import UserError
from sdar_pl.modeling.sources import ModelSource, load_tokenizer
from sdar_pl.reports.page import Decode, write_page
from sdar_pl.reports.run_files import RunFiles, folders_of_runs, read_run
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.runtime.words import shown


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand and return its exit status. Raises ``UserError``."""
    parser = PlainParser(
        prog="python -m sdar_pl report", description="Runs as one HTML page: learning curves and an episode viewer."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder that fit or compare wrote")
    parser.add_argument("--out", type=Path, help="the file (RUN/report.html; of several runs ./report.html)")
    parser.add_argument("--episodes", type=int, default=2000, help="the most episodes to show, of all runs (2000)")
    options = parser.parse_args(list(arguments))
    at_least("--episodes", options.episodes, 0)
    folders = list(dict.fromkeys(folder for named in options.runs for folder in folders_of_runs(named)))
    runs = [read_run(folder, options.episodes // len(folders)) for folder in folders]
    path = options.out or (folders[0] / "report.html" if len(folders) == 1 else Path("report.html"))
    title = shown(options.runs[0].resolve().name if len(options.runs) == 1 else f"{len(runs)} runs", 80)
    try:
        size, number = write_page(runs, path, decoder(runs), title)
    except OSError as error:
        raise UserError(f"--out: cannot write {path} ({error.strerror or error}); give another file") from error
    played = sum(run.played for run in runs)
    print(shown(f"wrote {path}: {len(runs)} run{'s' * (len(runs) > 1)}, {number:,} of {played:,} episodes, "
                f"{size / 1e6:.1f} MB"))  # fmt: skip
    return 0


def decoder(runs: Sequence[RunFiles]) -> Decode | None:
    """Token ids → text by the tokenizer of the runs; None, with a warning, where it is not there or they differ."""
    sources = {source_of(run.config) for run in runs}
    try:
        (source,) = sources
        assert source is not None
        tokenizer = load_tokenizer(local(source), source.gguf_file)
    except Exception as error:  # a folder of others, and every layer of transformers has errors of its own
        reason = f"{len(sources)} different models" if len(sources) > 1 else f"{type(error).__name__}: {error}"
        warnings.warn(f"tokens are shown as numbers: no tokenizer ({shown(reason, 200)})", stacklevel=2)
        return None
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def source_of(config: Any) -> ModelSource | None:
    """The model of a configuration; None where it names none."""
    try:
        policy = config["model"]["policy"]
        settings = policy.get("init_args", policy)
        return ModelSource(str(settings["model"]), settings.get("gguf_file"))
    except (KeyError, TypeError, AttributeError):
        return None


def local(source: ModelSource) -> str:
    """The model's folder on this machine, without asking the hub."""
    from huggingface_hub import snapshot_download

    path = source.resolve()
    return path if Path(path).is_dir() else snapshot_download(path, local_files_only=True)
