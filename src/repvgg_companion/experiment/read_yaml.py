"""The keys of an experiment file as it is written; starts fast, because `make` asks it before Snakemake starts.

YAML takes the last of two equal keys and says nothing; here that is an error. Keys that override those of a merged
mapping (`<<: *name`) are meant to, and stay.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from repvgg_companion.errors import CompanionError

MERGE = "tag:yaml.org,2002:merge"


def read_keys(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file; raises CompanionError naming file and line if it cannot be read as such."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CompanionError(f"{path} does not exist; the experiment files are in config/") from None
    except IsADirectoryError:
        raise CompanionError(f"{path} is a folder; name the experiment file in it") from None
    except UnicodeDecodeError as error:
        from repvgg_companion.weights_file import WEIGHTS_SUFFIXES

        if Path(path).suffix in WEIGHTS_SUFFIXES:
            raise CompanionError(
                f"{path} is a weights file, not an experiment file; name one such as config/demo.yaml, or type "
                f"'python -m repvgg_companion weights inspect {path}'"
            ) from None
        raise CompanionError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise CompanionError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _require_single_keys(node, path)
        config = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is that of a date such as 2026-13-01
        raise CompanionError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not config:
        raise CompanionError(f"{path} holds no keys; see docs/keys.md")
    return config


def _require_single_keys(top: yaml.Node | None, path: str | Path) -> None:
    """Raise CompanionError if a mapping has a key twice."""
    nodes, seen = [top], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                nodes.append(value)
                if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise CompanionError(
                        f"{path} has the key {key.value} twice, in line {lines[key.value]} and in line {line}; leave "
                        "one of them out, or write both as one"
                    )
                lines[key.value] = line


if __name__ == "__main__":
    try:
        read_keys(sys.argv[1])
    except CompanionError as error:
        sys.exit(f"make: {error}")
