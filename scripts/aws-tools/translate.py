"""Prints what AWS makes of the SAM template: the CloudFormation template, as JSON.

Run by the tests with the python of the `emulator` tools: translate.py TEMPLATE [Parameter=Value ...]
"""

import json
import sys
from pathlib import Path

from samtranslator.parser.parser import Parser
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse


class NoAccount:
    """The translator asks the account for AWS's own policies; these are the names that templates may use."""

    def load(self):
        names = ["service-role/AWSLambdaBasicExecutionRole", "AWSXrayWriteOnlyAccess", "AWSXRayDaemonWriteAccess"]
        return {name.split("/")[-1]: f"arn:aws:iam::aws:policy/{name}" for name in names}


def main():
    template = yaml_parse(Path(sys.argv[1]).read_text())
    given = dict(argument.split("=", 1) for argument in sys.argv[2:])
    parameters = {
        name: given.get(name, str(parameter.get("Default", "")))
        for name, parameter in template["Parameters"].items()
    }
    # The translator wants addresses of uploaded code and definitions; where they are is of no account here.
    code = {"Bucket": "code", "Key": "code"}
    for resource in template["Resources"].values():
        properties = resource.get("Properties", {})
        for name in ("CodeUri", "DefinitionUri"):
            if name in properties:
                properties[name] = code
    template["Globals"]["Function"]["CodeUri"] = code
    translated = transform(template, parameters, NoAccount())
    json.dump(translated, sys.stdout, indent=1, sort_keys=True, default=str)


if __name__ == "__main__":
    main()
