#!/usr/bin/env bash
# The official clients and the protocol's edges against a running install. Needs PVM_URL and PVM_API_KEY; the bridge is
# tested where PVM_MCP_STDIO names it. Usage: run.sh [protocol|mcp-2|mcp-1]...; all of them if none is named
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- protocol mcp-2 mcp-1
cd "$here"
for what in "$@"; do
  case $what in
    protocol) python3 protocol.py ;;
    *)
      tools=$("$here/../../scripts/test-tools.sh" "$what")
      "$tools/$what/bin/python" clients.py ${PVM_MCP_STDIO:+"$PVM_MCP_STDIO"}
      ;;
  esac
done
