"""Variables for `sam local --env-vars`: what each function is given in the emulator's stack, and where the emulator is.

Prints JSON: {"CreateProjectFunction": {"PVM_TABLE_APP": "...", ...}, ...}
"""

import argparse
import json
import os
from pathlib import Path

import boto3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    arguments = parser.parse_args()
    endpoint = (arguments.home / "url").read_text().split("/_aws/")[0]
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    stack = boto3.client("cloudformation").describe_stack_resources(StackName="pvm-local")["StackResources"]
    names = {
        resource["LogicalResourceId"]: resource["PhysicalResourceId"]
        for resource in stack
        if resource["ResourceType"] == "AWS::Lambda::Function"
    }
    functions = boto3.client("lambda")
    variables = {}
    for logical, physical in names.items():
        given = functions.get_function_configuration(FunctionName=physical)["Environment"]["Variables"]
        variables[logical] = {
            **given,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    print(json.dumps(variables, indent=1))


if __name__ == "__main__":
    main()
