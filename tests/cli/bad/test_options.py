"""Presets, options and actions that cannot be right."""

import math
import shutil

import pytest
import yaml

from diagd_cli.schedule.decoding import STAND_INS

INTEGER, AT_MOST = "Input should be a valid integer", "Input should be less than or equal to"
FINITE = "Input should be a finite number"
PLAIN = "must be a plain file name, of at most 60 characters and not beginning with . or -"


def test_unknown_preset(refused):
    assert refused(preset="freedom") == (2, "Unknown preset 'freedom'. Did you mean freedoom?")
    assert refused(preset="xyzzy") == (2, "Unknown preset 'xyzzy'. See: diagd presets list")
    hint = "Give a path to a YAML file, or a name from: diagd presets list"
    assert refused(preset="mine.yaml") == (2, f"No preset file mine.yaml. {hint}")


def test_malformed_yaml(refused, tmp_path):
    preset = tmp_path / "a.yaml"
    preset.write_text("name: a\nclip: {height: 3\nfoo: bar\n")
    line = (
        "a.yaml, line 3, column 4: not valid YAML: expected ',' or '}', but got ':'. Correct it "
        "there"
    )
    assert refused(preset=preset) == (2, line)
    preset.write_text("name: a\nabout: !!python/object/apply:os.abort []\n")
    assert refused(preset=preset)[1].startswith(
        "a.yaml, line 2, column 8: not valid YAML: could not determine"
    )
    preset.write_bytes(b"name: a\nabout: \0\n")
    assert refused(preset=preset)[1].startswith(
        "a.yaml, line 2: not valid YAML: special characters"
    )
    preset.write_bytes(b"\xff\xfe")
    assert refused(preset=preset) == (2, "a.yaml is not a text file. Give the path of a YAML file")
    preset.write_text("- freedoom\n")
    assert refused(preset=preset) == (
        2,
        "a.yaml is a list, not a mapping of keys. Write lines of KEY: VALUE",
    )


