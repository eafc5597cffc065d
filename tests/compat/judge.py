"""Compares a suite's results with the list of expected failures. Usage: judge.py <suite> <junit.xml> <list>"""

import sys
import xml.etree.ElementTree as tree

suite, results, expectations = sys.argv[1:]
expected, least = {}, 1
for line in open(expectations, encoding="utf-8"):
    text, _, reason = line.partition(" # ")
    words = text.strip().split(maxsplit=1)
    if len(words) == 2 and not text.startswith("#") and words[0] == suite:
        expected[words[1]] = reason.strip()
    elif text.split()[:2] == ["least", suite]:
        least = int(text.split()[2])

passed, failed, skipped = set(), set(), set()
successes = 0
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
        # Counted one by one: tests of several classes share their names.
        passed.add(name)
        successes += 1
passed -= failed

print(f"{suite}: {successes} passed, {len(failed)} failed ({len(failed & expected.keys())} as expected), {len(skipped)} skipped")
wrong = [f"failed: {name}" for name in sorted(failed - expected.keys())]
wrong += [f"passed, but is listed as failing: {name}" for name in sorted(passed & expected.keys())]
if successes < least:
    wrong.append(f"{successes} tests passed, where {least} should: some did not run at all")
for line in wrong:
    print(f"{suite}: {line}")
sys.exit(bool(wrong))
