"""Names of the shipped models, without loading any of them."""

from pathlib import Path

__all__ = ["ASSETS", "names", "require_model"]

ASSETS = Path(__file__).parent / "assets"


def names() -> list[str]:
    """The shipped models."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def require_model(model: str) -> None:
    """Raise `ValueError` unless a model is a folder, or the name of a shipped one."""
    if model in names() or Path(model).is_dir():
        return
    hub = model.count("/") == 1 and not model.startswith((".", "/"))
    told = (
        f"; if it is a name on the Hub, download it first (hf download {model} --local-dir {model.split('/')[-1]}) and "
        "give that folder"
        if hub
        else ""
    )
    raise ValueError(
        f"{model} is neither a folder with a diffusers model nor a shipped one ({', '.join(names())}){told}"
    )