@pytest.mark.parametrize(
    "value, message",
    [
        ("2020-13-45", "'2020-13-45' is no timestamp, write it in quotes if it is text"),
        ("0x_", "'0x_' is no int, write it in quotes if it is text"),
        ("9" * 5000, "'999999999999...9999999999999' is no int, write it in quotes if it is text"),
        (
            "0x" + "f" * 5000,
            "'0xffffffffff...fffffffffffff' is too large a number, write it in "
            "quotes if it is text",
        ),
        ("!!int ''", "'' is no int, write it in quotes if it is text"),
        ("!!float abc", "'abc' is no float, write it in quotes if it is text"),
        ("!!bool abc", "'abc' is no bool, write it in quotes if it is text"),
        ("!!timestamp abc", "'abc' is no timestamp, write it in quotes if it is text"),
        ('"\\ud800"', r"'\ud800' holds half a character"),
    ],
)
def test_values_that_are_not_what_they_look_like(refused, tmp_path, value, message):
    (tmp_path / "a.yaml").write_text(f"name: a\nabout: {value}\n")
    line = f"a.yaml, line 2, column 8: not valid YAML: {message}. Correct it there"
    assert refused(preset=tmp_path / "a.yaml") == (2, line)


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (["clip", "heigth"], 16, "unknown key 'clip.heigth' (did you mean 'height'?)"),
        (["transfomer"], {}, "unknown key 'transfomer' (did you mean 'transformer'?)"),
        (["clip", "height"], "x", f"clip.height: {INTEGER}, unable to parse string as an integer "
                                  "(it is 'x')"),
        (["decoding", "k"], 1.5, f"decoding.k: {INTEGER}, got a number with a fractional part (it "
                                 "is 1.5)"),
        (["decoding", "top_p"], 1.5, "decoding.top_p: Input should be less than or equal to 1 (it "
                                     "is 1.5)"),
        (["decoding", "temperature"], math.nan, f"decoding.temperature: {FINITE} (it is nan)"),
        (["clip", "fps"], math.inf, f"clip.fps: {FINITE} (it is inf)"),
        (["name"], "../mine", f"name: {PLAIN} (it is '../mine')"),
        (["name"], "-rf", f"name: {PLAIN} (it is '-rf')"),
        (["name"], "a\tb", f"name: {PLAIN} (it is 'a\\tb')"),
        (["name"], "n" * 61, f"name: {PLAIN} (it is 'nnnnnnnnnnnn...nnnnnnnnnnnnn')"),
        (["others"], [], "unknown key 'others'"),
        (["clip", "window"], 10**6, f"clip.window: {AT_MOST} 100000 (it is 1000000)"),
        (["clip", "window"], 99999, "clip.window (99999) makes 699994 positions, above 262144"),
        (["tokenizer", "encoder"], [0, 10**9], f"tokenizer.encoder.1: {AT_MOST} 1000 (it is "
                                               "1000000000)"),
        (["tokenizer", "channels"], [4 * 10**9, 8], f"tokenizer.channels.0: {AT_MOST} 65536 (it is "
                                                    "4000000000)"),
        (["transformer", "layers"], 10**9, f"transformer.layers: {AT_MOST} 1000 (it is 1000000000)"),
        (["transformer", "norm_eps"], math.nan, f"transformer.norm_eps: {FINITE} (it is nan)"),
        (["transformer", "positions", "base"], -1, "transformer.positions.base: Input should be "
                                                   "greater than 0 (it is -1)"),
        (["clip", "width"], 25, "clip.width (25) must be a multiple of 8, the tokenizer's pixels a "
                                "token"),
        (["clip", "context"], 6, "clip: needs least <= context <= window, has 2, 6, 5"),
        (["tokenizer", "levels"], [5, 1], "tokenizer.levels.1: Input should be greater than or "
                                          "equal to 2 (it is 1)"),
        (["tokenizer", "kernel"], 4, "tokenizer.kernel: must be odd, so that frames keep their "
                                     "size (it is 4)"),
        (["transformer", "vocab"], 28, "transformer.vocab (28) is below the 29 tokens in use"),
        (["transformer", "outputs"], 24, "transformer.outputs (24) is below the tokenizer's 25 "
                                         "codes"),
        (["actions", "offset"], 24, "actions.offset (24) lies within the tokenizer's 25 codes"),
        (["actions", "none"], "rest", "actions: none ('rest') is not among names"),
    ],
)  # fmt: skip
def test_wrong_preset(refused, tiny, tmp_path, keys, value, message):
    settings = yaml.safe_load(tiny.preset.read_text())
    place = settings
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings))
    line = f"a.yaml: {message}. Compare with: diagd presets show freedoom"
    assert refused(preset=tmp_path / "a.yaml") == (2, line)


def test_preset_whose_decoding_does_not_fit(refused, tiny, tmp_path):
    (tmp_path / "a.yaml").write_text(tiny.preset.read_text().replace("  k: 1", "  k: 4"))
    assert refused(preset=tmp_path / "a.yaml") == (
        2,
        "a.yaml: decoding: k is 4. On a 2x3 grid it must lie in 1..3",
    )


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--frames", "0", "Invalid value for '--frames': '0' is not a whole number, 1 or more"),
        ("--frames", "two", "Invalid value for '--frames': 'two' is not a whole number, 1 or more"),
        ("--temperature", "-1", "Invalid value for '--temperature': '-1' is not a number in 0..1000"),
        ("--temperature", "nan", "Invalid value for '--temperature': 'nan' is not a number in "
                                 "0..1000"),
        ("--top-p", "0", "Invalid value for '--top-p': '0' is not a number above 0 and at most 1"),
        ("--top-p", "1.1", "Invalid value for '--top-p': '1.1' is not a number above 0 and at most "
                           "1"),
        ("--top-k", "-1", "Invalid value for '--top-k': '-1' is not a whole number, 0 or more"),
        ("--seed", "-1", "Invalid value for '--seed': '-1' is not a whole number in 0..2^64-1"),
        ("--threads", "-1", "Invalid value for '--threads': '-1' is not a whole number in 0..1024"),
        ("--decoding", "fast", "Invalid value for '--decoding': 'fast' is not one of ntp, exact, diagd, "
                               "spatial, zipar"),
        ("--stand-in", "x", "Invalid value for '--stand-in': 'x' is not one of "
                            f"{', '.join(STAND_INS)}"),
        ("--k", "one", "Invalid value for '--k' / '-k': 'one' is not a whole number"),
    ],
)  # fmt: skip
def test_options_out_of_range(refused, tiny, option, value, message):
    assert refused(tiny.clip, option, value) == (2, f"{message}. See: diagd generate --help")


