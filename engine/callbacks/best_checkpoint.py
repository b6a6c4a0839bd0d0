"""The best checkpoint of a run, also of one whose folder was moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

BEST = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, except that it remembers its best score wherever its folder lies now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a run that may have been elsewhere when it was saved."""
        folder = Path(self.dirpath or "")

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        models = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": self.dirpath})
