"""The JSON schema of experiment files, generated from the pydantic model; a test catches drift."""

import argparse
import json

from repvgg_companion.experiment.experiment_file import Experiment
from repvgg_companion.files import write_text

SCHEMA_FILE = "workflow/schemas/experiment.schema.json"


def schema_text() -> str:
    """The text of `SCHEMA_FILE`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Experiment.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the `schema` verb."""
    parser.add_argument("--output", default=SCHEMA_FILE)


def run(arguments: argparse.Namespace) -> None:
    """Write the schema."""
    write_text(arguments.output, schema_text())