def test_variables_out_of_range_are_named(refused):
    code, line = refused(DIAGD_SEED="x")
    assert code == 2 and line.startswith(
        "Invalid value for '--seed' (env var: 'DIAGD_SEED'): 'x' is not a whole number"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--k", 0], "k is 0. On a 2x3 grid it must lie in 1..3"),
        (["--k", 4], "k is 4. On a 2x3 grid it must lie in 1..3"),
        (["--d", 0], "d is 0. With k=1 on a 2x3 grid it must lie in 1..4"),
        (["--k", 2, "--d", 6], "d is 6. With k=2 on a 2x3 grid it must lie in 1..5"),
        (["--device", "gpu"], "Unknown device 'gpu'. Use auto, cpu, cuda or cuda:N"),
        (["--dtype", "int8"], "Unknown dtype 'int8'. Use auto, float32, bfloat16, float16"),
    ],
)
def test_decoding_and_device_out_of_range(refused, tiny, options, message):
    assert refused(tiny.clip, *options) == (2, message)


def test_no_clip_no_such_option_and_no_such_command(diagd):
    done = diagd("generate")
    assert done.code == 2 and done.err.startswith("error: Missing argument '")
    assert done.err.endswith("'. See: diagd generate --help\n")
    done = diagd("generate", "a.mp4", "--force-it")
    assert done.code == 2 and done.err.startswith("error: No such option: --force-it")
    done = diagd("genrate")
    assert done.code == 2 and done.err.startswith("error: No such command 'genrate'.")
    assert done.err.endswith(" See: diagd --help\n")


FORM = "Write NAME or NAME*COUNT, such as forward*8,left*4"
FILE = "Give a JSONL file, or a list such as forward*8"


@pytest.mark.parametrize(
    "text, message",
    [
        ("lefty", "unknown action 'lefty'. Did you mean left?"),
        ("jump", "unknown action 'jump'. Known: idle, left, right, none"),
        ("left*0", f"Cannot read the action 'left*0'. {FORM}"),
        ("left,,right", f"Cannot read the action ''. {FORM}"),
        ("exit()", f"Cannot read the action 'exit()'. {FORM}"),
        ("no.jsonl", f"Cannot read the actions no.jsonl: No such file or directory. {FILE}"),
    ],
)  # fmt: skip
def test_bad_actions(refused, tiny, text, message):
    assert refused(tiny.clip, "--actions", text) == (2, message)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"action": "left"}\n{"action": "up"}\n', "a.jsonl, line 2: unknown action 'up'. Known: "
                                                   "idle, left, right, none"),
        ('{"action": "left"}\nleft\n', 'a.jsonl, line 2: not {"action": NAME}. Write one JSON '
                                       'object a line'),
        ('\n{"action": "left"}\n', "a.jsonl, line 1: it is blank. Write one JSON object a line, "
                                   "for each frame"),
        ('{"move": "left"}\n', 'a.jsonl, line 1: not {"action": NAME}. Write one JSON object a line'),
        ("\n", "a.jsonl holds no action. Write one JSON object a line"),
    ],
)  # fmt: skip
def test_bad_actions_file(refused, tiny, tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    assert refused(tiny.clip, "--actions", tmp_path / "a.jsonl") == (2, message)
    clip = shutil.copy(tiny.clip, tmp_path / "a.mp4")  # the same file, found beside the clip
    assert refused(clip) == (2, message)


def test_actions_of_a_preset_that_takes_none(refused, tiny, tmp_path):
    settings = yaml.safe_load(tiny.preset.read_text()) | {"actions": None}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings))
    code, line = refused(tiny.clip, "--actions", "left", preset=tmp_path / "a.yaml")
    assert (code, line) == (2, "The preset tiny takes no actions. Leave --actions out")
