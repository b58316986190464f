"""Settings that no shape tells: what is probably wrong is told, and nothing is where nothing is."""

import json
from functools import reduce
from pathlib import Path

import pytest
import yaml

from diagd_cli.errors import DiagdWarning
from diagd_cli.preset import Preset
from diagd_cli.preset_files import load_preset, preset_folder, preset_names
from diagd_cli.weights.load import load_transformer, random_transformer, save_weights
from diagd_cli.weights.untold import deviations, metadata, plain, told_by

NOWHERE = [Path("no.safetensors")]  # files that say nothing of themselves


def changed(name: str, tmp_path: Path, **settings) -> Preset:
    """A shipped preset in a place of its own, with some settings changed: `a__b=value` for a.b."""
    preset = yaml.safe_load((preset_folder() / f"{name}.yaml").read_text()) | {"name": "mine"}
    for key, value in settings.items():
        *places, last = key.split("__")
        reduce(lambda record, place: record.setdefault(place, {}), places, preset)[last] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset))
    return load_preset(tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", preset_names())
def test_shipped_presets_have_nothing_to_be_told_wherever_they_lie(name, tmp_path):
    for preset in (load_preset(name), changed(name, tmp_path)):
        assert not deviations(preset, "transformer", NOWHERE) and not deviations(
            preset, "tokenizer", NOWHERE
        )


YARN = {"scale": 2.0, "beta_fast": 4.0, "beta_slow": 1.0, "original": [3, 40, 64]}


@pytest.mark.parametrize(
    "name, setting, value, official",
    [
        ("freedoom", "transformer.norm_eps", 1e-6, "1e-05"),
        ("freedoom", "transformer.positions.base", 1e4, "100.0"),
        ("freedoom", "transformer.positions.kind", "rope-1d", "rope-3d"),
        ("cosmos-4b", "transformer.positions.absolute", True, "false"),
        ("freedoom", "transformer.norm", "layer", "rms"),
        ("freedoom", "tokenizer.levels", [16, 8, 8, 4], "[8, 8, 8, 8]"),
        ("cosmos-4b", "tokenizer.levels", [5, 5, 5, 8, 8, 8], "[8, 8, 8, 5, 5, 5]"),
        ("cosmos-4b", "transformer.positions.yarn", YARN, "none"),
        ("cosmos-12b", "transformer.positions.yarn", None, json.dumps(YARN)),
        ("cosmos-12b", "transformer.positions.base", 1e4, "500000.0"),
        ("cosmos-5b-video2world", "transformer.positions.absolute", False, "true"),
        ("cosmos-5b-video2world", "prefix", [64001], "[64000]"),
        ("mineworld-300m", "actions.mu", 5.0, "11.4887"),
        ("mineworld-300m", "tokenizer.groups", 16, "32"),
        ("mineworld-300m", "tokenizer.norm_eps", 1e-5, "1e-06"),
        ("wham-200m", "tokenizer.head_size", 128, "64"),
        ("vavim-s", "transformer.logit_scale", 1.0, "0.3333333333333333"),
    ],
)
def test_a_setting_that_no_shipped_preset_of_the_family_has(
    name, setting, value, official, tmp_path
):
    preset = changed(name, tmp_path, **{setting.replace(".", "__"): value})
    roles = (
        ("tokenizer", "transformer")
        if setting.startswith("tokenizer")
        else ("transformer", "tokenizer")
    )
    lines = [deviations(preset, role, NOWHERE) for role in roles]
    told = (
        f"{setting} is {plain(value)}; no file tells it, and the shipped presets of its family "
        f"have {official}"
    )
    assert lines == [[told], []]


def test_heads_of_an_equal_product(tmp_path):
    settings = {"transformer__heads": 8, "transformer__kv_heads": 2, "transformer__head_dim": 128}
    lines = deviations(changed("mineworld-300m", tmp_path, **settings), "transformer", NOWHERE)
    assert [line.split(";")[0] for line in lines] == [
        "transformer.heads is 8", "transformer.kv_heads is 2", "transformer.head_dim is 128",
    ]  # fmt: skip


OWN = {
    "transformer__dim": 512,
    "transformer__heads": 4,
    "transformer__kv_heads": 2,
    "transformer__mlp_dim": 1024,
}


def test_an_architecture_of_one_s_own(tmp_path):
    """Of a foreign format it is compared in what no shape tells; of diagd's own, which is trained
    with it, in nothing.
    """
    untold = {"transformer__head_dim": 128, "transformer__norm_eps": 1e-6}
    lines = deviations(changed("mineworld-300m", tmp_path, **OWN, **untold), "transformer", NOWHERE)
    assert [line.split(";")[0] for line in lines] == [
        "transformer.head_dim is 128",
        "transformer.norm_eps is 1e-06",
    ]
    assert not deviations(changed("mineworld-300m", tmp_path, **OWN), "transformer", NOWHERE)
    own = changed("freedoom", tmp_path, transformer__dim=512, transformer__norm_eps=1e-6)
    assert not deviations(own, "transformer", NOWHERE)


def test_settings_that_change_nothing_are_not_told(tmp_path):
    same = {"tokenizer__code_dim": 64, "transformer__positions__absolute": False}
    assert not deviations(changed("mineworld-300m", tmp_path, **same), "tokenizer", NOWHERE)
    assert not deviations(
        changed("cosmos-4b", tmp_path, tokenizer__resolution=720), "tokenizer", NOWHERE
    )
    assert not deviations(
        changed("wham-200m", tmp_path, transformer__positions__base=1e6), "transformer", NOWHERE
    )


def test_weights_that_diagd_has_trained_say_it_themselves(tiny, tmp_path):
    """Whatever their settings are: these, and no others, are right."""
    preset = load_preset(tiny.preset)
    model = random_transformer(preset, 0)
    path = tmp_path / "transformer.safetensors"
    entry = save_weights(path, model.state_dict(), told=metadata(preset, "transformer"))
    assert told_by([path])["transformer.positions.base"] == 10000 and not deviations(
        preset, "transformer", [path]
    )
    eps = preset.transformer.model_copy(update={"norm_eps": 1e-3})
    other = preset.model_copy(
        update={"transformer": eps, "transformer_weights": entry, "path": tmp_path / "a.yaml"}
    )
    line = "transformer.norm_eps is 0.001; the weights were trained with 1e-05"
    assert deviations(other, "transformer", [path]) == [line]
    with pytest.warns(DiagdWarning, match=line):
        load_transformer(other)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"transformer.norm_eps": {}}', "[" * 10_000])
