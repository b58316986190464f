"""YAML that strangers may have written: the mapping that a file holds, or one line that says what
is wrong with it.
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from diagd_cli.errors import PresetError

MERGE = "tag:yaml.org,2002:merge"
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which cannot be written anywhere
MOST_BITS = 63  # of a number


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, without merges: ten lines of them could make a mapping of 10^10 keys.

    A scalar that is not what it looks like, such as a date in a 13th month, is malformed, where it
    would be a ValueError.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == MERGE:
                raise ConstructorError(
                    problem="<< is not supported, write the keys out", problem_mark=key.start_mark
                )

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind, problem = node.tag.rpartition(":")[2], ""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError):
            problem = f"is no {kind}, write it in quotes if it is text"
        else:
            if isinstance(value, int) and value.bit_length() > MOST_BITS:
                problem = "is too large a number, write it in quotes if it is text"
            elif isinstance(value, str) and SURROGATE.search(value):
                problem = "holds half a character"
        if problem:
            raise ConstructorError(
                problem=f"{reprlib.repr(node.value)} {problem}", problem_mark=node.start_mark
            )
        return value


def read_mapping(path: Path) -> dict:
    """The mapping that a YAML file holds. Raises PresetError, with the line where it is
    malformed.
    """
    where, reason = "", ""
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.load(text, _Loader)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PresetError(
            f"{path} cannot be read: {reason}", "Give the path of a YAML file"
        ) from None
    except UnicodeDecodeError:
        raise PresetError(f"{path} is not a text file", "Give the path of a YAML file") from None
    except yaml.MarkedYAMLError as error:
        if mark := error.problem_mark:
            where = f", line {mark.line + 1}, column {mark.column + 1}"
        reason = error.problem or "it is malformed"
    except yaml.reader.ReaderError as error:
        where, reason = f", line {text.count(chr(10), 0, error.position) + 1}", error.reason
    except RecursionError:
        reason = "it is nested too deeply"
    if reason:
        raise PresetError(f"{path}{where}: not valid YAML: {reason}", "Correct it there")
    if not isinstance(raw, dict):
        kind = "empty" if raw is None else f"a {type(raw).__name__}"
        raise PresetError(f"{path} is {kind}, not a mapping of keys", "Write lines of KEY: VALUE")
    return raw
