"""What tests share: paths, runs of the command line, small worlds, a callback that strikes a run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
CONFIGS = ROOT / "configs"
