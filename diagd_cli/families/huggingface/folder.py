"""The files of a model's folder, as `save_pretrained` leaves it. Torch-free; it may be a
stranger's.
"""

from __future__ import annotations

import re
from pathlib import Path

from diagd_cli.errors import WeightsError
from diagd_cli.families.huggingface.settings import read_json

CONFIG = "config.json"
ALONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r'[^/\\:*?"<>|\x00-\x1f]{1,200}\.safetensors')  # a file, in no other folder
MOST_SHARDS = 10_000
PICKLED = ("*.bin", "*.pt", "*.pth", "*.bin.index.json")


def files_of(folder: Path) -> list[Path]:
    """The files of weights, in the order of their names, and then the settings' file.

    Raises WeightsError where some are missing or are of another kind, and for an index that names
    what is not in the folder.
    """
    if not folder.is_dir():
        hint = "Give one; a model of the hub comes with: hf download NAME --local-dir FOLDER"
        raise WeightsError(f"{folder} is no folder", hint)
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"{folder} has no {CONFIG}", "Give the folder of a model")
    if (folder / ALONE).is_file():
        return [folder / ALONE, folder / CONFIG]
    if not (folder / INDEX).is_file():
        pickled = sorted(path.name for kind in PICKLED for path in folder.glob(kind))
        if pickled:
            hint = (
                "Save the model as safetensors, by transformers: "
                "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)"
            )
            raise WeightsError(f"{folder} has its weights pickled ({pickled[0]})", hint)
        raise WeightsError(f"{folder} has neither {ALONE} nor {INDEX}", "Fetch all of its files")
    return [*(folder / name for name in _shards(folder)), folder / CONFIG]


def _shards(folder: Path) -> list[str]:
    path = folder / INDEX
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise WeightsError(f"{path} has no weight_map", "Fetch the file again")
    names = list(dict.fromkeys(str(name) for name in listed.values()))
    for name in names:
        if not SHARD.fullmatch(name) or name.startswith("."):
            hint = "It must name .safetensors files beside it"
            raise WeightsError(f"{path} names {name[:100]!r}", hint)
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} lacks {name}, which {INDEX} names", "Fetch it")
    if len(names) > MOST_SHARDS:
        raise WeightsError(f"{path} names {len(names)} files", f"At most {MOST_SHARDS} are read")
    return sorted(names)
