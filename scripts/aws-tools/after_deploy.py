"""Completes a stack on an emulator: what an operator does by hand after a deploy in AWS (secrets, the first key), and
what the emulator does not do from the template.

Writes `url`, `api-key` and `stack.json` into --home.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3

HERE = Path(__file__).parent


def outputs(stack):
    stacks = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stacks[0]["Outputs"]}


def fill_secrets(out, home):
    secrets = boto3.client("secretsmanager")
    secrets.put_secret_value(SecretId=out["E2bKeySecretArn"], SecretString=(home / "e2b-api-key").read_text())
    secrets.put_secret_value(SecretId=out["ModelKeysSecretArn"], SecretString=os.environ.get("PVM_MODEL_KEYS", "{}"))
    # The deploy names this parameter, so that functions read one as they would in AWS.
    boto3.client("ssm").put_parameter(
        Name="/pvm/pvm-local/model-keys", Type="SecureString", Overwrite=True,
        Value=os.environ.get("PVM_MODEL_KEYS_IN_SSM", "{}"),
    )


def mend_streams(api):
    """The emulator does not know the address of streamed invocations; by the usual one it answers, though whole."""
    gateway = boto3.client("apigateway")
    mended = 0
    resources = gateway.get_paginator("get_resources").paginate(restApiId=api, embed=["methods"])
    for resource in resources.search("items[]"):
        for method in resource.get("resourceMethods", {}):
            found = gateway.get_method(restApiId=api, resourceId=resource["id"], httpMethod=method)
            uri = found.get("methodIntegration", {}).get("uri", "")
            if not uri.endswith("/response-streaming-invocations"):
                continue
            uri = uri.replace("/2021-11-15/", "/2015-03-31/").replace("/response-streaming-invocations", "/invocations")
            change = [{"op": "replace", "path": "/uri", "value": uri}]
            gateway.update_integration(
                restApiId=api, resourceId=resource["id"], httpMethod=method, patchOperations=change
            )
            mended += 1
    return mended


def gateway_responses(api):
    """The emulator passes the template's gateway responses over, but takes them from the API."""
    gateway = boto3.client("apigateway")
    translated = subprocess.run(
        [str(HERE_PYTHON), str(HERE / "translate.py"), str(HERE.parent.parent / "template.yaml")],
        check=True,
        capture_output=True,
        text=True,
    )
    body = json.loads(translated.stdout)["Resources"]["Api"]["Properties"]["Body"]
    for kind, response in body["x-amazon-apigateway-gateway-responses"].items():
        # No condition of the template that headers hang on (CORS, a domain of its own) holds on an emulator.
        headers = {
            name: value["Fn::If"][2] if isinstance(value, dict) else value
            for name, value in response["responseParameters"].items()
        }
        headers = {name: value for name, value in headers.items() if isinstance(value, str)}
        gateway.put_gateway_response(
            restApiId=api,
            responseType=kind,
            statusCode=response["statusCode"],
            responseParameters=headers,
            responseTemplates=response["responseTemplates"],
        )


def answer_tasks(stack):
    """AWS holds SendTaskSuccess to the token's state machine, which the policy names; the emulator holds it to `*`."""
    iam = boto3.client("iam")
    allow = {"Effect": "Allow", "Action": "states:SendTaskSuccess", "Resource": "*"}
    found = boto3.client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
    for resource in found:
        if resource["ResourceType"] != "AWS::IAM::Role":
            continue
        role = resource["PhysicalResourceId"]
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        if any("SendTaskPolicy" in policy["PolicyArn"] for policy in attached):
            document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
            iam.put_role_policy(RoleName=role, PolicyName="emulator-answers-tasks", PolicyDocument=document)


def first_key(out, home):
    path = home / "api-key"
    invoked = boto3.client("lambda").invoke(
        FunctionName=out["IssueKeyFunctionName"],
        Payload=json.dumps({"owner": "operator", "name": "deploy-local"}),
    )
    answer = json.loads(invoked["Payload"].read())
    if "FunctionError" in invoked:
        sys.exit(f"the first key could not be made: {answer}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(answer["key"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stack", required=True)
    parser.add_argument("--home", type=Path, required=True)
    arguments = parser.parse_args()
    out = outputs(arguments.stack)
    api = out["ApiId"]
    fill_secrets(out, arguments.home)
    mend_streams(api)
    gateway_responses(api)
    answer_tasks(arguments.stack)
    boto3.client("apigateway").create_deployment(restApiId=api, stageName="live")
    first_key(out, arguments.home)
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    (arguments.home / "url").write_text(f"{endpoint}/_aws/execute-api/{api}/live")
    (arguments.home / "stack.json").write_text(json.dumps(out, indent=1))


HERE_PYTHON = Path(sys.prefix).parent / "emulator/bin/python"

if __name__ == "__main__":
    main()
