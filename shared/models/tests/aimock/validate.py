"""Checks requests of ours with the vendors' own packages. Each line of the file is {"path", "body"}."""

import base64
import copy
import json
import re
import sys
import urllib.parse


def plain(value):
    """Lists of typed parameters are checked only as they are read: this reads all of them."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return [plain(inner) for inner in value]


def typed(kind, body):
    """Valid for the type, and nothing in it that the type does not know: unknown fields fall away while it is read."""
    from pydantic import TypeAdapter

    # Lists are checked later by the adapter, which must live until then.
    adapter = TypeAdapter(kind)
    read = plain(adapter.validate_python(copy.deepcopy(body)))
    assert read == body, f"unknown fields: {json.dumps(body)}\nread as {json.dumps(read)}"


def openai(_, body):
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    typed(CompletionCreateParamsStreaming, body)


def anthropic(_, body):
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

    typed(MessageCreateParamsStreaming, body)


def bedrock(path, body):
    import botocore.session
    from botocore.validate import ParamValidator

    service = botocore.session.get_session().get_service_model("bedrock-runtime")
    shape = service.operation_model("ConverseStream").input_shape
    body = copy.deepcopy(body)
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else []:
            reasoning = block.get("reasoningContent", {})
            if "redactedContent" in reasoning:
                reasoning["redactedContent"] = base64.b64decode(reasoning["redactedContent"], validate=True)
    model = urllib.parse.unquote(re.fullmatch(r"/model/([^/]+)/converse-stream", path).group(1))
    report = ParamValidator().validate({"modelId": model, **body}, shape)
    assert not report.has_errors(), report.generate_report()


def check(path, body):
    if path == "/v1/chat/completions":
        openai(path, body)
    elif path == "/v1/messages":
        anthropic(path, body)
    else:
        bedrock(path, body)


def refuses(path, body):
    """A checker that takes anything would prove nothing."""
    def without(body):
        del body["messages"]

    def nobody(body):
        body["messages"][-1]["role"] = "nobody" if path.startswith("/v1") else 5

    def no_list(body):
        body["messages"][-1]["content"] = 5

    def more(body):
        body["surprise"] = True

    def tools(body):
        known = body.get("toolConfig", body)["tools"]
        known[0] = {"surprise": known[0]}

    for spoil in (without, nobody, no_list, more, tools):
        spoilt = copy.deepcopy(body)
        spoil(spoilt)
        try:
            check(path, spoilt)
        except Exception:
            continue
        raise AssertionError(f"{path}: the checker does not see that {spoil.__name__} spoilt a request")


def main():
    requests = [json.loads(line) for line in open(sys.argv[1])]
    for request in requests:
        check(request["path"], request["body"])
    refuses(requests[0]["path"], requests[0]["body"])
    print(f"{len(requests)} requests are as their vendor defines them")


main()
