"""Compares a suite's results with the list of expected failures. Usage: judge.py <suite> <junit.xml> <list>"""

import sys
import xml.etree.ElementTree as tree

suite, results, expectations = sys.argv[1:]
expected = {}
for line in open(expectations, encoding="utf-8"):
    text, _, reason = line.partition(" # ")
    words = text.strip().split(maxsplit=1)
    if len(words) == 2 and not text.startswith("#") and words[0] == suite:
        expected[words[1]] = reason.strip()

passed, failed, skipped = set(), set(), set()
try:
    cases = list(tree.parse(results).iter("testcase"))
except (OSError, tree.ParseError) as error:
    sys.exit(f"{suite}: no results: {error}")
for case in cases:
    name = case.get("name")
    if case.find("failure") is not None or case.find("error") is not None:
        failed.add(name)
    elif case.find("skipped") is not None:
        skipped.add(name)
    else:
        passed.add(name)
passed -= failed

print(f"{suite}: {len(passed)} passed, {len(failed)} failed ({len(failed & expected.keys())} as expected), {len(skipped)} skipped")
wrong = [f"failed: {name}" for name in sorted(failed - expected.keys())]
wrong += [f"passed, but is listed as failing: {name}" for name in sorted(passed & expected.keys())]
if not cases:
    wrong.append("no test ran")
for line in wrong:
    print(f"{suite}: {line}")
sys.exit(bool(wrong))
