"""Find the base model, download it when it is named by its hub name, and write down the digests of its files."""

from pathlib import Path

from usertune import program
from usertune.base_model import describe_base_model

parser = program.argument_parser(__doc__)
program.add_recipe(parser, "path and revision of the study's base_model")
parser.add_argument("--manifest", type=Path, required=True, metavar="JSON", help="manifest to write")

if __name__ == "__main__":
    program.run(parser, lambda arguments: describe_base_model(arguments.recipe, arguments.manifest))
