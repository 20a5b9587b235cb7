"""Model folders: written and opened, each with its own scheduler.

    FOLDER/config.json, *.safetensors       any network of diffusers; or in unet/ or transformer/, as pipelines have it
    FOLDER/scheduler/scheduler_config.json  the scheduler that it was trained with; or beside config.json
    FOLDER/latestart.json                   of networks that this library trained: their patches, and a record
    FOLDER/around.safetensors               the Gaussian that such a network is around

A folder is opened as the classes that its files name, or refused by them. Weights are safetensors, and finite.
"""

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from latestart.denoisers.around import Around
from latestart.denoisers.conventions import Convention
from latestart.denoisers.patches import Unshuffled
from latestart.files import write_json
from latestart.gaussians.gaussian import load_gaussian
from latestart.noise import runs_to_noise

__all__ = ["SIDECAR", "load_model", "open_scheduler", "save_model"]

SIDECAR = "latestart.json"
AROUND = "around.safetensors"
PARTS = ("unet", "transformer")  # the folders of pipelines in which their network lies
SETTINGS = "scheduler_config.json"


def save_model(model: nn.Module, scheduler: Any, path: str | Path, record: dict[str, Any] | None = None) -> None:
    """Write a network, its scheduler and a record as a folder that `UNet2DModel.from_pretrained` opens.

    The folder holds `config.json`, `diffusion_pytorch_model.safetensors`, `scheduler/scheduler_config.json` and
    `latestart.json` (the size of the patches, and `record`); `around.safetensors` the Gaussian that it is around.
    """
    path = Path(path)
    patched = model.network if isinstance(model, Around) else model
    inner: Any = patched.network if isinstance(patched, Unshuffled) else patched
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=path) as folder:
        inner.save_pretrained(folder)
        config = Path(folder) / "config.json"  # the folder that the network came from means nothing elsewhere
        settings = {name: value for name, value in _settings(config).items() if name != "_name_or_path"}
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        scheduler.save_pretrained(Path(folder) / "scheduler")
        if isinstance(model, Around):
            model.gaussian.save(Path(folder) / AROUND)
        for file in sorted(Path(folder).rglob("*.*")):
            target = path / file.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            file.chmod(0o644)
            file.replace(target)  # each file is the old one or the new one, never half of it
    patch = patched.factor if isinstance(patched, Unshuffled) else 1
    around = {"around": AROUND} if isinstance(model, Around) else {}
    write_json(path / SIDECAR, {"patch": patch, **around, **(record or {})})


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    scheduler: Any = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Any]:
    """Open what `save_model` or `latestart train` wrote, or any folder of a diffusers network or pipeline.

    Args:
        path: the folder.
        device: where the network is put.
        scheduler: the one that it was trained with, where the folder has none: a scheduler, a folder or file with its
            configuration, or the name of a class of diffusers, with its own defaults.
        dtype: of the weights.

    Returns:
        The network on images or latents, in evaluation mode, and its scheduler.

    Raises:
        ValueError: the folder is not that of a diffusers network with safetensors, or is damaged; it has no scheduler
            and none is given, or one that is not supported.
    """
    path = Path(path)
    inner = next((path / part for part in PARTS if (path / part).is_dir()), path)
    if not (inner / "config.json").is_file():
        raise ValueError(f"expected a folder with a diffusers model (config.json) at {path}, found none")
    sidecar = path / SIDECAR
    record: dict[str, Any] = _settings(sidecar) if sidecar.is_file() else {"patch": 1}
    model: nn.Module = _network(inner, dtype)
    trained = _own_scheduler(path) if scheduler is None else scheduler
    trained = open_scheduler(trained) if isinstance(trained, str | Path) else trained
    try:
        Convention.of(trained)
        if runs_to_noise(trained):
            raise ValueError("it runs from data to noise")
    except (ValueError, KeyError) as error:
        raise ValueError(f"the {type(trained).__name__} of {path} is not supported: {error}") from error
    try:
        if record["patch"] > 1:
            model = Unshuffled(model, record["patch"])
        if record.get("around"):
            model = Around(model, load_gaussian(path / AROUND).to(dtype=torch.float32), trained)
        model.max_sigma = record.get("training", {}).get("max_sigma")  # the highest level it knows, if not all
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{sidecar} does not describe the model beside it: {error}") from error
    return model.eval().to(device), trained


def _settings(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file} as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a {type(found).__name__}, expected names and values")
    return found


def _network(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The network in a folder, of the class that its configuration names."""
    name = _settings(folder / "config.json").get("_class_name")
    refusal = f"expected a network of diffusers at {folder}, its config.json names {name!r}"
    kind = _class_named(name, diffusers.ModelMixin, refusal)
    if "timestep" not in inspect.signature(kind.forward).parameters:
        raise ValueError(f"the {name} at {folder} is no diffusion network: it takes no timestep")
    options = {"use_safetensors": True, "low_cpu_mem_usage": False, "output_loading_info": True, "torch_dtype": dtype}
    try:
        model, info = kind.from_pretrained(folder, **options)
    except Exception as error:  # whatever a class makes of settings and weights that are not its own
        raise ValueError(f"{folder} does not hold a whole diffusers {name} with safetensors: {error}") from error
    if info["missing_keys"] or info["unexpected_keys"]:
        raise ValueError(
            f"the weights in {folder} are not those of its config.json: missing {sorted(info['missing_keys'])[:3]}, "
            f"unexpected {sorted(info['unexpected_keys'])[:3]}"
        )
    if spoilt := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise ValueError(f"the weights in {folder} hold values that are NaN or infinite: {', '.join(spoilt[:3])}")
    return model


def _own_scheduler(path: Path) -> Path:
    """The folder of the scheduler that a model brings."""
    for place in (path / "scheduler", path):
        if (place / SETTINGS).is_file():
            return place
    raise ValueError(
        f"{path} has no scheduler ({SETTINGS} in scheduler/ or beside config.json): say which it was trained with, by "
        "scheduler= or --scheduler, such as DDPMScheduler"
    )


def open_scheduler(place: str | Path) -> Any:
    """A scheduler of diffusers, from a folder or file with its configuration, or the name of its class.

    Of a saved prior solver it is the scheduler that spreads its times, on the process that the model was trained with.

    Raises:
        ValueError: there is none, or of a class that diffusers does not have.
    """
    file = Path(place) / SETTINGS if Path(place).is_dir() else Path(place)
    if not file.is_file():
        refusal = f"{place!r} is neither a file, nor a folder with {SETTINGS}, nor a scheduler of diffusers"
        return _class_named(place, diffusers.SchedulerMixin, refusal)()
    settings = _settings(file)
    spread = settings.get("grid")  # a prior solver's own are those of no other class
    name = spread or settings.get("_class_name")
    refusal = f"{file} names {name!r}, which is not a scheduler of diffusers"
    kind = _class_named(name, diffusers.SchedulerMixin, refusal)
    if spread:
        settings = {key: value for key, value in settings.items() if key in inspect.signature(kind).parameters}
    try:
        return kind.from_config(settings)
    except Exception as error:  # whatever a class makes of settings that are not its own
        raise ValueError(f"{file} does not describe a {kind.__name__}: {error}") from error


def _class_named(name: Any, base: type, refusal: str) -> Any:
    """The class of diffusers with a name, derived from a base; raises `ValueError` with the refusal."""
    kind = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(refusal)
    return kind
