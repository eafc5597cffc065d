"""Lays programs that are built already where `sam deploy` looks for them, as `sam build` does with programs that it
builds itself: `<build>/<Function>/bootstrap`, without symbols, and a template that names these folders.

The tests use it: their own build has compiled everything that the functions consist of, so only linking is left. A
deployment to AWS takes `sam build`, which compiles for AWS's processors and optimises.
"""

import argparse
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from samcli.yamlhelper import yaml_dump, yaml_parse


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="folder of the built programs")
    parser.add_argument("--build", type=Path, required=True, help="folder to lay out; what is in it goes")
    arguments = parser.parse_args()
    template = yaml_parse(arguments.template.read_text())
    root = arguments.template.resolve().parent
    shutil.rmtree(arguments.build, ignore_errors=True)
    arguments.build.mkdir(parents=True)

    def lay(name):
        function = template["Resources"][name]
        program = arguments.programs / function.pop("Metadata")["BuildProperties"]["Binary"]
        place = arguments.build / name
        place.mkdir()
        subprocess.run(["strip", "--strip-all", "-o", place / "bootstrap", program], check=True)
        function["Properties"]["CodeUri"] = str(place.resolve())

    of_type = lambda kind: [name for name, it in template["Resources"].items() if it["Type"] == kind]
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lay, of_type("AWS::Serverless::Function")))
    template["Globals"]["Function"].pop("CodeUri")
    for name in of_type("AWS::Serverless::StateMachine"):
        properties = template["Resources"][name]["Properties"]
        properties["DefinitionUri"] = str(root / properties["DefinitionUri"])
    (arguments.build / "template.yaml").write_text(yaml_dump(template))


if __name__ == "__main__":
    main()
