#!/usr/bin/env bash
# The official clients and the protocol's edges against a running server. Needs PVM_URL and PVM_API_KEY; the bridge is
# tested where PVM_MCP_STDIO names it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${PVM_TEST_CACHE:-$HOME/.cache/pvm/tests}
for version in 2.3.0 1.30.0; do
  venv=$cache/mcp-python-$version
  if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import mcp' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "mcp==$version"
  fi
done
cd "$here"
python3 protocol.py
for version in 2.3.0 1.30.0; do
  "$cache/mcp-python-$version/bin/python" clients.py ${PVM_MCP_STDIO:+"$PVM_MCP_STDIO"}
done