def test_what_a_stranger_s_file_says_of_itself_may_be_anything(text, tiny, tmp_path):
    preset = load_preset(tiny.preset)
    save_weights(
        tmp_path / "a.safetensors", random_transformer(preset, 0).state_dict(), told={"diagd": text}
    )
    lines = deviations(preset, "transformer", [tmp_path / "a.safetensors"])
    assert lines == (
        ["transformer.norm_eps is 1e-05; the weights were trained with {}"] if ":" in text else []
    )


def test_the_command_line_tells_it_in_a_line_and_goes_on(diagd, tmp_path):
    changed("freedoom", tmp_path, transformer__norm_eps=1e-6, tokenizer__levels=[4, 8, 8, 16])
    done = diagd("presets", "check", tmp_path / "mine.yaml")
    assert (done.code, done.out) == (0, "mine: the preset is valid and its weights fit\n")
    kind = "no file tells it, and the shipped presets of its family have"
    assert sorted(done.err.splitlines()) == [
        f"warning: mine: tokenizer.levels is [4, 8, 8, 16]; {kind} [8, 8, 8, 8]",
        f"warning: mine: transformer.norm_eps is 1e-06; {kind} 1e-05",
    ]
    done = diagd("weights", "check", tmp_path / "mine.yaml")
    assert (
        done.code == 0
        and sum(line.split()[1:3] == ["settings", "unknown"] for line in done.out.splitlines()) == 2
    )


def test_a_generation_tells_it_once(diagd, tiny, tmp_path):
    preset = load_preset(tiny.preset)
    told = metadata(preset.model_copy(update={"prefix": (1,)}), "transformer")
    entry = save_weights(
        tmp_path / "transformer.safetensors", random_transformer(preset, 0).state_dict(), told=told
    )
    settings = yaml.safe_load(tiny.preset.read_text()) | {
        "transformer_weights": entry.model_dump(mode="json")
    }
    settings["tokenizer_weights"]["sources"][0]["files"][0]["file"] = str(
        tiny.folder / "tokenizer.safetensors"
    )
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings))
    arguments = [
        "generate",
        tiny.clip,
        "-p",
        tmp_path / "a.yaml",
        "-o",
        tmp_path / "o.mp4",
        "--frames",
        1,
    ]
    for quiet in (True, False):
        done = diagd(*arguments, "--force", *(["-q"] if quiet else []))
        warned = [line for line in done.err.splitlines() if line.startswith("warning: ")]
        line = "warning: tiny: prefix is []; the weights were trained with [1]"
        assert done.code == 0 and warned == ([] if quiet else [line])
